"""Rigid motions as 4 x 4 matrices that act on columns: `x_world = world_from_camera @ [x_camera, 1]`. All float64, batched on leading axes."""

from __future__ import annotations

import numpy as np


def inverse(transform: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms (..., 4, 4), exact in the rotation (its transpose)."""
    rotation_t = np.swapaxes(transform[..., :3, :3], -1, -2)
    result = np.zeros_like(transform, dtype=np.float64)
    result[..., :3, :3] = rotation_t
    result[..., :3, 3] = -(rotation_t @ transform[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def from_rotation_translation(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Transforms (..., 4, 4) from rotations (..., 3, 3) and translations (..., 3)."""
    result = np.zeros((*np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1]), 4, 4))
    result[..., :3, :3] = rotation
    result[..., :3, 3] = translation
    result[..., 3, 3] = 1.0
    return result


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., P, 3) mapped by transforms (..., 4, 4)."""
    return points @ np.swapaxes(transform[..., :3, :3], -1, -2) + transform[..., None, :3, 3]


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotations closest to matrices (..., 3, 3) in the Frobenius norm: their mean on the chordal metric when given a sum."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(u @ vt))
    u = u.copy()
    u[..., :, 2] *= sign[..., None]
    return u @ vt


def rotation_angle(rotation: np.ndarray) -> np.ndarray:
    """Angle of rotations (..., 3, 3) in radians, in [0, pi]. Uses atan2, which stays accurate near 0 and pi."""
    skew = rotation - np.swapaxes(rotation, -1, -2)
    sine = 0.5 * np.sqrt(skew[..., 2, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 0] ** 2)
    cosine = 0.5 * (np.trace(rotation, axis1=-2, axis2=-1) - 1.0)
    return np.arctan2(sine, cosine)


def is_pose(transform: np.ndarray, tolerance: float = 1e-4) -> np.ndarray:
    """Whether each of (..., 4, 4) is a rigid motion: orthonormal rotation with determinant +1, last row (0, 0, 0, 1), all finite."""
    rotation = transform[..., :3, :3]
    with np.errstate(invalid="ignore"):
        orthonormal = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max(axis=(-1, -2)) < tolerance
        proper = np.linalg.det(rotation) > 0
        last_row = np.abs(transform[..., 3, :] - [0, 0, 0, 1]).max(axis=-1) < tolerance
    return orthonormal & proper & last_row & np.isfinite(transform).all(axis=(-1, -2))
