"""Our episodes as TraceExtract episode folders (see `traceextract` for the layout), so that the authors' training code reads them.

Positions are seen from the camera of each frame and stored as 16-bit floats: pixels to half a pixel at most below 1024, depth
to a thousandth. traj and traj_history have equal lengths of path for steps, 0.05 of (u/W, v/H, z) on average over the fastest
2 %, as the trainer expects; raw_traj and raw_traj_history have frames.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracekit.errors import BadDataError
from tracekit.extract.reference_traces import reference_traces
from tracekit.geometry import retarget, se3
from tracekit.interop.numpy_files import NpyWriter
from tracekit.interop.traceextract import HALF_PIXEL
from tracekit.interop.traceextract_texts import DESCRIPTION_NAME, TEXTS_NAME, texts_of
from tracekit.parameters import check, parameter
from tracekit.records import Episode, Frames
from tracekit.report import Report

META_NAME = "meta.json"
_BLOCK_FRAMES = 16
_LEAST_STEPS = 2
"""A frame whose rows all have fewer steps ahead has none, as in the release."""


@dataclass(frozen=True)
class TraceextractParameters:
    """What goes into the rows. Defaults are those of the release's infer.py."""

    future_len: int = parameter(128, "steps ahead that a row has, its own frame included", minimum=2)
    history_len: int = parameter(32, "steps back that a row has, its own frame included", minimum=1)
    retarget_step: float = parameter(
        0.05, "length of path between two steps of traj, in image widths, heights and units of depth", minimum=1e-6
    )
    retarget_fastest: float = parameter(
        0.02, "fraction of the keypoints, the fastest, whose speed is made constant in traj", minimum=0.0, maximum=1.0
    )
    retarget_reach: int = parameter(8, "frames per step, at most, that are searched for motion; a longer pause ends traj", minimum=1)
    moving_only: bool = parameter(True, "leave out keypoints that do not move, as the release does")


def write_release_episode(
    episode: Episode, frames: Frames, folder: Path, name: str, parameters: TraceextractParameters, report: Report
) -> None:
    """Fill `folder`, which exists and is empty. `name` is what the texts call the episode.

    Raises BadDataError when the episode has not been tracked, or its pictures are not those of its grid.
    """
    check(parameters)
    if episode.geometry is None or episode.tracks is None:
        missing = "geometry" if episode.geometry is None else "tracks"
        raise BadDataError(
            f"episode {episode.clip_id} has no {missing}", hint="run `tracekit reconstruct` and `tracekit track` on it first"
        )
    _write_images(episode, frames, folder, report)
    _write_depth(episode, folder, report)
    _write_cameras(episode, folder)
    _write_samples(episode, folder / "samples", parameters, report)
    _write_texts(episode, folder, name, report)


def _write_images(episode: Episode, frames: Frames, folder: Path, report: Report) -> None:
    shape = (episode.video.height, episode.video.width, 3)
    with NpyWriter(folder / "images.npy", "u1", shape) as images:
        for start in range(0, len(frames), _BLOCK_FRAMES):
            images.append(np.asarray(frames[start : start + _BLOCK_FRAMES]))
            report.progress(start, len(frames))


def _write_depth(episode: Episode, folder: Path, report: Report) -> None:
    """Depth on the grid of the pictures, which the trainer insists on; nearest neighbours, so that unknown stays unknown."""
    assert episode.geometry is not None
    if not episode.geometry.metric:
        report.note("the episode's lengths are relative, but the release's are metres")
    depth, size = episode.geometry.depth, (episode.video.width, episode.video.height)
    if depth is None:
        report.note("no depth is claimed, so there is no depth.npy: train without --use_depth")
        return
    with NpyWriter(folder / "depth.npy", "<f2", (size[1], size[0])) as stored:
        for start in range(0, len(depth), _BLOCK_FRAMES):
            block = np.asarray(depth[start : start + _BLOCK_FRAMES], np.float32)
            if block.shape[1:] != (size[1], size[0]):
                block = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST_EXACT) for picture in block])
            stored.append(block)


def _write_cameras(episode: Episode, folder: Path) -> None:
    geometry, video = episode.geometry, episode.video
    assert geometry is not None
    intrinsics = geometry.intrinsics.copy()
    intrinsics[:2, 2] += HALF_PIXEL
    np.savez(
        folder / "cameras.npz",
        intrinsics=np.tile(intrinsics.astype(np.float32), (len(geometry.world_from_camera), 1, 1)),
        extrinsics=se3.inverse(geometry.world_from_camera).astype(np.float32),
        height=np.int32(video.height),
        width=np.int32(video.width),
    )


def _write_samples(episode: Episode, folder: Path, parameters: TraceextractParameters, report: Report) -> None:
    tracks = episode.tracks
    assert tracks is not None
    moving = np.ones(tracks.valid.shape[1], bool) if episode.motion is None else episode.motion.moving.astype(bool)
    if episode.motion is None:
        report.count("tracks taken as moving because the episode was not filtered", len(moving))
    elif parameters.moving_only:
        report.count("static tracks left out", int(np.count_nonzero(~moving)))
    chosen = moving if parameters.moving_only else np.ones_like(moving)
    valid = tracks.valid.astype(bool) & np.isfinite(tracks.xyz_world).all(axis=2)
    frame_indices: list[int] = []
    offsets = [0]
    folder.mkdir()
    with _row_files(folder, parameters) as files:
        for frame in range(len(valid)):
            report.progress(frame, len(valid))
            rows = _rows_at(frame, episode, valid, chosen, parameters)
            if rows is None:
                continue
            track = rows.pop("track")
            rows |= {"cluster_ids": tracks.entity[track], "is_moving": moving[track], "visibs": tracks.visible[frame, track]}
            for column, values in rows.items():
                files[column].append(values)
            frame_indices.append(frame)
            offsets.append(offsets[-1] + len(track))
    np.save(folder / "frame_indices.npy", np.array(frame_indices, np.int32))
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    report.count("frames without rows", len(valid) - len(frame_indices))
    report.count("rows (a keypoint in a frame)", offsets[-1])


@contextlib.contextmanager
def _row_files(folder: Path, parameters: TraceextractParameters) -> Iterator[dict[str, NpyWriter]]:
    columns: dict[str, tuple[str, tuple[int, ...]]] = {
        "keypoints": ("<f2", (2,)),
        "cluster_ids": ("<i4", ()),
        "is_moving": ("?", ()),
        "visibs": ("<f2", ()),
    }
    for kind in ("", "raw_"):
        for part, length in (("", parameters.future_len), ("_history", parameters.history_len)):
            columns[f"{kind}traj{part}"] = ("<f2", (length, 3))
            columns[f"{kind}valid_steps{part}"] = ("?", (length,))
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(NpyWriter(folder / f"{name}.npy", *column)) for name, column in columns.items()}


def _rows_at(
    frame: int, episode: Episode, valid: np.ndarray, chosen: np.ndarray, parameters: TraceextractParameters
) -> dict[str, np.ndarray] | None:
    """The rows of one frame, and their `track`; None when there are none, or none of them leads anywhere."""
    geometry, tracks, video = episode.geometry, episode.tracks, episode.video
    assert geometry is not None and tracks is not None
    size = np.array([video.width, video.height])
    here = np.flatnonzero(valid[frame])
    start = max(0, frame - parameters.retarget_reach * parameters.history_len)
    stop = min(len(valid), frame + parameters.retarget_reach * parameters.future_len + 1)
    # The path of the group is that of all that is tracked here, static keypoints too: the fastest 2 % are of them all.
    points, known, _ = reference_traces(
        tracks.xyz_world[start:stop, here],
        valid[start:stop, here],
        geometry.intrinsics,
        geometry.world_from_camera[frame],
        (video.width, video.height),
    )
    points[..., :2] = (points[..., :2] + 1) / 2
    now = frame - start
    on_screen = known[now] & ((points[now, :, :2] >= 0) & (points[now, :, :2] <= 1)).all(axis=1)
    rows = np.flatnonzero(on_screen & chosen[here])
    if len(rows) == 0:
        return None
    result: dict[str, np.ndarray] = {"track": here[rows], "keypoints": points[now, rows, :2] * size}
    for part, order, length in (
        ("", slice(now, None), parameters.future_len),
        ("_history", slice(now, None, -1), parameters.history_len),
    ):
        path, is_known = points[order], known[order]
        length_of_path = retarget.path_length(path, is_known, parameters.retarget_fastest)
        times = retarget.times_at(length_of_path, parameters.retarget_step * np.arange(length))
        even, even_known = retarget.resample(path[:, rows], is_known[:, rows], times)
        result |= _columns(f"traj{part}", f"valid_steps{part}", even, even_known, length, size)
        result |= _columns(f"raw_traj{part}", f"raw_valid_steps{part}", path[:length, rows], is_known[:length, rows], length, size)
    if result["valid_steps"].sum(axis=1).max() < _LEAST_STEPS:
        return None
    return result


def _columns(name: str, mask: str, points: np.ndarray, known: np.ndarray, length: int, size: np.ndarray) -> dict[str, np.ndarray]:
    """Paths (L, n, 3) as fractions of the image in pixels (n, length, 3), -inf where not known or beyond 16-bit floats, and the mask."""
    stored = np.full((points.shape[1], length, 3), -np.inf, np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = (points * [*size, 1]).astype(np.float16)
    fits = known & np.isfinite(pixels).all(axis=2)
    stored[:, : len(points)] = np.where(fits[..., None], pixels, np.float16(-np.inf)).swapaxes(0, 1)
    valid = np.zeros((points.shape[1], length), bool)
    valid[:, : len(points)] = fits.T
    return {name: stored, mask: valid}


def _write_texts(episode: Episode, folder: Path, name: str, report: Report) -> None:
    num_frames = len(episode.video.pts)
    captions = episode.captions
    if captions is None:
        report.note(f"the episode has no captions, so there is no {TEXTS_NAME}: the trainer takes a prompt that says nothing")
    else:
        _write_json(folder / TEXTS_NAME, texts_of(captions, name, num_frames))
    description = (captions.episode_text if captions else "") or episode.video.task or ""
    if description:
        (folder / DESCRIPTION_NAME).write_text(" ".join(description.split()) + "\n", "utf-8")
    _write_json(folder / META_NAME, {"dataset": "tracekit", "clip_id": episode.clip_id, "fps": episode.video.fps})


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
