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

OFFSETS = np.stack(np.meshgrid(np.arange(-REACH, REACH + 1), np.arange(-REACH, REACH + 1)), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class DepthLookup:
    """What a depth image says about P points."""

    z: np.ndarray
    """(P,) float64, depth of each point's surface along the optical axis; NaN where the image does not show that surface."""
    hidden: np.ndarray
    """(P,) bool, depth is known around the point and none of it belongs to the point's surface. Where z is NaN and this is
    False, the image has a hole there and says nothing."""


def lookup_depth(
    depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int], expected: np.ndarray, tolerance: float = SAME_SURFACE
) -> DepthLookup:
    """Depth at pixels `uv` (P, 2) of an image of `image_size` (width, height), each on the surface near its `expected` depth (P,).

    `depth` (h, w) covers the same image, maybe on another grid; values that are not positive and finite are unknown. A point on
    an edge never flips between the near and the far side: only depths within `tolerance` (a fraction) of the expected one count.
    Where the four pixels around the point agree, the depth is interpolated between them (linearly in 1/z, so that planes come
    out exact); otherwise it is that of the nearest pixel of the surface.
    """
    xy, inside = _on_grid(depth, uv, image_size)
    expected = np.asarray(expected, dtype=np.float64)
    corners, weights = _corners(depth, xy)
    z = np.where(inside & _near(corners, expected[:, None], tolerance).all(axis=1), _interpolate(corners, weights), np.nan)
    hidden = np.zeros(len(z), dtype=bool)
    # Few points lie on an edge, at a hole or at the border: only for those is it worth looking around.
    rest = np.flatnonzero(np.isnan(z) & inside)
    if len(rest):
        window, distance = _window(depth, xy[rest])
        on_surface = _near(window, expected[rest, None], tolerance)
        found = on_surface.any(axis=1)
        nearest = np.argmin(np.where(on_surface, distance, np.inf), axis=1)
        z[rest[found]] = window[found, nearest[found]]
        hidden[rest] = ~found & (window > 0).any(axis=1)
    return DepthLookup(z, hidden)


def surface_depth(depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int], tolerance: float = SAME_SURFACE) -> np.ndarray:
    """Depth (P,) of pixels `uv` (P, 2) about which nothing else is known; NaN where the surface cannot be told.

    A pixel's own depth counts if it has one. In a hole the nearest known depth does, provided that all depths in reach agree:
    between two surfaces there is no telling.
    """
    xy, inside = _on_grid(depth, uv, image_size)
    window, distance = _window(depth, xy)
    known = window > 0
    nearest = np.argmin(np.where(known, distance, np.inf), axis=1)[:, None]
    own = np.take_along_axis(window, nearest, axis=1)
    in_hole = ~known[:, SIDE * REACH + REACH]
    torn = in_hole & (known & ~_near(window, own, tolerance)).any(axis=1)
    known_surface = inside & known.any(axis=1) & ~torn
    return np.where(known_surface, lookup_depth(depth, uv, image_size, own[:, 0], tolerance).z, np.nan)


def doubtful_depth(depth: np.ndarray, jump: float) -> np.ndarray:
    """(h, w) bool: no return here or next to here, or a jump by more than the fraction `jump`: interpolating would invent a surface."""
    import cv2

    window = np.ones((3, 3), np.uint8)
    known = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    nearest, farthest = cv2.erode(known, window), cv2.dilate(known, window)
    return (nearest <= 0) | (farthest > (1 + jump) * nearest)


def nearest_depth(depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Depth (P,) of the nearest pixel to each of `uv` (P, 2), as it stands; NaN where it is unknown."""
    xy, inside = _on_grid(depth, uv, image_size)
    column, row = np.floor(xy + 0.5).astype(np.intp).T
    z = _read(depth, column, row)
    return np.where(inside & (z > 0), z, np.nan)


def _on_grid(depth: np.ndarray, uv: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 2) of the depth image, and which lie in it; the others are (0, 0)."""
    height, width = depth.shape
    xy = cameras.resize_pixels(np.asarray(uv, dtype=np.float64), image_size, (width, height))
    inside = np.all((xy >= -0.5) & (xy <= [width - 0.5, height - 0.5]), axis=1)  # False for NaN
    return np.where(inside[:, None], xy, 0.0), inside


def _near(z: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether depths are known and may belong to a surface at the expected depth; never, where that is unknown."""
    with np.errstate(invalid="ignore"):
        return (z > 0) & (np.abs(z - expected) <= tolerance * np.maximum(z, expected))


def _read(depth: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Depth at pixels, 0 where it is unknown or beyond the border."""
    height, width = depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    z = depth.reshape(-1).take(np.where(inside, row * width + column, 0)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(inside & (z > 0) & (z < np.inf), z, 0.0)


def _corners(depth: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths (P, 4) of the pixels around each point, and their weights in bilinear interpolation."""
    corner = np.floor(xy).astype(np.intp)
    column, row = corner[:, :1] + [0, 1, 0, 1], corner[:, 1:] + [0, 0, 1, 1]
    right, down = (xy - corner).T
    weights = np.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=1)
    # Where a pixel has no weight, another stands in: a point on the last column has nothing to its right.
    column -= (right == 0)[:, None] * np.array([0, 1, 0, 1])
    row -= (down == 0)[:, None] * np.array([0, 0, 1, 1])
    return _read(depth, column, row), weights


def _interpolate(corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1.0 / (weights / corners).sum(axis=1)


def _window(depth: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths (P, SIDE^2) around each point, 0 where unknown, and their squared distances from it in pixels."""
    pixels = np.floor(xy + 0.5).astype(np.intp)[:, None] + OFFSETS
    return _read(depth, pixels[..., 0], pixels[..., 1]), ((pixels - xy[:, None]) ** 2).sum(axis=-1)
