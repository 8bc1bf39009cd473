import numpy as np
import pytest

from tracekit.extract.farthest_points import farthest_points


def brute_force(points, count, start):
    """Straight from the definition, in the same precision: the farthest from all chosen, the lowest index among equals."""
    chosen = [start]
    while len(chosen) < count:
        squared = np.zeros((len(points), len(chosen)), points.dtype)
        for axis in range(points.shape[1]):
            squared += (points[:, axis, None] - points[chosen, axis]) ** 2
        nearest = squared.min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def clouds(generator, num_points, num_axes):
    """Points in general position, on a grid full of ties and repetitions, and far from the origin, where rounding is coarse."""
    scattered = generator.normal(size=(num_points, num_axes))
    yield scattered
    yield scattered.astype(np.float32)
    yield generator.integers(0, 6, (num_points, num_axes)).astype(np.float64)
    yield (scattered * 0.01 + 1e6).astype(np.float32)
    yield scattered * [1000.0, *[1e-3] * (num_axes - 1)]


def test_equals_brute_force_from_every_kind_of_start():
    generator = np.random.default_rng(0)
    for _ in range(150):
        num_points, num_axes = int(generator.integers(1, 70)), int(generator.integers(1, 4))
        for points in clouds(generator, num_points, num_axes):
            start, count = int(generator.integers(num_points)), int(generator.integers(1, num_points + 1))
            assert farthest_points(points, count, start=start).tolist() == brute_force(points, count, start)


def test_equals_brute_force_when_far_more_points_than_chosen():
    points = np.random.default_rng(1).uniform(0, 640, (20_000, 2)).astype(np.float32)
    assert farthest_points(points, 60, start=123).tolist() == brute_force(points, 60, 123)


def test_points_that_coincide_are_each_taken_once():
    assert sorted(farthest_points(np.ones((5, 2)), 5, start=3)) == [0, 1, 2, 3, 4]


def test_corners_of_a_square_come_first():
    grid = np.stack(np.meshgrid(np.arange(11.0), np.arange(11.0)), axis=-1).reshape(-1, 2)
    assert {tuple(point) for point in grid[farthest_points(grid, 5, start=0)]} == {(0, 0), (10, 10), (0, 10), (10, 0), (5, 5)}


def test_integer_coordinates_do_not_overflow():
    points = np.array([[0, 0], [200, 0], [0, 250]], np.uint8)
    assert farthest_points(points, 3, start=0).tolist() == [0, 2, 1]


def test_what_cannot_be_chosen_is_refused():
    points = np.zeros((3, 2))
    assert farthest_points(points, 0).shape == (0,)
    for count, start in ((4, 0), (-1, 0), (2, 3), (2, -1)):
        with pytest.raises(ValueError, match=r"cannot choose|start is"):
            farthest_points(points, count, start=start)
    with pytest.raises(ValueError, match="not finite"):
        farthest_points(np.array([[0.0, np.nan], [1.0, 1.0]]), 1)
