"""Tracks from the rows of a TraceExtract episode.

The release cuts its tracks into one row per frame and forgets which rows are of the same track. A row holds the point's path for many
frames, though, and the next row of the same track holds the same path seen from the next camera, so the two agree on all frames that
they share, to the rounding of 16-bit floats. Rows are joined where they do: best pairs first, of one cluster only. Rows are few where the
point leaves the image, but the path goes on, so a point that returns is the same track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.errors import BadDataError
from tracekit.geometry import cameras
from tracekit.interop.traceextract import HALF_PIXEL, ReleaseEpisode
from tracekit.report import Report

_COMPARED_FRAMES = 8
"""Frames ahead over which two paths are compared."""
_ROUNDINGS = 4.0
"""How many roundings two rows of one track may differ by: each of the two is rounded, in three axes."""
_SINGLE_PRECISION = 1e-6
_LARGEST_HALF = 6e4
_PAIRS_AT_ONCE = 1 << 20
_MOST_PAIRS = 1 << 22
_MOST_POSITIONS = 1 << 27
"""Frames times tracks; 1.6 GB of positions."""


@dataclass(frozen=True)
class JoinedTracks:
    """T frames, N tracks."""

    xyz_world: np.ndarray
    """(T, N, 3) float32, NaN where not valid."""
    valid: np.ndarray
    visible: np.ndarray
    """(T, N) bool. What a row says of its own frame; False where the track has no row."""
    entity: np.ndarray
    moving: np.ndarray
    born: np.ndarray


def join_rows(episode: ReleaseEpisode, report: Report) -> JoinedTracks:
    """Join all rows to tracks, frame by frame. A position is taken from the row of its own frame where there is one, else from the row
    before it, and before a track's first row from that row's history.

    Raises BadDataError when the rows make too many tracks: then they do not continue each other.
    """
    samples, num_frames = episode.samples, len(episode.images)
    tracks = _GrowingTracks(num_frames, episode.folder.name)
    num_unusable = num_masked = 0
    for slot, frame in enumerate(samples.frame_indices.tolist()):
        report.progress(slot, len(samples.frame_indices))
        rows = slice(int(samples.offsets[slot]), int(samples.offsets[slot + 1]))
        length = min(samples.future.shape[1], num_frames - frame)
        xyz, rounding, known, masked = _world(episode, frame, samples.future[rows, :length], samples.valid_future[rows, :length])
        num_masked += masked
        usable = np.flatnonzero(known[:, 0])
        num_unusable += len(known) - len(usable)
        xyz, rounding, known, cluster = xyz[usable], rounding[usable], known[usable], samples.cluster_ids[rows][usable]
        track = _continued(tracks, frame, xyz, rounding, known, cluster)
        new = np.flatnonzero(track < 0)
        track[new] = tracks.add(cluster[new])
        if len(new):
            past = min(samples.history.shape[1] - 1, frame)
            chosen = usable[new] + rows.start
            history = samples.history[chosen, 1 : past + 1], samples.valid_history[chosen, 1 : past + 1]
            earlier, _, was_known, masked = _world(episode, frame, *history)
            num_masked += masked
            tracks.put(frame - 1 - np.arange(past), track[new], earlier, was_known)
        tracks.put(frame + np.arange(length), track, xyz, known)
        seen = np.ones(len(usable), bool) if samples.visibility is None else samples.visibility[rows][usable] > 0.5
        tracks.visible[frame, track] = seen
        tracks.moving[track] |= np.ones(len(usable), bool) if samples.is_moving is None else samples.is_moving[rows][usable] != 0
    report.count("rows (a keypoint in a frame)", int(samples.offsets[-1]))
    report.count("rows without a position in their own frame (left out)", num_unusable)
    report.count("steps marked valid that are not finite or not in front of the camera (masked)", num_masked)
    report.count("tracks that the rows make", tracks.num_tracks)
    return tracks.joined()


class _GrowingTracks:
    """Tracks (T, N), where N grows."""

    def __init__(self, num_frames: int, name: str) -> None:
        self._name, self.num_tracks = name, 0
        self.xyz = np.full((num_frames, 0, 3), np.nan, np.float32)
        self.valid = np.zeros((num_frames, 0), bool)
        self.visible = np.zeros((num_frames, 0), bool)
        self.entity = np.zeros(0, np.int32)
        self.moving = np.zeros(0, bool)

    def add(self, entity: np.ndarray) -> np.ndarray:
        """Numbers of new tracks of these entities."""
        first, self.num_tracks = self.num_tracks, self.num_tracks + len(entity)
        if self.num_tracks * len(self.xyz) > _MOST_POSITIONS:
            raise BadDataError(
                f"the rows of {self._name} make more than {_MOST_POSITIONS // len(self.xyz)} tracks in {len(self.xyz)} frames: they do not"
                " continue each other"
            )
        room = self.xyz.shape[1]
        if self.num_tracks > room:
            more = max(self.num_tracks, room + room // 2) - room
            self.xyz = np.pad(self.xyz, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
            self.valid, self.visible = (np.pad(mask, ((0, 0), (0, more))) for mask in (self.valid, self.visible))
            self.entity, self.moving = np.pad(self.entity, (0, more)), np.pad(self.moving, (0, more))
        self.entity[first : self.num_tracks] = entity
        return np.arange(first, self.num_tracks)

    def put(self, frames: np.ndarray, tracks: np.ndarray, xyz: np.ndarray, known: np.ndarray) -> None:
        """Positions xyz (n, L, 3) of `tracks` (n,) at `frames` (L,)."""
        place = frames[:, None], tracks
        self.xyz[place] = np.where(known[..., None], xyz, np.nan).swapaxes(0, 1)
        self.valid[place] = known.T

    def joined(self) -> JoinedTracks:
        count = self.num_tracks
        valid = self.valid[:, :count]
        return JoinedTracks(
            self.xyz[:, :count],
            valid,
            self.visible[:, :count] & valid,
            self.entity[:count],
            self.moving[:count],
            valid.argmax(axis=0).astype(np.int32),
        )


def _world(episode: ReleaseEpisode, frame: int, stored: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Stored paths (n, L, 3) seen from the camera of `frame`, in the world: xyz (n, L, 3), how far rounding may have moved each (n, L) in
    metres, which are known (n, L), and how many are claimed but are no positions."""
    claimed = valid != 0
    known = claimed & np.isfinite(stored).all(axis=2) & (stored[..., 2] > 0)
    uvz = np.where(known[..., None], stored, 1.0).astype(np.float64)
    intrinsics = episode.intrinsics[frame]
    uv, z = uvz[..., :2] - HALF_PIXEL, uvz[..., 2]
    xyz = cameras.unproject(uv, z, intrinsics, episode.world_from_camera[frame])
    # Wider floats are taken to hold what was once rounded to 16 bits: that only makes the tolerance of joining wider.
    unit = np.spacing(np.abs(uvz).clip(max=_LARGEST_HALF).astype(np.float16)).astype(np.float64)
    # A rounded z moves the point along its ray, which off the axis is longer than z.
    ray = np.linalg.norm(
        np.concatenate([(uv - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]], np.ones_like(z)[..., None]], axis=2), axis=2
    )
    rounding = np.hypot(np.linalg.norm(unit[..., :2] / intrinsics[[0, 1], [0, 1]], axis=2) * z, unit[..., 2] * ray) / 2
    return xyz, rounding, known, int(np.count_nonzero(claimed & ~known))


def _continued(
    tracks: _GrowingTracks, frame: int, xyz: np.ndarray, rounding: np.ndarray, known: np.ndarray, cluster: np.ndarray
) -> np.ndarray:
    """The track (n,) that each row continues, -1 where none. `tracks` still hold what earlier rows foretold of this frame and the next."""
    result = np.full(len(xyz), -1)
    candidates = np.flatnonzero(tracks.valid[frame, : tracks.num_tracks]) if tracks.num_tracks else np.zeros(0, int)
    if len(candidates) == 0 or len(xyz) == 0:
        return result
    ahead = slice(frame, frame + min(_COMPARED_FRAMES, xyz.shape[1]))
    foretold = tracks.xyz[ahead, candidates].swapaxes(0, 1).astype(np.float64), tracks.valid[ahead, candidates].T
    num_steps = foretold[1].shape[1]
    own = xyz[:, :num_steps], known[:, :num_steps]
    size = np.abs(xyz[:, 0]).max(axis=1)
    mean_rounding = np.sqrt(np.where(own[1], rounding[:, :num_steps] ** 2, 0).sum(axis=1) / own[1].sum(axis=1))
    limit = _ROUNDINGS * mean_rounding + _SINGLE_PRECISION * size
    same = cluster[:, None], tracks.entity[candidates]
    pairs = []
    rows_at_once = max(1, _PAIRS_AT_ONCE // len(candidates))
    for start in range(0, len(xyz), rows_at_once):
        block = slice(start, start + rows_at_once)
        distance = _distances((own[0][block], own[1][block]), foretold)
        row, column = np.nonzero((distance <= limit[block, None]) & (same[0][block] == same[1]))
        pairs.append((distance[row, column], row + start, column))
    distance, row, column = (np.concatenate(part) for part in zip(*pairs, strict=True))
    if len(row) > _MOST_PAIRS:
        raise BadDataError(f"frame {frame} has too many rows in the same place to be told apart")
    # Closest first; of equals the order of rows decides, which the release keeps from frame to frame.
    is_free = np.ones(len(candidates), bool)
    for place in np.lexsort((column, row, distance)).tolist():
        if result[row[place]] < 0 and is_free[column[place]]:
            result[row[place]] = candidates[column[place]]
            is_free[column[place]] = False
    return result


def _distances(own: tuple[np.ndarray, np.ndarray], foretold: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Root mean square distances (n, m) in metres of paths (n, K, 3) and (m, K, 3) over the steps that are known in both."""
    total = np.zeros((len(own[0]), len(foretold[0])))
    count = np.zeros_like(total)
    for step in range(own[0].shape[1]):
        both = own[1][:, step, None] & foretold[1][None, :, step]
        gap = own[0][:, step, None] - foretold[0][None, :, step]
        total += np.where(both, np.einsum("nmd,nmd->nm", gap, gap), 0.0)
        count += both
    return np.sqrt(total / np.maximum(count, 1))
