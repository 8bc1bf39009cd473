"""Ridge fits of cubic B-splines (Eq. 4) against a batched dense solve by torch, 16,384 traces of 32 steps and 10 control points."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np

# The threads of the one who has just run must not spin while the other is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import torch

from tracekit.geometry import bspline

NUM_FITS, NUM_STEPS, NUM_CONTROL_POINTS, RIDGE = 16_384, 32, 10, 0.2
NUM_ROUNDS = 15
GOAL = 5.0


def main() -> list[dict]:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(NUM_FITS, NUM_STEPS + 1, 3))
    masked = rng.random((NUM_FITS, NUM_STEPS + 1)) < 0.7
    masked[:, 0] = True
    return [compare("random masks", targets, masked), compare("all valid", targets, np.ones_like(masked))]


def compare(what: str, targets: np.ndarray, valid: np.ndarray) -> dict:
    """Ours and the peer in turns; the median of each, after one round that warms both up and compares their results."""
    error = np.abs(ours(targets, valid) - torch_solve(targets, valid)).max()
    assert error <= 1e-10, f"results differ by {error}"
    seconds: dict[Callable, list[float]] = {ours: [], torch_solve: []}
    for _ in range(NUM_ROUNDS):
        for solve, measured in seconds.items():
            start = time.perf_counter()
            solve(targets, valid)
            measured.append(time.perf_counter() - start)
    mine, theirs = (statistics.median(measured) for measured in seconds.values())
    return {
        "work": f"B-spline ridge fit, {NUM_FITS} traces, {what}, float64, largest difference {error:.0e}",
        "ours": f"{1e3 * mine:.1f} ms",
        "peer": f"torch.linalg.solve {1e3 * theirs:.1f} ms",
        "ratio": round(theirs / mine, 1),
        "goal": f">= {GOAL:.0f}",
    }


def ours(targets: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return bspline.fit(targets, valid, NUM_CONTROL_POINTS, RIDGE)


def torch_solve(targets: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The normal equations of all traces in one batched dense solve: what a user would write."""
    basis = torch.tensor(bspline.basis(NUM_CONTROL_POINTS, NUM_STEPS))
    gamma = torch.diff(torch.eye(NUM_CONTROL_POINTS, dtype=torch.float64), dim=0)
    weighted = torch.from_numpy(valid).double()[..., None] * basis
    normal = weighted.mT @ basis + RIDGE**2 * gamma.T @ gamma
    return torch.linalg.solve(normal, weighted.mT @ torch.from_numpy(targets)).numpy()


if __name__ == "__main__":
    from table import print_table

    print_table(main())
