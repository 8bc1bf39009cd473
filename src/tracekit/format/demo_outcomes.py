"""How demonstrations went: what a file of robomimic's layout says beside actions and observations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from tracekit.errors import BadDataError
from tracekit.format.container import attribute, member, open_whole, read_dataset


@dataclass(frozen=True)
class Outcome:
    """Of one demonstration of T steps. What the file does not say is None."""

    rewards: np.ndarray | None
    """(T,) float32."""
    dones: np.ndarray | None
    """(T,) bool."""
    success: bool | None
    fps: float | None
    """Steps a second at which it is shown."""


@dataclass(frozen=True)
class Origin:
    """What a file says about where all of its demonstrations come from."""

    env_name: str
    """"" where it does not say."""
    control_freq: float | None
    """Steps a second of the environment."""


def read_origin(path: str | os.PathLike) -> Origin:
    """From `env_args` of robomimic's layout. Raises BadDataError when that is no JSON object."""
    name = os.fspath(path)
    with open_whole(name, name) as file:
        data = member(file, "data", "data", name)
        text = attribute(data, "env_args", "data", name) if isinstance(data, h5py.Group) else None
    content = _json(text, f"env_args of {name}")
    kwargs = content.get("env_kwargs")
    env_name = content.get("env_name")
    return Origin(env_name if isinstance(env_name, str) else "", _rate(kwargs.get("control_freq")) if isinstance(kwargs, dict) else None)


def read_outcomes(path: str | os.PathLike, keys: Sequence[str], lengths: Sequence[int]) -> Iterator[Outcome]:
    """The outcome of each demonstration `demo_3`, which has so many steps. Raises BadDataError naming what does not fit."""
    name = os.fspath(path)
    with open_whole(name, name) as file:
        data = member(file, "data", "data", name)
        for key, length in zip(keys, lengths, strict=True):
            where = f"data/{key}"
            group = member(data, key, where, name) if isinstance(data, h5py.Group) else None
            if not isinstance(group, h5py.Group):
                raise BadDataError(f"{where} in {name} is no group")
            columns = {part: _column(group, part, f"{where}/{part}", name, length) for part in ("rewards", "dones")}
            success = attribute(group, "success", where, name)
            if success is not None and (np.ndim(success) or np.asarray(success).dtype.kind not in "biuf"):
                raise BadDataError(f"attribute success of {where} in {name} is {success!r}, but 0 or 1 is expected")
            parameters = _json(attribute(group, "parameters", where, name), f"parameters of {where} in {name}")
            yield Outcome(
                None if columns["rewards"] is None else columns["rewards"].astype(np.float32),
                None if columns["dones"] is None else columns["dones"].astype(bool),
                None if success is None else bool(success),
                _rate(parameters.get("fps")),
            )


def _column(group: h5py.Group, part: str, where: str, name: str, length: int) -> np.ndarray | None:
    stored = member(group, part, where, name)
    if stored is None:
        return None
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "fiub" or stored.shape != (length,):
        raise BadDataError(f"{where} in {name} is no column of {length} numbers")
    values = read_dataset(stored)
    if not np.isfinite(values).all():
        raise BadDataError(f"{where} in {name} is not finite")
    return values


def _json(text: object, where: str) -> dict:
    """An attribute that holds a JSON object; empty where there is none."""
    if text is None:
        return {}
    try:
        content = json.loads(text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text))
    except (ValueError, RecursionError):
        raise BadDataError(f"{where} is no JSON") from None
    return content if isinstance(content, dict) else {}


def _rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf") else None
