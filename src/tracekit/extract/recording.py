"""Measured depth and cameras of a recording, brought to the frames and the grid of a clip."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.geometry import cameras
from tracekit.records import CameraSensor, Clip, DepthSensor, Frames


class SelectedFrames:
    """Some frames of another stack, in a given order; sliced on demand."""

    def __init__(self, frames: Frames, indices: np.ndarray) -> None:
        self._frames = frames
        self._indices = indices

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._indices), *self._frames.shape[1:])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self._indices[index]
        if np.ndim(chosen) == 0:
            return self._frames[int(chosen)]
        return np.stack([self._frames[int(i)] for i in chosen]) if len(chosen) else np.empty((0, *self._frames.shape[1:]), np.float32)


def match_recording(
    recorded: Clip, depth: DepthSensor, camera: CameraSensor, clip: Clip, *, with_poses: bool, name: str
) -> tuple[DepthSensor, CameraSensor]:
    """Depth and cameras of the recording `recorded` at the frames of `clip`, another view of the same video.

    Frames are matched by their index in the source video, and K is brought to the clip's grid. Raises BadDataError when the
    recording lacks a frame of the clip, or is of another picture size.
    """
    if (recorded.source_width, recorded.source_height) != (clip.source_width, clip.source_height):
        raise BadDataError(
            f"{name} is of a video of {recorded.source_width} x {recorded.source_height} pixels, but this one has {clip.source_width} x {clip.source_height}"
        )
    place = {int(frame): index for index, frame in enumerate(recorded.source_frame)}
    missing = [int(frame) for frame in clip.source_frame if int(frame) not in place]
    if missing:
        raise BadDataError(
            f"{name} has no depth for frame {missing[0]} of the video ({len(missing)} of {len(clip.source_frame)} frames are missing)",
            hint="the recording must hold every frame of the clip",
        )
    indices = np.array([place[int(frame)] for frame in clip.source_frame], dtype=int)
    intrinsics = cameras.scale_intrinsics(camera.intrinsics, (recorded.width, recorded.height), (clip.width, clip.height))
    poses = camera.world_from_camera[indices] if with_poses and camera.world_from_camera is not None else None
    return DepthSensor(SelectedFrames(depth.depth, indices)), CameraSensor(intrinsics, poses)
