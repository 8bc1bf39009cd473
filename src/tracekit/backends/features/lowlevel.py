"""Patch features without weights: colour and texture of each patch, for machines without a network (the embedded backend)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tracekit.backends.protocols import BackendSetup, Facts, PatchFeatures

PATCHES_ACROSS = 40
SMALLEST_PATCH = 4
"""Pixels of the frame: a patch of fewer has no texture."""
SAMPLES = 8
"""Pixels per side of a patch after resizing: enough for a median and for gradients, whatever the resolution of the video."""

# Each statistic becomes an angle and enters as (cos, sin) times a weight, so that the cosine between two descriptors is the mean,
# weighted by squares, of the cosines of their differences: 1 for equal patches, less with every statistic that differs, and no
# large value can drown the others. A difference of `scale` turns a statistic by one radian; none turns by 3/2 pi from end to end,
# where opposites would begin to look alike. Lightness counts for less than colour, because shading changes it across one thing.
#                       weight  scale
LIGHTNESS = (0.6, 40.0)  # CIELAB L, 0 to 100
COLOUR = (1.0, 25.0)  # CIELAB a and b, each -110 to 110, after `_tame`
TEXTURE = (0.3, 3.0)  # log of the gradient energy at two scales, each: -2 to 7
ORIENTATION = (0.1, 1.0)  # energy-weighted mean of the doubled gradient angle, as a vector in the unit disc


class Lowlevel:
    """Median colour (CIELAB), gradient energy at two scales, and gradient orientation."""

    name: ClassVar[str] = "lowlevel"
    facts: ClassVar[Facts] = Facts("colour and texture of patches", code="tracekit", code_licence="Apache-2.0")

    def __init__(self, setup: BackendSetup) -> None:
        pass

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return ""

    def describe(self, frames: np.ndarray) -> PatchFeatures:
        """`frames` (n, H, W, 3) uint8 RGB -> (n, gh, gw, 14), about 40 patches across the longer side; each has the same norm."""
        height, width = frames.shape[1:3]
        patch = max(max(height, width) / PATCHES_ACROSS, SMALLEST_PATCH)
        grid = max(1, round(height / patch)), max(1, round(width / patch))
        features = [_describe_one(frame, grid) for frame in frames]
        return PatchFeatures(np.stack(features) if features else np.zeros((0, *grid, 14), np.float32))


def _describe_one(frame: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    import cv2

    rows, columns = grid
    size = (columns * SAMPLES, rows * SAMPLES)
    shrinks = size[0] <= frame.shape[1] and size[1] <= frame.shape[0]
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    lab = cv2.cvtColor(resized.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)

    # The median sides with the larger part of a patch that two things share: a mean would invent a colour that neither has.
    lightness, green_red, blue_yellow = np.moveaxis(np.median(_by_patch(lab, grid), axis=2), -1, 0)
    statistics = [(lightness, LIGHTNESS), (_tame(green_red), COLOUR), (_tame(blue_yellow), COLOUR)]
    for blur in (0.0, 2.0):
        smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), blur) if blur else lab[..., 0]
        across, down = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32), cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32)
        energy = _by_patch(across**2 + down**2, grid).mean(axis=2)
        statistics.append((np.log(energy + 0.1), TEXTURE))
    along = _by_patch(across**2 - down**2, grid).mean(axis=2) / (energy + 0.1)
    askew = _by_patch(2 * across * down, grid).mean(axis=2) / (energy + 0.1)
    statistics += [(along, ORIENTATION), (askew, ORIENTATION)]

    turned = [weight * turn(statistic / scale) for statistic, (weight, scale) in statistics for turn in (np.cos, np.sin)]
    return np.stack(turned, axis=-1).astype(np.float32)


def _tame(colour: np.ndarray) -> np.ndarray:
    """Pale colours, which most things have, keep their differences; those of vivid ones are compressed."""
    return np.interp(colour, (-110, -35, 35, 110), (-58, -35, 35, 58))


def _by_patch(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(gh * s, gw * s, ...) -> (gh, gw, s * s, ...)."""
    rows, columns = grid
    rest = image.shape[2:]
    cells = image.reshape(rows, SAMPLES, columns, SAMPLES, *rest).swapaxes(1, 2)
    return cells.reshape(rows, columns, SAMPLES * SAMPLES, *rest)
