"""The diameter of a trace: the largest distance between any two of its points. Exact, without comparing all pairs."""

from __future__ import annotations

import numpy as np

BLOCK = 32
"""Points per block. Those of consecutive frames lie together, so that a block's bounding box is small."""

PAIRS_AT_ONCE = 256
"""Pairs of blocks that are compared in one go: bounds the memory, whatever the number of points."""


def diameter(points: np.ndarray) -> float:
    """Largest Euclidean distance between two of `points` (P, D), all finite; 0 for one point and NaN for none.

    Equal to brute force, and far from it in cost: a few sweeps from farthest point to farthest point give a distance D0 that is
    reached. Seen from the middle of that pair, two points farther apart than D0 have radii that sum to more than D0, which
    most points cannot. The rest are compared block by block, farthest-apart bounding boxes first, until no box can hold more.
    """
    points = np.asarray(points, dtype=np.float64)
    if len(points) == 0:
        return float("nan")
    best, middle = _sweep(points)
    radius = np.sqrt(((points - middle) ** 2).sum(axis=1))
    # Rounding must never discard a point that brute force would pick.
    slack = 1e-9 * (best + radius.max())
    points = points[radius + radius.max() >= best - slack]
    return max(best, _largest_between_blocks(points, best - slack))


def _sweep(points: np.ndarray) -> tuple[float, np.ndarray]:
    """A distance that two points have, large for most shapes, and the middle between them."""
    start, best, middle = 0, -1.0, points[0]
    while True:
        squared = ((points - points[start]) ** 2).sum(axis=1)
        end = int(np.argmax(squared))
        if squared[end] <= best:
            return float(np.sqrt(best)), middle
        best, middle = squared[end], 0.5 * (points[start] + points[end])
        start = end


def _largest_between_blocks(points: np.ndarray, at_least: float) -> float:
    """Largest distance between two points, 0 if none exceeds `at_least`."""
    num_blocks = -(-len(points) // BLOCK)
    # The last block is filled up with copies of the last point: they add no new distance.
    padded = np.concatenate([points, np.repeat(points[-1:], num_blocks * BLOCK - len(points), axis=0)])
    blocks = padded.reshape(num_blocks, BLOCK, points.shape[1])
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    largest = 0.0
    pairs, bounds = [], []
    for first in range(num_blocks):
        apart = np.maximum(high[first] - low[first:], high[first:] - low[first])
        bound = np.sqrt((apart**2).sum(axis=1)) * (1 + 1e-12)  # a bound must stay one after rounding
        promising = np.flatnonzero(bound >= at_least)
        pairs.append(np.stack([np.full_like(promising, first), first + promising], axis=1))
        bounds.append(bound[promising])
    pair, bound = np.concatenate(pairs), np.concatenate(bounds)
    order = np.argsort(-bound, kind="stable")
    for begin in range(0, len(order), PAIRS_AT_ONCE):
        chosen = order[begin : begin + PAIRS_AT_ONCE]
        if bound[chosen[0]] < max(largest, at_least):
            break
        one, other = blocks[pair[chosen, 0]], blocks[pair[chosen, 1]]
        squared = np.zeros((len(chosen), BLOCK, BLOCK))
        for axis in range(points.shape[1]):
            squared += (one[:, :, None, axis] - other[:, None, :, axis]) ** 2
        largest = max(largest, float(np.sqrt(squared.max())))
    return largest
