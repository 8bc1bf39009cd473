"""Colour jitter against torchvision's, noise of depth against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as reference

from tracekit.mu0.augmentation import ColorJitter, draw_color_jitter, jitter_color, noisy_millimetres

PICTURE = np.random.default_rng(0).integers(60, 180, (40, 50, 3), dtype=np.uint8)
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def as_torchvision(picture: np.ndarray, jitter: ColorJitter) -> np.ndarray:
    tensor = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    for name in ("brightness", "contrast", "saturation"):
        tensor = getattr(reference, f"adjust_{name}")(tensor, getattr(jitter, name))
    return reference.adjust_hue(tensor, jitter.hue).numpy().transpose(1, 2, 0)


def test_no_jitter_changes_nothing() -> None:
    np.testing.assert_array_equal(jitter_color(PICTURE, ColorJitter(**NEUTRAL)), PICTURE)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"brightness": 0.8}, 1),
        ({"brightness": 1.3}, 1),
        ({"contrast": 0.7}, 2),
        ({"contrast": 1.25}, 2),
        ({"saturation": 0.7}, 1),
        ({"saturation": 1.2}, 2),
        # Hue is a circle of 256 steps here, finer there: up to six of them in a channel.
        ({"hue": 0.15}, 6),
        ({"hue": -0.1}, 6),
        ({"brightness": 0.9, "contrast": 0.8, "saturation": 1.1, "hue": 0.05}, 7),
    ],
)
def test_jitter_is_that_of_torchvision(changes: dict[str, float], tolerance: int) -> None:
    jitter = ColorJitter(**{**NEUTRAL, **changes})
    ours, theirs = jitter_color(PICTURE, jitter).astype(int), as_torchvision(PICTURE, jitter).astype(int)
    assert np.abs(ours - theirs).max() <= tolerance
    assert np.abs(ours - PICTURE).max() > 10


def test_draws_cover_their_ranges_and_no_more() -> None:
    random = np.random.default_rng(1)
    drawn = [draw_color_jitter(random, 0.3) for _ in range(3000)]
    for name, low, high in (("brightness", 0.7, 1.3), ("contrast", 0.7, 1.3), ("saturation", 0.7, 1.3), ("hue", -0.15, 0.15)):
        values = np.array([getattr(jitter, name) for jitter in drawn])
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01)


def test_noise_of_depth_is_gaussian_in_metres_and_leaves_the_unknown_unknown() -> None:
    depth = np.full((300, 300), 1500, np.uint16)
    depth[:10] = 0
    depth[10:20] = 1
    noisy = noisy_millimetres(depth, np.random.default_rng(0), 0.01)
    assert not noisy[:10].any() and noisy[10:20].min() >= 1
    assert noisy[20:].mean() == pytest.approx(1500, abs=0.2) and noisy[20:].std() == pytest.approx(10, rel=0.02)
    np.testing.assert_array_equal(noisy_millimetres(depth, np.random.default_rng(0), 0.0), depth)
