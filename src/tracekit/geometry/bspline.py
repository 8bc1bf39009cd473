"""Cubic B-splines on a uniform grid of steps: the target space of the trace world model (paper 3.2, B.2).

Letters: R fits, H steps after the anchor, D control points, C coordinates. Step i lies at t = i / H, and i = 0 is the anchor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np

from tracekit.errors import BadDataError, ConfigurationError

DEGREE = 3
KNOTS = ("bezier", "uniform")

# A thread takes longer to start than to solve fewer fits than this.
_FITS_PER_THREAD = 2048


def basis(num_control_points: int, num_steps: int, knots: str = "bezier") -> np.ndarray:
    """B of Eq. 4, (H + 1, D) float64: the weight of each control point at each step. Read-only.

    Every row sums to one, and the first is (1, 0, ..., 0): the curve starts at its first control point (and ends at its last).
    "bezier" repeats every interior knot three times, so that the curve is a chain of Bezier segments and D is 4, 7, 10, ...;
    "uniform" has single interior knots at equal distances and takes any D >= 4. Both are clamped.
    Raises ConfigurationError for anything else.
    """
    _check(num_control_points, num_steps, knots)
    return _basis(num_control_points, num_steps, knots)


def fit(targets: np.ndarray, valid: np.ndarray, num_control_points: int, ridge: float = 0.2, knots: str = "bezier") -> np.ndarray:
    """The control points (R, D, C) that solve Eq. 4 for targets (R, H + 1, C), row 0 of each being the anchor.

    Ridge least squares with Tikhonov term ridge^2 |first differences|^2; `valid` (R, H + 1) are the 0/1 weights of the rows. The
    anchor counts as valid whatever `valid` says, which makes every fit unique, however few steps are known. Targets that are not
    valid are never read, so they may be NaN. Solved in float64; the result has the dtype of the targets (float32 or float64).
    Nothing is clipped here: see `clip_control_points`. Raises BadDataError where a valid target is not finite.
    """
    num_fits, num_rows, num_coordinates = targets.shape
    if valid.shape != (num_fits, num_rows):
        raise ValueError(f"valid is {valid.shape}, but targets are {targets.shape}")
    if not ridge > 0:
        raise ConfigurationError(
            f"the ridge of the spline fit is {ridge}", hint="it must be greater than 0: few valid steps fix too few control points"
        )
    weights = basis(num_control_points, num_rows - 1, knots)
    penalty = ridge**2 * _first_difference_normal_matrix(num_control_points)

    targets = np.ascontiguousarray(targets, dtype=targets.dtype if targets.dtype in (np.float32, np.float64) else np.float64)
    valid = np.array(valid, dtype=bool, order="C")
    valid[:, 0] = True
    complete = valid.all(axis=1)

    if complete.all():
        result = _fit_complete(targets, weights, penalty)
    elif not complete.any():
        result = _fit_masked(targets, valid, weights, penalty)
    else:
        result = np.empty((num_fits, num_control_points, num_coordinates), dtype=targets.dtype)
        result[complete] = _fit_complete(targets[complete], weights, penalty)
        result[~complete] = _fit_masked(targets[~complete], valid[~complete], weights, penalty)
    if not np.isfinite(result).all():
        bad = int(np.flatnonzero(~np.isfinite(result).all(axis=(1, 2)))[0])
        raise BadDataError(f"a spline cannot be fitted: trace {bad} of {num_fits} has a step that is marked valid and is not finite")
    return result


def evaluate(control_points: np.ndarray, num_steps: int, knots: str = "bezier") -> np.ndarray:
    """Curves (..., H, C) of control points (..., D, C) at the steps 1..H: one matrix product, the anchor row stripped."""
    return basis(control_points.shape[-2], num_steps, knots)[1:].astype(control_points.dtype) @ control_points


def clip_control_points(control_points: np.ndarray, limit: float = 1.5) -> np.ndarray:
    """Control points held within [-limit, limit], element by element: bounds the box that flow matching has to fill (B.2)."""
    return np.clip(control_points, -limit, limit)


def _check(num_control_points: int, num_steps: int, knots: str) -> None:
    if knots not in KNOTS:
        raise ConfigurationError(f"the spline basis is {knots!r}", hint=f"choose one of: {', '.join(KNOTS)}")
    if num_steps < 1:
        raise ConfigurationError(f"a spline over {num_steps} steps has no length", hint="the horizon must be at least 1")
    if num_control_points < DEGREE + 1:
        raise ConfigurationError(f"{num_control_points} control points are too few for a cubic spline", hint="the least is 4")
    if knots == "bezier" and (num_control_points - 1) % DEGREE:
        raise ConfigurationError(
            f"a chain of cubic Bezier segments cannot have {num_control_points} control points",
            hint="take 4, 7, 10, 13, ..., or the basis 'uniform'",
        )


@cache
def _basis(num_control_points: int, num_steps: int, knots: str) -> np.ndarray:
    if knots == "bezier":
        num_segments = (num_control_points - 1) // DEGREE
        interior = np.repeat(np.arange(1, num_segments) / num_segments, DEGREE)
    else:
        num_segments = num_control_points - DEGREE
        interior = np.arange(1, num_segments) / num_segments
    knot = np.concatenate([np.zeros(DEGREE + 1), interior, np.ones(DEGREE + 1)])
    t = (np.arange(num_steps + 1) / num_steps)[:, None]

    # The recursion of Cox and de Boor. Spans are half open, except that the last one with a length contains its end, t = 1.
    span = np.clip(np.searchsorted(knot, t, side="right") - 1, DEGREE, num_control_points - 1)
    values = (np.arange(len(knot) - 1) == span).astype(np.float64)
    for degree in range(1, DEGREE + 1):
        rising = _ratio(t - knot[: -degree - 1], knot[degree:-1] - knot[: -degree - 1])
        falling = _ratio(knot[degree + 1 :] - t, knot[degree + 1 :] - knot[1:-degree])
        values = rising * values[:, :-1] + falling * values[:, 1:]
    values.setflags(write=False)
    return values


def _ratio(numerator: np.ndarray, length: np.ndarray) -> np.ndarray:
    """numerator / length, and 0 over spans between repeated knots, which have no length."""
    return np.where(length > 0, numerator / np.where(length > 0, length, 1.0), 0.0)


def _first_difference_normal_matrix(size: int) -> np.ndarray:
    """Gamma^T Gamma (D, D), where Gamma P are the differences of consecutive control points."""
    gamma = np.diff(np.eye(size), axis=0)
    return gamma.T @ gamma


def _fit_complete(targets: np.ndarray, weights: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Fits without a gap share one linear map, so all of them are one matrix product."""
    num_fits, num_rows, num_coordinates = targets.shape
    solution = np.linalg.solve(weights.T @ weights + penalty, weights.T)
    # Coordinates stay interleaved as they lie in memory: the wider product is faster than a strided or a batched one.
    interleaved = np.kron(solution, np.eye(num_coordinates))
    product = targets.reshape(num_fits, num_rows * num_coordinates).astype(np.float64, copy=False) @ interleaved.T
    return product.reshape(num_fits, len(solution), num_coordinates).astype(targets.dtype, copy=False)


def _fit_masked(targets: np.ndarray, valid: np.ndarray, weights: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Fits with gaps have a normal matrix each. It is banded, because at most four control points act on a step."""
    num_control_points = weights.shape[1]
    # The first of the four control points that act on each step; on the last step it is the last four.
    first = np.minimum((weights != 0).argmax(axis=1), num_control_points - (DEGREE + 1))
    acting = np.take_along_axis(weights, first[:, None] + np.arange(DEGREE + 1), axis=1)
    bands = np.stack([np.pad(np.diagonal(penalty, offset), (0, offset)) for offset in range(DEGREE + 1)], axis=1)
    result = np.empty((len(targets), num_control_points, targets.shape[2]), dtype=targets.dtype)
    solve = _masked_solver(targets.shape[2])

    def solve_part(part: slice) -> None:
        solve(targets[part], valid[part], first, acting, bands, result[part])

    num_parts = max(1, min(os.cpu_count() or 1, len(targets) // _FITS_PER_THREAD))
    bounds = np.linspace(0, len(targets), num_parts + 1).astype(int).tolist()
    parts = [slice(start, stop) for start, stop in pairwise(bounds)]
    if len(parts) == 1:
        solve_part(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(solve_part, parts))
    return result


@cache
def _masked_solver(num_coordinates: int) -> Callable[..., None]:
    """Compiles the solver, or finds it on disk, with loops over coordinates of known length, which unroll.

    Numba is imported here, so that commands which fit nothing never pay for it.
    It frees Python's lock for threads of ours instead of running numba's own: a process that has used those must not fork any
    more, and data loaders do fork.
    """
    import numba

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def solve_masked(targets, valid, first, acting, bands, result):
        num_fits, num_rows = targets.shape[:2]
        size = bands.shape[0]
        # Three rows of zeros below the matrix spare the elimination its special cases at the end.
        normal = np.zeros((size + 3, 4))  # normal[j, p] is the entry (j, j + p)
        right = np.zeros((size + 3, num_coordinates))
        for trace in range(num_fits):
            normal[:size] = bands
            normal[size:] = 0.0
            right[:] = 0.0
            for row in range(num_rows):
                if valid[trace, row]:
                    j = first[row]
                    b0, b1, b2, b3 = acting[row, 0], acting[row, 1], acting[row, 2], acting[row, 3]
                    normal[j, 0] += b0 * b0
                    normal[j, 1] += b0 * b1
                    normal[j, 2] += b0 * b2
                    normal[j, 3] += b0 * b3
                    normal[j + 1, 0] += b1 * b1
                    normal[j + 1, 1] += b1 * b2
                    normal[j + 1, 2] += b1 * b3
                    normal[j + 2, 0] += b2 * b2
                    normal[j + 2, 1] += b2 * b3
                    normal[j + 3, 0] += b3 * b3
                    for c in range(num_coordinates):
                        target = targets[trace, row, c]
                        right[j, c] += b0 * target
                        right[j + 1, c] += b1 * target
                        right[j + 2, c] += b2 * target
                        right[j + 3, c] += b3 * target

            # Cholesky without square roots, L D L^T: eliminate downwards, keeping 1 / D and L^T in place of the matrix ...
            for j in range(size):
                inverse = 1.0 / normal[j, 0]
                n1, n2, n3 = normal[j, 1], normal[j, 2], normal[j, 3]
                l1, l2, l3 = n1 * inverse, n2 * inverse, n3 * inverse
                normal[j + 1, 0] -= l1 * n1
                normal[j + 1, 1] -= l1 * n2
                normal[j + 1, 2] -= l1 * n3
                normal[j + 2, 0] -= l2 * n2
                normal[j + 2, 1] -= l2 * n3
                normal[j + 3, 0] -= l3 * n3
                normal[j, 0], normal[j, 1], normal[j, 2], normal[j, 3] = inverse, l1, l2, l3
                for c in range(num_coordinates):
                    above = right[j, c]
                    right[j + 1, c] -= l1 * above
                    right[j + 2, c] -= l2 * above
                    right[j + 3, c] -= l3 * above
            # ... and substitute back.
            for c in range(num_coordinates):
                x1 = x2 = x3 = 0.0
                for j in range(size - 1, -1, -1):
                    x = right[j, c] * normal[j, 0] - normal[j, 1] * x1 - normal[j, 2] * x2 - normal[j, 3] * x3
                    result[trace, j, c] = x
                    x1, x2, x3 = x, x1, x2

    return solve_masked
