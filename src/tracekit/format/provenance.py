"""Who wrote what from what: one entry a command, appended to the file that it writes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from dataclasses import dataclass, field
from typing import Any

import h5py

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
        try:
            values = {f.name: attributes[f.name] for f in dataclasses.fields(Step) if f.name in attributes or f.name not in _SINCE_THEN}
            decoded = {key: json.loads(value) if key in _JSON_FIELDS else value for key, value in values.items()}
            steps.append(Step(**{**decoded, "seed": int(decoded["seed"])}))
        except (KeyError, ValueError, TypeError) as error:
            raise BadDataError(f"provenance/{name} is damaged: {error}") from None
    return steps


_SINCE_THEN = {"code_sha256"}
"""What files of older versions lack."""
_JSON_FIELDS = {"argv", "parameters", "inputs", "counts", "notes"}


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        raise ConfigurationError(f"SOURCE_DATE_EPOCH is {epoch!r}", hint="seconds since 1970 are expected")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
