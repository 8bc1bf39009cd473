"""Are the cameras where they were?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.evaluation.figures import figure, root_mean_square
from tracekit.geometry import se3


@dataclass(frozen=True)
class CameraAccuracy:
    """Estimated camera poses against the true ones (Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", 2012)."""

    ate_rmse_m: float | None = figure("trajectory error (ATE), RMS", "m")
    rpe_translation_m: float | None = figure("drift a frame (RPE), RMS", "m")
    rpe_rotation_deg: float | None = figure("turn a frame (RPE), RMS", "deg")


def camera_accuracy(world_from_camera: np.ndarray, true_world_from_camera: np.ndarray, alignment: np.ndarray | None) -> CameraAccuracy:
    """ATE and RPE of estimated poses P (T, 4, 4) against true ones Q (T, 4, 4).

    ATE: root mean square distance of the camera centres after `alignment` (4, 4), true world from estimated world. Sturm et al.
    find the alignment from the centres alone (Horn); here it comes from whole poses, so a camera that stands still has one.
    RPE: root mean square over consecutive frames of E = (Q_t^-1 Q_t+1)^-1 (P_t^-1 P_t+1), its translation and its angle; no
    alignment enters. With `alignment` None lengths are not comparable, and only the angle is told.
    """
    turned = _relative_error(world_from_camera, true_world_from_camera)
    angle = np.degrees(se3.rotation_angle(turned[:, :3, :3]))
    if alignment is None:
        return CameraAccuracy(rpe_rotation_deg=root_mean_square(angle))
    centres = (alignment @ world_from_camera)[:, :3, 3]
    return CameraAccuracy(
        ate_rmse_m=root_mean_square(np.linalg.norm(centres - true_world_from_camera[:, :3, 3], axis=1)),
        rpe_translation_m=root_mean_square(np.linalg.norm(turned[:, :3, 3], axis=1)),
        rpe_rotation_deg=root_mean_square(angle),
    )


def _relative_error(poses: np.ndarray, true_poses: np.ndarray) -> np.ndarray:
    """E (T - 1, 4, 4)."""
    step = se3.inverse(poses[:-1]) @ poses[1:]
    true_step = se3.inverse(true_poses[:-1]) @ true_poses[1:]
    return se3.inverse(true_step) @ step
