"""Reading demonstrations to learn from: our own files (`tracekit.format.demos`), and any other of robomimic's layout.

Actions and states are read, and checked, at once: they are small. Pictures are read one at a time, when they are wanted.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import h5py
import numpy as np

from tracekit.errors import BadDataError
from tracekit.format.container import attribute, member, open_whole, read_dataset, read_text

_TEXTS = ("agentview", "gripper")


@dataclass(frozen=True)
class DemoLayout:
    """Which datasets of `obs` are looked at."""

    agentview: str = "agentview_image"
    """The camera that sees the scene, (T, H, W, 3) uint8 RGB."""
    gripper: str = "eye_in_hand_image"
    """The camera on the gripper; "": none."""
    state: tuple[str, ...] = ("proprio",)
    """Proprioception: (T, p) numbers each, put one after the other; one number a step, (T,), will do."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": list(self.state)}


def layout_from_json(content: Any, where: str) -> DemoLayout:
    """Raises BadDataError for anything but what `to_json` gives."""
    if not isinstance(content, dict) or set(content) != {*_TEXTS, "state"}:
        raise BadDataError(f"{where} does not hold exactly {', '.join(_TEXTS)} and state")
    state = content["state"]
    if not isinstance(state, list) or not all(isinstance(entry, str) for entry in [*state, *(content[name] for name in _TEXTS)]):
        raise BadDataError(f"{where}: names of datasets are expected")
    return DemoLayout(content["agentview"], content["gripper"], tuple(state))


@dataclass(frozen=True)
class DemoHead:
    """What is known of one demonstration of a file."""

    key: str
    """Of its group: demo_0."""
    name: str
    """What its maker calls it; the key where it has no other name."""
    num_samples: int
    """T."""
    language: str
    """What is done, in a sentence; "" where the file does not say."""
    split: str
    """"train", "valid", or "" for one that the file's masks name in neither. Without masks all are for training."""


class DemoFile:
    """One file of demonstrations. Opens it again in every process that reads pictures; may be pickled.

    Raises MissingInputError without the file, BadDataError naming file, demonstration and step: for a file that is damaged or holds no
    demonstrations; without a camera or state of the names in `layout`, saying which there are; for actions, states and pictures of different
    lengths, or of other shapes and types than they should have; for actions and states that are not finite.
    """

    def __init__(self, path: str | os.PathLike, layout: DemoLayout | None = None) -> None:
        self.path = os.fspath(path)
        self.layout = layout or DemoLayout()
        self._forget()
        try:
            self._read_small_parts()
        except (OSError, RuntimeError, KeyError, ValueError, OverflowError) as error:  # what HDF5 says of damage, wherever it meets it
            raise BadDataError(f"{self.path} is damaged: {str(error).splitlines()[0]}") from None
        finally:
            self.close()  # until a picture is wanted, perhaps in another process

    @property
    def action_size(self) -> int:
        return self._actions.shape[1]

    @property
    def state_size(self) -> int:
        return self._states.shape[1]

    @property
    def num_samples(self) -> int:
        """Of all demonstrations together."""
        return len(self._actions)

    @property
    def all_actions(self) -> np.ndarray:
        """(num_samples, A) float32, demonstration by demonstration."""
        return self._actions

    @property
    def all_states(self) -> np.ndarray:
        """(num_samples, P) float32."""
        return self._states

    def rows(self, key: str) -> slice:
        """Where a demonstration's steps are in `all_actions` and `all_states`."""
        return self._rows[key]

    def actions(self, key: str) -> np.ndarray:
        """(T, A) float32."""
        return self._actions[self._rows[key]]

    def states(self, key: str) -> np.ndarray:
        """(T, P) float32."""
        return self._states[self._rows[key]]

    def agentview(self, key: str, step: int) -> np.ndarray:
        """What is seen before action `step`: (H, W, 3) uint8 RGB. Raises BadDataError naming the step when it cannot be read."""
        return self._picture(key, self.layout.agentview, step)

    def gripper(self, key: str, step: int) -> np.ndarray:
        """As `agentview`, of a layout with such a camera."""
        return self._picture(key, self.layout.gripper, step)

    def close(self) -> None:
        """Let go of the file; the next picture opens it anew."""
        if self._open is not None and self._pid == os.getpid():
            self._open.close()
        self._forget()

    def __enter__(self) -> DemoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_pid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._open: h5py.File | None = None
        self._pid = os.getpid()

    def _file(self) -> h5py.File:
        if self._open is None or self._pid != os.getpid():
            if self._open is not None:
                # HDF5 must not close in this process what another one opened: the handle lives on, unused.
                _of_the_parent_process.append(self._open)
            self._forget()
            self._open = open_whole(self.path, self.path)
        return self._open

    def _read_small_parts(self) -> None:
        file = self._file()
        data = member(file, "data", "data", self.path)
        if not isinstance(data, h5py.Group):
            raise BadDataError(
                f"{self.path} holds no demonstrations: it has no group `data`",
                hint="`tracekit simulate --demos` makes such files, `tracekit import` makes them of other formats",
            )
        if not all(isinstance(key, str) for key in data):
            raise BadDataError(f"a demonstration in {self.path} has a name that is no UTF-8")
        split = self._splits(file)
        self.demos: list[DemoHead] = []
        """All demonstrations, in the order of their numbers."""
        self._rows: dict[str, slice] = {}
        actions, states = [], []
        start = 0
        for key in sorted(data, key=by_number):
            where = f"data/{key}"
            group = member(data, key, where, self.path)
            if not isinstance(group, h5py.Group):
                raise BadDataError(f"{where} in {self.path} is no group")
            of_demo = self._actions_of(group, key)
            actions.append(of_demo)
            states.append(self._check_observations(group, key, len(of_demo)))
            for what, first, this in (("actions", actions[0], actions[-1]), ("states", states[0], states[-1])):
                if first.shape[1] != this.shape[1]:
                    raise BadDataError(
                        f"{what} have {this.shape[1]} numbers in {key}, but {first.shape[1]} in {self.demos[0].key}, of {self.path}"
                    )
            name = _text(group, "name", where, self.path) or key
            language = read_language(group, where, self.path)
            self.demos.append(DemoHead(key, name, len(of_demo), language, split.get(key, "") if split else "train"))
            self._rows[key] = slice(start, start + len(of_demo))
            start += len(of_demo)
        if not self.demos:
            raise BadDataError(f"{self.path} holds no demonstrations: its group `data` is empty")
        self._actions, self._states = np.concatenate(actions), np.concatenate(states)

    def _splits(self, file: h5py.File) -> dict[str, str]:
        """The split of each demonstration that mask/train and mask/valid name; empty where there are no such masks."""
        masks = member(file, "mask", "mask", self.path)
        split: dict[str, str] = {}
        if not isinstance(masks, h5py.Group):
            return split
        for name in ("train", "valid"):  # what is in both is not trained on
            mask = member(masks, name, f"mask/{name}", self.path)
            if mask is None:
                continue
            if not isinstance(mask, h5py.Dataset) or mask.dtype.kind not in "SO" or mask.ndim != 1:
                raise BadDataError(f"mask/{name} in {self.path} is no list of names")
            split.update({bytes(key).decode("utf-8", "replace"): name for key in read_text(mask)})
        if "train" not in masks and split:
            rest = {str(key): "train" for key in file["data"] if key not in split}
            split.update(rest)
        return split

    def _actions_of(self, group: h5py.Group, key: str) -> np.ndarray:
        """(T, A) float32."""
        values = self._numbers(member(group, "actions", f"data/{key}/actions", self.path), "actions", key)
        if values.ndim != 2 or 0 in values.shape:
            raise BadDataError(f"the actions of {key} in {self.path} have shape {values.shape}, but (steps, numbers) is expected")
        stored = attribute(group, "num_samples", f"data/{key}", self.path)
        if stored is not None and (np.ndim(stored) or stored != len(values)):
            raise BadDataError(f"{key} in {self.path} has {len(values)} actions, but its num_samples is {stored}")
        return values

    def _check_observations(self, group: h5py.Group, key: str, num_steps: int) -> np.ndarray:
        """The states (T, P) float32. Of pictures only shapes and types are looked at."""
        observations = member(group, "obs", f"data/{key}/obs", self.path)
        if not isinstance(observations, h5py.Group):
            raise BadDataError(f"{key} in {self.path} has no observations (`obs`)")
        layout = self.layout
        for what, camera in (("agentview", layout.agentview), ("gripper", layout.gripper)):
            if what == "gripper" and not camera:
                continue
            pictures = member(observations, camera, f"data/{key}/obs/{camera}", self.path) if camera else None
            if not isinstance(pictures, h5py.Dataset):
                raise BadDataError(f"{key} in {self.path} has no camera `{camera}`", hint=f"its cameras are: {_names(observations, 4)}")
            if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or 0 in pictures.shape[1:]:
                raise BadDataError(
                    f"the pictures `{camera}` of {key} in {self.path} have shape {pictures.shape} and type {pictures.dtype}, "
                    "but (steps, height, width, 3) and uint8 are expected"
                )
            self._check_length(len(pictures), camera, key, num_steps)
        columns = []
        for name in layout.state:
            stored = member(observations, name, f"data/{key}/obs/{name}", self.path)
            if not isinstance(stored, h5py.Dataset):
                raise BadDataError(
                    f"{key} in {self.path} has no state `{name}`", hint=f"observations that may be states are: {_names(observations, 1, 2)}"
                )
            values = self._numbers(stored, name, key)
            if values.ndim not in (1, 2):
                raise BadDataError(f"the state `{name}` of {key} in {self.path} has shape {values.shape}, but (steps, numbers) is expected")
            self._check_length(len(values), name, key, num_steps)
            columns.append(values.reshape(num_steps, -1))
        return np.concatenate(columns, axis=1) if columns else np.zeros((num_steps, 0), np.float32)

    def _check_length(self, length: int, what: str, key: str, num_steps: int) -> None:
        if length != num_steps:
            raise BadDataError(f"{key} in {self.path} has {num_steps} actions, but {length} observations `{what}`")

    def _numbers(self, stored: h5py.Group | h5py.Dataset | None, name: str, key: str) -> np.ndarray:
        """A small dataset of finite numbers, float32."""
        if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "fiu" or not stored.shape:
            raise BadDataError(f"{key} in {self.path} has no numbers `{name}`")
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            values = read_dataset(stored).astype(np.float32)
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0].tolist()
            which = f", number {', '.join(map(str, place[1:]))} (from 0)" if place[1:] else ""
            raise BadDataError(
                f"`{name}` of {key} at step {place[0]}{which} in {self.path} is not finite",
                hint=f"mend it there, or leave {key} out of a copy of the file",
            )
        return values

    def _picture(self, key: str, camera: str, step: int) -> np.ndarray:
        where = f"the picture `{camera}` of {key} at step {step} in {self.path}"
        length = self._rows[key].stop - self._rows[key].start
        if not 0 <= step < length:
            raise IndexError(f"{key} has {length} steps, no step {step}")
        try:
            path, obj = "", self._file()
            for name in ("data", key, "obs", camera):
                path = f"{path}/{name}".lstrip("/")
                obj = member(obj, name, path, self.path)
            picture = obj[step]
        except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:  # the file may have changed since it was opened
            raise BadDataError(f"{where} cannot be read: {str(error).splitlines()[0]}") from None
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise BadDataError(f"{where} has shape {picture.shape} and type {picture.dtype}, but (height, width, 3) and uint8 are expected")
        return picture


_of_the_parent_process: list[h5py.File] = []


def read_language(demo: h5py.Group, where: str, name: str) -> str:
    """What is done in a demonstration, a sentence: the attribute `language`, or what robocasa writes, `lang` in the JSON of `ep_meta`; else "".

    `where` and `name` are what messages call the group and its file. Raises BadDataError for attributes that are damaged.
    """
    language = _text(demo, "language", where, name)
    if language:
        return language
    try:
        about = json.loads(_text(demo, "ep_meta", where, name) or "{}")
    except (ValueError, RecursionError):
        raise BadDataError(f"attribute ep_meta of {where} in {name} is no JSON") from None
    sentence = about.get("lang", "") if isinstance(about, dict) else ""
    return sentence.strip() if isinstance(sentence, str) else ""


def _text(group: h5py.Group, key: str, where: str, name: str) -> str:
    value = attribute(group, key, where, name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.strip() if isinstance(value, str) else ""


def by_number(key: str) -> tuple[int, str]:
    """demo_2 before demo_10."""
    number = re.search(r"(\d+)$", key)
    return int(number[1]) if number else -1, key


def own_members(group: h5py.Group) -> list[str]:
    """Names of what lies in a group itself. Links are not followed, not even to say what there is."""
    return [name for name in group if isinstance(name, str) and group.get(name, getclass=True, getlink=True) is h5py.HardLink]


def _names(observations: h5py.Group, *numbers_of_axes: int) -> str:
    """Datasets of so many axes."""
    found = [
        name for name in own_members(observations) if isinstance(obj := observations[name], h5py.Dataset) and obj.ndim in numbers_of_axes
    ]
    return ", ".join(sorted(found)) or "none"
