"""The matching equals scipy's and, on small tables, the best of all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tracekit.extract.assignment import best_assignment


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 7), (9, 4), (25, 25), (40, 17)])
@pytest.mark.parametrize("kind", ["random", "ties", "clipped"])
def test_the_total_equals_scipys(shape: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(shape[0] * 100 + shape[1])
    for _ in range(30):
        score = rng.normal(size=shape)
        score = {"random": score, "ties": np.round(score), "clipped": np.maximum(score, 0.5)}[kind]
        rows, columns = best_assignment(score)
        expected = score[linear_sum_assignment(score, maximize=True)].sum()
        assert score[rows, columns].sum() == pytest.approx(expected, abs=1e-9)
        assert len(rows) == min(shape) and len(set(rows)) == len(set(columns)) == len(rows)
        assert (np.diff(rows) > 0).all()


def test_the_total_equals_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        score = rng.integers(-5, 5, (4, 5)).astype(float)
        best = max(sum(score[i, c] for i, c in enumerate(chosen)) for chosen in itertools.permutations(range(5), 4))
        assert score[best_assignment(score)].sum() == best


def test_empty_and_not_finite() -> None:
    assert [len(part) for part in best_assignment(np.zeros((0, 3)))] == [0, 0]
    assert [len(part) for part in best_assignment(np.zeros((3, 0)))] == [0, 0]
    with pytest.raises(ValueError, match="finite"):
        best_assignment(np.array([[np.nan]]))
