"""Retiming a group of traces to constant speed by the length of its path (paper 2.2), so that a slow robot and a quick hand that
do the same thing give the same trace.

Points are (u/W, v/H, z): image coordinates as fractions of the image, depth as it is. All traces of a group share one time warp,
so that they stay in step with each other. Letters: T frames, N traces, S samples. Times are frames, and need not be whole.
"""

from __future__ import annotations

import numpy as np

# Times closer than this to a whole frame are that frame: round-off must not make a sample depend on a second frame.
_SAME_FRAME = 1e-9


def retarget(
    points: np.ndarray, valid: np.ndarray, step: float = 0.05, num_samples: int | None = None, fastest: float = 0.02
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Traces (T, N, 3), known where `valid` (T, N), resampled so that the group covers equal lengths of path in equal time.

    Samples lie `step` of path apart, or, when `num_samples` is given, that many are spread evenly over the whole path.
    Returns points (S, N, 3) with NaN where not valid, valid (S, N), and the time of each sample (S,). The first sample is the
    first frame. A group that does not move has no path to spread samples over: it yields its first frame, once or `num_samples`
    times. No frames, no samples.
    """
    length = path_length(points, valid, fastest)
    times = times_at_equal_steps(length, step) if num_samples is None else times_at(length, np.linspace(0, _total(length), num_samples))
    return *resample(points, valid, times), times


def path_length(points: np.ndarray, valid: np.ndarray, fastest: float = 0.02) -> np.ndarray:
    """Length of the group's path from the first frame to each frame, (T,), never decreasing.

    From one frame to the next it grows by the mean displacement of the `fastest` fraction of the traces that are valid in both
    (at least one trace), since most points of a scene stand still while a hand moves. Where no trace is valid in both it does not grow.
    """
    both = valid[1:].astype(bool) & valid[:-1].astype(bool)
    displacement = np.linalg.norm(np.diff(points, axis=0), axis=2)
    # Fastest first; traces that are not known sort to the end.
    displacement = -np.sort(-np.where(both, displacement, -np.inf), axis=1)
    num_known = both.sum(axis=1)
    num_fastest = np.ceil(fastest * num_known - _SAME_FRAME).astype(int).clip(min=1)
    counted = np.arange(displacement.shape[1]) < np.minimum(num_fastest, num_known)[:, None]
    growth = np.where(counted, displacement, 0.0).sum(axis=1) / num_fastest
    return np.concatenate([np.zeros(min(len(points), 1)), np.cumsum(growth)])


def times_at_equal_steps(length: np.ndarray, step: float) -> np.ndarray:
    """When the path (T,) has the lengths 0, step, 2 step, ... up to its end, (S,)."""
    if len(length) == 0:
        return np.zeros(0)
    return times_at(length, step * np.arange(int(_total(length) / step + _SAME_FRAME) + 1))


def times_at(length: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """When the path (T,), which begins with 0 and never decreases, first has each of the lengths `wanted` (S,); NaN beyond its end.

    Being first is what removes pauses: no two samples are spent on one place.
    """
    if len(length) == 0:
        return np.full(len(wanted), np.nan)
    total = _total(length)
    reached = np.minimum(wanted, total)  # a hair beyond the end, by round-off, is the end
    after = np.searchsorted(length, reached, side="left")
    before = np.maximum(after - 1, 0)
    span = np.where(after > before, length[after] - length[before], 1.0)
    times = before + (reached - length[before]) / span
    return np.where(wanted <= total * (1 + _SAME_FRAME), times, np.nan)


def resample(points: np.ndarray, valid: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Traces (T, N, 3), known where `valid` (T, N), at `times` (S,) in frames: points (S, N, 3) and valid (S, N).

    Linear between frames. A sample between two frames is valid only if both are, a sample on a frame if that frame is, and
    a sample at NaN or outside [0, T - 1] is not. Samples that are not valid are NaN.
    """
    num_frames = len(points)
    nearest = np.rint(times)
    times = np.where(np.abs(times - nearest) < _SAME_FRAME, nearest, times)
    inside = (times >= 0) & (times <= num_frames - 1)
    if not inside.any():
        return np.full((len(times), *points.shape[1:]), np.nan, points.dtype), np.zeros((len(times), points.shape[1]), bool)
    times = np.where(inside, times, 0.0)
    before, after = np.floor(times).astype(int), np.ceil(times).astype(int)
    weight = (times - before)[:, None, None]
    known = inside[:, None] & valid[before].astype(bool) & valid[after].astype(bool)
    with np.errstate(invalid="ignore"):
        between = (1 - weight) * points[before] + weight * points[after]
    return np.where(known[..., None], between, np.nan).astype(points.dtype, copy=False), known


def _total(length: np.ndarray) -> float:
    return float(length[-1]) if len(length) else 0.0
