import itertools

import numpy as np
import pytest

from tracekit.evaluation.event_boundaries import event_agreement, inner_boundaries
from tracekit.records import Events


def figures(found: list[float], true: list[float], tolerance: float) -> tuple[float | None, float | None, float | None]:
    scores = event_agreement(np.array(found), np.array(true), tolerance)
    return scores.event_precision, scores.event_recall, scores.event_f1


def test_nothing_found_and_nothing_there_is_perfect() -> None:
    assert figures([], [], 0.5) == (1.0, 1.0, 1.0)


def test_one_side_without_boundaries() -> None:
    assert figures([], [1.0, 2.0], 0.5) == (None, 0.0, 0.0)
    assert figures([1.0], [], 0.5) == (0.0, None, 0.0)


def test_a_boundary_serves_one_true_one_only() -> None:
    assert figures([1.0, 1.1, 1.2], [1.1], 0.5) == (pytest.approx(1 / 3), 1.0, pytest.approx(0.5))


def test_the_matching_is_the_best_one_not_the_nearest_first() -> None:
    """1.4 is nearest to 1.5; taken there, 1.0 and 1.9 could not both be matched."""
    assert figures([1.4, 1.9], [1.0, 1.5], 0.4) == (1.0, 1.0, 1.0)


def test_exactly_the_tolerance_is_within_it() -> None:
    assert figures([0.7], [0.6 + 0.5 + 0.1], 0.5)[2] == 1.0
    assert figures([0.7], [1.21], 0.5)[2] == 0.0


def test_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        found, true = rng.uniform(0, 4, rng.integers(1, 5)), rng.uniform(0, 4, rng.integers(1, 5))
        near = np.abs(found[:, None] - true) <= 0.5
        few, many = (near, near.shape) if len(found) <= len(true) else (near.T, near.T.shape)
        most = max(sum(few[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(many[1]), many[0]))
        assert event_agreement(found, true, 0.5).event_f1 == pytest.approx(2 * most / (len(found) + len(true)))


def test_the_ends_of_the_clip_are_no_boundaries() -> None:
    nothing = np.zeros(10, np.float32)
    cut = Events(nothing, nothing, np.zeros(0, int), np.array([0, 4, 7]), np.array([4, 7, 10]))
    np.testing.assert_allclose(inner_boundaries(cut, 2 + np.arange(10) / 10), [2.4, 2.7])
    whole = Events(nothing, nothing, np.zeros(0, int), np.array([0]), np.array([10]))
    assert len(inner_boundaries(whole, np.arange(10))) == 0
