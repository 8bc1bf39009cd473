"""Answers of a server on disk, so that what was paid for once is not paid for again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tracekit.errors import BadDataError, CannotCreateError, MissingInputError
from tracekit.format.atomic import check_can_create, new_file
from tracekit.format.json_file import read_json_object

OFF = "none"
_MOST_BYTES = 1 << 20


class AnswerCache:
    """One small file an answer, named by the digest of its question. It holds the answer alone: no question, no picture, no key."""

    def __init__(self, folder: str) -> None:
        """`folder` "" is tracekit/captions in the user's cache; "none" keeps nothing. Raises CannotCreateError where it cannot be written to."""
        self.folder = None if folder == OFF else Path(folder).expanduser() if folder else _default_folder()
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_can_create(self.folder / "probe", force=True)
        except (OSError, CannotCreateError) as error:
            hint = f"give --caption-cache another folder, or `{OFF}`"
            raise CannotCreateError(f"answers cannot be kept in {self.folder}: {error}", hint=hint) from None

    def get(self, question: str) -> str | None:
        """The answer to a question (a digest in hexadecimal), None where there is none, or a damaged one."""
        if self.folder is None:
            return None
        try:
            entry = read_json_object(self._path(question), most_bytes=_MOST_BYTES)
        except (BadDataError, MissingInputError, OSError):
            return None
        answer = entry.get("answer")
        return answer if isinstance(answer, str) and entry.get("sha256") == _digest(answer) else None

    def put(self, question: str, answer: str) -> None:
        """Keep an answer; whatever is there is replaced. StorageError when the disk fails."""
        if self.folder is None:
            return
        path = self._path(question)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with new_file(path, force=True) as temporary:
            temporary.write_text(json.dumps({"answer": answer, "sha256": _digest(answer)}))

    def _path(self, question: str) -> Path:
        assert self.folder is not None
        return self.folder / question[:2] / f"{question}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tracekit" / "captions"
