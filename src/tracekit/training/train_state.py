"""How a training goes on: the step, the score, and the state of AdamW, as the files train_state/ of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tracekit.errors import BadDataError, MissingInputError
from tracekit.format.json_file import read_json
from tracekit.training.checkpoint_folder import check_tensors, shapes_of, write_json
from tracekit.training.tensor_file import read_tensors, write_tensors

OPTIMISER_STATE = ("exp_avg", "exp_avg_sq", "step")
STATE_FOLDER = "train_state"
_STATE, _OPTIMISER = f"{STATE_FOLDER}/state.json", f"{STATE_FOLDER}/optimizer.safetensors"


@dataclass(frozen=True)
class TrainState:
    """What a training needs besides the weights to go on as if it had never stopped: all its random choices follow from the step."""

    step: int
    """Optimiser steps that are done."""
    score: float | None = None
    """Of the validation after this step, less is better, finite; None when there was none or it was not finite."""
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    """exp_avg/NAME, exp_avg_sq/NAME and step/NAME of each weight."""


def write_train_state(folder: Path, state: TrainState) -> None:
    """Into a checkpoint that is being made."""
    (folder / STATE_FOLDER).mkdir()
    write_json(folder / _STATE, {"step": state.step, "score": state.score})
    write_tensors(folder / _OPTIMISER, state.optimiser)


def read_train_state(folder: Path) -> TrainState:
    """Of a checkpoint whose files are whole. Raises BadDataError when it is for use only, or when what is there makes no sense."""
    if not (folder / _STATE).is_file():
        raise BadDataError(f"{folder} holds no state of a training")
    content = read_json(folder / _STATE)
    step, score = (content.get("step"), content.get("score")) if isinstance(content, dict) else (None, None)
    if type(step) is not int or step < 0 or not (score is None or (type(score) in (int, float) and math.isfinite(score))):
        raise BadDataError(f"{folder / _STATE} holds no step and score")
    return TrainState(step, score if score is None else float(score), read_tensors(folder / _OPTIMISER))


def check_optimiser_state(folder: Path, state: TrainState, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises BadDataError unless the state of the optimiser is that of weights of these names and shapes."""
    wanted = {f"{kind}/{name}": () if kind == "step" else shape for name, shape in shapes.items() for kind in OPTIMISER_STATE}
    check_tensors(shapes_of(state.optimiser), wanted, folder / _OPTIMISER)


def score_of(folder: Path) -> float | None:
    """The validation score of a checkpoint. A damaged checkpoint has none: it is nobody's best."""
    try:
        score = read_json(folder / _STATE)["score"]
    except (OSError, BadDataError, KeyError, TypeError, MissingInputError):
        return None
    return score if isinstance(score, float) else None
