"""Reconstruction without depth: every point lies on z = 1 of its camera, and the camera may turn but not travel (embedded)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tracekit.backends.protocols import BackendSetup, Facts, LocalGeometry
from tracekit.geometry.odometry import Odometry
from tracekit.records import CameraSensor

FOCAL_OF_LONGER_SIDE = 1.1
"""Assumed focal length over the longer side of the picture (49 degrees of view), between a telephone and a camera with a normal lens."""


class PlanarBackend:
    """Claims no depth. A camera that turns is followed by its background, so that only what moves in the scene moves.

    Remembers the clip from call to call (see `tracekit.extract.reconstruct.SequentialBackend`). The focal length is a guess
    unless the recording brings its calibration; then that is used. Poses of a recording are not: their lengths have no
    meaning where no depth is claimed.
    """

    name: ClassVar[str] = "planar"
    facts: ClassVar[Facts] = Facts("no depth: every point on one plane, a camera that turns", code="tracekit", code_licence="Apache-2.0")
    metric = False

    def __init__(self, setup: BackendSetup) -> None:
        self._seed = setup.seed
        self.use_recording(None)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return ""

    def use_recording(self, camera: CameraSensor | None) -> None:
        """Begin a new clip, with its calibration where it has one."""
        self._intrinsics = None if camera is None else camera.intrinsics
        self._odometry: Odometry | None = None

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        """See `ReconstructionBackend`; `depth` is ignored."""
        size = (frames.shape[2], frames.shape[1])
        intrinsics = guess_intrinsics(size) if self._intrinsics is None else self._intrinsics
        if self._odometry is None:
            self._odometry = Odometry(intrinsics, size, rotation_only=True, seed=self._seed)
        cameras = [self._odometry.track(frame) for frame in frames]
        return LocalGeometry(
            intrinsics=np.tile(intrinsics, (len(frames), 1, 1)),
            world_from_camera=np.stack([camera.world_from_camera for camera in cameras]),
            confidence=np.array([camera.confidence for camera in cameras], np.float32),
            depth=None,
        )


def guess_intrinsics(size: tuple[int, int]) -> np.ndarray:
    """K (3, 3) of a camera of which only the picture's (width, height) is known."""
    width, height = size
    focal = FOCAL_OF_LONGER_SIDE * max(width, height)
    return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])
