import numpy as np
import pytest

from tracekit.evaluation.depth_accuracy import depth_accuracy


def test_by_hand() -> None:
    true = np.array([[[1.0, 2.0], [4.0, 0.0]]], np.float32)
    found = np.array([[[1.1, 0.0], [3.0, 5.0]]], np.float32)
    scores = depth_accuracy(found, true)
    assert scores.depth_absrel == pytest.approx((0.1 + 0.25) / 2), "where both are known"
    assert scores.depth_coverage == pytest.approx(2 / 3), "of the three that have a true depth"


def test_frames_weigh_by_their_pixels() -> None:
    true = np.ones((2, 4, 4), np.float32)
    found = true.copy()
    found[0, 0, 0], found[0, 1:], found[1] = 1.3, 0, 1.1
    assert depth_accuracy(found, true).depth_absrel == pytest.approx((0.3 + 16 * 0.1) / 20)


@pytest.mark.parametrize("size", [(10, 15), (5, 9), (20, 30), (40, 60)])
def test_another_grid_is_held_against_the_nearest_pixel(size: tuple[int, int]) -> None:
    """Brute force over pixels: the true pixel that holds the centre of each."""
    true = np.random.default_rng(0).uniform(1, 3, (1, 20, 30)).astype(np.float32)
    found = np.full((1, *size), 2.0, np.float32)
    errors = []
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = (row + 0.5) * 20 / size[0] - 0.5, (column + 0.5) * 30 / size[1] - 0.5
            distance = (np.arange(20)[:, None] - y) ** 2 + (np.arange(30) - x) ** 2
            nearest = true[0][distance == distance.min()]
            errors.append([abs(2.0 - z) / z for z in nearest])
    scores = depth_accuracy(found, true)
    low, high = np.mean([min(pair) for pair in errors]), np.mean([max(pair) for pair in errors])
    assert low - 1e-6 <= scores.depth_absrel <= high + 1e-6, "a centre may lie between pixels"
    if size in ((20, 30), (40, 60)):
        assert low == high


def test_nothing_known() -> None:
    nothing = np.zeros((3, 4, 5), np.float32)
    scores = depth_accuracy(nothing, nothing)
    assert scores.depth_absrel is None and scores.depth_coverage is None
    scores = depth_accuracy(nothing, nothing + 1)
    assert scores.depth_absrel is None and scores.depth_coverage == 0
