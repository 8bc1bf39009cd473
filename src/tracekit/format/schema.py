"""Every kind of file, every group in it and which stage writes it. Datasets and attributes come from `tracekit.records`.

docs/format.md, validation and the reading and writing of records all derive from this module.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tracekit import records
from tracekit.records import Spec

ROOT_ATTRIBUTES = {
    "format": "kind of the file, for example tracekit/episode",
    "format_version": "version of this schema; a reader refuses a newer one",
    "clip_id": "name of the clip (episodes only)",
}


@dataclass(frozen=True)
class Entry:
    """One field of a record as it stands in a file."""

    field: str
    path: str
    """Path from the root: "tracks/uv", or "tracks" for an attribute of that group."""
    spec: Spec

    @property
    def is_attribute(self) -> bool:
        return self.spec.shape is None


@dataclass(frozen=True)
class Group:
    """One record in a file."""

    name: str
    """Path of the group; "" is the root."""
    record: type
    written_by: str
    needs: tuple[str, ...] = ()
    """Groups that this one was computed from: when one of them is written anew, this one no longer holds."""

    def entries(self) -> list[Entry]:
        """The fields of the record in order of declaration."""
        result = []
        for field in dataclasses.fields(self.record):
            spec: Spec = field.metadata["spec"]
            inside = spec.path or field.name
            path = self.name if spec.shape is None else "/".join(part for part in (self.name, inside) if part)
            result.append(Entry(field.name, path, spec))
        return result

    def entry(self, field: str) -> Entry:
        """The entry of one field of the record."""
        return next(entry for entry in self.entries() if entry.field == field)


@dataclass(frozen=True)
class FileKind:
    """One kind of file."""

    name: str
    version: int
    about: str
    groups: tuple[Group, ...]

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def outdated_by(self, written: set[str]) -> set[str]:
        """Groups that no longer hold once the groups in `written` are written anew (those themselves not included)."""
        outdated: set[str] = set()
        for group in self.groups:  # in order of the pipeline, so one pass closes the relation
            if set(group.needs) & (written | outdated):
                outdated.add(group.name)
        return outdated - written


EPISODE = FileKind(
    "tracekit/episode",
    1,
    "one clip and everything that the stages found in it",
    (
        Group("video", records.Clip, "keypoints, import"),
        Group("depth_sensor", records.DepthSensor, "import, keypoints --sensor", needs=("video",)),
        Group("camera_sensor", records.CameraSensor, "import, keypoints --sensor", needs=("video",)),
        Group("keypoints", records.Keypoints, "keypoints", needs=("video",)),
        Group("geometry", records.Geometry, "reconstruct", needs=("video", "depth_sensor", "camera_sensor")),
        Group("tracks", records.Tracks, "track", needs=("keypoints", "geometry")),
        Group("motion", records.Motion, "filter", needs=("tracks",)),
        Group("events", records.Events, "segment", needs=("motion",)),
        Group("captions", records.Captions, "caption", needs=("events",)),
        Group("truth", records.Truth, "simulate", needs=("video",)),
    ),
)

CORPUS = FileKind("tracekit/corpus", 1, "training rows of many clips", (Group("", records.Corpus, "fit-bspline"),))

PREDICTIONS = FileKind(
    "tracekit/predictions", 1, "predicted traces, and the true ones when they are known", (Group("", records.Predictions, "rollout"),)
)

TRACE_VALUES = FileKind(
    "tracekit/trace-values", 1, "scores of predicted traces, one by one", (Group("", records.TraceValues, "evaluate -o"),)
)

KINDS = {kind.name: kind for kind in (EPISODE, CORPUS, PREDICTIONS, TRACE_VALUES)}
