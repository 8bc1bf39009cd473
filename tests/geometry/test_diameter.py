import time

import numpy as np
import pytest

from tracekit.geometry.diameter import diameter


def brute_force(points: np.ndarray) -> float:
    return max(float(np.sqrt(((points - point) ** 2).sum(axis=1)).max()) for point in points)


def circle(number: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, number, endpoint=False)
    return np.stack([300 + 100 * np.cos(angle), 200 + 100 * np.sin(angle), 0 * angle], axis=1)


def reuleaux(number: int) -> np.ndarray:
    """A curve of constant width: every point is an end of some almost longest distance, and sweeps from point to point get stuck."""
    corners = np.stack([np.cos(np.arange(3) * 2 * np.pi / 3), np.sin(np.arange(3) * 2 * np.pi / 3)], axis=1)
    side = np.linalg.norm(corners[0] - corners[1])
    arcs = []
    for corner in corners:
        middle = np.arctan2(-corner[1], -corner[0])
        angle = np.linspace(middle - np.pi / 6, middle + np.pi / 6, number // 3)
        arcs.append(corner + side * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.concatenate(arcs)


@pytest.mark.parametrize("number", [1, 2, 3, 31, 32, 33, 64, 65, 500])
@pytest.mark.parametrize("shape", ["walk", "jitter", "sphere", "line", "circle", "reuleaux", "same", "far away"])
def test_equals_brute_force(shape, number):
    rng = np.random.default_rng(number)
    points = {
        "walk": lambda: np.cumsum(rng.normal(size=(number, 3)), axis=0),
        "jitter": lambda: 100 + 0.1 * rng.normal(size=(number, 3)),
        "sphere": lambda: (lambda p: p / np.linalg.norm(p, axis=1, keepdims=True))(rng.normal(size=(number, 3))),
        "line": lambda: np.outer(rng.normal(size=number), [3.0, 4.0, 0.0]),
        "circle": lambda: circle(number),
        "reuleaux": lambda: reuleaux(3 * number),
        "same": lambda: np.full((number, 3), 1.25),
        "far away": lambda: 1e6 + rng.normal(size=(number, 3)),
    }[shape]()
    assert diameter(points) == pytest.approx(brute_force(points), rel=1e-14, abs=0)


def test_finds_the_one_longest_pair_among_many_that_are_almost_as_long():
    points = reuleaux(3000)
    points[1234] *= 1 + 1e-9
    assert diameter(points) == brute_force(points)


def test_nothing_has_no_diameter_and_a_point_has_none():
    assert np.isnan(diameter(np.zeros((0, 3))))
    assert diameter(np.ones((1, 3))) == 0.0


def test_ten_minutes_are_quick_whatever_the_shape():
    rng = np.random.default_rng(0)
    shapes = [circle(18000) + rng.normal(0, 0.3, (18000, 3)), rng.normal(size=(18000, 3)), np.cumsum(rng.normal(size=(18000, 3)), axis=0)]
    start = time.process_time()
    for points in shapes:
        diameter(points)
    # All pairs of one of these would need seconds and gigabytes.
    assert time.process_time() - start < 3.0
