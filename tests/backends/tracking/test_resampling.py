import numpy as np
import pytest

from tracekit.backends.tracking import resampling
from tracekit.geometry import cameras

SIZES = [((64, 48), (90, 33)), ((33, 90), (20, 21)), ((200, 120), (31, 29)), ((40, 30), (40, 30))]
"""(width, height) before and after: larger, smaller, much smaller, the same."""


def ramp(size):
    """A frame whose red says the column and whose green says the row, as parts of the way from the first centre to the last."""
    width, height = size
    u, v = np.meshgrid(np.arange(width) / (width - 1), np.arange(height) / (height - 1))
    return np.stack([u, v, np.zeros_like(u)], axis=-1)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_corner_aligned_frames_keep_the_outermost_centres(old, new):
    frames = np.rint(ramp(old) * 250).astype(np.uint8)[None]
    found = resampling.corner_aligned_frames(frames, new)
    assert found.shape == (1, new[1], new[0], 3) and found.dtype == np.uint8
    off = np.abs(found[0] - ramp(new) * 250)
    assert off[1:-1, 1:-1].max() <= 1.5
    # The outermost pixels have no more than the outermost blocks to go by.
    block = (np.array(old) // new).clip(1)
    assert (off[..., :2] <= 1.5 + np.where(block > 1, 1.5 * block / (np.array(old) - 1) * 250, 0)).all()


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_edge_aligned_frames_go_with_our_intrinsics(old, new):
    frames = np.rint(ramp(old) * 250).astype(np.uint8)[None]
    found = resampling.edge_aligned_frames(frames, new)[0].astype(float)
    centre = np.array([[new[0] // 2, new[1] // 2]])
    expected = cameras.resize_pixels(centre.astype(float), new, old)[0] / (np.array(old) - 1) * 250
    np.testing.assert_allclose(found[new[1] // 2, new[0] // 2, :2], expected, atol=1.5)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_pixels_and_intrinsics_are_scaled_alike(old, new):
    k = np.array([[50.0, 0.3, 20], [0, 60, 15], [0, 0, 1]])
    point = np.array([0.2, -0.1, 1.0])
    before, after = k @ point, resampling.corner_aligned_intrinsics(k, old, new) @ point
    np.testing.assert_allclose(after[:2], before[:2] * resampling.corner_aligned_scale(old, new))
    np.testing.assert_allclose(resampling.corner_aligned_scale(old, new) * (np.array(old) - 1), np.array(new) - 1)


def test_depth_is_read_where_pixels_of_the_image_lie():
    width, height = 40, 30  # the image; its depth comes on another grid
    u, v = np.meshgrid(np.arange(20), np.arange(10))
    place = cameras.resize_pixels(np.stack([u, v], axis=-1).astype(float), (20, 10), (width, height))
    depth = (1 + 0.05 * place[..., 0] + 0.02 * place[..., 1]).astype(np.float32)[None]
    x, y = np.array([3.0, 17.3, 36.0]), np.array([2.0, 15.5, 27.9])
    found = resampling.depth_at(depth, x, y, (width, height))
    np.testing.assert_allclose(found[0], 1 + 0.05 * x + 0.02 * y[:, None], atol=1e-2 * 0.5)


def test_unknown_depth_has_no_weight():
    depth = np.full((1, 8, 8), 2.0, np.float32)
    depth[0, :, 4:] = 0
    found = resampling.depth_at(depth, np.linspace(0, 7, 29), np.arange(8.0), (8, 8))
    known = np.linspace(0, 7, 29) < 4 - 1e-6
    np.testing.assert_allclose(found[0][:, known], 2.0, rtol=1e-6)
    assert (found[0][:, ~known] == 0).all()
