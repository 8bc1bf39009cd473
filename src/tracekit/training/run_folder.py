"""The folder of a training run: checkpoints/step-NNNNNNNN/, last.json, best.json, run.json, log.jsonl."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tracekit.errors import BadDataError, CannotCreateError, MissingInputError, ResumableError
from tracekit.format.atomic import check_can_create, new_file, sweep
from tracekit.format.atomic_folder import remove_folder, sweep_folders
from tracekit.format.json_file import read_json_object

_STEP = re.compile(r"step-(\d{8,})")
_LAST, _BEST, _RUN, LOG, _LOCK = "last.json", "best.json", "run.json", "log.jsonl", ".lock"


class RunFolder:
    """What is where. Nothing is read or made before a method is called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.log = path / LOG
        self._lock: int | None = None
        self._is_ours = False  # made by this process, and nobody's run before

    def create(self) -> None:
        """Make the folder, or take what is there, hold it until `release`, and clear what killed processes left.

        Raises CannotCreateError when it cannot be written to, or is another kind of folder; ResumableError while another process holds it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CannotCreateError(f"{self.path} is a file", hint="-o names the folder of a run")
        if self.path.is_dir() and not self.is_run and any(self.path.iterdir()):
            raise CannotCreateError(f"{self.path} holds other things than a run", hint="name an empty or a new folder")
        is_new = not self.path.exists()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotCreateError(f"cannot create the folder {self.path}: {error.strerror}") from None
        check_can_create(self.path / _LAST, force=True)
        self._hold()
        self._is_ours = is_new
        sweep(self.path)
        sweep_folders(self.checkpoints)

    def release(self) -> None:
        """Let another process train here. A folder that was made for a training that never began goes again."""
        if self._is_ours and not (self.path / _RUN).exists():
            self._remove_if_empty()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # something is in it
            self.checkpoints.rmdir()
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def _hold(self) -> None:
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # A lock of the process, not of the descriptor: those that read samples do not keep it when this one is killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.release()
            raise ResumableError(f"another process is training in {self.path}", hint="wait until it ends, or name another -o") from None
        except OSError:
            pass  # a file system without locks

    @property
    def is_run(self) -> bool:
        return self.checkpoints.is_dir()

    def clear(self) -> None:
        """Start anew: what an earlier run left goes."""
        for folder in self.steps().values():
            remove_folder(folder)
        for name in (_LAST, _BEST, _RUN, LOG):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)

    def steps(self) -> dict[int, Path]:
        """Checkpoints by step, oldest first. A checkpoint that has its name is complete."""
        if not self.is_run:
            return {}
        found = [(match, path) for path in self.checkpoints.iterdir() if (match := _STEP.fullmatch(path.name)) and path.is_dir()]
        return dict(sorted((int(match[1]), path) for match, path in found))

    def step_folder(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def last(self) -> Path | None:
        """The newest checkpoint. Names decide, not last.json: a kill may have come between the two."""
        return next(reversed(self.steps().values()), None)

    def best(self) -> Path | None:
        """The checkpoint with the best validation, where there was any."""
        content = read_json_object(self.path / _BEST) if (self.path / _BEST).is_file() else None
        if content is None:
            return None
        try:
            path = self.step_folder(int(content["step"]))
        except (TypeError, KeyError, ValueError):
            raise BadDataError(f"{self.path / _BEST} names no step") from None
        return path if path.is_dir() else None

    def point(self, scores: dict[int, float], metric: str) -> None:
        """Say which checkpoints are the newest and the best. `scores` (less is better) are of checkpoints that are there."""
        last = self.last()
        assert last is not None
        self._write_json(_LAST, {"step": int(last.name.removeprefix("step-")), "checkpoint": _relative(last, self.path)})
        if scores:
            step = min(scores, key=lambda step: (scores[step], step))
            content = {"step": step, "checkpoint": _relative(self.step_folder(step), self.path), "metric": metric, "value": scores[step]}
            self._write_json(_BEST, content)

    def prune(self, scores: dict[int, float], keep_last: int, keep_best: int) -> None:
        """Remove checkpoints that are neither among the newest nor among the best."""
        steps = self.steps()
        kept = {*sorted(scores, key=lambda step: (scores[step], step))[:keep_best], *list(steps)[-keep_last:]}
        for step in set(steps) - kept:
            remove_folder(steps[step])

    def remembered(self) -> dict[str, Any] | None:
        """The configuration that the run was started with; None when there is none."""
        path = self.path / _RUN
        return read_json_object(path) if path.is_file() else None

    def remember(self, configuration: dict[str, Any]) -> None:
        self._write_json(_RUN, configuration)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        with new_file(self.path / name, force=True) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's folder, given itself or the folder of its run: then the best, or the newest where nothing was validated.

    Raises MissingInputError when there is none.
    """
    if not path.is_dir():
        raise MissingInputError(
            f"{path} does not exist" if not path.exists() else f"{path} is no folder", hint="name a run or a checkpoint"
        )
    if (path / "manifest.json").is_file():
        return path
    run = RunFolder(path)
    found = (run.best() or run.last()) if run.is_run else None
    if found is None:
        raise MissingInputError(
            f"there is no checkpoint in {path}", hint="tracekit pretrain makes those of world models, tracekit finetune those of policies"
        )
    return found


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)
