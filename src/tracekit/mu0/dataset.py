"""Samples of corpora for training and for evaluation (paper B.1, B.2, C.1).

Training has no order but one: position p = 0, 1, 2, ... without end. Which sample stands at p, and everything random about it,
follows from (seed, p) alone. So neither the number of workers or processes nor an interruption changes what is learnt from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from tracekit.mu0.augmentation import draw_color_jitter, jitter_color, noisy_millimetres
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_index import CorpusIndex
from tracekit.mu0.corpus_reader import CorpusHead, CorpusReader
from tracekit.mu0.depth_image import color_millimetres
from tracekit.mu0.sample import TraceSample
from tracekit.mu0.sampling_parameters import EvaluationParameters, SamplingParameters
from tracekit.parameters import check
from tracekit.pictures import depth_to_square, to_square
from tracekit.report import Report
from tracekit.training.sample_order import EpochOrder, generator

# Flow time is never quite 0, where there is nothing left to denoise.
_SMALLEST_TAU = 1e-3


class TraceDataset(Dataset[TraceSample]):
    """Training samples by position. `len` is one epoch; positions go on beyond it, every epoch in an order of its own."""

    def __init__(
        self,
        corpora: Sequence[str | os.PathLike],
        config: Mu0Config,
        parameters: SamplingParameters | None = None,
        *,
        seed: int = 0,
        part: str = "all",
        held_out: float = 0.0,
        videos: str | os.PathLike | None = None,
        report: Report | None = None,
    ) -> None:
        """`part`, `held_out`, `report` and errors as in CorpusIndex; `videos` is a folder of videos that have moved."""
        self.parameters = parameters or SamplingParameters()
        check(self.parameters)
        self.index = CorpusIndex(corpora, config, part=part, held_out=held_out, seed=seed, report=report)
        self.config = config
        self.seed = seed
        self._source = _Source(self.index, config, videos)
        self._order = EpochOrder(len(self.index), seed)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> TraceSample:
        """The sample at a position, which may be any number from 0."""
        parameters, config = self.parameters, self.config
        place = self._order.place(position)
        random = generator(self.seed, position)
        reader, sample = self._source.at(place)
        rows = reader.rows(sample)

        tau = draw_tau(random, parameters.tau_distribution)
        chosen = draw_keypoints(random, rows["moving"] > 0, rows["valid_keypoint"] > 0, parameters)
        texts, _ = reader.captions(sample)
        caption = texts[random.integers(len(texts))] if texts else ""
        jitter = draw_color_jitter(random, parameters.color_jitter)
        drops_depth = random.random() < parameters.depth_dropout
        drops_all_history = random.random() < parameters.history_dropout
        drops_history = drops_all_history | (random.random(len(chosen)) < parameters.keypoint_history_dropout)
        noise = random.standard_normal((len(chosen), config.target_points, 3), dtype=np.float32)

        image = to_square(reader.picture(sample), config.image_size)
        if parameters.color_jitter > 0:
            image = jitter_color(image, jitter)
        depth = None
        if config.use_depth and not drops_depth and (millimetres := reader.depth(sample)) is not None:
            depth = self._source.depth_image(millimetres, lambda metric: noisy_millimetres(metric, random, parameters.depth_noise))
        return self._source.sample(position, place, caption, image, depth, rows, chosen, ~drops_history, noise, tau)

    def origin(self, position: int) -> tuple[str, int]:
        """Clip and frame of the sample at a position, without reading it."""
        head, number = self._source.head_at(self._order.place(position))
        return head.clip_name[head.sample_clip[number]], int(head.sample_frame[number])


class EvaluationDataset(Dataset[TraceSample]):
    """Samples in the order of the corpora, as they are: no augmentation, nothing dropped, the most general caption.

    Noise and flow time, which only the validation loss needs, follow from (seed, number of the sample).
    """

    def __init__(
        self,
        corpora: Sequence[str | os.PathLike],
        config: Mu0Config,
        parameters: EvaluationParameters | None = None,
        *,
        seed: int = 0,
        part: str = "all",
        held_out: float = 0.0,
        videos: str | os.PathLike | None = None,
        report: Report | None = None,
    ) -> None:
        """As TraceDataset. The same `seed` and `held_out` as in training give the clips that were held out there."""
        self.parameters = parameters or EvaluationParameters()
        check(self.parameters)
        self.index = CorpusIndex(corpora, config, part=part, held_out=held_out, seed=seed, report=report)
        self.config = config
        self.seed = seed
        self._source = _Source(self.index, config, videos)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> TraceSample:
        parameters, config = self.parameters, self.config
        place = range(len(self))[place]
        random = generator(self.seed, place)
        reader, sample = self._source.at(place)
        rows = reader.rows(sample)
        usable = rows["valid_keypoint"] > 0
        chosen = spread(np.flatnonzero(usable & (rows["moving"] > 0)), parameters.num_keypoints)
        tau = draw_tau(random, "beta")
        noise = random.standard_normal((len(chosen), config.target_points, 3), dtype=np.float32)
        image = to_square(reader.picture(sample), config.image_size)
        depth = None
        if config.use_depth and parameters.use_depth and (millimetres := reader.depth(sample)) is not None:
            depth = self._source.depth_image(millimetres)
        keeps_history = np.full(len(chosen), parameters.use_history)
        caption = most_general(*reader.captions(sample))
        return self._source.sample(place, place, caption, image, depth, rows, chosen, keeps_history, noise, tau)


def draw_tau(random: np.random.Generator, distribution: str) -> float:
    """Flow time, in (0, 1]: 1 is noise."""
    drawn = random.beta(1.5, 1.0) if distribution == "beta" else random.random()
    return float(np.float32(drawn * (1 - _SMALLEST_TAU) + _SMALLEST_TAU))


def draw_keypoints(random: np.random.Generator, moving: np.ndarray, usable: np.ndarray, parameters: SamplingParameters) -> np.ndarray:
    """Rows (N,), ascending: N is uniform from 1 to as many as there are, `max_keypoints` at most, and so is their choice.

    A share of them is taken from the static ones instead, as far as there are any.
    """
    candidates, static = np.flatnonzero(moving & usable), np.flatnonzero(~moving & usable)
    number = int(random.integers(1, min(parameters.max_keypoints, len(candidates)) + 1))
    num_static = min(round(parameters.static_share * number), len(static))
    chosen = [random.permutation(candidates)[: number - num_static], random.permutation(static)[:num_static]]
    return np.sort(np.concatenate(chosen))


def spread(rows: np.ndarray, number: int) -> np.ndarray:
    """`number` of `rows`, evenly spread over them so that no entity is favoured; all where there are fewer, or `number` is 0."""
    if number == 0 or len(rows) <= number:
        return rows
    return rows[np.arange(number) * len(rows) // number]


def most_general(texts: list[str], levels: np.ndarray) -> str:
    """The sentence about the whole clip (level 0), or about the most events; "" where there is none."""
    if not texts:
        return ""
    whole = np.flatnonzero(levels == 0)
    return texts[int(whole[0]) if len(whole) else int(np.argmax(levels))]


class _Source:
    """What training and evaluation have in common: corpora opened in the process that reads, and the assembly of a sample."""

    def __init__(self, index: CorpusIndex, config: Mu0Config, videos: str | os.PathLike | None) -> None:
        self._config = config
        self._index = index
        self._readers = [CorpusReader(head, Path(videos) if videos else None) for head in index.heads]

    def at(self, place: int) -> tuple[CorpusReader, int]:
        return self._readers[self._index.corpus[place]], int(self._index.sample[place])

    def head_at(self, place: int) -> tuple[CorpusHead, int]:
        """The head of the corpus that holds a sample, and the sample's number there. Opens nothing."""
        return self._index.heads[self._index.corpus[place]], int(self._index.sample[place])

    def depth_image(self, millimetres: np.ndarray, augment: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """(3, image_size, image_size) uint8 colours of depth (h, w), which `augment` changes before it is coloured."""
        size = self._config.image_size
        shrinks = millimetres.size > size * size
        # All work on the smaller of the two grids: nearest pixels are the same before and after.
        if shrinks:
            millimetres = depth_to_square(millimetres, size)
        near, far = self._index.depth_log_range
        colors = color_millimetres(augment(millimetres) if augment else millimetres, (near, far))
        return np.ascontiguousarray((colors if shrinks else depth_to_square(colors, size)).transpose(2, 0, 1))

    def sample(
        self,
        position: int,
        place: int,
        caption: str,
        image: np.ndarray,
        depth: np.ndarray | None,
        rows: dict[str, np.ndarray],
        chosen: np.ndarray,
        keeps_history: np.ndarray,
        noise: np.ndarray,
        tau: float,
    ) -> TraceSample:
        head, number = self.head_at(place)
        rows = {name: column[chosen] for name, column in rows.items()}
        valid_future = rows["valid_future"] > 0
        valid_history = rows["valid_history"] > 0
        if self._config.use_bspline:
            target = rows["control_points"]
            target_valid = np.broadcast_to((rows["valid_keypoint"] > 0)[:, None], target.shape[:2])
        else:
            target = (rows["future"] / head.delta_scale).astype(np.float32)
            target_valid = valid_future
        return TraceSample(
            position=position,
            clip=head.clip_name[head.sample_clip[number]],
            frame=int(head.sample_frame[number]),
            caption=caption,
            image=np.ascontiguousarray(image.transpose(2, 0, 1)),
            depth=depth,
            current=rows["current"],
            history=rows["history"],
            valid_history=valid_history,
            # A history with gaps would read as one that jumps to the anchor and back.
            history_present=valid_history.all(axis=1) & keeps_history,
            target=target,
            target_valid=target_valid,
            future=rows["future"],
            valid_future=valid_future,
            entity=rows["entity"],
            moving=rows["moving"] > 0,
            noise=noise,
            tau=tau,
        )
