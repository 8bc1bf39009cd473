"""What a long run has finished so far, beside its output: after a kill at any moment the same command goes on from there.

For an output NAME the folder .NAME.progress holds `key.json`, which says what is being computed from what, and one file for every answer
of the network, NUMBER.npz. An answer appears whole or not at all, and the folder goes once the output is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError, ResumableError, StorageError
from tracekit.format.json_file import read_json_object
from tracekit.written_behind import WrittenBehind

_KEY = "key.json"
_DIGEST = "of_inputs"
_OUT_OF_MEMORY = "out_of_memory"
_OURS = re.compile(r"(\d{6,}\.npz|key\.json)(\.part)?")
_MOST_KEY_BYTES = 1 << 20
_LONGEST_NAME = 180
"""Bytes of the output's name that the folder's holds; file systems take 255."""
_SPACE_LEFT = 4
"""So many times its own size an answer must leave free on the disk: what is written of it to the output is smaller than the answer."""


class Journal:
    """Use it in a `with` block around the writing of the output. It does nothing before `open`.

    Nothing that goes wrong with the journal ends the run: it is given up, and `say` tells the user.
    """

    def __init__(self, output: Path, say: Callable[[str], None]) -> None:
        self.folder = output.parent / f".{_short(output.name)}.progress"
        self._output, self._was_there = output, True
        self._say = say
        self._lock: int | None = None
        self._last: Path | None = None
        self._refused: list[tuple[int, str]] = []
        self._behind = WrittenBehind(self._save_all)

    def open(self, key: Mapping[str, Any]) -> None:
        """Go on with what is in the folder if that was computed by the same `key` (values for JSON), else begin anew."""
        text = json.dumps(key, sort_keys=True)
        try:
            self._was_there = self._output.exists()
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if not _locked(self._lock):
                self._release()
                self._say(f"another process keeps its progress in {self.folder}: that of this one is not kept")
                return
            if self._is_of(json.loads(text)):
                if num_kept := len(list(self.folder.glob("*.npz"))):
                    self._say(f"goes on from an earlier run: {num_kept} answers of the network were kept in {self.folder}")
                return
            if self._clear():
                self._say(f"the progress in {self.folder} was made with other parameters or from another source, and is discarded")
            self._write(self.folder / _KEY, lambda path: path.write_text(text, "utf-8"))
        except OSError as error:
            self._give_up(error)

    def read(self, number: int, digest: str) -> dict[str, np.ndarray] | None:
        """The answer of call `number` when it was kept for inputs with this digest. Raises MemoryError where that call ran out of memory."""
        if self._lock is None:
            return None
        self._last = self._path(number)
        try:
            with np.load(self._last, allow_pickle=False) as kept:
                if any(member.compress_type != zipfile.ZIP_STORED for member in kept.zip.infolist()):
                    return None  # not written by us; a small file could unpack to more than there is memory
                if str(kept[_DIGEST]) != digest:
                    return None
                answer = {name: kept[name] for name in kept.files if name != _DIGEST}
        except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError):
            return None  # there is none, or it is damaged: it is computed anew
        if _OUT_OF_MEMORY in answer:
            raise MemoryError("so it was in the run that this one goes on from")
        return answer

    def keep(self, number: int, digest: str, answer: Mapping[str, np.ndarray]) -> None:
        """Keep the answer of call `number`. It is written while the next one is computed: nobody may write into its arrays any more."""
        if self._lock is None or any(array.dtype.hasobject for array in answer.values()):
            return
        no_memory = {_OUT_OF_MEMORY: np.ones(1, bool)}
        self._behind([*((*refused, no_memory) for refused in self._refused), (number, digest, answer)])
        self._refused = []

    def refuse(self, number: int, digest: str) -> None:
        """Call `number` ran out of memory. That is kept only with the next answer: a run that fails for it is tried in full again."""
        self._refused.append((number, digest))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._behind:
            self._behind.wait()
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            if (
                kind is not None
                and issubclass(kind, Exception)
                and not issubclass(kind, (OSError, StorageError, ResumableError))
                and self._last is not None
            ):
                self._last.unlink(missing_ok=True)  # it may be this answer that the stage cannot accept
            made_by_another = not self._was_there and self._output.exists()
            if kind is None or made_by_another or not any(self.folder.glob("*.npz")):
                self._clear()
                self.folder.rmdir()
        self._release()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def _is_of(self, key: Any) -> bool:
        with contextlib.suppress(BadDataError):
            return (self.folder / _KEY).exists() and read_json_object(self.folder / _KEY, most_bytes=_MOST_KEY_BYTES) == key
        return False

    def _save_all(self, answers: list[tuple[int, str, Mapping[str, np.ndarray]]]) -> None:
        try:
            for answer in answers:
                if self._lock is not None:
                    self._save(*answer)
        except OSError as error:
            self._give_up(error)

    def _save(self, number: int, digest: str, answer: Mapping[str, np.ndarray]) -> None:
        num_bytes = sum(array.nbytes for array in answer.values())
        if shutil.disk_usage(self.folder).free < _SPACE_LEFT * num_bytes:
            raise OSError(0, "the disk is nearly full")
        self._write(self._path(number), lambda path: _savez(path, {_DIGEST: np.array(digest), **answer}))

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        part = path.with_suffix(path.suffix + ".part")
        write(part)
        os.replace(part, path)

    def _clear(self) -> bool:
        """Remove what is ours, and say whether there was anything."""
        found = [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name)]
        for path in found:
            path.unlink(missing_ok=True)
        return bool(found)

    def _give_up(self, error: OSError) -> None:
        """The output needs the space more."""
        if self._lock is not None:  # else the folder is none of ours
            with contextlib.suppress(OSError):
                self._clear()
                self.folder.rmdir()
        self._release()
        self._say(
            f"the progress of this run is no longer kept in {self.folder}: {error.strerror or error}; a run that is killed begins anew"
        )

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None


def _short(name: str) -> str:
    """A file name that leaves room for more, and is that of no other file."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    return encoded[: _LONGEST_NAME - 17].decode("utf-8", "ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:16]


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _savez(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
