"""What is in a file of demonstrations at a glance: how many, of which robot, seen by which cameras; whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tracekit.errors import TracekitError
from tracekit.format.container import is_hdf5, member, open_whole, read_dataset
from tracekit.format.demo_file import by_number, own_members, read_language

ROBOMIMIC = "robomimic's layout"
"""What `info` calls a file that does not say what it is, but is laid out like that."""


def has_robomimic_layout(path: str) -> bool:
    """Whether a file that names no format is whole, and has actions where robomimic's datasets have them."""
    try:
        if not is_hdf5(path):
            return False
        with open_whole(path, path) as file:
            return "format" not in file.attrs and any(True for _ in _demos(file, path))
    except (TracekitError, OSError, RuntimeError, KeyError, ValueError):
        return False


def describe_robomimic(path: Path, *, every_value: bool = False) -> dict[str, Any]:
    """As `tracekit.format.demos.describe_demos`, of a file of somebody else. Raises BadDataError when it is damaged."""
    name = os.fspath(path)
    with open_whole(name, name) as file:
        demos = dict(_demos(file, name))
        groups, datasets = overview(demos, name), []
        for key, demo in demos.items():
            sentence = read_language(demo, f"data/{key}", name) or "no sentence"
            groups[f"data/{key}"] = f"{counted(len(demo['actions']), 'step')}: {sentence}"
            for where, stored in _datasets(demo, f"data/{key}", name):
                if every_value:
                    read_dataset(stored)
                datasets.append({"path": where, **facts(stored)})
        groups |= masks(file, name)
        return {
            "file": name,
            "format": ROBOMIMIC,
            "format_version": None,
            "clip_id": "",
            "bytes": path.stat().st_size,
            "groups": groups,
            "datasets": datasets,
            "unknown": [],
            "captions": [],
            "provenance": [],
        }


def overview(demos: Mapping[str, h5py.Group], name: str) -> dict[str, str]:
    """What demonstrations, by their keys, have in common, by the place in the file where it is."""
    missing = sum(not read_language(demo, f"data/{key}", name) for key, demo in demos.items())
    steps = sum(len(demo["actions"]) for demo in demos.values())
    sizes: dict[str, None] = dict.fromkeys(counted(int(np.prod(demo["actions"].shape[1:])), "number") for demo in demos.values())
    return {
        "data": f"{counted(len(demos), 'demonstration')}, {counted(steps, 'step')}"
        + (f"; {missing:,} without a sentence, which finetune --language gives" if missing else ""),
        "data/*/actions": " or ".join(sizes),
        "data/*/obs": _each_once(demos, name, "states", _state) + "; " + _each_once(demos, name, "cameras", _camera),
    }


def masks(file: h5py.File, name: str) -> dict[str, str]:
    """How many demonstrations each of the masks of a file names."""
    group = member(file, "mask", "mask", name)
    if not isinstance(group, h5py.Group):
        return {}
    found = {split: member(group, split, f"mask/{split}", name) for split in own_members(group)}
    return {
        f"mask/{split}": counted(len(mask), "demonstration")
        for split, mask in found.items()
        if isinstance(mask, h5py.Dataset) and mask.shape
    }


def facts(stored: h5py.Dataset) -> dict[str, Any]:
    """Shape, type, and bytes on disk."""
    return {"shape": list(stored.shape), "dtype": str(stored.dtype), "bytes": stored.id.get_storage_size()}


def counted(number: int, what: str) -> str:
    """1 step, 2 steps."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _each_once(demos: Mapping[str, h5py.Group], name: str, what: str, described: Callable[[str, h5py.Dataset], str]) -> str:
    found: dict[str, None] = {}
    for key, demo in demos.items():
        observations = member(demo, "obs", f"data/{key}/obs", name)
        if isinstance(observations, h5py.Group):
            for entry in own_members(observations):
                stored = member(observations, entry, f"data/{key}/obs/{entry}", name)
                if isinstance(stored, h5py.Dataset) and (text := described(entry, stored)):
                    found[text] = None
    return f"{what}: {', '.join(found) or 'none'}"


def _camera(entry: str, stored: h5py.Dataset) -> str:
    """As `finetune` wants pictures: (steps, height, width, 3) uint8."""
    is_one = stored.ndim == 4 and stored.shape[3] == 3 and stored.dtype == np.uint8
    return f"{entry} ({stored.shape[2]} x {stored.shape[1]} pixels)" if is_one else ""


def _state(entry: str, stored: h5py.Dataset) -> str:
    is_one = stored.ndim in (1, 2) and stored.dtype.kind in "fiu"
    return f"{entry} ({counted(int(np.prod(stored.shape[1:])), 'number')})" if is_one else ""


def _demos(file: h5py.File, name: str) -> Iterator[tuple[str, h5py.Group]]:
    """Groups of `data` with actions, in the order of their numbers."""
    data = member(file, "data", "data", name)
    if isinstance(data, h5py.Group):
        for key in sorted(own_members(data), key=by_number):
            demo = member(data, key, f"data/{key}", name)
            if isinstance(demo, h5py.Group):
                actions = member(demo, "actions", f"data/{key}/actions", name)
                if isinstance(actions, h5py.Dataset) and actions.shape:
                    yield key, demo


def _datasets(group: h5py.Group, where: str, name: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """All of a demonstration. Groups in groups, as of observations, but no deeper than those are."""
    for entry in own_members(group):
        found = member(group, entry, f"{where}/{entry}", name)
        if isinstance(found, h5py.Dataset):
            yield f"{where}/{entry}", found
        elif isinstance(found, h5py.Group) and where.count("/") < 3:
            yield from _datasets(found, f"{where}/{entry}", name)
