"""A clip of any length in closed form, and networks that know it: the camera travels along a wall whose lower half slides to and fro.

The networks answer as real ones do: every call of the reconstruction is in a frame and at a scale of its own, and each answer depends on
nothing but what was asked. As backends `reconstruction.longclip` and `tracking.longclip` of an installed package they run in the program
itself (`plugin`): LONG_CLIP_LOG names a file to which they append a line a call, LONG_CLIP_KILL_AT the call that a SIGKILL answers,
LONG_CLIP_SECONDS how long a call takes, LONG_CLIP_MOST_FRAMES how many frames they have memory for.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from tracekit.backends.protocols import BackendSetup, LocalGeometry
from tracekit.format.file import Target, write_records
from tracekit.format.schema import EPISODE
from tracekit.geometry import cameras, se3
from tracekit.records import Clip, Keypoints

WIDTH, HEIGHT = 96, 64
INTRINSICS = np.array([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]])
WALL = 3.0
CELL = 8
"""Side of a patch, pixels."""
MARGIN = 10
"""A point at rest that is this far outside the image is lost. One that moves is not: where it was last would not be where it is."""


def true_cameras(frames: np.ndarray) -> np.ndarray:
    """World from camera (n, 4, 4)."""
    t = np.asarray(frames, np.float64)
    turn = Rotation.from_rotvec(np.stack([0.04 * np.sin(t / 37), 0.05 * np.sin(t / 53), 0.1 * np.sin(t / 71)], 1)).as_matrix()
    centre = np.stack([0.008 * t, 0.2 * np.sin(t / 91), 0.3 * np.sin(t / 67)], 1)
    return se3.from_rotation_translation(turn, centre)


def true_depth(poses: np.ndarray) -> np.ndarray:
    """(n, H, W): where each pixel's ray meets the wall z = WALL."""
    rays = np.stack([*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.ones((HEIGHT, WIDTH))], -1) @ np.linalg.inv(INTRINSICS).T
    towards = np.einsum("nj,hwj->nhw", poses[:, 2, :3], rays)
    return ((WALL - poses[:, 2, 3])[:, None, None] / towards).astype(np.float32)


def slide(frames: np.ndarray) -> np.ndarray:
    """How far the lower half of the wall has gone along x."""
    return 0.4 * np.sin(np.asarray(frames) / 40)


def true_paths(places: np.ndarray, born: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """World positions (n, Q, 3) at `frames` (n,) of points that are at `places` (Q, 3) in the frames `born` (Q,)."""
    moves = (places[:, 1] > 0).astype(float)
    paths = np.repeat(places[None], len(frames), axis=0)
    paths[..., 0] += moves * (slide(frames)[:, None] - slide(born)[None])
    return paths


def is_lost(places: np.ndarray, outside: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """Which points at `places` (Q, 3) are not known where they are `outside` (n, Q) of the image by so many pixels."""
    return (outside > MARGIN + slack) & (places[:, 1] <= 0)


def distance_outside(paths: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """By how many pixels each position (n, Q, 3) is outside the image; infinite behind the camera."""
    uv = np.stack([cameras.project(path, INTRINSICS, pose)[0] for path, pose in zip(paths, poses, strict=True)])
    outside = np.maximum(-uv, uv - [WIDTH - 1, HEIGHT - 1]).max(axis=-1)
    return np.where(np.isfinite(outside), outside, np.inf)


class LongFrames:
    """Frames (T, H, W, 3) whose first pixel is their number."""

    def __init__(self, num_frames: int) -> None:
        self.shape = (num_frames, HEIGHT, WIDTH, 3)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> np.ndarray:
        number = np.arange(len(self))[index]
        frames = np.zeros((len(number), *self.shape[1:]), np.uint8)
        frames[:, 0, 0, 0], frames[:, 0, 0, 1] = number % 256, number // 256
        return frames


def numbers(frames: np.ndarray) -> np.ndarray:
    return frames[:, 0, 0, 0].astype(int) + 256 * frames[:, 0, 0, 1].astype(int)


def candidates(num_frames: int, chunk: int = 60) -> Keypoints:
    """One a patch, in the first frame and in the middle of every chunk."""
    start = np.arange(0, num_frames, chunk)
    frame = np.unique(np.concatenate([start, np.minimum(start + chunk // 2, num_frames - 1)]))
    column, row = np.meshgrid(np.arange(WIDTH // CELL), np.arange(HEIGHT // CELL))
    here = np.stack([column.ravel(), row.ravel()], 1) * CELL + CELL / 2 + 0.25
    at = np.repeat(frame, len(here))
    grid = (HEIGHT // CELL, WIDTH // CELL)
    return Keypoints(
        patch_size=float(CELL),
        budget=2 * len(here),
        features="known",
        uv=np.tile(here, (len(frame), 1)).astype(np.float32),
        frame=at.astype(np.int32),
        entity=np.zeros(len(at), np.int32),
        chunk=(at // chunk).astype(np.int32),
        score=np.ones(len(at), np.float32),
        chunk_start=start.astype(np.int32),
        chunk_stop=np.minimum(start + chunk, num_frames).astype(np.int32),
        entity_id=np.zeros(1, np.int32),
        entity_num_patches=np.ones(1, np.int32),
        entity_num_frames=np.ones(1, np.int32),
        entity_rgb=np.zeros((1, 3), np.uint8),
        label_frame=frame.astype(np.int32),
        labels=np.zeros((len(frame), *grid), np.int32),
    )


def write_long_episode(path: Path, num_frames: int) -> Path:
    """An episode file with embedded frames and candidates, 10 frames a second."""
    clip = Clip(
        uri="/nowhere/long.mp4",
        sha256="0" * 64,
        fps=10.0,
        width=WIDTH,
        height=HEIGHT,
        source_width=WIDTH,
        source_height=HEIGHT,
        rotation=0,
        decoder="images",
        num_source_frames=num_frames,
        num_missing_frames=0,
        pts=np.arange(num_frames) / 10,
        source_frame=np.arange(num_frames, dtype=np.int32),
        frames=LongFrames(num_frames),
    )
    with write_records(Target(path), EPISODE, "long") as writer:
        writer.put(clip)
        writer.put(candidates(num_frames))
    return path


def plugin(site: Path) -> dict[str, str]:
    """Install the backends into a folder of packages; the environment in which they are found."""
    info = site / "longclip-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longclip\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tracekit.backends]\nreconstruction.longclip = long_clip:LongReconstruction\ntracking.longclip = long_clip:LongTracker\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parent)])}


class _Called:
    """What every call of both networks does first."""

    stateless = True
    num_calls = 0

    def __init__(self, setup: BackendSetup) -> None:
        pass

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return os.environ.get("LONG_CLIP_WEIGHTS", "")

    def called(self, *of_call: int) -> None:
        self.num_calls += 1
        if log := os.environ.get("LONG_CLIP_LOG"):
            with open(log, "a") as file:
                print(*of_call, file=file)
        if self.num_calls == int(os.environ.get("LONG_CLIP_KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("LONG_CLIP_SECONDS", 0)))
        if of_call[0] > int(os.environ.get("LONG_CLIP_MOST_FRAMES", 10**9)):
            raise MemoryError


class LongReconstruction(_Called):
    """Knows the cameras and depth; every call is at another scale and in another frame."""

    name = "longclip"
    metric = False

    def reconstruct(self, frames: np.ndarray, frame_indices: np.ndarray, depth: np.ndarray | None) -> LocalGeometry:
        number = numbers(frames)
        assert np.array_equal(number, frame_indices)
        self.called(len(number), *number)
        rng = np.random.default_rng([len(number), *number])
        scale = float(rng.uniform(0.2, 5))
        local_from_world = se3.from_rotation_translation(Rotation.random(rng=rng).as_matrix(), rng.standard_normal(3))
        poses = true_cameras(number)
        local = local_from_world @ poses
        local[:, :3, 3] *= scale
        count = len(number)
        return LocalGeometry(np.tile(INTRINSICS, (count, 1, 1)), local, np.ones(count, np.float32), np.float32(scale) * true_depth(poses))


class LongTracker(_Called):
    """Knows how the wall moves, in whatever frame and at whatever scale the cameras come."""

    name = "longclip"

    def track(self, frames, depth, intrinsics, world_from_camera, queries_world, query_frames, identities):
        number = numbers(frames)
        self.called(len(number), number[0], number[-1], *identities)
        poses = true_cameras(number)
        scale, rotation, shift = similarity(poses, world_from_camera)
        places = (queries_world - shift) @ rotation / scale
        paths = true_paths(places, number[query_frames], number)
        outside = distance_outside(paths, poses)
        xyz = scale * paths @ rotation.T + shift
        xyz[is_lost(places, outside)] = np.nan
        return xyz.astype(np.float32), outside <= 0


def similarity(poses: np.ndarray, seen: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """(scale, rotation, shift) that bring the true world to the one in which the cameras `poses` are `seen`."""
    rotation = se3.nearest_rotation((seen[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2)).mean(axis=0))
    centres, seen_centres = poses[:, :3, 3], seen[:, :3, 3]
    spread, seen_spread = (np.sqrt(((c - c.mean(axis=0)) ** 2).sum()) for c in (centres, seen_centres))
    scale = float(seen_spread / spread)
    return scale, rotation, seen_centres.mean(axis=0) - scale * rotation @ centres.mean(axis=0)
