"""Who wrote what from what: one entry a command, appended to the file that it writes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from tracekit.errors import BadDataError, ConfigurationError


@dataclass(frozen=True)
class Step:
    """One command of the history of a file."""

    command: str
    argv: list[str]
    version: str
    parameters: dict[str, Any]
    inputs: list[str]
    """Ids of what was read: clip ids and digests, never paths of this machine."""
    backend: str = ""
    weights_sha256: str = ""
    seed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """What was dropped or masked, by name."""
    notes: list[str] = field(default_factory=list)
    time: str = ""
    code_sha256: str = ""


MEANING = {
    "command": "subcommand that ran",
    "argv": "its arguments, a JSON list",
    "version": "version of tracekit",
    "parameters": "every parameter in force, defaults included, a JSON object",
    "inputs": "ids of what was read, a JSON list",
    "backend": 'backend that ran, "" when the stage has none',
    "weights_sha256": 'digest of the weights, "" when there are none',
    "seed": "seed of every random choice",
    "counts": "what was dropped or masked, a JSON object of numbers",
    "notes": "what the command told its user, a JSON list",
    "time": "when it finished, UTC (SOURCE_DATE_EPOCH is honoured)",
    "code_sha256": 'digest of the code of a network that lies in a repository of its own, "" when there is none; old files lack it',
}


def append(file: h5py.File, step: Step) -> None:
    """Add `step` as /provenance/<n>."""
    parent = file.require_group("provenance")
    number = max((int(name) for name in parent if name.isdecimal()), default=-1) + 1
    group = parent.create_group(f"{number:04d}")
    for name, value in dataclasses.asdict(dataclasses.replace(step, time=_now())).items():
        group.attrs[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def read(file: h5py.File) -> list[Step]:
    """All steps, oldest first."""
    if "provenance" not in file:
        return []
    if not isinstance(file["provenance"], h5py.Group):
        raise BadDataError("provenance is a dataset, but a group is expected")
    steps = []
    for name in sorted(file["provenance"]):
        attributes = file["provenance"][name].attrs
        values = {f.name: attributes[f.name] for f in dataclasses.fields(Step) if f.name in attributes}
        missing = {f.name for f in dataclasses.fields(Step)} - set(values) - _SINCE_THEN
        if missing:
            raise BadDataError(f"provenance/{name} is damaged: it has no {', '.join(sorted(missing))}")
        steps.append(Step(**{key: _decoded(key, value, name) for key, value in values.items()}))
    return steps


def _decoded(key: str, value: Any, step: str) -> Any:
    """A field of a step from its attribute. Raises BadDataError for one of another kind than `append` writes."""
    if key == "seed":
        if isinstance(value, np.integer):
            return int(value)
    elif isinstance(value, str):
        if key not in _IS_OF_JSON:
            return value
        try:
            content = json.loads(value)
        except (ValueError, RecursionError):
            content = None
        if _IS_OF_JSON[key](content):
            return content
    raise BadDataError(f"provenance/{step} is damaged: {key} is not what is expected there ({MEANING[key]})")


def _is_list_of_text(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(entry, str) for entry in content)


def _is_object_of_numbers(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(number, (int, float)) for number in content.values())


_SINCE_THEN = {"code_sha256"}
"""What files of older versions lack."""
_IS_OF_JSON: dict[str, Callable[[Any], bool]] = {
    "argv": _is_list_of_text,
    "inputs": _is_list_of_text,
    "notes": _is_list_of_text,
    "counts": _is_object_of_numbers,
    "parameters": lambda content: isinstance(content, dict),
}
"""The fields that are JSON in the file, and whether what one holds is of its kind."""


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        raise ConfigurationError(f"SOURCE_DATE_EPOCH is {epoch!r}", hint="seconds since 1970 are expected")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
