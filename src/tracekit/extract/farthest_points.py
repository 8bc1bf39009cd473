"""Farthest-point sampling: spread a few points over many candidates (paper A.1)."""

from __future__ import annotations

import math

import numpy as np


def farthest_points(points: np.ndarray, count: int, *, start: int = 0) -> np.ndarray:
    """Indices (count,) of `points` (n, d), each the farthest from all before it; the first is `start`.

    This is the exact greedy choice, in the precision of `points`; of equally far points the one with the lowest index is taken,
    and no index is taken twice. Raises ValueError when more points are asked for than there are, when `start` is none of them,
    or when a coordinate is not finite.
    """
    num_points, num_axes = points.shape
    if not 0 <= count <= num_points:
        raise ValueError(f"cannot choose {count} of {num_points} points")
    if count == 0:
        return np.zeros(0, np.intp)
    if not 0 <= start < num_points:
        raise ValueError(f"start is {start}, but there are {num_points} points")
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")

    # Sorted along the longest axis, the points that a new one can be nearest to lie in one slice: those within `reach` of it,
    # the largest distance that is left. It shrinks with every point, and so does the work. Each axis is an array of its own and
    # every step works in place, because rows of d numbers and their temporaries would cost twenty times as much.
    dtype = np.float32 if points.dtype == np.float32 else np.float64
    axes = [np.ascontiguousarray(points[:, axis], dtype) for axis in range(num_axes)]
    longest = int(np.argmax([np.ptp(axis) for axis in axes]))
    order = np.argsort(axes[longest])
    axes = [axis[order] for axis in axes]
    nearest = np.full(num_points, np.inf, dtype)
    distance, square = np.empty_like(nearest), np.empty_like(nearest)

    chosen = np.empty(count, np.intp)
    latest = int(np.flatnonzero(order == start)[0])
    reach = np.inf
    for turn in range(count):
        chosen[turn] = order[latest]
        near = _within(axes[longest], axes[longest][latest], reach)
        np.subtract(axes[0][near], axes[0][latest], out=distance[near])
        np.square(distance[near], out=distance[near])
        for axis in axes[1:]:
            np.subtract(axis[near], axis[latest], out=square[near])
            np.square(square[near], out=square[near])
            np.add(distance[near], square[near], out=distance[near])
        np.minimum(nearest[near], distance[near], out=nearest[near])
        nearest[latest] = -1  # never again, even where points coincide
        farthest = nearest.max()
        ties = np.flatnonzero(nearest == farthest)
        latest = ties[order[ties].argmin()]
        reach = math.sqrt(max(farthest, 0))
    return chosen


def _within(ascending: np.ndarray, centre: np.floating, reach: float) -> slice:
    """The slice of `ascending` that holds all values within `reach` of `centre`, widened by a few units of rounding."""
    margin = reach * (1 + 1e-5)
    low, high = ascending.dtype.type(centre - margin), ascending.dtype.type(centre + margin)
    first = ascending.searchsorted(np.nextafter(low, low.dtype.type(-np.inf)), "left")
    last = ascending.searchsorted(np.nextafter(high, high.dtype.type(np.inf)), "right")
    return slice(int(first), int(last))
