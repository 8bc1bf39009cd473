"""Distances of predicted traces: 20,480 pairs of 32 steps, what 256 slots of 16 keypoints and 5 draws are.

DTW against aeon (whose cost is the squared distance; otherwise the same work) and against dtaidistance, which can take our cost; Fréchet
against tslearn; minADE and minFDE against torch. `pip install aeon tslearn` for the peers that are not in the extra `dev`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

# The threads of the one who has just run must not spin while the other is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import torch

from tracekit.evaluation import trace_metrics

NUM_TRACES, NUM_DRAWS, NUM_STEPS = 4096, 5, 32
NUM_PAIRS = NUM_TRACES * NUM_DRAWS
NUM_ROUNDS = 9
FEW = 205
"""Traces for peers that take seconds; the ratio is that of the times for one pair."""


def main() -> list[dict]:
    return [
        *(dtw_row(dtype, "aeon", aeon_dtw, goal) for dtype, goal in ((np.float64, 5), (np.float32, 15))),
        *(dtw_row(dtype, "dtaidistance", dtaidistance_dtw, None) for dtype in (np.float64, np.float32)),
        frechet_row(np.float64),
        frechet_row(np.float32),
        displacement_row(),
    ]


def batch(dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(traces (R, S, F, 3), true ones (R, F, 3), valid (R, F)): random walks, all known."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(NUM_TRACES, NUM_STEPS, 3)).cumsum(axis=1) / 10
    traces = true[:, None] + rng.normal(size=(NUM_TRACES, NUM_DRAWS, NUM_STEPS, 3)) / 3
    return traces.astype(dtype), true.astype(dtype), np.ones(true.shape[:2], bool)


def dtw_row(dtype: Any, peer: str, make_peer: Callable[[np.ndarray, np.ndarray], Callable[[], np.ndarray]], goal: int | None) -> dict:
    traces, true, valid = batch(dtype)
    what = f"DTW, {NUM_PAIRS} pairs of {NUM_STEPS} x 3, {np.dtype(dtype)}"
    if not installed(peer):
        return missing(what, peer, goal)
    theirs = make_peer(traces.astype(np.float64), true.astype(np.float64))
    if peer == "dtaidistance":
        np.testing.assert_allclose(ours_dtw(traces, true, valid) * NUM_STEPS, theirs(), rtol=1e-12 if dtype == np.float64 else 1e-5)
    return row(what, peer, lambda: ours_dtw(traces, true, valid), theirs, goal)


def ours_dtw(traces: np.ndarray, true: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return trace_metrics.dtw(traces, true, valid, (NUM_STEPS,))[..., 0]


def aeon_dtw(traces: np.ndarray, true: np.ndarray) -> Callable[[], np.ndarray]:
    """aeon's compiled distance in a compiled parallel loop: without one, a Python call for each pair takes as long as the distance."""
    import numba

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = importlib.import_module("aeon.distances").dtw_distance

    @numba.njit(parallel=True)
    def loop(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        result = np.empty(len(predicted))
        for pair in numba.prange(len(predicted)):
            result[pair] = distance(predicted[pair], true[pair])
        return result

    channels_first = np.ascontiguousarray(traces.reshape(NUM_PAIRS, NUM_STEPS, 3).transpose(0, 2, 1))
    repeated = np.repeat(np.ascontiguousarray(true.transpose(0, 2, 1)), NUM_DRAWS, axis=0)
    return lambda: loop(channels_first, repeated)


def dtaidistance_dtw(traces: np.ndarray, true: np.ndarray) -> Callable[[], np.ndarray]:
    """One block a trace: its draws against the truth."""
    dtw_ndim = importlib.import_module("dtaidistance.dtw_ndim")
    blocks = [[*draws, truth] for draws, truth in zip(traces, true, strict=True)]
    where = ((0, NUM_DRAWS), (NUM_DRAWS, NUM_DRAWS + 1))

    def all_blocks() -> np.ndarray:
        return np.stack(
            [dtw_ndim.distance_matrix_fast(block, 3, block=where, inner_dist="euclidean", compact=True, parallel=False) for block in blocks]
        )

    return all_blocks


def frechet_row(dtype: Any) -> dict:
    traces, true, valid = batch(dtype)
    what = f"discrete Fréchet distance, same pairs, {np.dtype(dtype)}"
    if not installed("tslearn"):
        return missing(what, "tslearn", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frechet = importlib.import_module("tslearn.metrics").frechet
    few = traces[:FEW].astype(np.float64), true[:FEW].astype(np.float64)

    def theirs() -> np.ndarray:
        return np.array([[frechet(draw, truth) for draw in draws] for draws, truth in zip(*few, strict=True)])

    def ours() -> np.ndarray:
        return trace_metrics.frechet(traces, true, valid, (NUM_STEPS,))[..., 0]

    np.testing.assert_allclose(ours()[:FEW], theirs(), rtol=1e-12 if dtype == np.float64 else 1e-5)
    return row(what, "tslearn", ours, theirs, 300, times=NUM_TRACES / FEW)


def displacement_row() -> dict:
    traces, true, valid = batch(np.float32)
    torch_traces, torch_true = torch.from_numpy(traces), torch.from_numpy(true)

    def ours() -> tuple[float, float]:
        ade, fde = trace_metrics.displacement(traces, true, valid, (NUM_STEPS,))
        return float(ade.min(axis=1).mean()), float(fde.min(axis=1).mean())

    def theirs() -> tuple[float, float]:
        distance = torch.linalg.vector_norm(torch_traces - torch_true[:, None], dim=-1)
        return float(distance.mean(dim=-1).amin(dim=1).mean()), float(distance[..., -1].amin(dim=1).mean())

    np.testing.assert_allclose(ours(), theirs(), rtol=1e-5)
    return row("minADE + minFDE, same pairs, float32", "torch", ours, theirs, 1)


def row(what: str, peer: str, ours: Callable[[], Any], theirs: Callable[[], Any], goal: int | None, times: float = 1.0) -> dict:
    """Ours and the peer in turns; the median of each. The peer does one of `times` parts of the work."""
    seconds: dict[Callable[[], Any], list[float]] = {ours: [], theirs: []}
    for function in seconds:
        function()
    for _ in range(NUM_ROUNDS):
        for function, measured in seconds.items():
            start = time.perf_counter()
            function()
            measured.append(time.perf_counter() - start)
    mine, other = (statistics.median(measured) for measured in seconds.values())
    return {
        "work": what,
        "ours": f"{1e3 * mine:.1f} ms",
        "peer": f"{peer} {1e3 * times * other:.1f} ms",
        "ratio": round(times * other / mine, 1),
        "goal": "" if goal is None else f">= {goal}",
    }


def missing(what: str, peer: str, goal: int | None) -> dict:
    return {"work": what, "ours": None, "peer": f"{peer} is not installed", "ratio": None, "goal": "" if goal is None else f">= {goal}"}


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    from table import print_table

    print_table(main())
