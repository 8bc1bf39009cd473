"""One corpus of several: clips, samples and rows one after the other, captions without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.records import Corpus, Spec

# Clips whose steps differ by more than this fraction do not belong into one corpus, nor do they train one network.
_SAME_STRIDE = 0.05

# What is declared of every column that has one entry a row.
ROW_COLUMNS: dict[str, Spec] = {
    field.name: field.metadata["spec"] for field in fields(Corpus) if (field.metadata["spec"].shape or ("",))[0] == "R"
}


def is_same_stride(seconds: float, reference: float) -> bool:
    """Whether a step of `seconds` may stand beside steps of `reference` seconds."""
    return bool(np.isclose(seconds, reference, rtol=_SAME_STRIDE))


class Agreement:
    """What the parts of one corpus must have in common, checked part by part, and what follows for the whole."""

    def __init__(self, allow_mixed: bool = False) -> None:
        """With `allow_mixed`, metres in some and not in others are allowed; the whole then is not metric."""
        self._allow_mixed = allow_mixed
        self._first: tuple[Corpus, str] | None = None
        self._speaking: tuple[Corpus, str] | None = None
        self._all_metric = True

    def add(self, part: Corpus, name: str, *, has_rows: bool) -> None:
        """Take a part into account; of `part`, no rows are looked at. Raises BadDataError naming what differs, and both values."""
        self._first = self._first or (part, name)
        _check_same(*self._first, part, name)
        if not has_rows:  # says nothing about units and steps
            return
        self._speaking = self._speaking or (part, name)
        first, first_name = self._speaking
        if not is_same_stride(part.stride_seconds, first.stride_seconds):
            raise BadDataError(
                f"a step is {first.stride_seconds:.4g} s in {first_name} and {part.stride_seconds:.4g} s in {name}",
                hint="give --stride-seconds, so that clips of any frame rate agree, or --retarget, which does away with time",
            )
        if part.metric != first.metric and not self._allow_mixed:
            metric, other = (name, first_name) if part.metric else (first_name, name)
            raise BadDataError(
                f"depth is metric in {metric} and not in {other}: their z cannot share a scale",
                hint="make a corpus of each, or pass --allow-mixed if z does not matter",
            )
        self._all_metric = self._all_metric and bool(part.metric)

    @property
    def whole(self) -> dict[str, Any]:
        """The attributes of the whole: those of the parts; steps are those of the first part that has rows."""
        assert self._first is not None
        speaking = (self._speaking or self._first)[0]
        names = ("retargeted", "basis", "ridge", "clip_limit")
        metric = self._all_metric if self._speaking else bool(speaking.metric)
        return {"stride_seconds": speaking.stride_seconds, "metric": metric} | {name: getattr(speaking, name) for name in names}


class CaptionTable:
    """Captions of many parts, each text and level once, in the order in which they come up."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def places(self, texts: Sequence[str], levels: np.ndarray) -> np.ndarray:
        """The place of each caption of a part in the whole, (Q,) int32."""
        entries = zip(texts, levels.tolist(), strict=True)
        return np.array([self._places.setdefault(entry, len(self._places)) for entry in entries], dtype=np.int32)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length`."""
        while len(self._places) > length:
            self._places.popitem()

    @property
    def columns(self) -> dict[str, Any]:
        """The fields caption_text and caption_level of the whole."""
        return {
            "caption_text": [text for text, _ in self._places],
            "caption_level": np.array([level for _, level in self._places], dtype=np.int32),
        }


def merge(corpora: Sequence[Corpus], allow_mixed: bool = False) -> Corpus:
    """One corpus of several in memory with the same parameters and scales: their clips, samples and rows in the given order.

    Captions that are equal in text and level become one. Raises BadDataError when the parts do not belong together: other steps,
    splines or scales, or metres in some and not in others (unless `allow_mixed`; the result then is not metric).
    """
    if not corpora:
        raise BadDataError("there is no corpus to merge")
    agreement, captions = Agreement(allow_mixed), CaptionTable()
    for part in corpora:
        agreement.add(part, name_of(part), has_rows=len(part.current) > 0)
    links = [captions.places(part.caption_text, part.caption_level)[part.sample_caption] for part in corpora]
    first_clip = np.cumsum([0, *(len(part.clip_name) for part in corpora)])

    def joined(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in corpora])

    columns: dict[str, Any] = {name: joined(name) for name in ROW_COLUMNS}
    return replace(
        corpora[0],
        clip_name=[name for part in corpora for name in part.clip_name],
        clip_uri=[uri for part in corpora for uri in part.clip_uri],
        clip_sha256=[digest for part in corpora for digest in part.clip_sha256],
        sample_clip=np.concatenate([part.sample_clip + first for part, first in zip(corpora, first_clip, strict=False)]).astype(np.int32),
        sample_frame=joined("sample_frame"),
        sample_source_frame=joined("sample_source_frame"),
        sample_offset=offsets(np.concatenate([np.diff(part.sample_offset) for part in corpora])),
        sample_caption_offset=offsets(np.concatenate([np.diff(part.sample_caption_offset) for part in corpora])),
        sample_caption=np.concatenate(links),
        **captions.columns,
        **agreement.whole,
        **columns,
    )


def offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of the pieces starts, and the end of the last, (len(counts) + 1,) int64."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def name_of(corpus: Corpus) -> str:
    """How messages call a part that is in memory."""
    return corpus.clip_name[0] if corpus.clip_name else "an empty corpus"


def _check_same(one: Corpus, one_name: str, other: Corpus, other_name: str) -> None:
    """Raises BadDataError naming the first way in which two corpora cannot be merged."""
    for field in ("retargeted", "basis", "ridge", "clip_limit", "delta_scale", "depth_log_range"):
        mine, theirs = np.asarray(getattr(one, field)), np.asarray(getattr(other, field))
        same = np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
        _require(same, f"{field} is {mine.tolist()} in {one_name} and {theirs.tolist()} in {other_name}")
    for field in ("history", "future", "control_points"):
        mine, theirs = getattr(one, field).shape[1:], getattr(other, field).shape[1:]
        _require(mine == theirs, f"{field} has {mine[0]} steps or points in {one_name} and {theirs[0]} in {other_name}")


def _require(same: bool, difference: str) -> None:
    if not same:
        raise BadDataError(difference, hint="fit all parts with the same parameters, and with the same scales: --scale FILE")
