"""How action experts are trained: the paper's recipes (Tables 4 and 5), and one for a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RobotSizes:
    """What a preset knows of its robot."""

    action: int
    state: int


# What the tables leave open: decay, clipping and the last rate are those of the published training of π0 (LeRobot).
_PAPER: dict[str, Any] = {
    "head": "300m",
    "batch_size": 32,
    "micro_batch": 8,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "final_learning_rate": 2.5e-6,
}
_UR3: dict[str, Any] = {**_PAPER, "horizon": 50, "execute": 25, "learning_rate": 5e-5}

PRESETS: dict[str, dict[str, Any]] = {
    "metaworld": {
        "head": "nano",
        "horizon": 16,
        "execute": 8,
        "draws": 4,
        "steps": 3000,
        "batch_size": 32,
        "micro_batch": 32,
        "learning_rate": 1e-3,
        "final_learning_rate": 2.5e-5,
        "warmup": 200,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "save_every": 500,
        "validate_every": 500,
    },
    "robocasa365": {**_PAPER, "horizon": 16, "execute": 8, "learning_rate": 1e-4, "warmup": 1000, "steps": 50_000},
    "ur3-pick-sink": {**_UR3, "warmup": 400, "steps": 8000},
    "ur3-pour": {**_UR3, "warmup": 300, "steps": 6000},
    "ur3-towel": {**_UR3, "warmup": 300, "steps": 6000},
    # To try whether everything fits together.
    "tiny": {
        "head": "pico",
        "horizon": 4,
        "execute": 2,
        "draws": 2,
        "steps": 20,
        "batch_size": 4,
        "micro_batch": 4,
        "learning_rate": 1e-3,
        "final_learning_rate": 2.5e-5,
        "warmup": 2,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "save_every": 10,
        "validate_every": 10,
        "validation_samples": 8,
    },
}

SIZES: dict[str, RobotSizes] = {
    "robocasa365": RobotSizes(12, 16),
    "ur3-pick-sink": RobotSizes(7, 7),
    "ur3-pour": RobotSizes(7, 7),
    "ur3-towel": RobotSizes(7, 7),
}
"""Of presets that are for one robot; the others take what the demonstrations have."""
