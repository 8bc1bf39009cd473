"""Files of demonstrations as robomimic's own tools write them: no `format`, no provenance, names of cameras and states of one's own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HEIGHT, WIDTH = 12, 16


def pictures(number: int, length: int, seed: int = 0) -> np.ndarray:
    """(T, 12, 16, 3) uint8, of which no two are alike."""
    return np.random.default_rng([seed, number]).integers(0, 256, (length, HEIGHT, WIDTH, 3), np.uint8)


def actions(number: int, length: int, size: int = 3) -> np.ndarray:
    """(T, size): number, step and place can be read off."""
    return (number + np.arange(length)[:, None] / 100 + np.arange(size) / 10_000).astype(np.float64)


def write_recordings(
    path: Path,
    lengths: Sequence[int],
    *,
    masks: Mapping[str, Sequence[int]] | None = None,
    languages: Sequence[str] | None = None,
    cameras: Sequence[str] = ("agentview_image", "eye_in_hand_image"),
    states: Mapping[str, int] | None = None,
    action_size: int = 3,
    num_samples: bool = False,
    chunks: Any = None,
) -> Path:
    """Demonstrations demo_0, demo_1, ... of these lengths; `states` are names and sizes, `masks` numbers of demonstrations."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = '{"env_name": "Lift", "type": 1, "env_kwargs": {}}'
        for number, length in enumerate(lengths):
            group = data.create_group(f"demo_{number}")
            group["actions"] = actions(number, length, action_size)
            if num_samples:
                group.attrs["num_samples"] = length
            if languages is not None:
                group.attrs["language"] = languages[number]
            for place, camera in enumerate(cameras):
                group.create_dataset(f"obs/{camera}", data=pictures(number, length, place), chunks=chunks)
            for name, size in (states or {"proprio": 2}).items():
                group[f"obs/{name}"] = np.arange(length * size, dtype=np.float64).reshape(length, size) + 1000 * number
        for name, members in (masks or {}).items():
            file[f"mask/{name}"] = np.array([f"demo_{number}" for number in members], dtype="S")
    return path
