"""The nine numbers in which VGGT and its kin give a camera."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from tracekit.geometry import se3


def cameras_of(encoding: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Poses world_from_camera (n, 4, 4) and K (n, 3, 3) of encodings (n, 9): translation and quaternion (x, y, z, w; of any length) of
    camera_from_world with OpenCV axes, then the vertical and the horizontal angle of view, radians, of a picture of `size` (width, height).

    What is no number stays none. Facts from vggt/utils/pose_enc.py, vggt_omega/utils/pose_enc.py and the like of SpatialTrackerV2.

    The principal point is the middle of the picture, which those files write (W/2, H/2) and their unprojections then count from the centre
    of the first pixel. The angles, however, reach from edge to edge, so the middle is W/2 from the left edge: (W - 1)/2 in pixels whose
    centres are at whole numbers. The networks were never taught a principal point, so it is the picture that decides.
    """
    encoding = np.asarray(encoding, np.float64)
    width, height = size
    quaternion = encoding[:, 3:7]
    length = np.linalg.norm(quaternion, axis=1)
    usable = np.isfinite(quaternion).all(axis=1) & (length > 0)
    rotation = np.full((len(encoding), 3, 3), np.nan)
    if usable.any():
        rotation[usable] = Rotation.from_quat(quaternion[usable] / length[usable, None]).as_matrix()
    world_from_camera = se3.inverse(se3.from_rotation_translation(rotation, encoding[:, :3]))
    intrinsics = np.zeros((len(encoding), 3, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        intrinsics[:, 0, 0] = width / 2 / np.tan(encoding[:, 8] / 2)
        intrinsics[:, 1, 1] = height / 2 / np.tan(encoding[:, 7] / 2)
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return world_from_camera, intrinsics
