"""Colour jitter of pictures and noise of depth (paper B.1)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tracekit.pictures import MILLIMETRES

# Luma of ITU-R 601, what grey means in PIL and torchvision.
_LUMA = np.array([0.299, 0.587, 0.114])
_HUES = 256


@dataclass(frozen=True)
class ColorJitter:
    """One draw: factors of brightness, contrast and saturation (1 changes nothing), and a shift of the hue in turns."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


def draw_color_jitter(random: np.random.Generator, strength: float) -> ColorJitter:
    """Factors uniform in 1 +- `strength`, the hue's shift in +- `strength` / 2 of a turn, as torchvision's ColorJitter counts."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    brightness, contrast, saturation = random.uniform(low, high, size=3)
    return ColorJitter(brightness, contrast, saturation, random.uniform(-strength / 2, strength / 2))


def jitter_color(picture: np.ndarray, jitter: ColorJitter) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB with its colours changed, in the order brightness, contrast, saturation, hue.

    The first three are one affine map of the colours, rounded and clipped once.
    """
    grey_mean = float(_LUMA @ cv2.mean(picture)[:3]) * jitter.brightness
    saturate = jitter.saturation * np.eye(3) + (1 - jitter.saturation) * _LUMA
    linear = jitter.contrast * jitter.brightness * saturate
    # The constant is grey, which saturation leaves as it is.
    constant = np.full((3, 1), (1 - jitter.contrast) * grey_mean)
    result = cv2.transform(picture, np.hstack([linear, constant]))
    shift = round(jitter.hue * _HUES) % _HUES
    if shift == 0:
        return result
    hsv = cv2.cvtColor(result, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(shift)  # a whole turn is 256: it wraps by itself
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def noisy_millimetres(millimetres: np.ndarray, random: np.random.Generator, sigma_metres: float) -> np.ndarray:
    """Depth (h, w) with Gaussian noise, float32 millimetres; unknown depth (0) stays unknown."""
    noisy = random.standard_normal(millimetres.shape, dtype=np.float32)
    noisy *= np.float32(MILLIMETRES * sigma_metres)
    noisy += millimetres
    np.maximum(noisy, np.float32(1.0), out=noisy)  # noise makes no known depth unknown
    noisy[millimetres == 0] = 0
    return noisy
