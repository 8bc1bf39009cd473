"""What the frozen μ0 sees in the frames of demonstrations, kept on disk: it is the same in every epoch and for every expert.

    DIR/sources.json                     SHA-256 of source files, so that each is read only once for it
    DIR/<digest>/about.json              of one source file, seen by one world model: sentences, numbers of frames and tokens
    DIR/<digest>/words.npy               (sentences, l, W) embeddings of their words
    DIR/<digest>/vlm.npy                 (frames, picture tokens + l, W), 0 after the end of a sentence
    DIR/<digest>/trace-*.npy             (frames, G, E), by the points that are asked about; trace-*-present.npy (frames, G)
    DIR/<digest>/gripper-*.npy           (frames, pool, pool, C) patch features, averaged as the expert would do

All numbers are float16. An array that is there is whole: it grows under another name, block by block, and a build that was killed goes on
after the last block. Which folder it is follows from the contents of the source file, not from its name: SHA-256 of all of it, since files
of uncompressed pictures may differ in nothing else.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tracekit.action.batch import ActionBatch, Features
from tracekit.action.config import ActionConfig
from tracekit.action.demo_index import DemoIndex
from tracekit.action.frozen import FrozenMu0
from tracekit.errors import BadDataError, CannotCreateError, MissingInputError, ResumableError, StorageError
from tracekit.format.atomic import is_storage_failure, new_file, storage_error
from tracekit.format.json_file import read_json_object
from tracekit.mu0.model import Mu0
from tracekit.mu0.text import Tokenizer
from tracekit.pictures import to_square
from tracekit.report import Report

# Part of every digest: another number when μ0 or what is stored of it changes.
_VERSION = 1
_FRAMES_PER_BLOCK = 256
_BATCH = 32
_SECONDS_BETWEEN_LOOKS = 0.2
_ABOUT, _SOURCES, _PROGRESS, _WORDS, _VLM, _LOCK = "about.json", "sources.json", "progress.json", "words", "vlm", ".lock"


@dataclass(frozen=True)
class FrameFeatures:
    """Of one frame; letters as in `tracekit.action.batch`. All float16."""

    num_picture_tokens: int
    vlm: np.ndarray
    """(L, W): picture tokens, then those of the sentence, without padding."""
    words: np.ndarray
    """(l, W)."""
    trace: np.ndarray | None
    """(G, E)."""
    trace_present: np.ndarray | None
    """(G,) bool."""
    gripper: np.ndarray | None
    """(h, w, C)."""


class FeatureCache:
    """Features of all frames of an index, memory-mapped in the process that reads; may be pickled."""

    def __init__(self, parts: list[_Part]) -> None:
        """Raises BadDataError when a part is damaged."""
        for part in parts:
            part.check()
        self._parts = parts
        self._first = np.cumsum([0, *(part.about.num_frames for part in parts)]).tolist()

    def __len__(self) -> int:
        return self._first[-1]

    def frame(self, number: int) -> FrameFeatures:
        """Of the frame of that number in the index."""
        part = bisect.bisect_right(self._first, number) - 1
        return self._parts[part].frame(number - self._first[part])


def world_digest(model: Mu0) -> str:
    """SHA-256 of all weights as they are in memory, and of the configuration. Reads all of them: seconds for gigabytes."""
    digest = hashlib.sha256(json.dumps(model.config.to_json(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_cache(folder: Path, index: DemoIndex, config: ActionConfig, digest: str, tokenizer: Tokenizer) -> FeatureCache | None:
    """The features of all frames of an index, or None when some are missing. No world model is needed for that.

    `digest` is the `world_digest` of the world model. Raises BadDataError for a cache that is damaged.
    """
    parts = [_Part(folder, index, number, config, digest, tokenizer) for number in range(len(index.files))]
    return FeatureCache(parts) if all(part.is_complete() for part in parts) else None


def build_cache(
    folder: Path,
    index: DemoIndex,
    config: ActionConfig,
    frozen: FrozenMu0,
    tokenizer: Tokenizer,
    *,
    digest: str = "",
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FeatureCache:
    """The features of all frames of an index; those that are missing are computed first.

    Processes that want the same features at the same time wait for the first of them. `should_stop` is asked after every block.
    Raises StorageError when there is not enough space or the disk fails, ResumableError when stopped: what is done is kept.
    """
    report = report or Report()
    digest = digest or world_digest(frozen.model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreateError(f"the folder {folder} for features cannot be made: {error.strerror}") from None
    parts = [_Part(folder, index, number, config, digest, tokenizer) for number in range(len(index.files))]
    missing = [part for part in parts if not part.is_complete()]
    frames = sum(part.about.num_frames for part in missing)
    done = 0
    for part in missing:
        with part.locked(report, should_stop):
            if not part.is_complete():  # else the process that held the lock has just made it
                _Build(part, index, frozen, report, should_stop, done, frames).run()
        done += part.about.num_frames
    report.count("frames whose features were cached already", len(index) - frames)
    report.count("frames whose features were computed", frames)
    return FeatureCache(parts)


@dataclass(frozen=True)
class _About:
    """What is known of the features of a file before any is computed."""

    num_frames: int
    sentence_of_demo: list[int]
    """Number of each demonstration's sentence."""
    first_frame: list[int]
    """(demonstrations + 1,)."""
    text: np.ndarray
    """(sentences, l) int64 token ids."""
    text_present: np.ndarray
    """(sentences, l) bool."""


class _Part:
    """The features of one source file."""

    def __init__(self, folder: Path, index: DemoIndex, number: int, config: ActionConfig, digest: str, tokenizer: Tokenizer) -> None:
        self.number = number
        self.config = config
        heads = [(place, head) for place, (file, head) in enumerate(index.demos) if file == number]
        sentences = [index.language[place] for place, _ in heads]
        distinct = list(dict.fromkeys(sentences))
        text, present = tokenizer(distinct)
        lengths = [head.num_samples for _, head in heads]
        first = np.cumsum([0, *lengths]).tolist()
        self.about = _About(first[-1], [distinct.index(sentence) for sentence in sentences], first, text, present)
        source = _source_digest(folder, Path(index.files[number].path))
        identity = [_VERSION, digest, source, index.layout.agentview, lengths, self.about.sentence_of_demo, text.tolist(), present.tolist()]
        self.folder = folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        trace = f"trace-grid{config.grid}-" + (f"pool{config.grid_pool}" if config.queries == "grid" else f"entities{config.max_entities}")
        camera = hashlib.sha256(index.layout.gripper.encode()).hexdigest()[:8]
        self.trace = trace if config.use_trace else ""
        self.gripper = f"gripper-{camera}-pool{config.gripper_pool}" if config.gripper_features == "dinov2" else ""
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays with a row for every frame."""
        return [_VLM, *([self.trace, f"{self.trace}-present"] if self.trace else []), *([self.gripper] if self.gripper else [])]

    def missing(self) -> list[str]:
        return [name for name in self.arrays if not self.path(name).is_file()]

    def is_complete(self) -> bool:
        return not self.missing() and self.path(_WORDS).is_file()

    def check(self) -> None:
        """Raise BadDataError unless every array has the rows and numbers that it should have. Reads headers only."""
        for name in (_WORDS, *self.arrays):
            self._array(name)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def frame(self, row: int) -> FrameFeatures:
        sentence = self.about.sentence_of_demo[bisect.bisect_right(self.about.first_frame, row) - 1]
        num_words = int(self.about.text_present[sentence].sum())
        vlm = self._array(_VLM)[row]
        num_picture_tokens = len(vlm) - self.about.text.shape[1]
        return FrameFeatures(
            num_picture_tokens=num_picture_tokens,
            vlm=vlm[: num_picture_tokens + num_words],
            words=self._array(_WORDS)[sentence, :num_words],
            trace=self._array(self.trace)[row] if self.trace else None,
            trace_present=self._array(f"{self.trace}-present")[row] if self.trace else None,
            gripper=self._array(self.gripper)[row] if self.gripper else None,
        )

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            path = self.path(name)
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError, SyntaxError) as error:
                raise BadDataError(f"{path} is damaged: {str(error).splitlines()[0]}", hint=_REMOVE.format(self.folder)) from None
            rows = len(self.about.text) if name == _WORDS else self.about.num_frames
            kind = np.bool_ if name.endswith("-present") else np.float16
            if len(array) != rows or array.dtype != kind:
                raise BadDataError(f"{path} holds {len(array)} rows of {array.dtype}, not {rows}", hint=_REMOVE.format(self.folder))
            self._arrays[name] = array
        return self._arrays[name]

    @contextlib.contextmanager
    def locked(self, report: Report, should_stop: Callable[[], bool]) -> Iterator[None]:
        """The only process that writes here, for as long as the block runs. The lock ends with the process."""
        try:
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CannotCreateError(f"features cannot be written to {self.folder}: {error.strerror}") from None
        try:
            self._wait_for_lock(descriptor, report, should_stop)
            yield
        except OSError as error:
            if is_storage_failure(error):
                raise storage_error(error, f"the folder {self.folder}") from error
            raise
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int, report: Report, should_stop: Callable[[], bool]) -> None:
        waits = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise CannotCreateError(
                    f"{self.folder} cannot be locked: {error.strerror}", hint="name a folder for features on a disk of this machine"
                ) from None
            if not waits:
                report.note(f"another process computes the features in {self.folder}: waiting for it")
                waits = True
            if should_stop():
                raise ResumableError(f"stopped while another process computed the features in {self.folder}")
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}


_REMOVE = "remove the folder {}: its features are computed again"


class _Build:
    """Computes what is missing of a part, block by block."""

    def __init__(
        self,
        part: _Part,
        index: DemoIndex,
        frozen: FrozenMu0,
        report: Report,
        should_stop: Callable[[], bool],
        frames_before: int,
        all_frames: int,
    ) -> None:
        self._part, self._index, self._frozen, self._report, self._should_stop = part, index, frozen, report, should_stop
        self._frames_before, self._all_frames = frames_before, all_frames
        self._names = part.missing()

    def run(self) -> None:
        """Leaves whole arrays, or those of whole blocks."""
        part = self._part
        self._write_about()
        total = part.about.num_frames
        done, ends = self._progress()
        with contextlib.ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            while done < total:
                block = self._block(done, min(done + _FRAMES_PER_BLOCK, total))
                if not files:
                    self._check_space(block, total - done)
                    files = {name: stack.enter_context(self._opened(name, block[name], ends.get(name, 0))) for name in self._names}
                for name, file in files.items():
                    file.write(block[name].tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                done = min(done + _FRAMES_PER_BLOCK, total)
                ends = {name: file.tell() for name, file in files.items()}
                _write_json(part.folder / _PROGRESS, {"frames": done, "ends": ends})
                self._report.progress(self._frames_before + done, self._all_frames)
                if done < total and self._should_stop():
                    raise ResumableError(
                        f"stopped after the features of {self._frames_before + done} of {self._all_frames} frames",
                        hint="the same command goes on from here",
                    )
        for name in self._names:
            os.replace(self._growing(name), part.path(name))
        (part.folder / _PROGRESS).unlink(missing_ok=True)

    def _write_about(self) -> None:
        about, part = self._part.about, self._part
        _write_json(
            part.folder / _ABOUT,
            {
                "format": "tracekit/features",
                "format_version": _VERSION,
                "source": self._index.files[part.number].path,
                "frames": about.num_frames,
                "words": about.text_present.sum(axis=1).tolist(),
            },
        )
        with torch.no_grad():
            ids = torch.from_numpy(about.text).to(self._frozen.device)
            words = _half(self._frozen.model.vlm.text.embed_tokens(ids), "the embeddings of words")
        with new_file(part.path(_WORDS), force=True) as temporary, open(temporary, "wb") as file:
            np.save(file, words * about.text_present[..., None].astype(np.float16), allow_pickle=False)

    def _progress(self) -> tuple[int, dict[str, int]]:
        """Frames that are done, and where each array ends after them; (0, {}) when there is nothing to go on with."""
        try:
            content = read_json_object(self._part.folder / _PROGRESS)
        except (MissingInputError, BadDataError):
            return 0, {}
        done, ends = content.get("frames"), content.get("ends")
        if type(done) is not int or not 0 < done <= self._part.about.num_frames or not isinstance(ends, dict) or list(ends) != self._names:
            return 0, {}
        for name, end in ends.items():
            path = self._growing(name)
            if type(end) is not int or not path.is_file() or path.stat().st_size < end:
                return 0, {}
        return done, ends

    def _growing(self, name: str) -> Path:
        return self._part.folder / f"{name}.npy.growing"

    def _opened(self, name: str, block: np.ndarray, end: int) -> BinaryIO:
        """The file of an array, cut after `end` bytes, or new."""
        path = self._growing(name)
        if end:
            file: BinaryIO = path.open("r+b")
            file.truncate(end)
            file.seek(end)
            return file
        file = path.open("wb")
        shape = (self._part.about.num_frames, *block.shape[1:])
        description = {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, description)
        return file

    def _check_space(self, block: dict[str, np.ndarray], frames: int) -> None:
        """Say what it takes, and stop before the disk is full of it."""
        of_frame = sum(values[0].nbytes for values in block.values())
        total = of_frame * max(frames, self._all_frames - self._frames_before)
        free = shutil.disk_usage(self._part.folder).free
        self._report.note(
            f"features take {of_frame / 1e3:.0f} kB a frame, {total / 1e9:.1f} GB in {self._part.folder.parent}; {free / 1e9:.1f} GB are free"
        )
        if total > free:
            raise StorageError(
                f"features need {total / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {self._part.folder.parent}",
                hint="name a folder on a larger disk, or train without a cache",
            )

    def _block(self, start: int, stop: int) -> dict[str, np.ndarray]:
        batches = [self._features(range(first, min(first + _BATCH, stop))) for first in range(start, stop, _BATCH)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self._names}

    def _features(self, rows: range) -> dict[str, np.ndarray]:
        part, about = self._part, self._part.about
        batch = self._batch(rows)
        features = self._frozen.complete(batch)
        where = f"the features of frames {rows.start} to {rows.stop - 1} of {self._index.files[part.number].path}"
        present = features.vlm_present.cpu().numpy()
        result = {_VLM: _half(features.vlm, where) * present[..., None].astype(np.float16)}
        assert result[_VLM].shape[1] > about.text.shape[1]
        if part.trace:
            assert features.trace is not None and features.trace_present is not None
            result[part.trace] = _half(features.trace, where)
            result[f"{part.trace}-present"] = features.trace_present.cpu().numpy()
        if part.gripper:
            result[part.gripper] = _half(_pooled_gripper(features, part.config.gripper_pool), where)
        return result

    def _batch(self, rows: range) -> ActionBatch:
        part, about = self._part, self._part.about
        size = self._frozen.model.config.image_size
        file = self._index.files[part.number]
        images, grippers, sentences = [], [], []
        for row in rows:
            demo = bisect.bisect_right(about.first_frame, row) - 1
            key, step = file.demos[demo].key, row - about.first_frame[demo]
            images.append(to_square(file.agentview(key, step), size))
            if part.gripper:
                grippers.append(to_square(file.gripper(key, step), size))
            sentences.append(about.sentence_of_demo[demo])
        nothing = torch.zeros(len(rows), 0)
        return ActionBatch(
            position=torch.tensor(rows),
            image=_channels_first(images),
            gripper=_channels_first(grippers) if grippers else None,
            text=torch.from_numpy(about.text[sentences]),
            text_present=torch.from_numpy(about.text_present[sentences]),
            state=nothing,
            actions=nothing,
            action_valid=nothing,
            noise=nothing,
            tau=nothing,
        ).to(self._frozen.device)


def _channels_first(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _pooled_gripper(features: Features, pool: int) -> Tensor:
    """(B, pool, pool, C): the mean that the expert takes first; it takes it once more, of one value each."""
    assert features.gripper is not None
    return F.adaptive_avg_pool2d(features.gripper.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)


def _half(values: Tensor, what: str) -> np.ndarray:
    half = values.detach().to(torch.float16).cpu().numpy()
    if not np.isfinite(half).all():
        raise BadDataError(f"{what} hold numbers that float16 cannot", hint="train without a cache of features")
    return half


def _source_digest(folder: Path, path: Path) -> str:
    """SHA-256 of a source file. It is remembered in the folder, by path, size and time of change."""
    status = path.stat()
    memory = folder / _SOURCES
    try:
        known = read_json_object(memory)
    except (MissingInputError, BadDataError):  # it only saves time
        known = {}
    name, stamp = os.path.abspath(path), [status.st_size, status.st_mtime_ns]
    entry = known.get(name)
    if isinstance(entry, dict) and entry.get("stamp") == stamp and isinstance(entry.get("sha256"), str):
        return entry["sha256"]
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if folder.is_dir():
        _write_json(memory, {**known, name: {"stamp": stamp, "sha256": sha256}})
    return sha256


def _write_json(path: Path, content: Any) -> None:
    with new_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
