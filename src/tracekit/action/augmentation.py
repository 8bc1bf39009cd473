"""Pictures of a robot a little aside and in another light: a policy must not hang on single pixels or on the time of day.

Small shifts are what helps most where policies see pixels (Yarats et al. 2021, DrQ).
"""

from __future__ import annotations

import cv2
import numpy as np

from tracekit.mu0.augmentation import ColorJitter, jitter_color

_LARGEST_SHIFT = 0.04
"""In sides of the picture, each way; about 4 pixels of 84, as in DrQ."""
_JITTER = 0.2
"""Brightness and contrast are multiplied by 1 +- this at most."""


def augmented(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A picture (S, S, 3) uint8 RGB shifted by whole pixels, its edge repeated where nothing is known, with changed brightness and contrast."""
    size = len(picture)
    most = round(_LARGEST_SHIFT * size)
    down, right = random.integers(-most, most + 1, size=2)
    brightness, contrast = random.uniform(1 - _JITTER, 1 + _JITTER, size=2)
    padded = cv2.copyMakeBorder(picture, most, most, most, most, cv2.BORDER_REPLICATE)
    shifted = padded[most - down : most - down + size, most - right : most - right + size]
    return jitter_color(np.ascontiguousarray(shifted), ColorJitter(brightness, contrast, saturation=1.0, hue=0.0))
