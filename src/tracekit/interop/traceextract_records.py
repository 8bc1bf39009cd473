"""The records of a TraceExtract episode: what `tracekit import traceextract` writes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tracekit.errors import BadDataError, MissingInputError
from tracekit.extract.filter import PRESETS, FilterParameters, filter_moving
from tracekit.extract.segment import SegmentParameters, motion_signal, smooth
from tracekit.format.json_file import read_json_object
from tracekit.geometry import cameras
from tracekit.interop.traceextract import ReleaseDepth, ReleaseEpisode, clip_of
from tracekit.interop.traceextract_texts import read_captions, read_description
from tracekit.interop.traceextract_tracks import JoinedTracks, join_rows
from tracekit.records import Captions, Clip, Events, Geometry, Motion, Tracks
from tracekit.report import Report

DEFAULT_FPS = 10.0
_MOST_META_BYTES = 1 << 20
_NOTABLE_PIXELS = 0.5


def records_of(episode: ReleaseEpisode, fps: float | None, task: str | None, report: Report) -> Iterator[object]:
    """Clip, Geometry, Tracks and Motion, and Events and Captions where there are texts. `fps` and `task` win over the folder's own.

    Frames and depth stay on the disk and are read as they are written.
    """
    num_frames = len(episode.images)
    description = task or read_description(episode.folder)
    captions = read_captions(episode.folder, num_frames, description)
    clip = clip_of(episode, fps or _fps_of(episode.folder, report), description)
    yield clip
    geometry = _geometry(episode, report)
    joined = join_rows(episode, report)
    yield geometry
    tracks = _tracks(joined, geometry)
    yield tracks
    motion = _motion(tracks, joined.moving, geometry, clip)
    yield motion
    if captions is not None:
        if len(captions.event_start):
            yield _events(captions, tracks, motion, clip)
        yield captions
    else:
        report.note(f"{episode.folder} has no texts")


def _fps_of(folder: Path, report: Report) -> float:
    """What our own exports say in meta.json; the release's say nothing about images.npy."""
    path = folder / "meta.json"
    with contextlib.suppress(MissingInputError, BadDataError):
        fps = read_json_object(path, most_bytes=_MOST_META_BYTES).get("fps")
        if isinstance(fps, (int, float)) and not isinstance(fps, bool) and math.isfinite(fps) and 1e-3 <= fps <= 1e6:
            return float(fps)
    report.note(f"the folder does not tell its rate: {DEFAULT_FPS:g} frames per second taken (--source-fps)")
    return DEFAULT_FPS


def _geometry(episode: ReleaseEpisode, report: Report) -> Geometry:
    num_frames = len(episode.images)
    shared = episode.intrinsics.mean(axis=0)
    moved = _pixels_moved(episode.intrinsics, shared, episode.size)
    if moved > _NOTABLE_PIXELS:
        report.note(f"intrinsics vary from frame to frame; their mean is kept, which moves what is seen by up to {moved:.1f} px")
    none, one = np.zeros(0, np.int32), np.ones(1)
    return Geometry(
        backend="traceextract",
        metric=True,
        intrinsics=shared,
        world_from_camera=episode.world_from_camera,
        frame_confidence=np.ones(num_frames, np.float32),
        anchor_frame=none,
        chunk_start=np.zeros(1, np.int32),
        chunk_stop=np.full(1, num_frames, np.int32),
        chunk_scale=one,
        chunk_alignment=np.eye(4)[None],
        chunk_residual=np.zeros(1),
        chunk_num_anchors=np.zeros(1, np.int32),
        depth=None if episode.depth is None else ReleaseDepth(episode.depth, report),
    )


def _pixels_moved(intrinsics: np.ndarray, shared: np.ndarray, size: tuple[int, int]) -> float:
    """How far a corner of the image moves, at most, when it is seen through `shared` (3, 3) instead of one of `intrinsics` (T, 3, 3)."""
    corners = np.array([[x, y, 1] for x in (0, size[0]) for y in (0, size[1])]).T
    return float(np.abs(shared @ np.linalg.inv(intrinsics) @ corners - corners).max())


def _tracks(joined: JoinedTracks, geometry: Geometry) -> Tracks:
    num_tracks = joined.valid.shape[1]
    uv = np.full((*joined.valid.shape, 2), np.nan, np.float32)
    for frame, pose in enumerate(geometry.world_from_camera):
        uv[frame] = cameras.project(joined.xyz_world[frame].astype(np.float64), geometry.intrinsics, pose)[0]
    return Tracks(
        tracker="traceextract",
        xyz_world=joined.xyz_world,
        uv=uv,
        visible=joined.visible.astype(np.uint8),
        valid=joined.valid.astype(np.uint8),
        keypoint=np.arange(num_tracks, dtype=np.int32),
        entity=joined.entity,
        born=joined.born,
        chunk=np.zeros(num_tracks, np.int32),
    )


def _motion(tracks: Tracks, moving: np.ndarray, geometry: Geometry, clip: Clip) -> Motion:
    """What moves is as the release says; diameters are measured again, since it does not keep them."""
    parameters = FilterParameters(**PRESETS["release"])  # type: ignore[arg-type]
    measured = filter_moving(tracks, geometry, clip.width, clip.height, parameters, report=Report())
    return dataclasses.replace(measured, moving=moving.astype(np.uint8))


def _events(captions: Captions, tracks: Tracks, motion: Motion, clip: Clip) -> Events:
    """The release's events with the signal that `tracekit segment` would have looked at."""
    parameters = SegmentParameters()
    signal = motion_signal(tracks, motion, clip.fps, report=Report())
    return Events(
        signal=signal.astype(np.float32),
        smoothed=smooth(signal, parameters.window, parameters.order).astype(np.float32),
        peak=np.zeros(0, np.int32),
        start=captions.event_start,
        stop=captions.event_stop,
    )
