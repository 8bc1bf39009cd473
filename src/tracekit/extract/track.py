"""Follow keypoints through a clip of any length, chunk by chunk, each with one identity throughout (paper 2.2, A.4)."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

import numpy as np

from tracekit.backends.memory import free_memory, is_out_of_memory
from tracekit.backends.protocols import TrackingBackend
from tracekit.errors import BadDataError, StorageError
from tracekit.extract.chunks import FEW_FRAMES, chunk_bounds
from tracekit.extract.followed_tracks import FollowedTracks, FoundPositions
from tracekit.geometry import cameras
from tracekit.geometry.depth_lookup import surface_depth
from tracekit.parameters import check, parameter
from tracekit.read_ahead import ReadAhead
from tracekit.records import Frames, Geometry, Keypoints, Tracks
from tracekit.report import Report


@dataclass(frozen=True)
class TrackParameters:
    """How tracking is cut into chunks and where new tracks start."""

    chunk: int = parameter(60, "frames tracked at a time; bounds the memory", minimum=1)
    cover_dilation: int = parameter(
        1, "patches around a visible track in which no new track of the same entity starts (1: 3 x 3 patches)", minimum=0
    )
    least_tracks: int = parameter(8, "visible tracks on an entity below which new ones start anywhere on it", minimum=0)
    retire_after: int = parameter(4, "chunks after which a lost point is no longer searched for", minimum=1)
    max_tracks: int = parameter(20000, "tracks in the whole clip; candidates of lower score beyond it are left out", minimum=1)


# `backend` is an option of the command. The release tracks 360 frames at a time, starts no tracks on covered patches however few tracks an
# entity has left, and never gives a track up (infer.py, run_traceextract.sh).
PRESETS: dict[str, dict[str, object]] = {
    "paper": {"backend": "tapip3d"},
    "release": {"backend": "tapip3d", "chunk": 360, "least_tracks": 0, "retire_after": 1_000_000},
}


@dataclass(frozen=True)
class _Chunk:
    """What a tracker is handed: the frames [first, stop). New frames begin at `start`; the one before it overlaps the last chunk."""

    first: int
    start: int
    stop: int
    frames: np.ndarray
    depth: np.ndarray | None

    def piece(self, start: int, stop: int) -> _Chunk:
        """Its frames [start, stop), and the one before them if there is one."""
        first = max(start - 1, self.first)
        here = slice(first - self.first, stop - self.first)
        return _Chunk(first, start, stop, self.frames[here], None if self.depth is None else self.depth[here])


def track(
    frames: Frames, keypoints: Keypoints, geometry: Geometry, tracker: TrackingBackend, parameters: TrackParameters, *, report: Report
) -> Tracks:
    """As `follow`, with all of the result in memory."""
    with follow(frames, keypoints, geometry, tracker, parameters, report=report) as followed:
        return followed.in_memory(report)


def follow(
    frames: Frames, keypoints: Keypoints, geometry: Geometry, tracker: TrackingBackend, parameters: TrackParameters, *, report: Report
) -> FollowedTracks:
    """Track every keypoint of the first chunk, and later those on what no live track covers.

    `frames` (T, H, W, 3) uint8 RGB are read a chunk at a time, and `geometry.depth` with them; without depth all points lie on
    z = 1 of their camera. Chunks overlap by one frame: a point alive at the end of a chunk is queried in that very frame at the
    position it had there, so nothing jumps at a cut; one that was lost is queried at its last valid position in the world.
    Candidates are tracked forwards and backwards from the frame in which they were selected, within their chunk. A chunk that does not
    fit in memory is tracked in two halves, and so are those after it, where every call of the tracker answers for itself.

    However long the clip, one chunk and the next are in memory, and of every track only where it was last: the rest goes to a temporary file.

    Raises BadDataError when the clip and the geometry do not fit, or when the tracker returns positions that are not finite
    where it claims to see the point; TypeError when what it returns has the wrong shape; StorageError when not even few frames fit in memory.
    """
    check(parameters)
    num_frames = len(frames)
    _check_fit(frames, keypoints, geometry)
    bounds = chunk_bounds(num_frames, parameters.chunk)
    progress = _Progress()
    reader = ReadAhead(lambda bounds: _read_chunk(frames, geometry, *bounds))
    with reader, contextlib.ExitStack() as if_it_fails:
        if_it_fails.callback(progress.found.close)
        entrants = _Entrants(frames, keypoints, geometry, parameters, report)
        runs = _Runs(tracker, geometry, progress, report, parameters.chunk)
        for (start, stop), then in itertools.zip_longest(bounds, bounds[1:]):
            chunk, num_unusable = reader.get((start, stop), then)
            if chunk.depth is not None:
                report.count("depth pixels that are NaN, infinite or negative, taken as unknown", num_unusable)
            progress.enter(chunk)
            active = progress.active(oldest_frame=start - parameters.retire_after * parameters.chunk)
            if len(active):
                runs.follow(chunk, active)
            new, world = entrants.of_chunk(chunk, progress, is_first=start == 0)
            if len(new):
                runs.follow(chunk, progress.start(new, world, keypoints.frame[new]))
            report.progress(stop, num_frames)
        runs.report_out_of_memory()
        if_it_fails.pop_all()
    return FollowedTracks(tracker.name, progress.found, bounds, progress.keypoint, progress.born, keypoints, geometry)


def _check_fit(frames: Frames, keypoints: Keypoints, geometry: Geometry) -> None:
    num_frames = len(frames)
    if len(geometry.world_from_camera) != num_frames:
        raise BadDataError(
            f"track: the clip has {num_frames} frames, but the geometry has {len(geometry.world_from_camera)} cameras",
            hint="run reconstruct again on this clip",
        )
    if geometry.metric and geometry.depth is None:
        raise BadDataError(
            "track: the geometry is metric, but has no depth of its own (that of a truth file is in depth_sensor)",
            hint="run reconstruct first: its backend sensor brings in the measured depth",
        )
    if geometry.depth is not None and len(geometry.depth) != num_frames:
        raise BadDataError(
            f"track: the clip has {num_frames} frames, but the depth has {len(geometry.depth)}", hint="run reconstruct again on this clip"
        )
    first, last = keypoints.frame.min(initial=0), keypoints.frame.max(initial=-1)
    if first < 0 or last >= num_frames:
        raise BadDataError(
            f"track: keypoints lie on frames {first} to {last}, but the clip has {num_frames} frames",
            hint="run keypoints again on this clip",
        )
    if not np.isfinite(keypoints.uv).all():
        raise BadDataError("track: keypoints/uv holds values that are not finite", hint="run keypoints again on this clip")


def _read_chunk(frames: Frames, geometry: Geometry, start: int, stop: int) -> tuple[_Chunk, int]:
    """The frames [start, stop), and how many pixels of their depth a tracker could not use: those are 0."""
    first = max(start - 1, 0)
    images = np.asarray(frames[first:stop])
    if geometry.depth is None:
        return _Chunk(first, start, stop, images, None), 0
    depth = np.asarray(geometry.depth[first:stop], dtype=np.float32)
    num_unusable = 0
    if not (depth.min(initial=0) >= 0 and depth.max(initial=0) < np.inf):  # NaN fails, too
        unusable = ~((depth >= 0) & (depth < np.inf))
        num_unusable = int(unusable[start - first :].sum())
        depth = np.where(unusable, np.float32(0), depth)
    return _Chunk(first, start, stop, images, depth), num_unusable


class _Progress:
    """The tracks so far: who they are, where each was last, and what was found chunk by chunk."""

    def __init__(self) -> None:
        self.keypoint = np.zeros(0, dtype=np.int32)
        self.born = np.zeros(0, dtype=np.int32)
        self.last_world = np.zeros((0, 3))
        self.last_frame = np.zeros(0, dtype=np.int64)
        self.found = FoundPositions()
        self._chunk: _Chunk | None = None

    def enter(self, chunk: _Chunk) -> None:
        """What is found next is of this chunk."""
        self._chunk = chunk

    def seen(self, frame: int) -> np.ndarray:
        """World positions (n, 3) of what is seen in a frame of this chunk."""
        assert self._chunk is not None
        found = [np.zeros((0, 3), np.float32)]
        for rows, _, xyz, visible in self.found.within(self._chunk.start, self._chunk.stop):
            row = self._chunk.start + rows.start
            if row <= frame < row + len(xyz):
                found.append(xyz[frame - row][visible[frame - row]])
        return np.concatenate(found).astype(np.float64)

    def start(self, keypoint: np.ndarray, world: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Give new tracks their identities: their columns in the result."""
        identities = len(self.keypoint) + np.arange(len(keypoint))
        self.keypoint = np.concatenate([self.keypoint, keypoint.astype(np.int32)])
        self.born = np.concatenate([self.born, frame.astype(np.int32)])
        self.last_world = np.concatenate([self.last_world, world])
        self.last_frame = np.concatenate([self.last_frame, frame])
        return identities

    def active(self, oldest_frame: int) -> np.ndarray:
        """Tracks whose position was known in `oldest_frame` or later."""
        return np.flatnonzero(self.last_frame >= oldest_frame)

    def add(self, chunk: _Chunk, tracks: np.ndarray, xyz: np.ndarray, visible: np.ndarray) -> None:
        # The overlapping frame has its positions already.
        xyz, visible = xyz[chunk.start - chunk.first :], visible[chunk.start - chunk.first :]
        self.found.add(chunk.start, tracks, xyz, visible)
        valid = np.isfinite(xyz).all(axis=-1)
        seen = valid.any(axis=0)
        last = len(xyz) - 1 - np.argmax(valid[::-1], axis=0)
        self.last_world[tracks[seen]] = xyz[last[seen], np.flatnonzero(seen)]
        self.last_frame[tracks[seen]] = chunk.start + last[seen]


class _Entrants:
    """Decides which candidates become tracks, and lifts them into the world."""

    def __init__(self, frames: Frames, keypoints: Keypoints, geometry: Geometry, parameters: TrackParameters, report: Report) -> None:
        self.keypoints, self.geometry, self.parameters, self.report = keypoints, geometry, parameters, report
        self.image_size = (frames.shape[2], frames.shape[1])
        self.grid = keypoints.labels.shape[1:]
        for name in (
            "candidates on patches that a track covers already",
            "candidates dropped because their depth is unknown or torn between two surfaces",
            "candidates left out because of --max-tracks",
        ):
            report.count(name, 0)

    def of_chunk(self, chunk: _Chunk, progress: _Progress, is_first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Candidates that start a track in this chunk, and their positions in the world (n, 3)."""
        candidates = np.flatnonzero((self.keypoints.frame >= chunk.start) & (self.keypoints.frame < chunk.stop))
        if not is_first:
            candidates = self._uncovered(candidates, progress)
        candidates, world = self._lifted(candidates, chunk)
        room = self.parameters.max_tracks - len(progress.keypoint)
        if len(candidates) > room:
            self.report.count("candidates left out because of --max-tracks", len(candidates) - room)
            kept = np.sort(np.argsort(-self.keypoints.score[candidates], kind="stable")[:room])
            candidates, world = candidates[kept], world[kept]
        return candidates, world

    def _uncovered(self, candidates: np.ndarray, progress: _Progress) -> np.ndarray:
        """Those whose patch, in the frame in which they were selected, is not near a visible track on the same entity.

        Tracks on other entities take their own patch only: a small thing before a large one keeps its points. An entity that has few
        tracks left takes every candidate.
        """
        free = np.ones(len(candidates), dtype=bool)
        for frame in np.unique(self.keypoints.frame[candidates]):
            labels = self.keypoints.labels[np.argmin(np.abs(self.keypoints.label_frame - frame))]
            row, column = self._patch(self._seen(frame, progress))
            tracked = labels[row, column]
            here = self.keypoints.frame[candidates] == frame
            for entity in np.unique(self.keypoints.entity[candidates[here]]):
                own = tracked == entity
                if np.count_nonzero(own) < self.parameters.least_tracks:
                    continue
                covered = np.zeros(self.grid, dtype=bool)
                covered[row[own], column[own]] = True
                covered = _dilated(covered, self.parameters.cover_dilation)
                covered[row, column] = True
                of_entity = here & (self.keypoints.entity[candidates] == entity)
                free[of_entity] = ~covered[self._patch(self.keypoints.uv[candidates[of_entity]])]
        self.report.count("candidates on patches that a track covers already", int((~free).sum()))
        return candidates[free]

    def _seen(self, frame: int, progress: _Progress) -> np.ndarray:
        """Pixels (n, 2) of the tracks that are seen in a frame of this chunk."""
        uv, _ = cameras.project(progress.seen(frame), self.geometry.intrinsics, self.geometry.world_from_camera[frame])
        return uv[np.isfinite(uv).all(axis=1)]

    def _patch(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns in the patch grid of pixels (n, 2)."""
        column = np.clip((uv[:, 0] + 0.5) * self.grid[1] / self.image_size[0], 0, self.grid[1] - 1).astype(int)
        row = np.clip((uv[:, 1] + 0.5) * self.grid[0] / self.image_size[1], 0, self.grid[0] - 1).astype(int)
        return row, column

    def _lifted(self, candidates: np.ndarray, chunk: _Chunk) -> tuple[np.ndarray, np.ndarray]:
        world = np.full((len(candidates), 3), np.nan)
        for frame in np.unique(self.keypoints.frame[candidates]):
            here = np.flatnonzero(self.keypoints.frame[candidates] == frame)
            uv = self.keypoints.uv[candidates[here]].astype(np.float64)
            z = np.ones(len(uv)) if chunk.depth is None else surface_depth(chunk.depth[frame - chunk.first], uv, self.image_size)
            world[here] = cameras.unproject(uv, z, self.geometry.intrinsics, self.geometry.world_from_camera[frame])
        lifted = np.isfinite(world).all(axis=1)
        self.report.count("candidates dropped because their depth is unknown or torn between two surfaces", int((~lifted).sum()))
        return candidates[lifted], world[lifted]


def _dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask (gh, gw) grown by `steps` cells in all eight directions."""
    height, width = mask.shape
    padded = np.pad(mask, steps)
    grown = np.zeros_like(mask)
    for down in range(2 * steps + 1):
        for right in range(2 * steps + 1):
            grown |= padded[down : down + height, right : right + width]
    return grown


class _Runs:
    """Lets the tracker follow points through a chunk, in as many pieces as its memory asks for."""

    def __init__(self, tracker: TrackingBackend, geometry: Geometry, progress: _Progress, report: Report, chunk: int) -> None:
        self.tracker, self.geometry, self.progress, self.report = tracker, geometry, progress, report
        self._most_frames = chunk
        self._num_out_of_memory = 0

    def follow(self, chunk: _Chunk, tracks: np.ndarray) -> None:
        """Follow tracks through a chunk: from the frame in which they were selected where that is in it, else from where they were last."""
        length = chunk.stop - chunk.start
        if length <= self._most_frames:
            last_frame = self.progress.last_frame[tracks]
            query_frames = np.where(last_frame >= chunk.start, last_frame - chunk.first, 0)
            found = self._run(chunk, self.progress.last_world[tracks], query_frames, tracks)
            if found is not None:
                self.progress.add(chunk, tracks, *found)
                return
            self._halve(chunk, len(tracks))
        for start, stop in chunk_bounds(length, self._most_frames):
            piece = chunk.piece(chunk.start + start, chunk.start + stop)
            # Those that are selected in a later piece start there.
            here = tracks[self.progress.last_frame[tracks] < piece.stop]
            if len(here):
                self.follow(piece, here)

    def report_out_of_memory(self) -> None:
        if self._num_out_of_memory:
            self.report.count("runs of the tracker that ran out of memory (made again with fewer frames)", self._num_out_of_memory)

    def _halve(self, chunk: _Chunk, num_tracks: int) -> None:
        """Raises StorageError when few frames do not fit either, or when the tracker remembers how far it came."""
        length = chunk.stop - chunk.start
        if length <= FEW_FRAMES or not getattr(self.tracker, "stateless", False):
            raise StorageError(
                f"out of memory in tracker {self.tracker.name}: {num_tracks} points in frames {chunk.first} to {chunk.stop - 1}",
                hint=f"{'lower --chunk, ' if length > FEW_FRAMES else ''}lower --max-tracks, take smaller frames (keypoints --max-size), or"
                " free memory on the device",
            )
        self._num_out_of_memory += 1
        self._most_frames = max(FEW_FRAMES, (length + 1) // 2)
        self.report.note(f"the chunk is cut to at most {self._most_frames} frames from frame {chunk.start} on: out of memory")

    def _run(
        self, chunk: _Chunk, queries: np.ndarray, query_frames: np.ndarray, identities: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """What the tracker says; None when it ran out of memory."""
        found = None
        try:
            found = _run(self.tracker, chunk, self.geometry, queries, query_frames, identities)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        self.report.progress(chunk.start, len(self.geometry.world_from_camera))  # a batch hears that we are alive
        if found is None:
            free_memory()
        return found


def _run(
    tracker: TrackingBackend, chunk: _Chunk, geometry: Geometry, queries: np.ndarray, query_frames: np.ndarray, identities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Let the tracker follow the queries through the chunk, and believe nothing that it returns."""
    poses = geometry.world_from_camera[chunk.first : chunk.stop]
    xyz, visible = tracker.track(chunk.frames, chunk.depth, geometry.intrinsics, poses, queries, query_frames, identities)
    xyz, visible = np.asarray(xyz), np.asarray(visible)
    expected = (len(chunk.frames), len(queries))
    if xyz.shape != (*expected, 3) or visible.shape != expected:
        raise TypeError(
            f"track: tracker {tracker.name} returned shapes {xyz.shape} and {visible.shape}, not {(*expected, 3)} and {expected}"
        )
    visible = visible.astype(bool)
    broken = visible & ~np.isfinite(xyz).all(axis=-1)
    if broken.any():
        frame, query = np.argwhere(broken)[0]
        raise BadDataError(
            f"track: tracker {tracker.name} sees track {identities[query]} in frame {chunk.first + frame}, but its position is not finite",
            hint="the tracker's weights or its input are broken; try another --tracker",
        )
    return xyz.astype(np.float32, copy=False), visible
