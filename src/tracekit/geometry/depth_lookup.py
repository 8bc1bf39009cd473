"""The depth of a point on a surface, from a depth image with edges and holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.geometry import cameras

SAME_SURFACE = 0.06
"""Two depths this close, as a fraction of the greater one, may belong to one surface: a steep one changes less from pixel to pixel."""

REACH = 2
"""Depth pixels around a point, each way, that may speak for it: sensors and networks place edges one or two pixels off."""

SIDE = 2 * REACH + 1
"""The window's pixels, row by row: the middle one is SIDE * REACH + REACH."""


@dataclass(frozen=True)
class DepthLookup:
    """What a depth image says about P points."""

    z: np.ndarray
    """(P,) float64, depth of each point's surface along the optical axis; NaN where the image does not show that surface."""
    hidden: np.ndarray
    """(P,) bool, depth is known around the point and none of it belongs to the point's surface. Where z is NaN and this is
    False, the image has a hole there and says nothing."""


def lookup_depth(depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int], expected: np.ndarray, tolerance: float = SAME_SURFACE) -> DepthLookup:
    """Depth at pixels `uv` (P, 2) of an image of `image_size` (width, height), each on the surface near its `expected` depth (P,).

    `depth` (h, w) covers the same image, maybe on another grid; values that are not positive and finite are unknown. A point on
    an edge never flips between the near and the far side: only depths within `tolerance` (a fraction) of the expected one count.
    Where the four pixels around the point agree, the depth is interpolated between them (linearly in 1/z, so that planes come
    out exact); otherwise it is that of the nearest pixel of the surface.
    """
    window = _gather(depth, uv, image_size)
    expected = np.asarray(expected, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        on_surface = window.known & (np.abs(window.z - expected[:, None]) <= tolerance * np.maximum(window.z, expected[:, None]))
    return _read(window, on_surface)


def surface_depth(depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int], tolerance: float = SAME_SURFACE) -> np.ndarray:
    """Depth (P,) of pixels `uv` (P, 2) about which nothing else is known; NaN where the surface cannot be told.

    A pixel's own depth counts if it has one. In a hole the nearest known depth does, provided that all depths in reach agree:
    between two surfaces there is no telling.
    """
    window = _gather(depth, uv, image_size)
    distance = np.where(window.known, window.distance, np.inf)
    nearest = np.argmin(distance, axis=1)[:, None]
    own = np.take_along_axis(window.z, nearest, axis=1)
    agrees = window.known & (np.abs(window.z - own) <= tolerance * np.maximum(window.z, own))
    in_hole = ~window.known[:, SIDE * REACH + REACH]
    torn = in_hole & (agrees != window.known).any(axis=1)
    return np.where(torn, np.nan, _read(window, agrees).z)


@dataclass(frozen=True)
class _Window:
    """The (2 REACH + 1)^2 depth pixels around each of P points, flattened."""

    z: np.ndarray
    known: np.ndarray
    distance: np.ndarray
    """Squared distance of each pixel from the point, in depth pixels."""
    fraction: np.ndarray
    """(P, 2) where the point lies between its four neighbours."""
    corners: np.ndarray
    """(P, 4) which of the window's pixels these four are: top left, top right, bottom left, bottom right."""


OFFSETS = np.stack(np.meshgrid(np.arange(-REACH, REACH + 1), np.arange(-REACH, REACH + 1)), axis=-1).reshape(-1, 2)


def _gather(depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int]) -> _Window:
    height, width = depth.shape
    xy = cameras.resize_pixels(np.asarray(uv, dtype=np.float64), image_size, (width, height))
    inside = ((xy >= -0.5) & (xy <= [width - 0.5, height - 0.5])).all(axis=1)  # False for NaN
    xy = np.where(inside[:, None], xy, 0.0)
    centre = np.floor(xy + 0.5).astype(np.intp)
    pixels = centre[:, None] + OFFSETS
    column = np.clip(pixels[..., 0], 0, width - 1)
    row = np.clip(pixels[..., 1], 0, height - 1)
    z = depth.reshape(-1).take(row * width + column).astype(np.float64)
    # A pixel beyond the border is no second witness for the one on it.
    in_image = (column == pixels[..., 0]) & (row == pixels[..., 1])
    with np.errstate(invalid="ignore"):
        known = inside[:, None] & in_image & (z > 0) & (z < np.inf)
    corner = np.floor(xy).astype(np.intp)
    first = (corner[:, 1] - centre[:, 1] + REACH) * SIDE + corner[:, 0] - centre[:, 0] + REACH
    return _Window(
        z=np.where(known, z, 0.0),
        known=known,
        distance=((pixels - xy[:, None]) ** 2).sum(axis=-1),
        fraction=xy - corner,
        corners=first[:, None] + [0, 1, SIDE, SIDE + 1],
    )


def _read(window: _Window, on_surface: np.ndarray) -> DepthLookup:
    nearest = np.argmin(np.where(on_surface, window.distance, np.inf), axis=1)[:, None]
    z = np.take_along_axis(window.z, nearest, axis=1)[:, 0]
    right, down = window.fraction.T
    weights = np.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=1)
    # A corner that does not weigh need not be known: a point on the last column has nothing to its right.
    smooth = (np.take_along_axis(on_surface, window.corners, axis=1) | (weights == 0)).all(axis=1)
    corners = np.take_along_axis(window.z, window.corners, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        interpolated = 1.0 / np.where(weights > 0, weights / corners, 0.0).sum(axis=1)
    found = on_surface.any(axis=1)
    return DepthLookup(np.where(found, np.where(smooth, interpolated, z), np.nan), window.known.any(axis=1) & ~found)
