"""One corpus of several: clips, samples and rows one after the other, captions without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.records import Corpus, Spec

# Clips whose steps differ by more than this fraction do not belong into one corpus.
_SAME_STRIDE = 0.05

# What is declared of every column that has one entry a row.
ROW_COLUMNS: dict[str, Spec] = {
    field.name: field.metadata["spec"] for field in fields(Corpus) if (field.metadata["spec"].shape or ("",))[0] == "R"
}


def merge(corpora: Sequence[Corpus], allow_mixed: bool = False) -> Corpus:
    """One corpus of several with the same parameters and scales: their clips, samples and rows in the given order.

    Captions that are equal in text and level become one. Raises BadDataError when the parts do not belong together: other steps,
    splines or scales, or metres in some and not in others (unless `allow_mixed`; the result then is not metric).
    """
    if not corpora:
        raise BadDataError("there is no corpus to merge")
    for part in corpora:
        _check_same(corpora[0], part)
    # A part without rows says nothing about units and steps.
    speaking = [part for part in corpora if len(part.current)]
    for part in speaking:
        if not np.isclose(part.stride_seconds, speaking[0].stride_seconds, rtol=_SAME_STRIDE):
            raise BadDataError(
                f"a step is {speaking[0].stride_seconds:.4g} s in {_name(speaking[0])} and {part.stride_seconds:.4g} s in {_name(part)}",
                hint="give --stride-seconds, so that clips of any frame rate agree, or --retarget, which does away with time",
            )
        if part.metric != speaking[0].metric and not allow_mixed:
            metric, other = (part, speaking[0]) if part.metric else (speaking[0], part)
            raise BadDataError(
                f"depth is metric in {_name(metric)} and not in {_name(other)}: their z cannot share a scale",
                hint="make a corpus of each, or pass --allow-mixed if z does not matter",
            )

    texts: dict[tuple[str, int], int] = {}
    links = []
    for part in corpora:
        entries = zip(part.caption_text, part.caption_level.tolist(), strict=True)
        index = np.array([texts.setdefault(entry, len(texts)) for entry in entries], dtype=np.int32)
        links.append(index[part.sample_caption])
    first_clip = np.cumsum([0, *(len(part.clip_name) for part in corpora)])

    def joined(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in corpora])

    columns: dict[str, Any] = {name: joined(name) for name in ROW_COLUMNS}
    return replace(
        corpora[0],
        stride_seconds=_mean_stride(speaking) if speaking else corpora[0].stride_seconds,
        metric=all(part.metric for part in speaking or corpora),
        clip_name=[name for part in corpora for name in part.clip_name],
        clip_uri=[uri for part in corpora for uri in part.clip_uri],
        clip_sha256=[digest for part in corpora for digest in part.clip_sha256],
        sample_clip=np.concatenate([part.sample_clip + first for part, first in zip(corpora, first_clip, strict=False)]).astype(np.int32),
        sample_frame=joined("sample_frame"),
        sample_source_frame=joined("sample_source_frame"),
        sample_offset=offsets(np.concatenate([np.diff(part.sample_offset) for part in corpora])),
        caption_text=[text for text, _ in texts],
        caption_level=np.array([level for _, level in texts], dtype=np.int32),
        sample_caption_offset=offsets(np.concatenate([np.diff(part.sample_caption_offset) for part in corpora])),
        sample_caption=np.concatenate(links),
        **columns,
    )


def offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of the pieces starts, and the end of the last, (len(counts) + 1,) int64."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def _mean_stride(corpora: Sequence[Corpus]) -> float:
    """Mean over the samples of all parts; exactly the stride of each where they are equal."""
    strides = [part.stride_seconds for part in corpora]
    if min(strides) == max(strides):
        return strides[0]
    return float(np.average(strides, weights=[len(part.sample_frame) for part in corpora]))


def _check_same(one: Corpus, other: Corpus) -> None:
    """Raises BadDataError naming the first way in which two corpora cannot be merged."""
    for field in ("retargeted", "basis", "ridge", "clip_limit", "delta_scale", "depth_log_range"):
        mine, theirs = np.asarray(getattr(one, field)), np.asarray(getattr(other, field))
        same = np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
        _require(same, f"{field} is {mine.tolist()} in {_name(one)} and {theirs.tolist()} in {_name(other)}")
    for field in ("history", "future", "control_points"):
        mine, theirs = getattr(one, field).shape[1:], getattr(other, field).shape[1:]
        _require(mine == theirs, f"{field} has {mine[0]} steps or points in {_name(one)} and {theirs[0]} in {_name(other)}")


def _require(same: bool, difference: str) -> None:
    if not same:
        raise BadDataError(difference, hint="fit all parts with the same parameters, and with the same scales: --scale FILE")


def _name(corpus: Corpus) -> str:
    return corpus.clip_name[0] if corpus.clip_name else "an empty corpus"
