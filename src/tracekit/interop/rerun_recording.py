"""Our episodes as recordings (.rrd) that the viewer rerun plays: pictures, depth, cameras, 3D tracks and captions over time (rerun.io).

    world/camera            pose of the camera at each frame
    world/camera/image      its pinhole, and the pictures as JPEG
    world/camera/depth      the pinhole on the grid of the depth, and depth where it is known
    world/tracks/moving     known points, coloured by entity, large where they are seen; their last positions in world/tracks/moving/trail
    world/tracks/static     the same without trails; before `filter` all are in world/tracks/unfiltered, with trails
    captions/event          what happens in the event that is running; captions/episode: the whole clip

Timelines: `frame`, the number of the frame in the clip, and `time`, its presentation time. rerun's pixels have their corners at whole numbers,
ours their centres, so principal points are half a pixel larger.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.drawing import entity_colour
from tracekit.errors import StorageError, UnavailableError
from tracekit.geometry.cameras import scale_intrinsics
from tracekit.parameters import check, parameter
from tracekit.pictures import MILLIMETRES, encode_depth, encode_jpeg
from tracekit.records import Captions, Episode, Frames, Geometry, Tracks
from tracekit.report import Report

LEAST_VERSION = (0, 41)
"""Of rerun-sdk: earlier ones write other streams. pyproject.toml says the same."""
_BLOCK_FRAMES = 16
_END, _END_BYTES = b"RRF2FOOT", 32
"""What the last bytes of a recording hold."""
_STORAGE_HINT = "is there space left, and no limit on the size of files?"
_FARTHEST = 65.535
"""Metres: depth is stored as 16-bit millimetres."""
_SEEN, _HIDDEN = 4.0, 1.5
"""Radius of a point, in pixels of the screen."""


@dataclass(frozen=True)
class RerunParameters:
    """How much goes into the recording."""

    jpeg_quality: int = parameter(85, "Quality of the pictures.", minimum=1, maximum=100)
    depth: bool = parameter(True, "Put depth into the recording: most of its size.")
    tail: int = parameter(15, "Frames of the past that the trail of a moving track shows.", minimum=0)


def check_rerun() -> None:
    """Raise UnavailableError where the package is not installed, or too old."""
    hint = "pip install '.[rerun]' in the clone of tracekit"
    try:
        version = importlib.metadata.version("rerun-sdk")
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError("the package rerun-sdk is not installed", hint=hint) from None
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise UnavailableError(f"rerun-sdk {version} is installed, but {least} is needed", hint=hint)


def write_recording(episode: Episode, frames: Frames, path: Path, parameters: RerunParameters, report: Report) -> None:
    """Fill the file `path`. One block of frames is in memory at a time, beside the tracks.

    The episode needs its geometry; depth, tracks, motion and captions are shown when they are there. Raises UnavailableError without rerun.
    """
    check(parameters)
    check_rerun()
    import rerun

    geometry, video = episode.geometry, episode.video
    assert geometry is not None
    depth = episode.depth if parameters.depth else None
    recording = rerun.RecordingStream("tracekit", recording_id=episode.clip_id or video.sha256, send_properties=False)
    for clock in (recording.set_log_time_enabled, recording.set_log_tick_enabled):
        clock(False)  # when the file was written is nobody's business
    recording.save(path)
    recording.send_recording_name(episode.clip_id or Path(video.uri).name)
    recording.send_blueprint(_layout(rerun, with_depth=depth is not None, with_captions=episode.captions is not None))
    _log_cameras(rerun, recording, geometry, (video.width, video.height), depth)
    painters = [_tracks_painter(rerun, recording, episode, parameters.tail), _captions_painter(rerun, recording, episode.captions)]
    for start in range(0, len(frames), _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, len(frames))
        pictures = np.asarray(frames[start:stop])
        depths = None if depth is None else np.asarray(depth[start:stop])
        for frame in range(start, stop):
            recording.set_time("frame", sequence=frame)
            recording.set_time("time", duration=float(video.pts[frame]))
            pose = geometry.world_from_camera[frame]
            recording.log("world/camera", rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
            jpeg = encode_jpeg(pictures[frame - start], parameters.jpeg_quality).tobytes()
            recording.log("world/camera/image", rerun.EncodedImage(contents=jpeg, media_type="image/jpeg"))
            if depths is not None:
                recording.log("world/camera/depth", _depth_picture(rerun, depths[frame - start], geometry.metric, report))
            for paint in painters:
                paint(frame)
        _flush(recording)
        report.progress(stop, len(frames))
    recording.disconnect()
    _check_complete(path)


def _flush(recording: Any) -> None:
    """Wait until all is in the file: what is not written yet is held in memory. Raises StorageError when the disk fails."""
    try:
        recording.flush()
    except RuntimeError as error:
        raise StorageError(f"rerun could not write the recording: {error}", hint=_STORAGE_HINT) from error


def _check_complete(path: Path) -> None:
    """Raise StorageError unless the file ends as recordings end: rerun goes on when it cannot write the last of it."""
    with open(path, "rb") as file:
        file.seek(-min(_END_BYTES, path.stat().st_size), os.SEEK_END)
        if _END not in file.read():
            raise StorageError("rerun could not write the end of the recording", hint=_STORAGE_HINT)


def _layout(rerun: Any, *, with_depth: bool, with_captions: bool) -> Any:
    """What the viewer shows unless told otherwise."""
    views = rerun.blueprint
    beside = [views.Spatial2DView(origin="world/camera/image", name="pictures")]
    if with_depth:
        beside.append(views.Spatial2DView(origin="world/camera/depth", name="depth"))
    if with_captions:
        beside.append(views.TextDocumentView(origin="captions/event", name="event"))
    return views.Blueprint(views.Horizontal(views.Spatial3DView(origin="world", name="scene"), views.Vertical(*beside)))


def _log_cameras(rerun: Any, recording: Any, geometry: Geometry, size: tuple[int, int], depth: Frames | None) -> None:
    """What holds for the whole clip: which way is up, and the pinholes."""
    recording.log("world", getattr(rerun.ViewCoordinates, upright(geometry.world_from_camera)), static=True)
    grids = {"image": size} if depth is None else {"image": size, "depth": (depth.shape[2], depth.shape[1])}
    for name, grid in grids.items():
        intrinsics = scale_intrinsics(geometry.intrinsics, size, grid)
        intrinsics[:2, 2] += 0.5
        pinhole = rerun.Pinhole(image_from_camera=intrinsics, resolution=grid, camera_xyz=rerun.ViewCoordinates.RDF)
        recording.log(f"world/camera/{name}", pinhole, static=True)


def upright(world_from_camera: np.ndarray) -> str:
    """rerun's name for the world axis that points up, judged by the cameras (T, 4, 4): pictures are rarely taken upside down."""
    up = -world_from_camera[:, :3, 1].mean(axis=0) if len(world_from_camera) else np.array([0.0, -1.0, 0.0])
    axis = int(np.abs(up).argmax())
    return f"RIGHT_HAND_{'XYZ'[axis]}_{'UP' if up[axis] > 0 else 'DOWN'}"


def _depth_picture(rerun: Any, depth: np.ndarray, metric: bool, report: Report) -> Any:
    """Millimetres as PNG where lengths are metres; where they are relative, their range is not known, and they stay floats."""
    if not metric:
        return rerun.DepthImage(depth.astype(np.float32), meter=1.0)
    too_far = depth > _FARTHEST
    report.count("depth pixels too far to be kept (beyond 65.5 m)", int(np.count_nonzero(too_far)))
    millimetres = (np.where(too_far, 0, depth) * MILLIMETRES).round().astype(np.uint16)
    return rerun.EncodedDepthImage(encode_depth(millimetres).tobytes(), media_type="image/png", meter=MILLIMETRES)


def _tracks_painter(rerun: Any, recording: Any, episode: Episode, tail: int) -> Callable[[int], None]:
    """Logs the tracks of one frame."""
    tracks = episode.tracks
    if tracks is None:
        return lambda frame: None
    known = tracks.valid.astype(bool) & np.isfinite(tracks.xyz_world).all(axis=2)
    entities = [
        rerun.AnnotationInfo(id=int(entity), label=f"entity {entity}", color=entity_colour(int(entity)))
        for entity in np.unique(tracks.entity)
    ]
    recording.log("world/tracks", rerun.AnnotationContext(entities), static=True)
    groups = _groups(episode, tracks)

    def paint(frame: int) -> None:
        for name, members in groups.items():
            here = members[known[frame, members]]
            radii = np.where(tracks.visible[frame, here], _SEEN, _HIDDEN)
            points = rerun.Points3D(
                tracks.xyz_world[frame, here], class_ids=tracks.entity[here], radii=rerun.Radius.ui_points(radii), show_labels=False
            )
            recording.log(f"world/tracks/{name}", points)
            if name == "static" or tail == 0:
                continue
            trails = list(_trails(tracks.xyz_world, known, here, frame, tail))
            strips = rerun.LineStrips3D(
                [path for _, path in trails], class_ids=[tracks.entity[track] for track, _ in trails], show_labels=False
            )
            recording.log(f"world/tracks/{name}/trail", strips)

    return paint


def _groups(episode: Episode, tracks: Tracks) -> dict[str, np.ndarray]:
    """Numbers of the tracks by what is known of their motion."""
    if episode.motion is None:
        return {"unfiltered": np.arange(len(tracks.entity))}
    moving = episode.motion.moving.astype(bool)
    return {"moving": np.flatnonzero(moving), "static": np.flatnonzero(~moving)}


def _trails(xyz: np.ndarray, known: np.ndarray, members: np.ndarray, frame: int, tail: int) -> Iterator[tuple[int, np.ndarray]]:
    """Tracks and their known positions (n, 3) in this frame and the `tail` before it; a track with a single one has no trail."""
    start = max(0, frame - tail)
    for track in members:
        path = xyz[start : frame + 1, track][known[start : frame + 1, track]]
        if len(path) > 1:
            yield int(track), path


def _captions_painter(rerun: Any, recording: Any, captions: Captions | None) -> Callable[[int], None]:
    """Logs the caption of an event at its first frame. Captions are shown as plain text: whatever is in them formats nothing."""
    if captions is None:
        return lambda frame: None

    def text(content: str) -> Any:
        return rerun.TextDocument(content, media_type="text/plain")

    recording.log("captions/episode", text(captions.episode_text), static=True)
    begins = {int(start): event for event, start in enumerate(captions.event_start)}

    def paint(frame: int) -> None:
        if (event := begins.get(frame)) is not None:
            parts = (captions.event_text, captions.event_before, captions.event_interaction, captions.event_after)
            said = [part[event] for part in parts if part[event]]
            recording.log("captions/event", text("\n\n".join(said) if captions.event_ok[event] else "(no caption)"))

    return paint
