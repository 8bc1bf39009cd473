"""Cameras and depth of a whole clip in one frame of reference, for any backend (paper 2.2, A.3).

One global pass over sparse anchor frames fixes the world and the calibration; dense passes over chunks then fill in every
frame, and each chunk is brought into the world by its anchors: first its scale, then the rigid motion of Eq. 1. Chunks are
aligned to the anchors and never to each other, so their errors stay independent. What is held in memory is one pass and the
frames of the next, however long the clip; a pass that does not fit is cut into smaller ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from tracekit import parameters as declared
from tracekit.backends.memory import free_memory, is_out_of_memory
from tracekit.backends.protocols import LocalGeometry, ReconstructionBackend
from tracekit.errors import BadDataError, StorageError
from tracekit.extract.alignment import align_chunk, scale_of_chunk, scale_poses
from tracekit.extract.chunks import FEW_FRAMES, chunk_bounds
from tracekit.geometry import se3
from tracekit.parameters import parameter
from tracekit.read_ahead import ReadAhead
from tracekit.records import CameraSensor, Frames, Geometry
from tracekit.report import Report
from tracekit.written_behind import WrittenBehind

SCALE_GRID = (48, 64)
"""Depth is compared on this grid of pixels (rows, columns): the median of 3072 ratios, and little to remember per anchor."""
OUT_OF_FAMILY = 4.0
"""A chunk is reported when its residual exceeds the median of all chunks by this factor."""
DECODE_THROUGH = 16
"""Up to this many frames between two anchors it is cheaper to decode them all than to seek."""
FEWEST_AT_ONCE = FEW_FRAMES
"""A pass that runs out of memory is not made smaller than this: its cameras would hang together too loosely."""


@dataclass(frozen=True)
class ReconstructParameters:
    max_anchors: int = parameter(150, "anchor frames of one global pass at most (T_sparse)", minimum=4)
    chunk: int = parameter(60, "frames of one dense pass (T_chunk)", minimum=1)
    camera: str = parameter(
        "odometry",
        "where a backend tells depth alone, and the recording no poses: the camera is followed by odometry, or stands still (static)",
        choices=("odometry", "static"),
    )


# `backend` is an option of the command. The release's sparse pass has no more frames than a dense one (infer.py).
PRESETS: dict[str, dict[str, object]] = {
    "paper": {"backend": "vggt"},
    "release": {"backend": "vggt4track", "max_anchors": 60, "chunk": 60},
}


@runtime_checkable
class SequentialBackend(ReconstructionBackend, Protocol):
    """A backend that remembers the clip from call to call, so that every call answers in the same frame and scale.

    It is handed the clip's chunks in order and needs no global pass, nor memory for one; every alignment is the identity.
    """

    def use_recording(self, camera: CameraSensor | None) -> None:
        """Forget what came before: a new clip begins, with the calibration and poses that were recorded with it, if any."""
        ...


@dataclass(frozen=True)
class _Anchors:
    """What the global pass knows: poses in the world, and depth on SCALE_GRID (None when the backend claims none)."""

    frames: np.ndarray
    world_from_camera: np.ndarray
    depth: np.ndarray | None
    intrinsics: np.ndarray

    def among(self, frame_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which anchors are among these frames, and where in them."""
        _, of_anchors, of_frames = np.intersect1d(self.frames, frame_indices, assume_unique=True, return_indices=True)
        return of_anchors, of_frames


@dataclass(frozen=True)
class _Chunk:
    """One chunk in the world."""

    world_from_camera: np.ndarray
    scale: float
    world_from_chunk: np.ndarray
    residual: float
    num_anchors: int


def reconstruct(
    frames: Frames,
    backend: ReconstructionBackend,
    parameters: ReconstructParameters,
    *,
    report: Report,
    depth: Frames | None,
    camera: CameraSensor | None,
    write_depth: Callable[[int, np.ndarray], None],
) -> Geometry:
    """Cameras of every frame of a clip (T, H, W, 3) uint8 RGB, and its depth handed chunk by chunk to `write_depth`.

    `depth` (T, h, w) is measured depth in metres and `camera` the calibration and poses of the recording; both may be None.
    `write_depth(start, depth)` gets (n, h, w) float32 in the world's scale, 0 where unknown, for the frames from `start` on; it
    is never called when the backend claims no depth (or the clip is empty). It is called in order, from a thread, while the next pass is
    under way. The result's own `depth` is None.

    Frames whose camera the backend could not find have confidence 0 and are counted. When a pass does not fit in memory, what is left to
    do is cut anew, with passes of half the length; each chunk of the result is one pass that was made.

    Raises BadDataError when the backend returns something that is no camera (naming the frame), or claims depth and knows none of it in the
    whole clip; StorageError when not even FEWEST_AT_ONCE frames fit in memory, or when a backend that remembers the clip runs out of it.
    """
    declared.check(parameters)
    if depth is not None and len(depth) != len(frames):
        raise BadDataError(f"there are {len(depth)} depth images for {len(frames)} frames", hint="give one depth image for every frame")
    if len(frames) == 0:
        return _empty(backend, camera)

    with _reader(frames, depth) as reader:
        return _reconstruct(frames, _Passes(reader, backend, report, len(frames)), parameters, camera, write_depth)


def _reconstruct(
    frames: Frames,
    passes: _Passes,
    parameters: ReconstructParameters,
    camera: CameraSensor | None,
    write_depth: Callable[[int, np.ndarray], None],
) -> Geometry:
    backend, report = passes.backend, passes.report
    to_do = deque(chunk_bounds(len(frames), parameters.chunk))
    anchor_frames = choose_anchors(len(frames), list(to_do), parameters.max_anchors)
    anchors: _Anchors | None = None
    if isinstance(backend, SequentialBackend):
        backend.use_recording(camera)
    else:
        anchors = _global_pass(passes, anchor_frames, parameters.max_anchors)

    bounds: list[tuple[int, int]] = []
    chunks: list[_Chunk] = []
    confidence: list[np.ndarray] = []
    intrinsics: list[np.ndarray] = []
    depth_is_known: bool | None = None  # nowhere yet; None where none is claimed
    with WrittenBehind(write_depth) as write_depth_behind:
        while to_do:
            start, stop = to_do.popleft()
            indices = np.arange(start, stop)
            where = f"the dense pass over frames {start} to {stop - 1}"
            local = passes.run(indices, where, then=np.arange(*to_do[0]) if to_do else None)
            if local is None:
                if anchors is None:  # what it remembers is half this chunk and half the last one
                    raise _too_large(where, stop - start, "--chunk")
                chunk_length = _half(stop - start, where, "--chunk")
                report.note(f"the chunk was halved to {chunk_length} frames from frame {start} on: out of memory")
                to_do = deque((start + a, start + b) for a, b in chunk_bounds(len(frames) - start, chunk_length))
                anchors = _with_two_in_every_chunk(passes, anchors, list(to_do), chunk_length)
                continue
            bounds.append((start, stop))
            if anchors is None:
                chunk = _already_in_the_world(local, anchor_frames, indices)
            else:
                chunk = _align(local, indices, anchors, backend, report)
            if local.depth is not None:
                depth_is_known = depth_is_known or bool((local.depth > 0).any())
                write_depth_behind(start, local.depth if chunk.scale == 1.0 else local.depth * np.float32(chunk.scale))
            chunks.append(chunk)
            confidence.append(local.confidence)
            intrinsics.append(local.intrinsics)
            report.progress(stop, len(frames))

    if depth_is_known is False:
        raise BadDataError(
            f"reconstruct, backend {backend.name}: no depth is known anywhere in the clip ({len(frames)} frames)",
            hint="choose another --backend",
        )
    passes.report_out_of_memory()
    _report_residuals(chunks, bounds, report)
    frame_confidence = np.concatenate(confidence)
    report.count("frames whose camera could not be estimated (the last pose was held)", int((frame_confidence == 0).sum()))
    return Geometry(
        backend=backend.name,
        metric=bool(backend.metric),
        intrinsics=_mean(np.concatenate(intrinsics)) if anchors is None else anchors.intrinsics,
        world_from_camera=np.concatenate([chunk.world_from_camera for chunk in chunks]),
        frame_confidence=frame_confidence,
        anchor_frame=(anchor_frames if anchors is None else anchors.frames).astype(np.int32),
        chunk_start=np.array([start for start, _ in bounds], np.int32),
        chunk_stop=np.array([stop for _, stop in bounds], np.int32),
        chunk_scale=np.array([chunk.scale for chunk in chunks]),
        chunk_alignment=np.stack([chunk.world_from_chunk for chunk in chunks]),
        chunk_residual=np.array([chunk.residual for chunk in chunks]),
        chunk_num_anchors=np.array([chunk.num_anchors for chunk in chunks], np.int32),
    )


def choose_anchors(num_frames: int, bounds: list[tuple[int, int]], max_anchors: int) -> np.ndarray:
    """Anchor frames, ascending: at most `max_anchors` uniformly spaced ones from the first frame to the last.

    A chunk that got fewer than two (one, if it has a single frame) is given more, so that none is left without alignment.
    """
    uniform = np.rint(np.linspace(0, num_frames - 1, min(num_frames, max_anchors))).astype(int)
    return np.union1d(uniform, missing_anchors(uniform, bounds))


def missing_anchors(anchor_frames: np.ndarray, bounds: list[tuple[int, int]]) -> np.ndarray:
    """Frames, ascending, that must become anchors too, so that every chunk has two, or one if it has a single frame."""
    chosen = set(anchor_frames.tolist())
    missing = []
    for start, stop in bounds:
        quarter = (stop - start) // 4
        for extra in (start + quarter, stop - 1 - quarter, start, stop - 1):
            if len(chosen.intersection(range(start, stop))) < min(2, stop - start):
                chosen.add(extra)
                missing.append(extra)
    return np.array(sorted(missing), dtype=int)


def clean_depth(depth: np.ndarray, report: Report) -> np.ndarray:
    """Depth as float32 with everything that is no distance set to 0 (unknown), and counted."""
    if depth.size and depth.min() >= 0 and depth.max() < np.inf:  # NaN fails, too
        report.count("depth pixels that were NaN or infinite (now unknown)", 0)
        report.count("depth pixels that were negative (now unknown)", 0)
        return depth.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):
        known = (depth > 0) & (depth < np.inf)
        num_negative = int((depth < 0).sum())
    num_unreal = int(depth.size - np.isfinite(depth).sum())
    report.count("depth pixels that were NaN or infinite (now unknown)", num_unreal)
    report.count("depth pixels that were negative (now unknown)", num_negative)
    return np.where(known, depth, 0).astype(np.float32, copy=False)


# One call of the backend


def _reader(frames: Frames, depth: Frames | None) -> ReadAhead[tuple[np.ndarray, np.ndarray | None]]:
    """Reads frames and measured depth for a pass."""
    return ReadAhead(lambda indices: (_gather(frames, indices), None if depth is None else _gather(depth, indices)))


@dataclass
class _Passes:
    """Calls the backend with what a pass needs, and checks its answer."""

    reader: ReadAhead[tuple[np.ndarray, np.ndarray | None]]
    backend: ReconstructionBackend
    report: Report
    num_frames: int
    """Of the clip."""
    num_out_of_memory: int = 0

    def run(self, indices: np.ndarray, where: str, *, counted: bool = True, then: np.ndarray | None = None) -> LocalGeometry | None:
        """The backend's answer for the frames `indices`; None when it ran out of memory. Meanwhile the frames `then` are read.

        Depth is counted in dense passes only: anchors are seen twice.
        """
        of_this_pass = Report()
        images, measured = self.reader.get(indices, then)
        if measured is not None:
            measured = clean_depth(measured, of_this_pass)
        local = None
        try:
            local = self.backend.reconstruct(images, indices, measured)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if local is None:
            self.num_out_of_memory += 1
            free_memory()
            return None
        checked = self._checked(local, indices, where, of_this_pass)
        if counted:
            self.report.take_over(of_this_pass)
        else:
            self.report.progress(0, self.num_frames)  # a batch hears that we are alive
        return checked

    def report_out_of_memory(self) -> None:
        if self.num_out_of_memory:
            self.report.count("passes that ran out of memory (made again with fewer frames)", self.num_out_of_memory)

    def _checked(self, local: LocalGeometry, indices: np.ndarray, where: str, report: Report) -> LocalGeometry:
        stage = f"reconstruct, backend {self.backend.name}, {where}"
        poses = np.asarray(local.world_from_camera, np.float64)
        intrinsics = np.asarray(local.intrinsics, np.float64)
        confidence = np.asarray(local.confidence, np.float32)
        for what, shape, expected in (
            ("poses", poses.shape, (len(indices), 4, 4)),
            ("intrinsics", intrinsics.shape, (len(indices), 3, 3)),
            ("confidence", confidence.shape, (len(indices),)),
        ):
            if shape != expected:
                raise BadDataError(f"{stage}: {what} have the shape {shape}, but should have {expected}")
        for what, good in (
            ("camera pose is not finite", np.isfinite(poses).all(axis=(1, 2))),
            ("camera pose is no rigid motion", se3.is_pose(poses)),
            ("intrinsics are not finite", np.isfinite(intrinsics).all(axis=(1, 2))),
            ("focal length is not positive", (intrinsics[:, 0, 0] > 0) & (intrinsics[:, 1, 1] > 0)),
        ):
            if not good.all():
                frame = indices[int(np.argmin(good))]
                raise BadDataError(f"{stage}: at frame {frame} the {what} ({int((~good).sum())} frames of this pass)")
        depth = None
        if local.depth is not None:
            depth = clean_depth(np.asarray(local.depth), report)
            report.count("depth pixels without a value", int((depth == 0).sum()))
        return LocalGeometry(intrinsics, poses, np.clip(np.nan_to_num(confidence), 0, 1), depth)


def _gather(source: Frames, indices: np.ndarray) -> np.ndarray:
    """source[indices] for ascending indices, by slices: in one piece where they are close together, by seeking where not."""
    cuts = np.flatnonzero(np.diff(indices) > DECODE_THROUGH) + 1
    gathered: np.ndarray | None = None
    done = 0
    for near in np.split(indices, cuts):
        # Short pieces, so that the frames in between are never held all at once.
        for piece in np.split(near, range(DECODE_THROUGH, len(near), DECODE_THROUGH)) if np.diff(near).max(initial=1) > 1 else [near]:
            read = np.asarray(source[int(piece[0]) : int(piece[-1]) + 1])
            if len(read) != piece[-1] - piece[0] + 1:
                raise BadDataError(f"frames {piece[0]} to {piece[-1]} were asked for and {len(read)} came back")
            if len(piece) == len(indices) == len(read):
                return read
            if gathered is None:
                gathered = np.empty((len(indices), *read.shape[1:]), read.dtype)
            gathered[done : done + len(piece)] = read[piece - piece[0]]
            done += len(piece)
    assert gathered is not None
    return gathered


# The global pass, and chunks in its frame


def _global_pass(passes: _Passes, indices: np.ndarray, max_anchors: int) -> _Anchors:
    """Anchors in one frame, by passes over `max_anchors` frames or, where those do not fit in memory, half as many, and so on."""
    where = "the global pass over the anchor frames"
    at_once = max_anchors
    while (anchors := _in_one_frame(passes, indices, at_once, where)) is None:
        at_once = _half(min(at_once, len(indices)), where, "--max-anchors")
        passes.report.note(f"the global pass was halved to {at_once} anchor frames at a time: out of memory")
    return anchors


def _in_one_frame(passes: _Passes, indices: np.ndarray, at_once: int, where: str) -> _Anchors | None:
    """Anchors in one frame, or None when a pass ran out of memory. When there are more of them than `at_once`, the same scheme is
    applied once more: a pass over every n-th anchor fixes the world, and runs of anchors are aligned to it."""
    if len(indices) <= at_once:
        local = passes.run(indices, where, counted=False)
        return None if local is None else _Anchors(indices, local.world_from_camera, _thin(local.depth), _mean(local.intrinsics))

    step = min(-(-len(indices) // at_once), at_once // 2)
    coarse = _in_one_frame(passes, indices[::step], at_once, where)
    if coarse is None:
        return None
    runs = []
    for start in range(0, len(indices), at_once):
        start = min(start, len(indices) - at_once)
        runs.append(np.arange(start, start + at_once))
    return _aligned_to(coarse, passes, indices, runs)


def _aligned_to(coarse: _Anchors, passes: _Passes, indices: np.ndarray, runs: list[np.ndarray]) -> _Anchors | None:
    """Anchors at the frames `indices` by a pass over each run of them, aligned to those that are known; None when out of memory.

    A run lists places in `indices`; all runs together cover them, and each holds two known anchors or more.
    """
    report = Report()
    poses = np.empty((len(indices), 4, 4))
    depth = None if coarse.depth is None else np.zeros((len(indices), *SCALE_GRID), np.float32)
    for run in runs:
        where = f"the global pass over the anchor frames {indices[run[0]]} to {indices[run[-1]]}"
        local = passes.run(indices[run], where, counted=False)
        if local is None:
            return None
        aligned = _align(local, indices[run], coarse, passes.backend, report)
        poses[run] = aligned.world_from_camera
        thinned = _thin(local.depth)
        if depth is not None and thinned is not None:
            depth[run] = thinned * np.float32(aligned.scale)
    passes.report.take_over(report)
    return _Anchors(indices, poses, depth, coarse.intrinsics)


def _with_two_in_every_chunk(passes: _Passes, anchors: _Anchors, bounds: list[tuple[int, int]], at_once: int) -> _Anchors:
    """The anchors, and those that new, shorter chunks lack: by passes over `at_once` frames, one half of them new and the other the known
    anchors around those. What is known stays exactly as it is."""
    new = missing_anchors(anchors.frames, bounds)
    where = "the global pass over further anchor frames"
    while len(new):
        added = _added_to(anchors, passes, new, at_once)
        if added is not None:
            return _joined(anchors, added)
        at_once = _half(min(at_once, len(new) + len(anchors.frames)), where, "--chunk")
    return anchors


def _added_to(anchors: _Anchors, passes: _Passes, new: np.ndarray, at_once: int) -> _Anchors | None:
    """Anchors at the frames `new`, aligned to the known ones; None when out of memory."""
    indices = np.union1d(anchors.frames, new)
    of_new, of_known = np.searchsorted(indices, new), np.searchsorted(indices, anchors.frames)
    runs = []
    for group in np.split(of_new, range(at_once // 2, len(of_new), at_once // 2)):
        # Those nearest to the middle of the group, and so the ones between its members first.
        nearest = np.argsort(np.abs(indices[of_known] - indices[group].mean()), kind="stable")[: at_once - len(group)]
        runs.append(np.sort(np.concatenate([group, of_known[nearest]])))
    found = _aligned_to(anchors, passes, indices, runs)
    if found is None:
        return None
    return _Anchors(new, found.world_from_camera[of_new], None if found.depth is None else found.depth[of_new], anchors.intrinsics)


def _joined(anchors: _Anchors, added: _Anchors) -> _Anchors:
    frames = np.concatenate([anchors.frames, added.frames])
    order = np.argsort(frames)
    depth = None if anchors.depth is None or added.depth is None else np.concatenate([anchors.depth, added.depth])[order]
    return _Anchors(frames[order], np.concatenate([anchors.world_from_camera, added.world_from_camera])[order], depth, anchors.intrinsics)


def _half(length: int, where: str, flag: str) -> int:
    """Half as many frames. Raises StorageError when so few do not make a pass."""
    if length <= FEWEST_AT_ONCE:
        raise _too_large(where, length, flag)
    return max(FEWEST_AT_ONCE, (length + 1) // 2)


def _too_large(where: str, length: int, flag: str) -> StorageError:
    lower = f"lower {flag}, " if length > FEWEST_AT_ONCE else ""
    return StorageError(
        f"out of memory in {where}: {length} frames at once",
        hint=f"{lower}free memory on the device, take smaller frames (keypoints --max-size), or use --device cpu",
    )


def _thin(depth: np.ndarray | None) -> np.ndarray | None:
    """Depth (n, h, w) on SCALE_GRID, by the nearest pixel: interpolation would invent depth at edges and around gaps."""
    if depth is None:
        return None
    rows, columns = (((np.arange(cells) + 0.5) * side / cells).astype(int) for cells, side in zip(SCALE_GRID, depth.shape[1:], strict=True))
    return depth[:, rows[:, None], columns]


def _align(local: LocalGeometry, indices: np.ndarray, anchors: _Anchors, backend: ReconstructionBackend, report: Report) -> _Chunk:
    """A chunk in the world: the scale from the depth at its anchors, then Eq. 1 over their poses."""
    of_anchors, of_frames = anchors.among(indices)
    scale = 1.0
    if not backend.metric or getattr(backend, "scale_varies", False):
        thinned = None if local.depth is None else _thin(local.depth[of_frames])
        found = None if anchors.depth is None or thinned is None else scale_of_chunk(anchors.depth[of_anchors], thinned)
        if found is None:
            report.note(f"frames {indices[0]} to {indices[-1]}: no depth in common with the anchors, so their scale was left as it is")
        else:
            scale = found
    scaled = scale_poses(local.world_from_camera, scale)
    alignment = align_chunk(scaled[of_frames], anchors.world_from_camera[of_anchors])
    num_kept = int(alignment.kept.sum())
    report.count("anchors left out of the alignment of their chunk", len(of_anchors) - num_kept)
    return _Chunk(alignment.world_from_chunk @ scaled, scale, alignment.world_from_chunk, alignment.residual, num_kept)


def _already_in_the_world(local: LocalGeometry, anchor_frames: np.ndarray, indices: np.ndarray) -> _Chunk:
    return _Chunk(local.world_from_camera, 1.0, np.eye(4), 0.0, int(np.isin(anchor_frames, indices).sum()))


def _report_residuals(chunks: list[_Chunk], bounds: list[tuple[int, int]], report: Report) -> None:
    residuals = np.array([chunk.residual for chunk in chunks])
    # Differences at the level of rounding are no family of their own.
    extent = max(float(np.abs(chunk.world_from_camera[:, :3, 3]).max()) for chunk in chunks)
    limit = max(OUT_OF_FAMILY * float(np.median(residuals)), 1e-6 * (1.0 + extent))
    for index in np.flatnonzero(residuals > limit):
        start, stop = bounds[index]
        report.note(
            f"frames {start} to {stop - 1} fit the anchors badly: cameras are {residuals[index]:.3g} away from them,"
            f" against {np.median(residuals):.3g} in the median chunk"
        )


def _mean(intrinsics: np.ndarray) -> np.ndarray:
    """K_global; exact when all (n, 3, 3) are equal."""
    return intrinsics[0] + (intrinsics - intrinsics[0]).mean(axis=0)


def _empty(backend: ReconstructionBackend, camera: CameraSensor | None) -> Geometry:
    """No frames: no cameras. Without a calibration K says nothing, and is the identity."""
    none = np.zeros(0, np.int32)
    return Geometry(
        backend=backend.name,
        metric=bool(backend.metric),
        intrinsics=np.eye(3) if camera is None else camera.intrinsics,
        world_from_camera=np.zeros((0, 4, 4)),
        frame_confidence=np.zeros(0, np.float32),
        anchor_frame=none,
        chunk_start=none,
        chunk_stop=none,
        chunk_scale=np.zeros(0),
        chunk_alignment=np.zeros((0, 4, 4)),
        chunk_residual=np.zeros(0),
        chunk_num_anchors=none,
    )
