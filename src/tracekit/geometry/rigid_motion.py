"""Rigid motions from points: in closed form between two sets of points, and step by step against an image and its depth."""

from __future__ import annotations

import numpy as np

from tracekit.geometry import se3


def fit_rigid(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rigid motions (..., 4, 4) that bring `source` (..., P, 3) closest to `target` (..., P, 3) in weighted least squares.

    Weights (..., P) are not negative; where fewer than three points that are not in line count, one of several best motions comes
    out. Kabsch 1976, with the reflection guard of Umeyama 1991.
    """
    share = weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    from_centre, to_centre = share[..., None, :] @ source, share[..., None, :] @ target
    weighted = np.swapaxes(share[..., None] * (target - to_centre), -1, -2)
    rotation = se3.nearest_rotation(weighted @ (source - from_centre))
    return se3.from_rotation_translation(rotation, (to_centre - from_centre @ np.swapaxes(rotation, -1, -2))[..., 0, :])


def twist_to_motion(twist: np.ndarray) -> np.ndarray:
    """Rigid motions (..., 4, 4) of twists (..., 6): a rotation vector in radians, then a translation that follows the rotation."""
    vector, translation = twist[..., :3], twist[..., 3:]
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    skew = cross_matrix(vector)
    sine = np.sinc(angle / np.pi)
    versine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return se3.from_rotation_translation(np.eye(3) + sine * skew + versine * skew @ skew, translation)


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """Matrices (..., 3, 3) that multiply like the cross product with vectors (..., 3) from the left."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*vector.shape, 3)


def motion_about(centre: np.ndarray, twist: np.ndarray) -> np.ndarray:
    """Rigid motions (..., 4, 4) that turn about `centre` (..., 3) and then shift, by twists (..., 6)."""
    motion = twist_to_motion(twist)
    motion[..., :3, 3] += centre - np.einsum("...ij,...j->...i", motion[..., :3, :3], centre)
    return motion


def derivative_by_twist(direction: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """How far points move along `direction` (..., 3) for each unit of a small twist (..., 6) about a centre, from which they lie at `arm` (..., 3)."""
    return np.concatenate([np.cross(arm, direction), direction], axis=-1)
