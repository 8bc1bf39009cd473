"""How far predicted traces are from what happened (paper D.1): ADE, FDE, dynamic time warping and the discrete Fréchet distance.

Letters: R traces, S draws of the predictor for each, F future steps, C coordinates, T horizons.
All functions take traces (R, S, F, C), the true ones (R, F, C), `valid` (R, F), true where the truth is known, and the horizons:
the first T steps are scored, so all horizons are prefixes of one prediction. Steps that are not valid are never read; those that
are left move together. All return (R, S, T) in the dtype of the traces (float32 or float64), NaN where no step is valid, where the
prediction is shorter than the horizon, and where a trace is not finite at a step within it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

# Pairs of traces that are aligned side by side: four 512-bit registers of float64, two of float32. Chains of dependent operations
# in one hide the latency of the other.
_LANES = 32

# A thread takes longer to start than to align fewer pairs than this, or to take the distances of fewer traces.
_PAIRS_PER_THREAD = 64 * _LANES
_TRACES_PER_THREAD = 4096


def displacement(
    traces: np.ndarray, true_traces: np.ndarray, valid: np.ndarray, horizons: Sequence[int], *, at_horizon: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """ADE and FDE, each (R, S, T): the mean distance over the valid steps, and the distance at the last of them.

    With `at_horizon` FDE is NaN for traces whose truth is not known at the horizon itself.
    """
    pairs = _Pairs.of(traces, true_traces, valid, horizons)
    mean, final = pairs.empty_result(), pairs.empty_result()
    measure = _displacement_kernel(traces.shape[3])
    pairs.in_threads(lambda rows: measure(*pairs.arguments, mean, final, rows.start, rows.stop), len(traces), _TRACES_PER_THREAD)
    if at_horizon:
        for place, horizon in enumerate(horizons):
            if horizon <= valid.shape[1]:
                final[~np.asarray(valid[:, horizon - 1], dtype=bool), :, place] = np.nan
    return mean, final


def dtw(traces: np.ndarray, true_traces: np.ndarray, valid: np.ndarray, horizons: Sequence[int], *, path_mean: bool = False) -> np.ndarray:
    """Dynamic time warping (R, S, T): the smallest sum of distances over monotonic alignments of the valid steps.

    The cost is Euclidean and an alignment moves by (1, 0), (0, 1) or (1, 1). The sum is divided by the number of valid steps, or with
    `path_mean` by the number of pairs on the path that was found (of equally good ones the one that prefers diagonal steps).
    """
    pairs = _Pairs.of(traces, true_traces, valid, horizons)
    return pairs.align(_alignment_kernel(traces.shape[3], _PATH_MEAN if path_mean else _DTW))


def frechet(traces: np.ndarray, true_traces: np.ndarray, valid: np.ndarray, horizons: Sequence[int]) -> np.ndarray:
    """Discrete Fréchet distance (R, S, T): the smallest of the largest distances over monotonic alignments of the valid steps.

    Eiter and Mannila, "Computing Discrete Fréchet Distance", 1994. Nothing is divided.
    """
    pairs = _Pairs.of(traces, true_traces, valid, horizons)
    return pairs.align(_alignment_kernel(traces.shape[3], _FRECHET))


_DTW, _PATH_MEAN, _FRECHET = range(3)


@dataclass(frozen=True)
class _Pairs:
    """Predictions and truth as the kernels read them."""

    traces: np.ndarray
    true_traces: np.ndarray
    steps: np.ndarray
    """(R, F) int32: the valid steps of each trace first, in order."""
    ends: np.ndarray
    """(R, T) int32: how many of them lie within each horizon; 0 where the prediction is shorter than the horizon."""

    @classmethod
    def of(cls, traces: np.ndarray, true_traces: np.ndarray, valid: np.ndarray, horizons: Sequence[int]) -> _Pairs:
        num_traces, _, num_steps, num_coordinates = traces.shape
        if true_traces.shape != (num_traces, num_steps, num_coordinates) or valid.shape != (num_traces, num_steps):
            raise ValueError(f"traces are {traces.shape}, but true traces {true_traces.shape} and their validity {valid.shape}")
        if any(horizon < 1 for horizon in horizons):
            raise ValueError(f"horizons are {horizons}, but the least is 1")
        dtype = traces.dtype if traces.dtype in (np.float32, np.float64) else np.float64
        valid = np.asarray(valid, dtype=bool)
        known = np.cumsum(np.pad(valid, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
        ends = [known[:, T] if num_steps >= T else np.zeros(num_traces, np.int32) for T in horizons]
        return cls(
            np.ascontiguousarray(traces, dtype=dtype),
            np.ascontiguousarray(true_traces, dtype=dtype),
            np.argsort(~valid, axis=1, kind="stable").astype(np.int32),
            np.stack(ends, axis=1) if ends else np.zeros((num_traces, 0), np.int32),
        )

    @property
    def arguments(self) -> tuple[np.ndarray, ...]:
        return self.traces, self.true_traces, self.steps, self.ends

    def empty_result(self) -> np.ndarray:
        return np.empty((*self.traces.shape[:2], self.ends.shape[1]), dtype=self.traces.dtype)

    def align(self, kernel: Callable[..., None]) -> np.ndarray:
        result = self.empty_result()
        self.in_threads(
            lambda pairs: kernel(*self.arguments, result, pairs.start, pairs.stop), result.shape[0] * result.shape[1], _PAIRS_PER_THREAD
        )
        return result

    @staticmethod
    def in_threads(score: Callable[[slice], None], number: int, number_per_thread: int) -> None:
        """Call `score` with parts of `number` in threads of ours (see `tracekit.geometry.bspline` for why not numba's)."""
        num_parts = max(1, min(os.cpu_count() or 1, number // number_per_thread))
        bounds = np.linspace(0, number, num_parts + 1).astype(int).tolist()
        parts = [slice(start, stop) for start, stop in pairwise(bounds)]
        if len(parts) == 1:
            score(parts[0])
        else:
            with ThreadPoolExecutor(len(parts)) as threads:
                list(threads.map(score, parts))


@cache
def _displacement_kernel(num_coordinates: int) -> Callable[..., None]:
    """Compiles the loop over traces, or finds it on disk. Numba is imported here: who scores nothing never pays for it."""
    import numba

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def displacements(traces, true_traces, steps, ends, mean, final, start, stop):
        num_draws, num_steps = traces.shape[1], traces.shape[2]
        num_horizons = ends.shape[1]
        distance = np.empty(num_steps, traces.dtype)
        for trace in range(start, stop):
            num_valid = 0
            for horizon in range(num_horizons):
                num_valid = max(num_valid, ends[trace, horizon])
            for draw in range(num_draws):
                if num_valid == num_steps:  # without the detour over `steps` this loop runs in vectors
                    for step in range(num_steps):
                        squared = traces.dtype.type(0)
                        for c in range(num_coordinates):
                            apart = traces[trace, draw, step, c] - true_traces[trace, step, c]
                            squared += apart * apart
                        distance[step] = np.sqrt(squared)
                else:
                    for place in range(num_valid):
                        step = steps[trace, place]
                        squared = traces.dtype.type(0)
                        for c in range(num_coordinates):
                            apart = traces[trace, draw, step, c] - true_traces[trace, step, c]
                            squared += apart * apart
                        distance[place] = np.sqrt(squared)
                for horizon in range(num_horizons):
                    end = ends[trace, horizon]
                    total = traces.dtype.type(0)
                    for place in range(end):
                        total += distance[place]
                    mean[trace, draw, horizon] = total / end if end else np.nan
                    final[trace, draw, horizon] = distance[end - 1] if end else np.nan

    return displacements


@cache
def _alignment_kernel(num_coordinates: int, measure: int) -> Callable[..., None]:
    """Compiles the dynamic programme over alignments for one measure, or finds it on disk.

    _LANES pairs advance side by side, so that each operation is one on vectors. The best alignment of two prefixes does not look
    beyond them: the diagonal of one table holds the result for every horizon. A step that is not finite makes its whole row or column of
    the table not finite, and all cells beyond, which every alignment has to cross.
    """
    import numba
    from numba.extending import register_jitable

    lanes = _LANES
    is_frechet, counts_path = measure == _FRECHET, measure == _PATH_MEAN

    @register_jitable
    def aligned(like, number):
        raw = np.zeros(number * lanes + 16, like.dtype)  # vectors that straddle two cache lines take twice as long
        first = (64 - raw.ctypes.data % 64) % 64 // raw.itemsize
        return raw[first : first + number * lanes].reshape(number, lanes)

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def align(traces, true_traces, steps, ends, result, start, stop):
        num_draws, num_steps = traces.shape[1], traces.shape[2]
        num_horizons = ends.shape[1]
        predicted = aligned(traces, num_steps * num_coordinates).reshape(num_steps, num_coordinates, lanes)
        true = aligned(traces, num_steps * num_coordinates).reshape(num_steps, num_coordinates, lanes)
        # The table of the pairs, one row at a time: cell (i, j) aligns i + 1 predicted with j + 1 true steps.
        row, diagonal = aligned(traces, num_steps), aligned(traces, num_steps)
        corner, left = aligned(traces, 1)[0], aligned(traces, 1)[0]  # the cells (i - 1, j - 1) and (i, j - 1)
        # The lengths of the paths that led to them.
        row_length, diagonal_length = aligned(traces, num_steps), aligned(traces, num_steps)
        corner_length, left_length = aligned(traces, 1)[0], aligned(traces, 1)[0]
        zero, one, infinity = traces.dtype.type(0), traces.dtype.type(1), traces.dtype.type(np.inf)
        for first in range(start, stop, lanes):
            num_pairs = min(lanes, stop - first)
            longest = 0
            for lane in range(num_pairs):
                trace, draw = divmod(first + lane, num_draws)
                num_valid = 0
                for horizon in range(num_horizons):
                    num_valid = max(num_valid, ends[trace, horizon])
                longest = max(longest, num_valid)
                for place in range(num_valid):
                    step = steps[trace, place]
                    for c in range(num_coordinates):
                        predicted[place, c, lane] = traces[trace, draw, step, c]
                        true[place, c, lane] = true_traces[trace, step, c]

            row[:longest] = infinity
            for i in range(longest):
                left[:] = infinity
                corner[:] = infinity if i else zero  # the path enters here
                if counts_path:
                    corner_length[:] = zero
                for j in range(longest):
                    for lane in range(lanes):
                        cost = zero
                        for c in range(num_coordinates):
                            apart = predicted[i, c, lane] - true[j, c, lane]
                            cost += apart * apart
                        above = row[j, lane]
                        best = corner[lane]
                        if counts_path:
                            length = corner_length[lane]
                            length = row_length[j, lane] if above < best else length
                            best = above if above < best else best
                            length = left_length[lane] if left[lane] < best else length
                            best = left[lane] if left[lane] < best else best
                            corner_length[lane] = row_length[j, lane]
                            row_length[j, lane] = left_length[lane] = length + one
                        else:
                            best = above if above < best else best
                            best = left[lane] if left[lane] < best else best
                        if is_frechet:  # of squared distances: they have the same order
                            here = (cost if cost > best else best) + zero * cost  # not finite where the cost is not
                        else:
                            here = best + np.sqrt(cost)
                        corner[lane] = above
                        row[j, lane] = here
                        left[lane] = here
                    if i == j:
                        diagonal[i] = left
                        if counts_path:
                            diagonal_length[i] = left_length

            for lane in range(num_pairs):
                trace, draw = divmod(first + lane, num_draws)
                for horizon in range(num_horizons):
                    end = ends[trace, horizon]
                    if end == 0:
                        value = np.nan
                    elif is_frechet:
                        value = np.sqrt(diagonal[end - 1, lane])
                    elif counts_path:
                        value = diagonal[end - 1, lane] / diagonal_length[end - 1, lane]
                    else:
                        value = diagonal[end - 1, lane] / end
                    result[trace, draw, horizon] = value if value < infinity else np.nan

    return align
