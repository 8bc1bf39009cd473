"""Reconstruction from what was measured: depth, calibration, and poses given or found by RGB-D odometry (embedded)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tracekit.backends.protocols import BackendSetup, Facts, LocalGeometry
from tracekit.errors import BadDataError, MissingInputError
from tracekit.geometry.odometry import Odometry
from tracekit.records import CameraSensor


class SensorBackend:
    """Measured depth is taken as it is; poses come with the recording or from the pictures.

    Remembers the clip from call to call (see `tracekit.extract.reconstruct.SequentialBackend`): `use_recording` hands over the
    calibration and the poses, then the frames follow in order. Without poses the world is the camera of the first frame.
    """

    name: ClassVar[str] = "sensor"
    facts: ClassVar[Facts] = Facts("measured depth, with the recording's poses or odometry", code="tracekit", code_licence="Apache-2.0")
    needs_measured_depth: ClassVar[bool] = True
    metric = True

    def __init__(self, setup: BackendSetup) -> None:
        self._seed = setup.seed
        self.use_recording(None)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return ""

    def use_recording(self, camera: CameraSensor | None) -> None:
        """Begin a new clip with the calibration, and the poses if any, that were recorded with it."""
        self._camera = camera
        self._odometry: Odometry | None = None

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        """See `ReconstructionBackend`. Raises MissingInputError without depth or calibration, BadDataError without enough poses."""
        if depth is None:
            raise MissingInputError(
                "the sensor backend needs measured depth, and this clip has none",
                hint="bring it in with `tracekit import rgbd` or `tracekit keypoints --sensor`, or choose another --backend",
            )
        if self._camera is None:
            raise MissingInputError(
                "the sensor backend needs the camera's calibration, and this clip has none",
                hint="`tracekit import rgbd --intrinsics` brings it in; or choose another --backend",
            )
        if self._camera.world_from_camera is None:
            poses, confidence = self._follow(frames, depth, self._camera.intrinsics)
        else:
            poses, confidence = recorded_poses(self._camera.world_from_camera, frame_indices)
        intrinsics = np.tile(self._camera.intrinsics, (len(frames), 1, 1))
        return LocalGeometry(intrinsics, poses, confidence, depth)

    def _follow(self, frames: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._odometry is None:
            self._odometry = Odometry(intrinsics, (frames.shape[2], frames.shape[1]), seed=self._seed)
        cameras = [self._odometry.track(frame, frame_depth) for frame, frame_depth in zip(frames, depth, strict=True)]
        poses = np.stack([camera.world_from_camera for camera in cameras])
        return poses, np.array([camera.confidence for camera in cameras], np.float32)


def recorded_poses(world_from_camera: np.ndarray, frame_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The poses (n, 4, 4) of these frames and their confidence (n,). Raises BadDataError where the recording (T, 4, 4) has too few."""
    if frame_indices.max() >= len(world_from_camera):
        raise BadDataError(
            f"the recording has {len(world_from_camera)} camera poses, but the clip has a frame {frame_indices.max()}",
            hint="give one pose for every frame",
        )
    return world_from_camera[frame_indices], np.ones(len(frame_indices), np.float32)
