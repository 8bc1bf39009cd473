"""What tests of samples and cached features share: small files of demonstrations, a tiny world model, and an expert's configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from demo_recordings import write_recordings

from tracekit.action.config import ActionConfig
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import PRESETS, build
from tracekit.mu0.text import WordTokenizer

WORLD = PRESETS["tiny-random"]
TOKENIZER = WordTokenizer(128, 12)


def expert(**changes: Any) -> ActionConfig:
    config = ActionConfig("test", 32, 2, 4, 2, 8, 64, action_size=3, state_size=2, horizon=4, execute=2, grid=4, gripper_pool=2)
    return dataclasses.replace(config, **changes)


def two_files(folder: Path) -> list[Path]:
    """Five demonstrations in two files, of 21 frames; sentences of different lengths, the last one none."""
    languages = ["push it", "lift the red block up there", "push it"]
    one = write_recordings(folder / "one.h5", [3, 6, 2], masks={"train": [0, 1], "valid": [2]}, languages=languages)
    other = write_recordings(folder / "other.h5", [4, 6], languages=["close", ""])
    return [one, other]


def world(seed: int = 0) -> Mu0:
    return build(WORLD, seed)
