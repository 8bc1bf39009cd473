"""One corpus on disk, read sample by sample: rows by slices, pictures by their bytes or out of the videos."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.format.file import Column, RecordFile, open_records
from tracekit.format.schema import CORPUS
from tracekit.mu0.referenced_pictures import ReferencedPictures
from tracekit.pictures import decode_depth, decode_jpeg

ROW_FIELDS = (
    "current",
    "history",
    "future",
    "valid_history",
    "valid_future",
    "control_points",
    "valid_keypoint",
    "entity",
    "moving",
)


@dataclass(frozen=True)
class CorpusHead:
    """What is known of a corpus without reading its rows. Symbols as in `records.Corpus`."""

    path: str
    history: int
    horizon: int
    control_points: int
    basis: str
    delta_scale: np.ndarray
    depth_log_range: np.ndarray
    metric: bool
    retargeted: bool
    stride_seconds: float
    clip_name: list[str]
    clip_uri: list[str]
    clip_sha256: list[str]
    sample_clip: np.ndarray
    sample_frame: np.ndarray
    sample_source_frame: np.ndarray
    sample_offset: np.ndarray
    caption_text: list[str]
    caption_level: np.ndarray
    sample_caption_offset: np.ndarray
    image_offset: np.ndarray | None
    depth_offset: np.ndarray | None

    @property
    def num_samples(self) -> int:
        return len(self.sample_clip)

    def name(self, sample: int) -> str:
        """How messages call a sample."""
        return f"clip {self.clip_name[self.sample_clip[sample]]}, frame {self.sample_frame[sample]} in {self.path}"


def read_head(path: str | os.PathLike) -> CorpusHead:
    """Raises BadDataError, MissingInputError as `open_records` does, and BadDataError for offsets that do not fit the rows."""
    with open_records(path, CORPUS) as file:

        def value(field: str) -> Any:
            return file.value("", field)

        def steps(field: str) -> int:
            column = file.column("", field)
            assert column is not None
            return column.shape[1]

        same = {name: value(name) for name in CorpusHead.__annotations__ if name not in ("path", "history", "horizon", "control_points")}
        head = CorpusHead(os.fspath(path), steps("history"), steps("future"), steps("control_points"), **same)
        for offsets, column in (
            ("sample_offset", "current"),
            ("sample_caption_offset", "sample_caption"),
            ("image_offset", "image_jpeg"),
            ("depth_offset", "depth_png"),
        ):
            _check_offsets(file, offsets, getattr(head, offsets), column)
    return head


class CorpusReader:
    """Rows, captions and pictures of a corpus. Opens its files in the process that reads, at the first read; may be pickled."""

    def __init__(self, head: CorpusHead, videos: Path | None = None) -> None:
        """`videos` is a folder to look for videos in that are not where the corpus says."""
        self.head = head
        self._pictures = ReferencedPictures([folder for folder in (videos, Path(head.path).parent) if folder])
        self._forget()

    def rows(self, sample: int) -> dict[str, np.ndarray]:
        """The columns ROW_FIELDS of a sample's rows."""
        start, stop = self.head.sample_offset[sample : sample + 2]
        columns = self._columns()
        return {name: columns[name][int(start) : int(stop)] for name in ROW_FIELDS}

    def captions(self, sample: int) -> tuple[list[str], np.ndarray]:
        """All texts that cover a sample's frame, and their levels."""
        start, stop = self.head.sample_caption_offset[sample : sample + 2]
        link = self._columns()["sample_caption"][int(start) : int(stop)]
        return [self.head.caption_text[i] for i in link], self.head.caption_level[link]

    def picture(self, sample: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB: embedded, or out of the video. Raises BadDataError, or MissingInputError without that video."""
        head = self.head
        if head.image_offset is not None:
            return decode_jpeg(self._bytes("image_jpeg", head.image_offset, sample), head.name(sample))
        clip = head.sample_clip[sample]
        return self._pictures.read(head.clip_uri[clip], head.clip_sha256[clip], int(head.sample_source_frame[sample]))

    def depth(self, sample: int) -> np.ndarray | None:
        """(h, w) uint16 millimetres, 0 where unknown; None when the sample has no depth."""
        if not self.has_depth(sample):
            return None
        assert self.head.depth_offset is not None
        return decode_depth(self._bytes("depth_png", self.head.depth_offset, sample), self.head.name(sample))

    def has_depth(self, sample: int) -> bool:
        offset = self.head.depth_offset
        return offset is not None and bool(offset[sample + 1] > offset[sample])

    def close(self) -> None:
        """Let go of the files; the next read opens them anew."""
        if self._pid == os.getpid():
            self._resources.close()
            self._pictures.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"head": self.head, "_pictures": self._pictures}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._resources = contextlib.ExitStack()
        self._open: dict[str, Column] | None = None

    def _columns(self) -> dict[str, Column]:
        if self._open is None or self._pid != os.getpid():
            if self._open is not None:
                # HDF5 must not close in this process what another one opened: the handles live on, unused.
                _of_the_parent_process.append(self._resources)
            self._forget()
            file = self._resources.enter_context(open_records(self.head.path, CORPUS))
            names = (*ROW_FIELDS, "sample_caption", "image_jpeg", "depth_png")
            self._open = {name: column for name in names if (column := file.column("", name)) is not None}
        return self._open

    def _bytes(self, field: str, offset: np.ndarray, sample: int) -> np.ndarray:
        return self._columns()[field][int(offset[sample]) : int(offset[sample + 1])]


_of_the_parent_process: list[contextlib.ExitStack] = []


def _check_offsets(file: RecordFile, name: str, offsets: np.ndarray | None, field: str) -> None:
    column = file.column("", field)
    if offsets is None:
        return
    length = 0 if column is None else len(column)
    if offsets[0] != 0 or offsets[-1] != length or (np.diff(offsets) < 0).any():
        raise BadDataError(f"{name} in {file.name} does not run from 0 to {length}, the length of {field}, without going back")
