"""Pinhole cameras with OpenCV axes (x right, y down, z forward); pixel centres at whole numbers, the first at (0, 0)."""

from __future__ import annotations

import numpy as np

from tracekit.geometry import se3


def project(xyz_world: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (..., P, 2) and depths (..., P) of world points (..., P, 3) seen by cameras with poses (..., 4, 4) and one K (3, 3).

    Points on or behind the camera plane (z <= 0) get NaN pixels: they have no image.
    """
    camera = se3.transform_points(se3.inverse(world_from_camera), xyz_world)
    z = camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = camera[..., :2] / np.where(z > 0, z, np.nan)[..., None]
    # The general K, so that a skewed one is right too.
    uv = normalised @ intrinsics[:2, :2].T + intrinsics[:2, 2]
    return uv, z


def unproject(uv: np.ndarray, z: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """World points (..., P, 3) of pixels (..., P, 2) at depths (..., P) along the optical axis."""
    normalised = (uv - intrinsics[:2, 2]) @ np.linalg.inv(intrinsics[:2, :2]).T
    camera = np.concatenate([normalised * z[..., None], z[..., None]], axis=-1)
    return se3.transform_points(world_from_camera, camera)


def scale_intrinsics(intrinsics: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """K (3, 3) after the image is resized. Sizes are (width, height).

    Resizing maps pixel edges to pixel edges, so centres move by half a pixel: u' = (u + 1/2) s - 1/2.
    """
    scale = np.array([to_size[0] / from_size[0], to_size[1] / from_size[1]])
    result = np.array(intrinsics, dtype=np.float64)
    result[:2, :2] *= scale[:, None]
    result[:2, 2] = (result[:2, 2] + 0.5) * scale - 0.5
    return result


def resize_pixels(uv: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Pixels (..., 2) of one grid in the pixels of another that covers the same image. Sizes are (width, height)."""
    scale = np.array([to_size[0] / from_size[0], to_size[1] / from_size[1]])
    return (uv + 0.5) * scale - 0.5
