"""What μ0 is asked about: frames of corpora and of episodes with their keypoints, and bare pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracekit.errors import BadDataError, UsageError
from tracekit.extract.fit_bspline import FitBsplineParameters, episode_samples
from tracekit.extract.merge_corpora import is_same_stride
from tracekit.format.file import RecordFile, in_millimetres
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.corpus_reader import ROW_FIELDS, CorpusHead, CorpusReader, read_head
from tracekit.mu0.dataset import most_general, spread
from tracekit.mu0.depth_image import color_millimetres
from tracekit.mu0.rollout_parameters import RolloutParameters
from tracekit.mu0.sample import TraceSample
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.pictures import depth_to_square, to_square
from tracekit.records import Corpus, Frames
from tracekit.report import Report


@dataclass(frozen=True)
class Scene:
    """One question: a frame, a sentence, keypoints, and what is known of their past and future."""

    sample: TraceSample
    """Without a target; the future is there to be compared with, not to be seen by the network."""
    picture: np.ndarray
    """(H, W, 3) uint8 RGB, the frame as it was recorded."""


class SceneMaker:
    """Makes scenes that a network of `config` understands, which learned from a corpus of `statistics`; counts what is left out.

    Raises UsageError when the parameters ask for inputs that the network does not have.
    """

    def __init__(
        self, config: Mu0Config, statistics: CorpusStatistics, parameters: RolloutParameters, report: Report, caption: str | None = None
    ) -> None:
        """`caption` is said in place of what the data say."""
        for wanted, there, what in (
            (parameters.history, config.use_history, "history"),
            (parameters.depth, config.use_depth, "depth"),
        ):
            if wanted and not there:
                raise UsageError(f"the network was made without {what}: it cannot use --{what}", hint=f"leave out --{what}")
        self._config = config
        self._statistics = statistics
        self._parameters = parameters
        self._report = report
        self._caption = caption
        self._position = 0

    def of_corpus(
        self, path: str | os.PathLike, *, every: int = 1, videos: Path | None = None, swap_seed: int | None = None
    ) -> Iterator[Scene]:
        """Every `every`-th sample of a corpus. `videos` is a folder to look for videos in; with `swap_seed` every sample gets the caption of a
        clip of another task, which follows from the seed and the names of the clips.

        Raises BadDataError at once when the corpus has other steps than the network, MissingInputError on the way where a video is not there.
        """
        head = read_head(path)
        self._check_steps(str(path), head.history, head.horizon)
        self._compare(str(path), head.stride_seconds, head.retargeted, head.metric)
        return self._scenes_of_corpus(head, every, videos, swap_seed)

    def of_episode(self, file: RecordFile, frames: Frames, *, every: int = 1) -> Iterator[Scene]:
        """Every `every`-th reference frame of an episode file that has been tracked, with steps as in the network's corpus.

        `frames` are those of its clip. Raises BadDataError when the episode has not been tracked, or has no keypoints at all.
        """
        episode = file.episode()
        parameters = self._fit_parameters()
        told = Report()
        samples = episode_samples(episode, parameters, told)
        for what, number in told.counts.items():
            self._report.count(what, number)
        if parameters.retarget:
            self._report.note(
                f"the network does not say how long its steps of path are: {parameters.retarget_step:g} is taken, the usual length"
            )
        self._compare(file.name, samples.stride_seconds, samples.retargeted, samples.metric)
        depth = episode.depth
        places = range(0, len(samples.sample_frame), every)
        for done, place in enumerate(places):
            self._report.progress(done, len(places), "samples")
            frame = int(samples.sample_frame[place])
            scene = self._scene(
                episode.clip_id,
                frame,
                _caption(samples, place),
                {name: getattr(samples, name)[samples.sample_offset[place] : samples.sample_offset[place + 1]] for name in ROW_FIELDS},
                lambda frame=frame: frames[frame],  # type: ignore[misc]
                lambda frame=frame: None if depth is None else in_millimetres(depth[frame])[0],  # type: ignore[misc]
            )
            if scene is not None:
                yield scene

    def of_picture(self, name: str, picture: np.ndarray, uv: np.ndarray) -> Scene:
        """A picture (H, W, 3) uint8 RGB of which nothing else is known, asked about points uv (N, 2) in [-1, 1].

        Depth at the points is not known: their anchors have z = 0, and predicted z is relative to it. All points count as moving, and as
        things of their own. Raises UsageError when the parameters ask for history or depth.
        """
        for what, wanted in (("history", self._parameters.history), ("depth", self._parameters.depth)):
            if wanted:
                raise UsageError(f"a bare picture has no {what}: --{what} cannot be used with it")
        number, config = len(uv), self._config
        rows: dict[str, np.ndarray] = {
            "current": np.concatenate([uv, np.zeros((number, 1))], axis=1).astype(np.float32),
            "history": np.zeros((number, config.history, 3), np.float32),
            "future": np.zeros((number, config.horizon, 3), np.float32),
            "valid_history": np.zeros((number, config.history), np.uint8),
            "valid_future": np.zeros((number, config.horizon), np.uint8),
            "entity": np.arange(number, dtype=np.int32),
            "moving": np.ones(number, np.uint8),
        }
        scene = self._scene(name, 0, "", rows, lambda: picture, lambda: None)
        assert scene is not None
        return scene

    def _scenes_of_corpus(self, head: CorpusHead, every: int, videos: Path | None, swap_seed: int | None) -> Iterator[Scene]:
        reader = CorpusReader(head, videos)
        try:
            swapped = None if swap_seed is None else captions_of_other_tasks(reader, swap_seed)
            places = range(0, head.num_samples, every)
            for done, place in enumerate(places):
                self._report.progress(done, len(places), "samples")
                clip = head.sample_clip[place]
                scene = self._scene(
                    head.clip_name[clip],
                    int(head.sample_frame[place]),
                    swapped[clip] if swapped else most_general(*reader.captions(place)),
                    reader.rows(place),
                    lambda place=place: reader.picture(place),  # type: ignore[misc]
                    lambda place=place: reader.depth(place),  # type: ignore[misc]
                )
                if scene is not None:
                    yield scene
        finally:
            reader.close()

    def _scene(
        self,
        clip: str,
        frame: int,
        caption: str,
        rows: dict[str, np.ndarray],
        read_picture: Callable[[], np.ndarray],
        read_depth: Callable[[], np.ndarray | None],
    ) -> Scene | None:
        """None when nothing moves. The picture and the depth, (h, w) uint16 millimetres, are only read when they are needed."""
        parameters, config = self._parameters, self._config
        moving = np.flatnonzero(rows["moving"])
        chosen = spread(moving, parameters.max_keypoints)
        self._report.count("keypoints that do not move (left out)", len(rows["moving"]) - len(moving))
        self._report.count("moving keypoints beyond --max-keypoints (left out)", len(moving) - len(chosen))
        if len(chosen) == 0:
            self._report.count("samples in which nothing moves (left out)")
            return None
        rows = {name: column[chosen] for name, column in rows.items()}
        valid_history = rows["valid_history"] > 0
        # As in training: a history with gaps would read as one that jumps to the anchor and back.
        history_present = valid_history.all(axis=1) & np.full(len(chosen), parameters.history)
        if parameters.history:
            self._report.count("keypoints without a complete history (predicted without it)", int(np.count_nonzero(~history_present)))
        picture = read_picture()
        depth = self._depth(read_depth()) if parameters.depth else None
        sample = TraceSample(
            position=self._position,
            clip=clip,
            frame=frame,
            caption=caption if self._caption is None else self._caption,
            image=np.ascontiguousarray(to_square(picture, config.image_size).transpose(2, 0, 1)),
            depth=depth,
            current=rows["current"],
            history=rows["history"],
            valid_history=valid_history,
            history_present=history_present,
            target=np.zeros((len(chosen), config.target_points, 3), np.float32),
            target_valid=np.zeros((len(chosen), config.target_points), bool),
            future=rows["future"],
            valid_future=rows["valid_future"] > 0,
            entity=rows["entity"],
            moving=rows["moving"] > 0,
            noise=np.zeros((len(chosen), config.target_points, 3), np.float32),
            tau=1.0,
        )
        self._position += 1
        return Scene(sample, picture)

    def _depth(self, millimetres: np.ndarray | None) -> np.ndarray | None:
        self._report.count("samples without depth (predicted without it)", int(millimetres is None))
        if millimetres is None:
            return None
        square = depth_to_square(millimetres, self._config.image_size)
        return np.ascontiguousarray(color_millimetres(square, self._statistics.depth_log_range).transpose(2, 0, 1))

    def _fit_parameters(self) -> FitBsplineParameters:
        config, statistics = self._config, self._statistics
        has_stride = not statistics.retargeted and statistics.stride_seconds > 0
        return FitBsplineParameters(
            history=config.history,
            horizon=config.horizon,
            stride_seconds=statistics.stride_seconds if has_stride else None,
            retarget=statistics.retargeted,
            control_points=config.control_points,
            basis=config.basis,
            min_valid=1,  # nothing is fitted: one step to compare with is enough
        )

    def _check_steps(self, path: str, history: int, horizon: int) -> None:
        for what, there, wanted in (("horizon", horizon, self._config.horizon), ("history", history, self._config.history)):
            if there != wanted:
                raise BadDataError(
                    f"{what} is {there} steps in {path}, but {wanted} in the network",
                    hint=f"`tracekit fit-bspline --{what} {wanted}` makes a corpus for this network",
                )

    def _compare(self, where: str, stride_seconds: float, retargeted: bool, metric: bool) -> None:
        """Say where data differ from what the network learned from, though it can be asked about them."""
        learned = self._statistics
        if retargeted != learned.retargeted:
            kinds = {True: "lengths of path", False: "equal times"}
            self._report.note(f"steps are {kinds[retargeted]} in {where}, but {kinds[learned.retargeted]} in what the network learned from")
        elif not is_same_stride(stride_seconds, learned.stride_seconds):
            self._report.note(
                f"a step is {stride_seconds:.4g} s in {where}, but {learned.stride_seconds:.4g} s in what the network learned from"
            )
        if metric != learned.metric:
            kinds = {True: "metres", False: "relative"}
            self._report.note(f"z is {kinds[metric]} in {where}, but {kinds[learned.metric]} in what the network learned from")


def captions_of_other_tasks(reader: CorpusReader, seed: int) -> list[str]:
    """For every clip the most general caption of another clip, one that says something else: to see whether a network listens.

    Which one follows from the seed and the clip's name. Raises BadDataError when all clips say the same.
    """
    head = reader.head
    own = [most_general(*reader.captions(place)) if place is not None else "" for place in _first_samples(head)]
    texts = sorted(set(own) - {""})
    if len(texts) < 2:
        raise BadDataError(f"captions cannot be swapped: all clips of {head.path} have the same or none")
    return [_pick([other for other in texts if other != text], f"{seed}/{name}") for text, name in zip(own, head.clip_name, strict=True)]


def _first_samples(head: CorpusHead) -> list[int | None]:
    """The first sample of every clip; None where it has none."""
    first: list[int | None] = [None] * len(head.clip_name)
    for place in range(head.num_samples - 1, -1, -1):
        first[head.sample_clip[place]] = place
    return first


def _pick(texts: Sequence[str], key: str) -> str:
    return texts[int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % len(texts)]


def _caption(samples: Corpus, place: int) -> str:
    link = samples.sample_caption[samples.sample_caption_offset[place] : samples.sample_caption_offset[place + 1]]
    return most_general([samples.caption_text[i] for i in link], samples.caption_level[link])
