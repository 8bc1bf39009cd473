"""Depth as a picture: log depth over the range of the corpus in Turbo colours (paper 3.2, B.1)."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from tracekit.pictures import MILLIMETRES

_NUM_COLORS = 256
_FARTHEST = np.iinfo(np.uint16).max


def color_millimetres(millimetres: np.ndarray, log_range: tuple[float, float]) -> np.ndarray:
    """Depth (h, w) in millimetres, 0 and less where unknown, as (h, w, 3) uint8 RGB.

    Log depth runs from the near end of `log_range` (log metres), Turbo's 1 (red), to the far end, its 0 (blue), and stays there beyond both.
    Unknown depth looks as what is far. Depth is kept to the millimetre, and up to 65.5 m.
    """
    whole = np.clip(np.rint(millimetres), 0, _FARTHEST).astype(np.uint16)
    return _colors_of_millimetres(float(log_range[0]), float(log_range[1]))[whole]


def turbo() -> np.ndarray:
    """The Turbo colour map (Mikhailov 2019), (256, 3) uint8 RGB, dark blue to dark red."""
    ramp = np.arange(_NUM_COLORS, dtype=np.uint8)[:, None]
    return cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)[:, 0]


@lru_cache(maxsize=4)
def _colors_of_millimetres(near: float, far: float) -> np.ndarray:
    """The colour of every whole number of millimetres, (65536, 3) uint8: one look-up a pixel instead of a logarithm."""
    metres = np.arange(_FARTHEST + 1) / MILLIMETRES
    metres[0] = np.exp(far)  # unknown
    nearness = np.clip((far - np.log(metres)) / (far - near), 0.0, 1.0)
    return turbo()[np.rint(nearness * (_NUM_COLORS - 1)).astype(np.uint8)]
