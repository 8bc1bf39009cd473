"""The cached features of one file of demonstrations, as seen by one world model: where they are, and reading them.

Which folder it is follows from the contents of the file, not from its name: SHA-256 of all of it, since files of uncompressed pictures may
differ in nothing else. The digest is remembered by path, size and time of change, so that a file is read only once for it.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.action.config import ActionConfig
from tracekit.action.demo_index import DemoIndex
from tracekit.errors import BadDataError, CannotCreateError, MissingInputError, ResumableError
from tracekit.format.atomic import is_storage_failure, new_file, storage_error
from tracekit.format.json_file import read_json_object
from tracekit.mu0.text import Tokenizer
from tracekit.report import Report

VERSION = 1
"""Part of every digest: another number when μ0 or what is stored of it changes."""
WORDS, VLM = "words", "vlm"
_SOURCES, _LOCK = "sources.json", ".lock"
_SECONDS_BETWEEN_LOOKS = 0.2


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


@dataclass(frozen=True)
class SourceFacts:
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


class FeaturePart:
    """The features of one source file."""

    def __init__(self, folder: Path, index: DemoIndex, number: int, config: ActionConfig, digest: str, tokenizer: Tokenizer) -> None:
        self.number = number
        self.config = config
        heads = [(place, head) for place, (file, head) in enumerate(index.demos) if file == number]
        sentences = [index.language[place] for place, _ in heads]
        numbers = {sentence: place for place, sentence in enumerate(dict.fromkeys(sentences))}
        text, present = tokenizer(list(numbers))
        lengths = [head.num_samples for _, head in heads]
        first = np.cumsum([0, *lengths]).tolist()
        self.about = SourceFacts(first[-1], [numbers[sentence] for sentence in sentences], first, text, present)
        source = _source_digest(folder, Path(index.files[number].path))
        identity = [VERSION, digest, source, index.layout.agentview, lengths, self.about.sentence_of_demo, text.tolist(), present.tolist()]
        self.folder = folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        trace = f"trace-grid{config.grid}-" + (f"pool{config.grid_pool}" if config.queries == "grid" else f"entities{config.max_entities}")
        camera = hashlib.sha256(index.layout.gripper.encode()).hexdigest()[:8]
        self.trace = trace if config.use_trace else ""
        self.gripper = f"gripper-{camera}-pool{config.gripper_pool}" if config.gripper_features == "dinov2" else ""
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays with a row for every frame."""
        return [VLM, *([self.trace, f"{self.trace}-present"] if self.trace else []), *([self.gripper] if self.gripper else [])]

    def missing(self) -> list[str]:
        return [name for name in self.arrays if not self.path(name).is_file()]

    def is_complete(self) -> bool:
        return not self.missing() and self.path(WORDS).is_file()

    def check(self) -> None:
        """Raise BadDataError unless every array has the rows and numbers that it should have. Reads headers only."""
        for name in (WORDS, *self.arrays):
            self._array(name)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def frame(self, row: int) -> FrameFeatures:
        sentence = self.about.sentence_of_demo[bisect.bisect_right(self.about.first_frame, row) - 1]
        num_words = int(self.about.text_present[sentence].sum())
        vlm = self._array(VLM)[row]
        num_picture_tokens = len(vlm) - self.about.text.shape[1]
        return FrameFeatures(
            num_picture_tokens=num_picture_tokens,
            vlm=vlm[: num_picture_tokens + num_words],
            words=self._array(WORDS)[sentence, :num_words],
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
            rows = len(self.about.text) if name == WORDS else self.about.num_frames
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
        with contextlib.suppress(CannotCreateError):  # a cache that others have made, where this user may not write
            write_json(memory, {**known, name: {"stamp": stamp, "sha256": sha256}})
    return sha256


def write_json(path: Path, content: Any) -> None:
    with new_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
