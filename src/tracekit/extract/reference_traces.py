"""Traces as the camera of one frame sees them (paper 2.2): camera motion is gone, alignment with that frame's image is kept.

Image coordinates are normalised to the frame: -1 and 1 are its outer edges, so that pixel centre u lies at 2 (u + 1/2) / W - 1.
"""

from __future__ import annotations

import numpy as np

from tracekit.geometry import cameras


def reference_traces(
    xyz_world: np.ndarray, valid: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int]:
    """World tracks (T, N, 3), known where `valid` (T, N), seen by the one camera `world_from_camera` (4, 4) with K (3, 3).

    Returns (u, v, z) (T, N, 3) float64, u and v normalised to the image of `size` (width, height) and z along the optical axis;
    validity (T, N), and how many valid positions lie on or behind the camera plane. Those have no image: they turn invalid. Positions
    outside the image are kept. Entries that are not valid are NaN.
    """
    pixels, z = cameras.project(xyz_world.astype(np.float64), intrinsics, world_from_camera)
    seen = valid.astype(bool) & (z > 0)
    num_behind = int(np.count_nonzero(valid)) - int(np.count_nonzero(seen))
    uvz = np.concatenate([normalise(pixels, size), z[..., None]], axis=-1)
    return np.where(seen[..., None], uvz, np.nan), seen, num_behind


def normalise(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (..., 2) in [-1, 1] of an image of `size` (width, height), edge to edge."""
    return 2.0 * (pixels + 0.5) / np.asarray(size, dtype=np.float64) - 1.0


def to_pixels(normalised: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `normalise`."""
    return (normalised + 1.0) * np.asarray(size, dtype=np.float64) / 2.0 - 0.5
