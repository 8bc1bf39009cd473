"""One simulated episode: a video, and a truth file that knows everything about it."""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit import __version__, video
from tracekit.envs import metaworld
from tracekit.envs.metaworld import MetaWorld, Rollout
from tracekit.envs.mujoco_views import Camera, Screen
from tracekit.errors import BadDataError
from tracekit.extract.chunks import chunk_bounds
from tracekit.extract.filter import FilterParameters, filter_moving
from tracekit.extract.segment import SegmentParameters, motion_signal, smooth
from tracekit.format.atomic import new_file
from tracekit.format.file import Target, in_millimetres, write_records
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE
from tracekit.format.validation import group_of
from tracekit.ground_truth import Scene
from tracekit.records import CameraSensor, Clip, DepthSensor, Events, Geometry, Truth
from tracekit.report import Report
from tracekit.simulation import true_tracks
from tracekit.simulation.camera_paths import FOV_Y, PATHS
from tracekit.simulation.sub_tasks import sub_task_bounds
from tracekit.video_writer import write_video

TRIES = 20
"""Attempts of an expert, each from another start, before its task is given up."""
MOTION = FilterParameters(threshold_fraction=0.05)
"""What moves, at any size of the picture: at 640 x 480 this is the paper's threshold."""
FAILED = "tries that the expert failed, left out"
"""Name of the count."""


@dataclass(frozen=True)
class EpisodeRequest:
    """Which episode to simulate. Everything about it follows from this."""

    task: str
    camera: str
    seed: int
    number: int
    width: int
    height: int
    fps: float
    settle: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.task}_{self.camera}_{self.seed}_{self.number}"

    def chance(self, purpose: str, attempt: int = 0) -> np.random.Generator:
        """Randomness that depends on nothing but what is asked for; the start of an episode is the same for every camera."""
        names = zlib.crc32(f"{self.task} {purpose}".encode())
        return np.random.default_rng([self.seed, self.number, names, attempt])


@dataclass(frozen=True)
class Take:
    """A task that the expert has done, ready to be filmed."""

    request: EpisodeRequest
    env: MetaWorld
    rollout: Rollout
    cameras: list[Camera]
    """Of each frame."""

    def replay(self, report: Report) -> Iterator[int]:
        """Bring the scene into the state of one frame after the other, whose numbers come."""
        for frame, state in enumerate(self.rollout.states):
            self.env.restore(state)
            report.progress(frame + 1, len(self.cameras))
            yield frame


def perform(request: EpisodeRequest, report: Report) -> Take:
    """Let the expert try from new starts until it succeeds. Raises BadDataError when it fails TRIES times."""
    for attempt in range(TRIES):
        env = MetaWorld(request.task, int(request.chance("start", attempt).integers(2**31)))
        rollout = env.roll(request.settle)
        failed = not rollout.success.any()
        report.count(FAILED, failed)
        if not failed:
            poses = PATHS[request.camera](rollout.observations[:, :3], request.fps, request.chance("camera"))
            return Take(request, env, rollout, [Camera(pose, FOV_Y) for pose in poses])
    raise BadDataError(f"the expert of {request.task} failed {TRIES} times in a row", hint="take another --seed, or leave the task out")


def write_episode(take: Take, folder: Path, *, argv: list[str], report: Report) -> None:
    """Write FOLDER/NAME.mp4 and FOLDER/NAME.truth.h5.

    The same request gives the same pixels and truth on the same machine. The video appears after the truth file: an episode
    without its video is not done.
    """
    request = take.request
    path = folder / f"{request.name}.mp4"
    recording = _Recording(take)
    with new_file(path, force=True) as temporary:
        write_video(temporary, recording.pictures(report), request.fps)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # a full disk must show before the truth file appears
        clip, _ = video.open_clip(temporary, max_size=0)
        if len(clip.pts) != len(take.cameras):
            raise BadDataError(f"the video of {request.name} has {len(clip.pts)} frames after encoding, not {len(take.cameras)}")
        clip = dataclasses.replace(clip, uri=os.path.abspath(path), task=metaworld.TASKS[request.task])
        _write_truth(take, recording, clip, folder, argv=argv, report=report)


class _Recording:
    """What is seen and known in every frame of a take; T frames of H x W pixels."""

    def __init__(self, take: Take) -> None:
        request, num_frames = take.request, len(take.cameras)
        self._take = take
        self.depth = _Depth(np.zeros((num_frames, request.height, request.width), np.uint16))
        self.body_at_pixel = np.zeros(self.depth.shape, np.int16)
        self.world_from_body = np.zeros((num_frames, take.env.model.nbody, 4, 4))
        self.touching = np.zeros(num_frames, bool)
        self.opening = np.zeros(num_frames)
        """Metres."""
        self.first_pictures: dict[int, np.ndarray] = {}
        """Those with which a chunk of the tracks begins."""

    def pictures(self, report: Report) -> Iterator[np.ndarray]:
        """Film: RGB pictures (H, W, 3) come, the rest is kept."""
        env, request = self._take.env, self._take.request
        chunks = {start for start, _ in chunk_bounds(len(self.opening), true_tracks.CHUNK)}
        with Screen(env.model, env.data, request.width, request.height) as screen:
            for frame in self._take.replay(report):
                camera = self._take.cameras[frame]
                picture = screen.picture(camera)
                depth, self.body_at_pixel[frame] = screen.surfaces(camera)
                self.depth.put(frame, depth, report)
                self.world_from_body[frame] = env.world_from_body()
                self.touching[frame], self.opening[frame] = env.gripper_touches(), env.gripper_opening()
                if frame in chunks:
                    self.first_pictures[frame] = picture
                yield picture


class _Depth:
    """Depth as the file keeps it, in whole millimetres, so that all truth is computed from what will be read. Comes as float32 metres."""

    def __init__(self, millimetres: np.ndarray) -> None:
        self._millimetres = millimetres
        self.shape = millimetres.shape

    def __len__(self) -> int:
        return len(self._millimetres)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._millimetres[index].astype(np.float32) * np.float32(0.001)

    def put(self, frame: int, depth: np.ndarray, report: Report) -> None:
        self._millimetres[frame], num_too_far = in_millimetres(depth)
        report.count("depth pixels too far to be kept (beyond 65.5 m)", num_too_far)


def _write_truth(take: Take, recording: _Recording, clip: Clip, folder: Path, *, argv: list[str], report: Report) -> None:
    request, env = take.request, take.env
    num_frames = len(take.cameras)
    intrinsics = take.cameras[0].intrinsics(request.width, request.height)
    poses = np.stack([camera.world_from_camera for camera in take.cameras])
    truth = Truth(
        simulator=metaworld.version(),
        environment=f"{metaworld.SUITE}/{request.task}",
        camera=request.camera,
        seed=request.seed,
        seconds_per_frame=metaworld.CONTROL_SECONDS,
        body_at_pixel=recording.body_at_pixel,
        body_name=env.body_names(),
        body_rigid_group=env.model.body_weldid.astype(np.int32),
        body_is_robot=env.robot_bodies().astype(np.uint8),
        world_from_body=recording.world_from_body,
    )
    scene = Scene(truth, recording.depth, intrinsics, poses)
    keypoints, tracks = true_tracks.true_tracks(scene, list(recording.first_pictures.values()), request.chance("tracks"))
    geometry = Geometry(
        backend=true_tracks.NAME,
        metric=True,
        intrinsics=intrinsics,
        world_from_camera=poses,
        frame_confidence=np.ones(num_frames, np.float32),
        anchor_frame=np.zeros(1, np.int32),
        chunk_start=np.zeros(1, np.int32),
        chunk_stop=np.array([num_frames], np.int32),
        chunk_scale=np.ones(1),
        chunk_alignment=np.eye(4)[None],
        chunk_residual=np.zeros(1),
        chunk_num_anchors=np.ones(1, np.int32),
    )
    quiet = Report()
    motion = filter_moving(tracks, geometry, clip.width, clip.height, MOTION, report=quiet)
    signal = motion_signal(tracks, motion, clip.fps, report=quiet)
    smoothed = smooth(signal, SegmentParameters.window, SegmentParameters.order)
    start, stop = sub_task_bounds(recording.touching, recording.opening)
    events = Events(signal.astype(np.float32), smoothed.astype(np.float32), np.zeros(0, np.int32), start, stop)

    records = (clip, DepthSensor(recording.depth), CameraSensor(intrinsics, poses), keypoints, geometry, tracks, motion, events, truth)
    writes = {group_of(EPISODE, record).name for record in records}
    with write_records(Target(folder / f"{request.name}.truth.h5", force=True), EPISODE, request.name, writes=writes) as writer:
        for record in records:
            writer.put(record)
        writer.append_step(provenance_of(dataclasses.asdict(request), seed=request.seed, argv=argv, report=report))


def provenance_of(parameters: dict[str, Any], *, seed: int, argv: list[str], report: Report) -> Step:
    """How a file came about."""
    return Step(
        command="simulate",
        argv=argv,
        version=__version__,
        parameters=parameters,
        inputs=[],
        backend=metaworld.version(),
        weights_sha256="",
        seed=seed,
        counts=report.counts,
        notes=report.notes,
    )
