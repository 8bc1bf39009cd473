"""Episode folders of TraceExtract, the authors' extraction code, as they lie on the disk.

EPISODE/images.npy               (T, H, W, 3) uint8, RGB
EPISODE/depth.npy                (T, H, W) float16, metres; not finite or below a millimetre where unknown
EPISODE/cameras.npz              intrinsics (T, 3, 3), extrinsics (T, 4, 4) camera from world, height, width
EPISODE/samples/*.npy            one row per keypoint and frame; rows of frame_indices[i] are offsets[i] to offsets[i + 1]
EPISODE/curated_training_texts.json, description.txt    see `traceextract_texts`

A row is the whole path of one point seen from the camera of its frame t: raw_traj[row, k] is (u px, v px, z m) at frame t + k,
raw_traj_history[row, k] at frame t - k (both begin with t itself), -inf where the masks of the same names are False. traj and traj_history
are the same paths resampled to equal lengths of path; they carry no times. There are rows only for points that move and whose place
at t lies inside the image.

Pixels count from the outer edge of the image there: the trainer maps 0 and W to -1 and 1. Ours count from the centre of the first
pixel, so half a pixel is taken off (and off the principal point).

Sources: docs/output_structure.md, infer.py (save_structured_data) and utils/threed_utils.py of github.com/Yoonkyo/TraceExtract;
src/lerobot/datasets/trace_dataset.py of github.com/Yoonkyo/mu0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError, MissingInputError
from tracekit.geometry import se3
from tracekit.interop.numpy_files import MappedFrames, open_npy, read_npz
from tracekit.records import Clip
from tracekit.report import Report

HALF_PIXEL = 0.5
LEAST_DEPTH = 1e-3
"""Metres; the trainer takes what is not above as unknown."""
_LARGEST_SIDE = 1 << 14
# Far beyond any episode, and what bounds memory: a file can claim much and hold nothing (a sparse one).
_MOST_FRAMES = 1 << 20
_MOST_STEPS_OF_A_FRAME = 1 << 24
"""Rows times steps."""
_POSE_TOLERANCE = 1e-2
"""Single precision and a mean of rotations leave them a little off; farther off they are no rotations."""


class ReleaseDepth(MappedFrames):
    """depth.npy as float32 metres (T, H, W), 0 where unknown, read when it is sliced."""

    def __init__(self, stored: np.ndarray, report: Report) -> None:
        super().__init__(stored)
        self._report = report

    def __getitem__(self, index: Any) -> np.ndarray:
        depth = super().__getitem__(index).astype(np.float32)
        known = np.isfinite(depth) & (depth > LEAST_DEPTH)
        self._report.count("depth pixels that are unknown", int(np.count_nonzero(~known)))
        return np.where(known, depth, np.float32(0))


@dataclass(frozen=True)
class Samples:
    """The rows (R) of an episode, mapped from the disk; frame_indices (F,) and offsets (F + 1,) in memory."""

    frame_indices: np.ndarray
    offsets: np.ndarray
    cluster_ids: np.ndarray
    is_moving: np.ndarray | None
    visibility: np.ndarray | None
    future: np.ndarray
    """(R, L, 3); step k is k frames later."""
    valid_future: np.ndarray
    history: np.ndarray
    """(R, M, 3); step k is k frames earlier."""
    valid_history: np.ndarray


@dataclass(frozen=True)
class ReleaseEpisode:
    """One episode folder, every shape checked. Cameras are in our conventions, rows as they are stored."""

    folder: Path
    images: MappedFrames
    depth: np.ndarray | None
    intrinsics: np.ndarray
    """(T, 3, 3) float64; pixel centres at whole numbers."""
    world_from_camera: np.ndarray
    """(T, 4, 4) float64."""
    samples: Samples

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.images.shape[2], self.images.shape[1]


def open_release_episode(folder: Path) -> ReleaseEpisode:
    """Open an episode folder. Raises MissingInputError when there is none, BadDataError naming the file that is missing, cut off,
    of another shape or type, or whose cameras are none."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder} is no folder", hint="give an episode folder of TraceExtract, with images.npy in it")
    if not (folder / "images.npy").exists():
        legacy = (folder / "images").is_dir()
        hint = (
            "folders with images/*.png are of its older layout, which is not read" if legacy else "name the episode, not the folder above"
        )
        raise BadDataError(f"{folder} is no TraceExtract episode: images.npy is missing", hint=hint)
    images = open_npy(folder / "images.npy", "u", (None, None, None, 3))
    num_frames, height, width = images.shape[:3]
    if images.dtype != np.uint8 or not 0 < num_frames <= _MOST_FRAMES or not (0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
        raise BadDataError(f"{folder / 'images.npy'} is {images.dtype} of shape {images.shape}, but 8-bit pictures are expected")
    depth_path = folder / "depth.npy"
    depth = open_npy(depth_path, "f", (num_frames, height, width)) if depth_path.exists() else None
    intrinsics, world_from_camera = _cameras(folder / "cameras.npz", num_frames, (width, height))
    return ReleaseEpisode(folder, MappedFrames(images), depth, intrinsics, world_from_camera, _samples(folder / "samples", num_frames))


def clip_of(episode: ReleaseEpisode, fps: float, task: str) -> Clip:
    """The clip, its frames included; times are frame numbers over `fps`, since the release keeps none."""
    num_frames, (width, height) = len(episode.images), episode.size
    path = (episode.folder / "images.npy").absolute()
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Clip(
        uri=str(path),
        sha256=digest,
        fps=fps,
        width=width,
        height=height,
        source_width=width,
        source_height=height,
        rotation=0,
        decoder="traceextract",
        num_source_frames=num_frames,
        num_missing_frames=0,
        pts=np.arange(num_frames) / fps,
        source_frame=np.arange(num_frames, dtype=np.int32),
        task=task or None,
        frames=episode.images,
    )


def _cameras(path: Path, num_frames: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "intrinsics": ("f", (num_frames, 3, 3)),
        "extrinsics": ("f", (num_frames, 4, 4)),
        "width": ("iu", ()),
        "height": ("iu", ()),
    }
    found = read_npz(path, wanted, optional=("width", "height"))
    of_cameras = int(found.get("width", size[0])), int(found.get("height", size[1]))
    if of_cameras != size:
        raise BadDataError(f"{path} is for pictures of {of_cameras[0]} x {of_cameras[1]} pixels, but images.npy has {size[0]} x {size[1]}")
    intrinsics, extrinsics = found["intrinsics"].astype(np.float64), found["extrinsics"].astype(np.float64)
    is_pinhole = np.isfinite(intrinsics).all(axis=(1, 2)) & (intrinsics[:, [0, 1], [0, 1]] > 0).all(axis=1)
    is_pinhole &= (intrinsics[:, 2] == [0, 0, 1]).all(axis=1) & (intrinsics[:, 1, 0] == 0)
    if not is_pinhole.all():
        raise BadDataError(f"{path}: intrinsics[{int(np.argmin(is_pinhole))}] is no pinhole matrix")
    is_pose = se3.is_pose(extrinsics, _POSE_TOLERANCE)
    if not is_pose.all():
        raise BadDataError(f"{path}: extrinsics[{int(np.argmin(is_pose))}] is no rigid motion (rotation with determinant +1)")
    intrinsics[:, :2, 2] -= HALF_PIXEL
    camera_from_world = se3.from_rotation_translation(se3.nearest_rotation(extrinsics[:, :3, :3]), extrinsics[:, :3, 3])
    return intrinsics, se3.inverse(camera_from_world)


def _samples(folder: Path, num_frames: int) -> Samples:
    frame_indices = np.asarray(open_npy(folder / "frame_indices.npy", "iu", (None,)), np.int64)
    if len(frame_indices) > num_frames or not _ascends(frame_indices, 1) or (len(frame_indices) and not _inside(frame_indices, num_frames)):
        raise BadDataError(f"{folder / 'frame_indices.npy'} must name frames of 0 to {num_frames - 1}, ascending")
    offsets = np.asarray(open_npy(folder / "offsets.npy", "iu", (len(frame_indices) + 1,)), np.int64)
    cluster_ids = open_npy(folder / "cluster_ids.npy", "iu", (None,))
    num_rows = len(cluster_ids)
    if offsets[0] != 0 or offsets[-1] != num_rows or not _ascends(offsets, 0):
        raise BadDataError(f"{folder / 'offsets.npy'} must ascend from 0 to the {num_rows} rows of cluster_ids.npy")
    most_rows = int(np.diff(offsets).max(initial=0))
    if num_rows and not (np.iinfo(np.int32).min <= cluster_ids.min() and cluster_ids.max() <= np.iinfo(np.int32).max):
        raise BadDataError(f"{folder / 'cluster_ids.npy'} holds numbers beyond 32 bits")

    def paths(name: str) -> tuple[np.ndarray, np.ndarray]:
        mask = {"raw_traj": "raw_valid_steps", "raw_traj_history": "raw_valid_steps_history"}[name]
        if not (folder / f"{name}.npy").exists():
            raise BadDataError(
                f"{folder / name}.npy is missing",
                hint="traj.npy, which has equal lengths of path for steps, does not tell when a point is where",
            )
        points = open_npy(folder / f"{name}.npy", "f", (num_rows, None, 3))
        if points.shape[1] == 0:
            raise BadDataError(f"{folder / name}.npy has no steps")
        if most_rows * min(points.shape[1], num_frames) > _MOST_STEPS_OF_A_FRAME:
            raise BadDataError(f"{folder / name}.npy has more than {_MOST_STEPS_OF_A_FRAME} positions for one frame")
        return points, open_npy(folder / f"{mask}.npy", "bu", points.shape[:2])

    def flags(name: str, kinds: str) -> np.ndarray | None:
        return open_npy(folder / f"{name}.npy", kinds, (num_rows,)) if (folder / f"{name}.npy").exists() else None

    return Samples(
        frame_indices,
        offsets,
        cluster_ids,
        flags("is_moving", "bu"),
        flags("visibs", "fbu"),
        *paths("raw_traj"),
        *paths("raw_traj_history"),
    )


def _ascends(values: np.ndarray, least_step: int) -> bool:
    return bool((np.diff(values) >= least_step).all())


def _inside(values: np.ndarray, length: int) -> bool:
    return bool(values.min() >= 0 and values.max() < length)
