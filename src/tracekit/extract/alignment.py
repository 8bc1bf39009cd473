"""Bring what a backend says of one chunk into the global frame: its scale, then a rigid motion (paper A.3, Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.geometry import se3

MIN_ANCHORS_TO_REJECT = 4
SIGMAS = 2.0


@dataclass(frozen=True)
class ChunkAlignment:
    """How a chunk's own frame lies in the global one."""

    world_from_chunk: np.ndarray
    """(4, 4), A of Eq. 1."""
    kept: np.ndarray
    """(n,) bool: the anchors that the alignment relied on."""
    residual: float
    """Root mean square distance between the aligned camera centres of the kept anchors and the global ones."""


def align_poses(chunk_from_camera: np.ndarray, world_from_camera: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The A (..., 4, 4) in SE(3) that minimises sum_t w_t |A E_t^chunk - E_t^global|_F^2, for poses (..., n, 4, 4): Eq. 1, exactly.

    The squared norm splits into |R R_t - S_t|^2 + |R p_t + a - q_t|^2. For any R the best translation maps the centroid of the
    camera centres onto the other: a = mean(q) - R mean(p). What is left asks for the R that maximises

        tr R^T (sum_t w_t S_t R_t^T + sum_t w_t (q_t - mean q)(p_t - mean p)^T),

    the rotation nearest to that matrix. So orientations and centres vote together, and when all centres coincide (a tripod)
    the orientations still decide. `weights` (..., n) are >= 0 and not all 0; batches pad short chunks with weight 0.
    """
    rotations, centres = chunk_from_camera[..., :3, :3], chunk_from_camera[..., :3, 3]
    target_rotations, target_centres = world_from_camera[..., :3, :3], world_from_camera[..., :3, 3]
    if weights is None:
        weights = np.ones(centres.shape[:-1])
    share = (weights / weights.sum(axis=-1, keepdims=True))[..., None]
    mean = (share * centres).sum(axis=-2)
    target_mean = (share * target_centres).sum(axis=-2)
    # The four columns of a pose (three axes and the centre) are four 3-vectors, each to be rotated onto its counterpart.
    columns = np.concatenate([rotations, (centres - mean[..., None, :])[..., None]], axis=-1)
    target_columns = np.concatenate([target_rotations, (target_centres - target_mean[..., None, :])[..., None]], axis=-1)
    votes = _stack_columns(target_columns * share[..., None]) @ np.swapaxes(_stack_columns(columns), -1, -2)
    rotation = se3.nearest_rotation(votes)
    return se3.from_rotation_translation(rotation, target_mean - (rotation @ mean[..., None])[..., 0])


def _stack_columns(columns: np.ndarray) -> np.ndarray:
    """(..., n, 3, 4) as (..., 3, 4 n): one matrix product then sums over anchors and columns."""
    moved = np.moveaxis(columns, -3, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def align_chunk(chunk_from_camera: np.ndarray, world_from_camera: np.ndarray) -> ChunkAlignment:
    """Eq. 1 over the anchors of one chunk, poses (n, 4, 4) with n >= 1, without those anchors that disagree with the others.

    With four anchors or more, an anchor is left out when its error |A E - E'|_F exceeds two robust standard deviations
    (1.4826 times the median error). The first guess is the single anchor whose own motion suits the median anchor best, so
    that up to half of them may be wrong without having had a say. Half of the anchors or more are always kept.
    """
    kept = np.ones(len(chunk_from_camera), bool)
    if len(kept) >= MIN_ANCHORS_TO_REJECT:
        candidates = world_from_camera @ se3.inverse(chunk_from_camera)
        errors = np.linalg.norm(candidates[:, None] @ chunk_from_camera - world_from_camera, axis=(-2, -1))
        error = errors[np.median(errors, axis=1).argmin()]
        for _ in range(10):
            # Rounding must not pass for disagreement when the anchors agree exactly.
            rounding = 1e-9 * (1.0 + np.abs(world_from_camera).max())
            suits = error <= max(SIGMAS * 1.4826 * float(np.median(error)), rounding)
            transform = align_poses(chunk_from_camera[suits], world_from_camera[suits])
            error = np.linalg.norm(transform @ chunk_from_camera - world_from_camera, axis=(-2, -1))
            if np.array_equal(suits, kept):
                break
            kept = suits
    transform = align_poses(chunk_from_camera[kept], world_from_camera[kept])
    distance = np.linalg.norm((transform @ chunk_from_camera[kept])[:, :3, 3] - world_from_camera[kept, :3, 3], axis=-1)
    return ChunkAlignment(transform, kept, float(np.sqrt(np.mean(distance**2))))


def scale_of_chunk(global_depth: np.ndarray, chunk_depth: np.ndarray) -> float | None:
    """The factor that brings a chunk's depth (n, h, w) of its anchors to that of the global pass; 0 marks unknown depth.

    The median over the anchors of the median ratio within each; None when no anchor has a pixel that is known in both.
    """
    ratios = []
    for reference, depth in zip(global_depth, chunk_depth, strict=True):
        known = (reference > 0) & (depth > 0)
        if known.any():
            ratios.append(np.median(reference[known].astype(np.float64) / depth[known].astype(np.float64)))
    return float(np.median(ratios)) if ratios else None


def scale_poses(world_from_camera: np.ndarray, scale: float) -> np.ndarray:
    """Poses (..., 4, 4) after all lengths are multiplied by `scale`."""
    scaled = np.array(world_from_camera, dtype=np.float64)
    scaled[..., :3, 3] *= scale
    return scaled
