"""Our episodes as the .npz in which TAPIP3D and SpatialTrackerV2 save their results, so that their viewers show them.

video (T, 3, h, w) float32 in [0, 1]; depths (T, h, w), 0 where unknown; intrinsics (T, 3, 3) on that grid; extrinsics (T, 4, 4)
camera_from_world; coords (T, N, 3) in the world; visibs (T, N), 0 or 1; query_points (N, 4): frame and position. All are float32, for that
is what SpatialTrackerV2 saves. Sources: inference.py and visualize.py of github.com/zbw001/TAPIP3D, inference.py and tapip3d_viz.py of
github.com/henry123-boy/SpaTrackerV2.

Two things that the viewers do not say: they draw cameras and points in their right places only when the world is the camera of the
first frame, so that is the world here; and they know no points that are not there, so a point keeps its last known position (before it
is known its first) and is not visible meanwhile.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracekit.errors import BadDataError
from tracekit.geometry import se3
from tracekit.geometry.cameras import scale_intrinsics
from tracekit.interop.numpy_files import write_npz_member
from tracekit.parameters import check, parameter
from tracekit.records import Episode, Frames
from tracekit.report import Report

_BLOCK_FRAMES = 16


@dataclass(frozen=True)
class Tapip3dParameters:
    """How much goes into the file."""

    max_size: int = parameter(
        336, "Longest side of pictures and depth in pixels, as SpatialTrackerV2 saves them; larger ones are shrunk. 0: never.", minimum=0
    )
    moving_only: bool = parameter(False, "Leave out tracks that do not move.")


def write_tapip3d(episode: Episode, frames: Frames, path: Path, parameters: Tapip3dParameters, report: Report) -> None:
    """Fill the file `path`. One block of frames is in memory at a time, beside the tracks.

    Raises BadDataError when the episode has no frames, was not tracked or, with `moving_only`, not filtered.
    """
    check(parameters)
    geometry, tracks, video = episode.geometry, episode.tracks, episode.video
    if geometry is None or tracks is None:
        raise BadDataError(f"episode {episode.clip_id} has no tracks", hint="run `tracekit track` on it first")
    num_frames = len(frames)
    if num_frames == 0:
        raise BadDataError(f"episode {episode.clip_id} has no frames")
    size = _size_within((video.width, video.height), parameters.max_size)
    intrinsics = scale_intrinsics(geometry.intrinsics, (video.width, video.height), size)
    camera_from_world = se3.inverse(geometry.world_from_camera)
    chosen = _chosen_tracks(episode, parameters.moving_only, report)
    first_known = _first_known(episode, chosen)
    if not geometry.metric:
        report.note("the episode's lengths are relative, not metres")
    with zipfile.ZipFile(path, "w") as archive:
        write_npz_member(archive, "video", "<f4", (num_frames, 3, size[1], size[0]), _pictures(frames, size, report))
        write_npz_member(archive, "depths", "<f4", (num_frames, size[1], size[0]), _depths(episode, size, num_frames, report))
        write_npz_member(archive, "intrinsics", "<f4", (num_frames, 3, 3), [np.tile(intrinsics, (num_frames, 1, 1))])
        extrinsics = camera_from_world @ geometry.world_from_camera[0]
        write_npz_member(archive, "extrinsics", "<f4", (num_frames, 4, 4), [extrinsics])
        coords = _positions(episode, chosen, first_known, camera_from_world[0])
        write_npz_member(archive, "coords", "<f4", (num_frames, len(chosen), 3), coords)
        write_npz_member(archive, "visibs", "<f4", (num_frames, len(chosen)), [tracks.visible[:, chosen] * _known(episode, chosen)])
        start = se3.transform_points(camera_from_world[0], tracks.xyz_world[first_known, chosen].astype(np.float64))
        write_npz_member(archive, "query_points", "<f4", (len(chosen), 4), [np.column_stack([first_known, start])])


def _size_within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size)) if longest else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _known(episode: Episode, chosen: np.ndarray) -> np.ndarray:
    """(T, n) bool: where positions hold."""
    assert episode.tracks is not None
    valid = episode.tracks.valid[:, chosen].astype(bool)
    return valid & np.isfinite(episode.tracks.xyz_world[:, chosen]).all(axis=2)


def _chosen_tracks(episode: Episode, moving_only: bool, report: Report) -> np.ndarray:
    """Numbers of the tracks that go into the file."""
    assert episode.tracks is not None
    kept = _known(episode, np.arange(episode.tracks.valid.shape[1])).any(axis=0)
    report.count("tracks without any known position, left out", int(np.count_nonzero(~kept)))
    if moving_only:
        if episode.motion is None:
            raise BadDataError(f"nobody has looked at what moves in episode {episode.clip_id}", hint="run `tracekit filter` on it first")
        moves = episode.motion.moving.astype(bool)
        report.count("static tracks left out", int(np.count_nonzero(kept & ~moves)))
        kept &= moves
    return np.flatnonzero(kept)


def _first_known(episode: Episode, chosen: np.ndarray) -> np.ndarray:
    """The frame in which each track was started, or else the first in which its position is known."""
    assert episode.tracks is not None
    known, born = _known(episode, chosen), episode.tracks.born[chosen]
    return np.where(known[born, np.arange(len(chosen))], born, known.argmax(axis=0)) if len(chosen) else np.zeros(0, int)


def _pictures(frames: Frames, size: tuple[int, int], report: Report) -> Iterator[np.ndarray]:
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = np.asarray(frames[start : start + _BLOCK_FRAMES])
        if block.shape[1:3] != (size[1], size[0]):
            block = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in block])
        yield np.moveaxis(block, 3, 1).astype(np.float32) / np.float32(255)
        report.progress(start + len(block), len(frames))


def _depths(episode: Episode, size: tuple[int, int], num_frames: int, report: Report) -> Iterator[np.ndarray]:
    """Depth on the grid of the pictures; nearest neighbours, so that unknown stays unknown and no edge is smeared."""
    depth = episode.depth
    if depth is None:
        report.note("no depth is claimed: all points lie on the plane z = 1 of their camera, and so does the depth written")
    for start in range(0, num_frames, _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, num_frames)
        if depth is None:
            yield np.ones((stop - start, size[1], size[0]), np.float32)
            continue
        block = np.asarray(depth[start:stop], np.float32)
        if block.shape[1:] != (size[1], size[0]):
            block = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST_EXACT) for picture in block])
        yield block


def _positions(episode: Episode, chosen: np.ndarray, first_known: np.ndarray, first_camera_from_world: np.ndarray) -> Iterator[np.ndarray]:
    """Positions (1, n, 3) frame by frame, in the camera of the first frame; what is not known stays where it was last, or will be first."""
    tracks = episode.tracks
    assert tracks is not None
    known = _known(episode, chosen)
    earliest = known.argmax(axis=0) if len(chosen) else first_known
    held = tracks.xyz_world[earliest, chosen].astype(np.float64)
    for frame, here in enumerate(known):
        held[here] = tracks.xyz_world[frame, chosen[here]]
        yield se3.transform_points(first_camera_from_world, held)[None]
