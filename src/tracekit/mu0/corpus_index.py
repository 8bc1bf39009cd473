"""Which samples of which corpora there are to train on, and whether the corpora and the network belong together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tracekit.errors import BadDataError
from tracekit.extract.merge_corpora import is_same_stride
from tracekit.format.file import open_records
from tracekit.format.schema import CORPUS
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_reader import CorpusHead, read_head
from tracekit.report import Report

# Rows whose flags are read at once; bounds memory.
_ROWS_PER_BLOCK = 1 << 22


class CorpusIndex:
    """The usable samples of several corpora, one after the other: those with at least one keypoint that moves and has a target."""

    def __init__(
        self,
        corpora: Sequence[str | os.PathLike],
        config: Mu0Config,
        *,
        part: str = "all",
        held_out: float = 0.0,
        seed: int = 0,
        report: Report | None = None,
    ) -> None:
        """`held_out` is the fraction of the clips, at least one, that are kept for validation; `part` chooses clips: all,
        those held in, or those held out. Which clips these are follows from their names and `seed` alone.

        What is left out is counted in `report`. Raises BadDataError when a corpus has no scales, has other steps or splines than
        `config`, does not go with the first corpus, or when no sample is left.
        """
        report = report or Report()
        if not corpora:
            raise BadDataError("there is no corpus to train on")
        self.heads = [read_head(path) for path in corpora]
        for head in self.heads:
            _check_against_config(head, config)
            _check_against_first(self.heads[0], head)
        held = clips_held_out([name for head in self.heads for name in head.clip_name], held_out, seed)
        corpus, sample = [], []
        for number, head in enumerate(self.heads):
            wanted = np.array([part == "all" or (name in held) == (part == "held-out") for name in head.clip_name], bool)
            in_part = wanted[head.sample_clip] if head.num_samples else np.zeros(0, bool)
            usable = count_usable_rows(head) > 0
            report.count("samples without a keypoint that moves and has a target (left out)", int(np.count_nonzero(in_part & ~usable)))
            report.count("samples of clips that are held out" if part == "held-in" else "samples of other clips", int((~in_part).sum()))
            kept = np.flatnonzero(in_part & usable)
            corpus.append(np.full(len(kept), number, np.int32))
            sample.append(kept.astype(np.int64))
        self.corpus = np.concatenate(corpus)
        """(n,) int32: the corpus of each usable sample."""
        self.sample = np.concatenate(sample)
        """(n,) int64: its number in that corpus."""
        report.count("samples", len(self.sample))
        if len(self.sample) == 0:
            which = {"all": "", "held-in": "held-in ", "held-out": "held-out "}[part]
            raise BadDataError(
                f"no {which}sample of {', '.join(head.path for head in self.heads)} has a keypoint that moves and whose future is known",
                hint="were the episodes filtered, and are the clips longer than the horizon?",
            )

    def __len__(self) -> int:
        return len(self.sample)

    def thin_out(self, number: int) -> None:
        """Keep `number` samples, evenly spread over all; all where there are fewer."""
        if len(self) > number:
            kept = np.arange(number) * len(self) // number
            self.corpus, self.sample = self.corpus[kept], self.sample[kept]

    @property
    def delta_scale(self) -> np.ndarray:
        """(3,) what divides the targets."""
        return self.heads[0].delta_scale

    @property
    def depth_log_range(self) -> np.ndarray:
        """(2,) log depth of the near and the far end of the depth colours."""
        return self.heads[0].depth_log_range


def clips_held_out(names: Sequence[str], fraction: float, seed: int) -> set[str]:
    """`fraction` of the clips, at least one and never all, chosen by a digest of their names: the order in which they come is of no matter."""
    different = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    if fraction <= 0 or len(different) < 2:
        return set()
    return set(different[: min(len(different) - 1, max(1, round(fraction * len(different))))])


def count_usable_rows(head: CorpusHead) -> np.ndarray:
    """Rows of each sample (S,) that move and whose future is known well enough to be a target. Reads two bytes a row, by blocks."""
    with open_records(Path(head.path), CORPUS) as file:
        moving, valid = file.column("", "moving"), file.column("", "valid_keypoint")
        assert moving is not None and valid is not None
        # Number of usable rows before each sample, and at the end.
        before = np.zeros(head.num_samples + 1, np.int64)
        total = 0
        for start in range(0, len(moving), _ROWS_PER_BLOCK):
            rows = slice(start, min(start + _ROWS_PER_BLOCK, len(moving)))
            upto = total + np.concatenate([[0], np.cumsum(moving[rows].astype(np.int64) & valid[rows])])
            inside = (head.sample_offset >= rows.start) & (head.sample_offset <= rows.stop)
            before[inside] = upto[head.sample_offset[inside] - rows.start]
            total = int(upto[-1])
    return np.diff(before)


def _check_against_config(head: CorpusHead, config: Mu0Config) -> None:
    if not (np.isfinite(head.delta_scale).all() and (head.delta_scale > 0).all() and np.isfinite(head.depth_log_range).all()):
        raise BadDataError(
            f"{head.path} has no scales: delta_scale is {head.delta_scale.tolist()}, depth_log_range is {head.depth_log_range.tolist()}",
            hint="make it with `tracekit fit-bspline`, which measures them",
        )
    pairs: list[tuple[str, object, object]] = [("history", head.history, config.history), ("horizon", head.horizon, config.horizon)]
    if config.use_bspline:
        pairs += [("control_points", head.control_points, config.control_points), ("basis", head.basis, config.basis)]
    for what, there, wanted in pairs:
        if there != wanted:
            flag = "--" + what.replace("_", "-")
            raise BadDataError(
                f"{what} is {there} in {head.path}, but {wanted} in the network",
                hint=f"`tracekit fit-bspline {flag} {wanted}` makes a corpus for this network",
            )


def _check_against_first(first: CorpusHead, head: CorpusHead) -> None:
    for what in ("delta_scale", "depth_log_range", "retargeted", "metric"):
        one, other = np.asarray(getattr(first, what)), np.asarray(getattr(head, what))
        if not np.array_equal(one, other):
            raise BadDataError(
                f"{what} is {one.tolist()} in {first.path} and {other.tolist()} in {head.path}",
                hint="corpora that train one network share their scales: `tracekit fit-bspline --scale FILE`",
            )
    if not is_same_stride(first.stride_seconds, head.stride_seconds):
        raise BadDataError(
            f"a step is {first.stride_seconds:.4g} s in {first.path} and {head.stride_seconds:.4g} s in {head.path}",
            hint="give --stride-seconds to `tracekit fit-bspline`",
        )
