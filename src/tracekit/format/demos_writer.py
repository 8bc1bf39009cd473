"""Writing demonstrations of other people in our layout (`tracekit.format.demos`), one at a time, their pictures one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tracekit.errors import BadDataError
from tracekit.format import provenance
from tracekit.format.demos import held_out, put_root
from tracekit.format.file import new_hdf5_file
from tracekit.format.provenance import Step

_LARGEST_SIDE = 1 << 13


@dataclass(frozen=True)
class DemoRecord:
    """A demonstration of T steps without its pictures."""

    name: str
    parameters: dict[str, Any]
    """Where it comes from; what has one `number` goes into one split."""
    language: str
    """What is done, in a sentence."""
    success: bool
    actions: np.ndarray
    """(T, a) finite."""
    proprio: np.ndarray
    """(T, p) finite, state of the robot."""
    rewards: np.ndarray
    """(T,)."""
    dones: np.ndarray
    """(T,) bool."""
    about: dict[str, Any] | None = None
    """What RoboCasa calls `ep_meta`: how its environment begins this episode again."""


class DemosWriter:
    """Fills a file that `new_demos` has opened."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._numbers: list[int] = []
        self._total = 0

    def add(self, demo: DemoRecord, pictures: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Write a demonstration, and for each step what both cameras see: (H, W, 3) uint8 RGB, None for a camera that is not there.

        Raises BadDataError naming the demonstration when pictures and steps are not as many, or a picture has another size.
        """
        index = len(self._numbers)
        group = self._file.create_group(f"data/demo_{index}")
        group.attrs["num_samples"] = len(demo.actions)
        group.attrs["name"], group.attrs["language"], group.attrs["success"] = demo.name, demo.language, demo.success
        group.attrs["parameters"] = json.dumps(demo.parameters)
        if demo.about is not None:
            group.attrs["ep_meta"] = json.dumps(demo.about)
        for name in ("actions", "rewards"):
            group[name] = getattr(demo, name).astype(np.float32)
        group["dones"] = demo.dones.astype(np.uint8)
        observations = group.create_group("obs")
        observations["proprio"] = demo.proprio.astype(np.float32)
        num_pictures = 0
        stored: list[h5py.Dataset | None] = []
        for seen in pictures:
            if num_pictures == 0:
                names = ("agentview_image", "eye_in_hand_image")
                stored = [
                    None if picture is None else _new_pictures(observations, name, (len(demo.actions), *picture.shape))
                    for name, picture in zip(names, seen, strict=True)
                ]
            if num_pictures == len(demo.actions):
                raise BadDataError(f"{demo.name} has {num_pictures} steps, but more pictures")
            for target, picture in zip(stored, seen, strict=True):
                if target is not None and picture is not None:
                    if picture.shape != target.shape[1:]:
                        raise BadDataError(
                            f"picture {num_pictures} of {demo.name} is {picture.shape}, but the first one {target.shape[1:]}"
                        )
                    target[num_pictures] = picture
            num_pictures += 1
        if num_pictures != len(demo.actions):
            raise BadDataError(f"{demo.name} has {len(demo.actions)} steps, but {num_pictures} pictures")
        self._numbers.append(demo.parameters["number"])
        self._total += num_pictures

    def finish(self, env_args: dict[str, Any], step: Step, valid: Sequence[int] | None = None) -> None:
        """Say what the demonstrations were recorded in (robomimic's `env_args`), which are for validation, and who wrote the file.

        `valid` are places in the file; when None, the last tenth of the numbers, as in our own files.
        """
        data = self._file.require_group("data")
        data.attrs["env_args"], data.attrs["total"] = json.dumps(env_args), self._total
        is_valid = held_out(np.array(self._numbers)) if valid is None else np.isin(np.arange(len(self._numbers)), list(valid))
        for split, members in (("train", ~is_valid), ("valid", is_valid)):
            self._file[f"mask/{split}"] = np.array([f"demo_{index}" for index in np.flatnonzero(members)], dtype="S")
        provenance.append(self._file, step)


@contextmanager
def new_demos(target: Path, *, force: bool = False) -> Iterator[DemosWriter]:
    """A file of demonstrations that appears whole or not at all. Raises CannotCreateError and StorageError."""
    with new_hdf5_file(target, force=force) as file:
        put_root(file)
        yield DemosWriter(file)


def _new_pictures(observations: h5py.Group, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    if max(shape[1:]) > _LARGEST_SIDE:
        raise BadDataError(f"pictures of {shape[2]} x {shape[1]} pixels are larger than {_LARGEST_SIDE} on a side")
    return observations.create_dataset(
        name, shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip", compression_opts=4, fletcher32=True
    )
