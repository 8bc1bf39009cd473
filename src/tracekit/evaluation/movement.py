"""What really moves, by the rule that `filter` applies to what was extracted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.evaluation.figures import figure, ratio
from tracekit.extract.filter import diameter_seen


@dataclass(frozen=True)
class MovingAgreement:
    """Tracks that `filter` calls moving against those whose true path moves."""

    moving_precision: float | None = figure("tracks called moving that do move")
    moving_recall: float | None = figure("moving tracks that are called so")
    num_called_moving: int | None = figure("tracks called moving")
    num_truly_moving: int | None = figure("tracks that move")


def moving_agreement(called: np.ndarray, true: np.ndarray) -> MovingAgreement:
    """Precision and recall of flags (N,) bool; a share of nothing is None."""
    both = int((called & true).sum())
    return MovingAgreement(ratio(both, int(called.sum())), ratio(both, int(true.sum())), int(called.sum()), int(true.sum()))


def true_diameters(
    xyz_world: np.ndarray,
    visible: np.ndarray,
    reference_frame: np.ndarray,
    intrinsics: np.ndarray,
    world_from_camera: np.ndarray,
    lambda_z: float,
) -> np.ndarray:
    """Diameter (N,) in pixels of true paths (T, N, 3) over their `visible` (T, N) frames, as `filter` measures it (paper A.2).

    Point n is seen from the true camera of frame `reference_frame[n]` as (u, v, lambda_z z), in pixels of the grid that
    `intrinsics` (3, 3) stands for. NaN where a point is never visible.
    """
    result = np.full(len(reference_frame), np.nan)
    for point, frame in enumerate(reference_frame):
        result[point], _ = diameter_seen(xyz_world[visible[:, point], point], intrinsics, world_from_camera[frame], lambda_z)
    return result
