"""What a tracker found, piece by piece, and the tracks that come of it: neither is ever in memory as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracekit.errors import StorageError
from tracekit.geometry import cameras
from tracekit.records import Geometry, Keypoints, Tracks
from tracekit.report import Report

IN_MEMORY_BYTES = 64 << 20
"""What was found goes to a file in TMPDIR once it is larger than this."""


@dataclass(frozen=True)
class _Place:
    """Where in the store one run of the tracker is: `tracks` (Q,) from frame `start` on, for `num_frames` frames."""

    start: int
    num_frames: int
    tracks: np.ndarray
    offset: int


class FoundPositions:
    """Positions and visibility that a tracker returned, run by run, in a temporary file that vanishes with the process."""

    def __init__(self) -> None:
        self._store = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115  (closed by `close`)
        self._places: list[_Place] = []

    def add(self, start: int, tracks: np.ndarray, xyz: np.ndarray, visible: np.ndarray) -> None:
        """Keep `xyz` (n, Q, 3) float32 and `visible` (n, Q) bool of the tracks (Q,) from frame `start` on. Raises StorageError when TMPDIR is full."""
        try:
            self._places.append(_Place(start, len(xyz), tracks, self._store.seek(0, 2)))
            self._store.write(np.ascontiguousarray(xyz, np.float32).tobytes())
            self._store.write(np.ascontiguousarray(visible, bool).tobytes())
        except OSError as error:
            raise StorageError(
                f"the tracks so far cannot be kept in the temporary folder {tempfile.gettempdir()} (TMPDIR): {error.strerror}",
                hint="free some space there, or set TMPDIR to another folder",
            ) from error

    def within(self, start: int, stop: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """(frames counted from `start`, tracks, xyz, visible) of every run in the frames [start, stop), in the order in which they were made."""
        for place in self._places:
            if start <= place.start < stop:
                shape = (place.num_frames, len(place.tracks))
                number = shape[0] * shape[1]
                self._store.seek(place.offset)
                xyz = np.frombuffer(self._store.read(12 * number), np.float32).reshape(*shape, 3)
                visible = np.frombuffer(self._store.read(number), bool).reshape(shape)
                yield slice(place.start - start, place.start - start + place.num_frames), place.tracks, xyz, visible

    def close(self) -> None:
        self._store.close()


class FollowedTracks:
    """All tracks of a clip: small fields at hand, what there is of every frame a block of frames at a time.

    Use it in a `with` block: what was found lies in a temporary file until then.
    """

    def __init__(
        self,
        tracker: str,
        found: FoundPositions,
        bounds: list[tuple[int, int]],
        keypoint: np.ndarray,
        born: np.ndarray,
        keypoints: Keypoints,
        geometry: Geometry,
    ) -> None:
        """`bounds` cut the clip into blocks; no run of the tracker reaches across one. `keypoint` and `born` (N,) are those of every track."""
        self._found, self._bounds, self._geometry = found, bounds, geometry
        self.small_fields: dict[str, Any] = {
            "tracker": tracker,
            "keypoint": keypoint,
            "entity": keypoints.entity[keypoint].astype(np.int32),
            "born": born,
            "chunk": keypoints.chunk[keypoint].astype(np.int32),
        }
        shape = (bounds[-1][1] if bounds else 0, len(keypoint))
        self.shapes: dict[str, tuple[int, ...]] = {"xyz_world": (*shape, 3), "uv": (*shape, 2), "visible": shape, "valid": shape}
        """Shapes of what `blocks` yields, over the whole clip."""

    def __enter__(self) -> FollowedTracks:
        return self

    def __exit__(self, *_: object) -> None:
        self._found.close()

    def blocks(self, report: Report) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(first frame, rows of every field in `shapes`), block by block in order of time. What is dropped is counted."""
        num_tracks = self.shapes["valid"][1]
        num_behind = num_unknown = 0
        for start, stop in self._bounds:
            xyz_world = np.full((stop - start, num_tracks, 3), np.nan, dtype=np.float32)
            visible = np.zeros((stop - start, num_tracks), dtype=bool)
            for rows, tracks, xyz, seen in self._found.within(start, stop):
                xyz_world[rows, tracks] = xyz
                visible[rows, tracks] = seen
            uv = np.full((stop - start, num_tracks, 2), np.nan, dtype=np.float32)
            known = np.isfinite(xyz_world[..., 0]) & np.isfinite(xyz_world[..., 1]) & np.isfinite(xyz_world[..., 2])
            for row, camera in enumerate(self._geometry.world_from_camera[start:stop]):
                here = np.flatnonzero(known[row])
                uv[row, here] = cameras.project(xyz_world[row, here].astype(np.float64), self._geometry.intrinsics, camera)[0]
            valid = known & np.isfinite(uv[..., 0]) & np.isfinite(uv[..., 1])
            xyz_world[~valid] = np.nan
            uv[~valid] = np.nan
            num_behind += int((known & ~valid).sum())
            num_unknown += int((~valid).sum())
            yield start, {"xyz_world": xyz_world, "uv": uv, "visible": (visible & valid).astype(np.uint8), "valid": valid.astype(np.uint8)}
        report.count("tracks", num_tracks)
        report.count("positions dropped because they lie behind the camera", num_behind)
        report.count("positions of tracks that are lost or not yet born (NaN)", num_unknown)

    def in_memory(self, report: Report) -> Tracks:
        """The record, whole: 22 bytes for every track in every frame."""
        types = {"xyz_world": np.float32, "uv": np.float32, "visible": np.uint8, "valid": np.uint8}
        whole: dict[str, Any] = {field: np.empty(shape, types[field]) for field, shape in self.shapes.items()}
        for start, block in self.blocks(report):
            for field, rows in block.items():
                whole[field][start : start + len(rows)] = rows
        return Tracks(**self.small_fields, **whole)
