"""Demonstrations in the layout of robomimic's datasets (robomimic 0.3; https://robomimic.github.io), which robomimic itself reads.

    data/demo_0/{actions, rewards, dones, obs/{agentview_image, eye_in_hand_image, proprio}}   one group a demonstration
    mask/{train, valid}                                                                        names of demonstrations

`obs` at t is what was seen before `actions` at t. A file of one demonstration is a part from which a whole one is put together.
For training any file of this layout is read, whoever wrote it: `tracekit.format.demo_file`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tracekit.errors import BadDataError, TracekitError
from tracekit.format import provenance
from tracekit.format.container import attribute, check_version, is_hdf5, open_checked, open_whole, read_dataset
from tracekit.format.demo_overview import counted, facts, masks, overview
from tracekit.format.file import carry_along, new_hdf5_file
from tracekit.format.provenance import Step

FORMAT, VERSION = "tracekit/demos", 1
_GYMNASIUM = 2
"""robomimic's number of this type of environment."""
_VALID_SHARE = 0.1
_AXES = {"actions": 2, "rewards": 1, "dones": 1, "obs/agentview_image": 4, "obs/eye_in_hand_image": 4, "obs/proprio": 2}
"""Of the datasets of a demonstration: how many axes, the first of them its steps."""
_NOT_ALWAYS = {"obs/eye_in_hand_image"}
"""Brought in from a robot without such a camera."""


@dataclass(frozen=True)
class Demo:
    """One demonstration of T steps."""

    name: str
    parameters: dict[str, Any]
    """Everything that it follows from. `number` counts the starts of its task: what has one start goes into one split."""
    language: str
    """What is done, in a sentence."""
    success: bool
    actions: np.ndarray
    """(T, a) in [-1, 1]."""
    rewards: np.ndarray
    """(T,)."""
    dones: np.ndarray
    """(T,) bool, whether the episode could end after each action: the task is done, or nothing follows."""
    agentview_image: np.ndarray
    """(T, h, w, 3) uint8 RGB."""
    eye_in_hand_image: np.ndarray
    """(T, h, w, 3) uint8 RGB."""
    proprio: np.ndarray
    """(T, p) state of the robot."""


def write_demo(path: Path, demo: Demo) -> None:
    """Write a file of one demonstration. Raises StorageError when the disk fails."""
    with new_hdf5_file(path, force=True) as file:
        put_root(file)
        group = file.create_group("data/demo_0")
        _put_attributes(group, demo)
        for name in ("actions", "rewards"):
            group[name] = getattr(demo, name).astype(np.float32)
        group["dones"] = demo.dones.astype(np.uint8)
        observations = group.create_group("obs")
        observations["proprio"] = demo.proprio.astype(np.float32)
        for name in ("agentview_image", "eye_in_hand_image"):
            frames = getattr(demo, name)
            observations.create_dataset(
                name, data=frames, chunks=(1, *frames.shape[1:]), compression="gzip", compression_opts=4, fletcher32=True
            )


def read_contents(path: Path) -> dict[str, dict[str, Any]]:
    """The parameters of every demonstration in a file, by name. Raises BadDataError when it is no whole file of demonstrations."""
    with _opened(path) as file:
        return {name: parameters for name, parameters, _ in _demos(file, path)}


def holds_demos(path: str) -> bool:
    """Whether a file is whole and says that it holds demonstrations."""
    if not is_hdf5(path):
        return False
    try:
        with open_whole(path, path) as file:  # what lies in it is looked at by who reads it
            return _says_so(file, path)
    except TracekitError:
        return False


def describe_demos(path: Path, *, every_value: bool = False) -> dict[str, Any]:
    """What is in a file of demonstrations, as plain data, in the words of `info`; with `every_value` all values are read (checksums).

    Raises BadDataError when the file is damaged.
    """
    with _opened(path) as file:
        demos = list(_demos(file, path))
        groups = overview({_key(demo): demo for _, _, demo in demos}, os.fspath(path))
        datasets = []
        for name, _, demo in demos:
            outcome = "done" if demo.attrs["success"] else "not done"
            steps = counted(len(demo["actions"]), "step")
            groups[f"data/{_key(demo)}"] = f"{name}: {steps}, {outcome}: {demo.attrs['language'] or 'no sentence'}"
            for part in _AXES:
                if part not in demo:
                    continue
                stored = demo[part]
                if every_value:
                    read_dataset(stored)
                datasets.append({"path": stored.name.lstrip("/"), **facts(stored)})
        return {
            "file": os.fspath(path),
            "format": FORMAT,
            "format_version": int(file.attrs["format_version"]),
            "clip_id": "",
            "bytes": path.stat().st_size,
            "groups": groups | masks(file, os.fspath(path)),
            "datasets": datasets,
            "unknown": [],
            "captions": [],
            "provenance": [vars(step) for step in provenance.read(file)],
        }


def merge_demos(target: Path, sources: dict[str, Path], environments: list[str], step: Step, *, force: bool = False) -> None:
    """Write demonstrations to `target`: their names in order, and the file that each is in, which with `force` may be `target` itself.

    Every tenth start of a task, the last ones, and one at least where there are two, make up mask/valid; the others mask/train.
    Frames move as they are packed. Raises CannotCreateError when `target` is there and `force` is not given, StorageError when the disk fails.
    """
    with new_hdf5_file(target, force=force) as file, ExitStack() as current:
        put_root(file)
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": ",".join(environments), "type": _GYMNASIUM, "env_kwargs": {}})
        numbers, total = [], 0
        stored: dict[str, tuple[dict[str, Any], h5py.Group]] = {}
        opened = None
        for index, (name, source) in enumerate(sources.items()):
            if source != opened:
                current.close()
                demos = _demos(current.enter_context(_opened(source)), source)
                stored, opened = {name: (parameters, group) for name, parameters, group in demos}, source
            parameters, group = stored[name]
            carry_along(group, data.create_group(f"demo_{index}"), without=set())
            numbers.append(parameters["number"])
            total += int(group.attrs["num_samples"])
        data.attrs["total"] = total
        valid = held_out(np.array(numbers))
        for split, members in (("train", ~valid), ("valid", valid)):
            file[f"mask/{split}"] = np.array([f"demo_{index}" for index in np.flatnonzero(members)], dtype="S")
        provenance.append(file, step)


def held_out(numbers: np.ndarray) -> np.ndarray:
    """Which of the demonstrations, whose starts have these numbers (n,), are kept for validation: (n,) bool."""
    starts = np.unique(numbers)
    held = max(1, round(_VALID_SHARE * len(starts))) if len(starts) > 1 else 0
    return np.isin(numbers, starts[len(starts) - held :])


def put_root(file: h5py.File) -> None:
    file.attrs["format"], file.attrs["format_version"] = FORMAT, VERSION


def _put_attributes(group: h5py.Group, demo: Demo) -> None:
    group.attrs["num_samples"] = len(demo.actions)
    group.attrs["name"] = demo.name
    group.attrs["language"] = demo.language
    group.attrs["success"] = demo.success
    group.attrs["parameters"] = json.dumps(demo.parameters)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    name = os.fspath(path)
    with open_checked(name, name) as file:
        if not _says_so(file, name):
            raise BadDataError(f"{name} holds no demonstrations: its attribute `format` is not {FORMAT}")
        check_version(file, FORMAT, VERSION, name)
        yield file


def _says_so(file: h5py.File, name: str) -> bool:
    found = attribute(file, "format", "/", name)
    return isinstance(found, str) and found == FORMAT


def _key(demo: h5py.Group) -> str:
    return demo.name.rpartition("/")[2]


def _demos(file: h5py.File, path: Path) -> Iterator[tuple[str, dict[str, Any], h5py.Group]]:
    """Names, parameters and groups of the demonstrations of a file, each of which holds all that one of ours holds."""
    name = os.fspath(path)
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        raise BadDataError(f"{name} holds no demonstrations: it has no group `data`")
    for key, group in data.items():
        where = f"data/{key}"
        if not isinstance(group, h5py.Group):
            raise BadDataError(f"{where} in {name} is no group")
        _check_datasets(group, where, name)
        parameters = _checked_attributes(group, where, name)
        yield group.attrs["name"], parameters, group


def _check_datasets(group: h5py.Group, where: str, name: str) -> None:
    lengths: dict[str, int | None] = {}
    for part, num_axes in _AXES.items():
        stored = group.get(part)
        if stored is None and part in _NOT_ALWAYS:
            continue
        if not isinstance(stored, h5py.Dataset):
            raise BadDataError(f"{where} in {name} has no {part}: it is damaged, or tracekit did not make it")
        if len(stored.shape or ()) != num_axes:
            raise BadDataError(f"{where}/{part} in {name} has shape {stored.shape}, but {num_axes} axes are expected")
        lengths[part] = len(stored)
    stored_length = group.attrs.get("num_samples")
    lengths["num_samples"] = int(stored_length) if isinstance(stored_length, np.integer) else None
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{length} in {part}" for part, length in lengths.items())
        raise BadDataError(f"{where} in {name} has not as many steps everywhere: {said}")


def _checked_attributes(group: h5py.Group, where: str, name: str) -> dict[str, Any]:
    """The parameters of a demonstration."""
    kinds: dict[str, Any] = {"name": str, "language": str, "parameters": str, "success": (bool, np.bool_)}
    for key, kind in kinds.items():
        if not isinstance(group.attrs.get(key), kind):
            raise BadDataError(
                f"{where} in {name} has no {key} of the kind that tracekit writes: it is damaged, or tracekit did not make it"
            )
    try:
        parameters = json.loads(group.attrs["parameters"])
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise BadDataError(f"the parameters of {where} in {name} are no JSON object")
    return parameters
