"""The log of a run: a line of JSON for each step and each validation, and what TensorBoard or Weights & Biases make of it."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracekit.errors import UnavailableError
from tracekit.format.atomic import is_storage_failure, new_file, storage_error
from tracekit.training.recipe import EngineParameters
from tracekit.training.run_folder import RunFolder


class RunLog:
    """Appends to RUN/log.jsonl. Lines of steps after `done` are of a start that was killed, and go: their steps will be done again."""

    def __init__(self, run: RunFolder, engine: EngineParameters, done: int, configuration: dict[str, Any]) -> None:
        check_log_packages(engine)
        if run.log.exists():
            _forget_after(run.log, done)
        self._path = run.log
        self._file = run.log.open("a", encoding="utf-8")
        self._tensorboard = _tensorboard(run.path / "tensorboard", done) if engine.tensorboard else None
        self._wandb = _wandb(engine.wandb, run.path, configuration) if engine.wandb else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """`values` are numbers, or mappings of them. Numbers that are not finite are written as null."""
        line = json.dumps({"step": step, **_finite(values)}, ensure_ascii=False, allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            if is_storage_failure(error):
                raise storage_error(error, f"the folder {self._path.parent}") from error
            raise
        flat = {name: value for name, value in flatten(values).items() if isinstance(value, (int, float))}
        if self._tensorboard is not None:
            for name, value in flat.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def sync(self) -> None:
        """To the disk: no checkpoint is newer than the log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # what is left in the buffer of a full disk was reported when it was written
            if not is_storage_failure(error):
                raise
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def check_log_packages(engine: EngineParameters) -> None:
    """Raise UnavailableError for a package that was asked for and is not there."""
    for flag, package, is_wanted in (("--tensorboard", "tensorboard", engine.tensorboard), ("--wandb", "wandb", bool(engine.wandb))):
        if is_wanted and importlib.util.find_spec(package) is None:
            raise UnavailableError(f"{flag} needs the package {package}, which is not installed", hint=f"pip install {package}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by slashes."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{name}/")
        else:
            result[prefix + name] = value
    return result


def _forget_after(path: Path, done: int) -> None:
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] > done:
                continue
        except (ValueError, KeyError, TypeError):  # cut by a kill
            continue
        kept.append(line)
    with new_file(path, force=True) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), "utf-8")


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: one(value) for name, value in values.items()}


def _tensorboard(folder: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=done + 1)


def _wandb(project: str, folder: Path, configuration: dict[str, Any]) -> Any:
    import wandb

    return wandb.init(project=project, dir=folder, name=folder.name, id=folder.name, resume="allow", config=configuration)
