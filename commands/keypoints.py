"""tracekit keypoints: choose the points that matter on every thing in a video."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tracekit import video
from tracekit.extract.keypoints import PRESETS, KeypointsParameters, select_keypoints
from tracekit.extract.recording import match_recording
from tracekit.format.file import RecordFile
from tracekit.parameters import parameter
from tracekit.records import CameraSensor, DepthSensor
from tracekit.stage import Stage, Work


@dataclass(frozen=True)
class Options(KeypointsParameters):
    """What the stage takes, and how its video is opened."""

    fps: float | None = parameter(None, "Frames per second to keep; without it, all.", minimum=0.001)
    max_size: int = parameter(640, "Longest side of the processed grid in pixels; larger videos are shrunk. 0: never.", minimum=0)
    source_fps: float = parameter(10.0, "Rate of a folder of images.", minimum=0.001)
    decoder: str = parameter("auto", "What decodes the video.", choices=("auto", "pyav", "decord"))
    allow_partial: bool = parameter(False, "Take what can be decoded of a damaged video, and record how much is missing.")
    embed_frames: bool = parameter(False, "Store the frames in the file, so that it needs no video beside it.")
    sensor: str | None = parameter(None, "Episode file with measured depth and cameras of the same frames (see tracekit import).")
    sensor_poses: str = parameter("yes", "Take the poses of --sensor too, not only depth and intrinsics.", choices=("yes", "no"))


def run(work: Work) -> None:
    options: Options = work.parameters
    sensor = work.open_other(options.sensor) if options.sensor else None
    if work.episode is None:
        clip, frames = video.open_clip(
            work.source,
            fps=options.fps,
            max_size=options.max_size,
            source_fps=options.source_fps,
            decoder=options.decoder,
            allow_partial=options.allow_partial,
            report=work.report,
        )
        if sensor:  # whoever recorded it may have said what is done in it
            clip = dataclasses.replace(clip, task=sensor.read("video").task)
        work.start_clip(clip, frames)
        work.put(dataclasses.replace(clip, frames=frames if options.embed_frames else None))
    if sensor:
        depth, camera = bring_in_sensor(work, sensor, with_poses=options.sensor_poses == "yes")
    else:
        depth, camera = work.read_or_none("depth_sensor"), work.read_or_none("camera_sensor")
    work.put(
        select_keypoints(
            work.frames(),
            work.backend(),
            options,
            seed=work.seed,
            report=work.report,
            sensor_depth=depth.depth if depth else None,
            camera_sensor=camera,
        )
    )


def bring_in_sensor(work: Work, other: RecordFile, *, with_poses: bool) -> tuple[DepthSensor, CameraSensor]:
    """Copy measured depth and cameras from another episode file of the same video."""
    for group in ("depth_sensor", "camera_sensor"):
        other.require(group)
    depth, camera = match_recording(
        other.read("video"),
        other.read("depth_sensor"),
        other.read("camera_sensor"),
        work.clip,
        with_poses=with_poses,
        name=other.name,
    )
    work.put(depth)
    work.put(camera)
    return depth, camera


command = Stage(
    name="keypoints",
    about="Choose the points that matter on every thing in a video (paper 2.1).",
    run=run,
    parameters=Options,
    presets=PRESETS,
    reads=(),
    writes=("keypoints",),
    example="tracekit keypoints in.mp4 -o keypoints.h5",
    backend_kind="features",
    backend_flag="--features",
    looks_at_frames=True,
    source_help="Video, folder of images, or episode file; - or nothing is an episode file on standard input.",
    starts_chain=True,
    writes_too=lambda options: {"depth_sensor", "camera_sensor"} if options.sensor else set(),
)
