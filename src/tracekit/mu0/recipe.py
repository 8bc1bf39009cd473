"""How μ0 is trained: what its training knows besides what every training does, and what the small presets do otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracekit.parameters import parameter
from tracekit.training.recipe import EngineParameters, Recipe


@dataclass(frozen=True)
class Mu0Recipe(Recipe):
    """The paper's recipe (B.1, C.1)."""

    vlm_rate: float = parameter(0.1, "Learning rate of the VLM over that of the rest, where it is trained.", minimum=0.0)


@dataclass(frozen=True)
class Mu0Engine(EngineParameters):
    """How the work on a large network is done."""

    gradient_checkpointing: bool = parameter(False, "Compute activations again in the backward pass: less memory, a third more time.")
    fsdp: bool = parameter(False, "Share weights, gradients and optimiser state among processes (FSDP2) instead of copying them (DDP).")
    embed_frozen: bool = parameter(False, "Write frozen weights into checkpoints, too, instead of where they come from.")
    validation_draws: int = parameter(5, "Futures drawn for each keypoint of a validation.", minimum=1)


# Presets of networks (tracekit.mu0.presets) that are trained otherwise than the paper's. Small networks on small corpora take a higher
# rate, and their VLM is no pretrained one that should drift slowly.
PRESETS: dict[str, dict[str, Any]] = {
    "2.59b": {},
    "568m": {},
    "342m": {},
    "nano": {
        "steps": 4000,
        "batch_size": 16,
        "micro_batch": 16,
        "learning_rate": 1e-3,
        "final_learning_rate": 2.5e-5,
        "warmup": 200,
        "vlm_rate": 1.0,
        "max_keypoints": 48,
        "save_every": 500,
        "validate_every": 500,
        "validation_samples": 64,
    },
    "tiny-random": {
        "steps": 20,
        "batch_size": 4,
        "micro_batch": 4,
        "learning_rate": 1e-3,
        "final_learning_rate": 2.5e-5,
        "warmup": 2,
        "save_every": 10,
        "validate_every": 10,
        "validation_samples": 8,
    },
}
