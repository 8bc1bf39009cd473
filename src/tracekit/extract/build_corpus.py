"""A corpus file that grows part by part: of episodes, one in memory at a time, or of other corpora, one block at a time."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.extract.corpus_blocks import BY_SAMPLE, OFFSETS_OF, axis_of, blocks_of_file, head_of_file
from tracekit.extract.corpus_pictures import PictureParameters, with_pictures, without_samples
from tracekit.extract.corpus_scales import CorpusScales
from tracekit.extract.fit_bspline import FitBsplineParameters, count_clipped, empty, episode_samples, fit_control_points
from tracekit.extract.merge_corpora import Agreement, CaptionTable
from tracekit.format.atomic import is_storage_failure
from tracekit.format.file import RecordFile, RecordWriter
from tracekit.records import Corpus, Episode, Frames
from tracekit.report import Report

# Rows whose control points are fitted at once; bounds memory.
_ROWS_PER_BLOCK = 16384

# What is read sample by sample in training.
_SCATTERED = {name for name in BY_SAMPLE if axis_of(name) in ("R", "image_bytes", "depth_bytes")}


class CorpusBuilder:
    """Puts samples into a new corpus file. `fit`, where they are not fitted yet, and `finish` come last."""

    def __init__(self, writer: RecordWriter, *, allow_mixed: bool = False) -> None:
        self._writer = writer
        self._agreement = Agreement(allow_mixed)
        self._captions = CaptionTable()
        self._clips: dict[str, tuple[str, str, str]] = {}
        """Source, video and the video's digest of each clip."""
        self._lengths: dict[str, int] = {}
        self._first: tuple[Corpus, str] | None = None
        self._disk_failure: OSError | RuntimeError | None = None
        """Of the new file, not of a source."""

    @property
    def clip_names(self) -> list[str]:
        return list(self._clips)

    @contextlib.contextmanager
    def source(self, head: Corpus, name: str, *, has_rows: bool) -> Iterator[_Source]:
        """Add to what this yields the samples of one source. When the block fails, nothing of the source stays.

        Where the disk failed, the file cannot be mended: that failure is raised as it came, and again by whatever is added later.
        Raises BadDataError when the source does not go with the earlier ones, or brings a clip that is there.
        """
        before = copy.copy(self._agreement), self._first, dict(self._lengths), len(self._clips), len(self._captions)
        try:
            self._check(head, name)
            self._agreement.add(head, name, has_rows=has_rows)
            first_clip = len(self._clips)
            for clip, uri, digest in zip(head.clip_name, head.clip_uri, head.clip_sha256, strict=True):
                if clip in self._clips:
                    raise BadDataError(
                        f"{self._clips[clip][0]} and {name} are both of the clip {clip}", hint="name every clip in one source only"
                    )
                self._clips[clip] = name, uri, digest
            source = _Source(self, first_clip, self._captions.places(head.caption_text, head.caption_level))
            source.create(head)
            yield source
        except BaseException:
            if self._disk_failure is not None:
                raise  # to shorten the datasets would have to write, too, and hide what went wrong
            self._agreement, self._first, lengths, num_clips, num_captions = before
            self._captions.truncate(num_captions)
            while len(self._clips) > num_clips:
                self._clips.popitem()
            # Where there was nothing yet, offsets have their first entry.
            kept = {name: lengths.get(name, 1 if axis_of(name) == "S+1" else 0) for name in self._lengths}
            self._writer.truncate("", kept)
            self._lengths = kept
            raise

    def append(self, field: str, values: np.ndarray) -> None:
        if self._disk_failure is not None:
            raise self._disk_failure
        try:
            self._writer.append("", field, values, scattered=field in _SCATTERED)
        except (OSError, RuntimeError) as error:
            if is_storage_failure(error):
                self._disk_failure = error
            raise
        self._lengths[field] = self._lengths.get(field, 0) + len(values)

    def length(self, field: str) -> int:
        return self._lengths.get(field, 0)

    def fit(self, delta_scale: np.ndarray, parameters: FitBsplineParameters, report: Report) -> None:
        """The control points of all rows, from what was appended."""
        future, valid_future, valid_keypoint = (self._writer.appended("", name) for name in ("future", "valid_future", "valid_keypoint"))
        num_clipped = num_counting = 0
        # Also without rows: the dataset has to be there.
        for start in range(0, max(1, len(future)), _ROWS_PER_BLOCK):
            rows = slice(start, start + _ROWS_PER_BLOCK)
            counting = valid_keypoint[rows]
            points, clipped = fit_control_points(future[rows], valid_future[rows], counting, delta_scale, parameters)
            self.append("control_points", points)
            num_clipped += clipped
            num_counting += int(np.count_nonzero(counting))
        count_clipped(num_clipped, num_counting, parameters, report)

    def finish(self, delta_scale: np.ndarray, depth_log_range: np.ndarray) -> None:
        """What is known only now."""
        self._writer.put_fields(
            "",
            {
                "clip_name": list(self._clips),
                "clip_uri": [uri for _, uri, _ in self._clips.values()],
                "clip_sha256": [digest for _, _, digest in self._clips.values()],
                "delta_scale": np.asarray(delta_scale, np.float64),
                "depth_log_range": np.asarray(depth_log_range, np.float64),
                **self._captions.columns,
                **self._agreement.whole,
            },
        )

    def _check(self, head: Corpus, name: str) -> None:
        first, first_name = self._first = self._first or (head, name)
        for field, what in (("image_offset", "pictures"), ("depth_offset", "depth")):
            if (getattr(first, field) is None) != (getattr(head, field) is None):
                with_it, without = (name, first_name) if getattr(first, field) is None else (first_name, name)
                raise BadDataError(
                    f"{with_it} embeds {what}, {without} does not",
                    hint="make all parts with --embed-images and --embed-depth, or none of them",
                )


class _Source:
    """One of the sources of a corpus while its samples are added."""

    def __init__(self, builder: CorpusBuilder, first_clip: int, caption_places: np.ndarray) -> None:
        self._builder, self._first_clip, self._caption_places = builder, first_clip, caption_places

    def create(self, head: Corpus) -> None:
        """Make the datasets, also where there will be no samples."""
        for name in BY_SAMPLE:
            values = getattr(head, name)
            if values is None or self._builder.length(name) or _is_unfitted(name, values):
                continue
            self._builder.append(name, np.zeros(1, np.int64) if axis_of(name) == "S+1" else values[:0])

    def add(self, block: Corpus) -> None:
        """Samples whose clips and captions are those of the source's head."""
        builder = self._builder
        entries = {OFFSETS_OF[axis]: field for field in BY_SAMPLE if (axis := axis_of(field)) in OFFSETS_OF and field != "control_points"}
        shifted: dict[str, Any] = {
            name: getattr(block, name)[1:] + builder.length(field) for name, field in entries.items() if getattr(block, name) is not None
        }
        shifted["sample_clip"] = block.sample_clip + np.int32(self._first_clip)
        shifted["sample_caption"] = self._caption_places[block.sample_caption]
        for name in BY_SAMPLE:
            values = shifted.get(name, getattr(block, name))
            if values is not None and not _is_unfitted(name, values):
                builder.append(name, values)


def _is_unfitted(name: str, values: np.ndarray) -> bool:
    return name == "control_points" and values.shape[1] == 0


def add_episode(
    builder: CorpusBuilder,
    episode: Episode,
    name: str,
    frames: Frames | None,
    parameters: FitBsplineParameters,
    pictures: PictureParameters,
    scales: CorpusScales,
    report: Report,
) -> None:
    """The samples of the episode in the file `name`, not fitted yet; they count in `scales`. `frames` are wanted when pictures are embedded."""
    samples = episode_samples(episode, parameters, report)
    with builder.source(without_samples(samples, pictures), name, has_rows=len(samples.current) > 0) as source:
        for block in with_pictures(samples, episode, frames, pictures, report):
            source.add(block)
    scales.add(samples)


def add_nothing(builder: CorpusBuilder, parameters: FitBsplineParameters, pictures: PictureParameters) -> None:
    """Make the corpus of no episodes."""
    with builder.source(without_samples(empty(parameters), pictures), "an empty corpus", has_rows=False):
        pass


def add_corpus(builder: CorpusBuilder, file: RecordFile, report: Report) -> Corpus:
    """The samples of another corpus, fitted, in blocks. Returns its head, which holds the scales."""
    head = head_of_file(file)
    num_samples, num_rows = (0 if (column := file.column("", name)) is None else len(column) for name in ("sample_clip", "current"))
    done = 0
    with builder.source(head, file.name, has_rows=num_rows > 0) as source:
        for block in blocks_of_file(file, head):
            source.add(block)
            done += len(block.sample_clip)
            report.progress(done, num_samples, "samples")
    report.count("samples", num_samples)
    report.count("rows", num_rows)
    return head
