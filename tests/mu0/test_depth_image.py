"""Depth in Turbo colours: the published table, the ends of the range, and what is not known."""

from __future__ import annotations

import matplotlib
import numpy as np

from tracekit.mu0.depth_image import color_millimetres, turbo
from tracekit.pictures import depth_to_square

RANGE = (float(np.log(0.5)), float(np.log(4.0)))


def test_turbo_is_the_published_table() -> None:
    published = np.rint(255 * np.array(matplotlib.colormaps["turbo"].colors)).astype(np.uint8)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(turbo(), published)


def test_colours_follow_log_depth_and_near_is_the_end_of_the_map() -> None:
    depth = np.geomspace(0.3, 6.0, 64, dtype=np.float32).reshape(8, 8)
    share = np.clip((np.log(4.0) - np.log(depth)) / np.log(8.0), 0, 1)
    found = color_millimetres(1000 * depth, RANGE)
    expected = turbo().astype(int)
    # Depth is kept to the millimetre, which may turn one step of the map.
    near_enough = [np.abs(found - expected[np.clip(np.rint(255 * share).astype(int) + step, 0, 255)]).max(axis=2) for step in (-1, 0, 1)]
    assert (np.min(near_enough, axis=0) == 0).all()
    np.testing.assert_array_equal(found[0, 0], turbo()[255])
    np.testing.assert_array_equal(found[-1, -1], turbo()[0])


def test_what_is_not_known_looks_far() -> None:
    assert (color_millimetres(np.array([[0.0, -5.0, 4000.0, 70_000.0, 1e12]]), RANGE) == turbo()[0]).all()


def test_depth_of_any_size_becomes_a_square_of_its_own_values() -> None:
    edge = np.full((6, 10), 1.0, np.float32)
    edge[:, 5:] = 3.0
    for size in (4, 8, 20):
        picture = color_millimetres(depth_to_square(1000 * edge, size), RANGE)
        assert picture.shape == (size, size, 3)
        # No depth between the two sides of an edge.
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 2
        assert (picture[:, : size // 2] == picture[0, 0]).all() and (picture[:, size // 2 :] == picture[0, -1]).all()
