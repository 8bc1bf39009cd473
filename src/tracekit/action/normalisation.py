"""States and actions on a common scale, and actions back in the robot's own units (paper B.4: stored with the policy)."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracekit.errors import BadDataError, ConfigurationError

KINDS = ("quantile", "mean_std", "identity")

# What moves less than this, in units of its largest value or of 1, does not move: it is the noise of float32.
_SMALLEST_SPREAD = 1e-6
_QUANTILES = (0.01, 0.99)
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Normalisation:
    """normalised = (value - offset) / scale, for each number of a state and of an action. Nothing is clipped.

    A scale of 0 stands for a number that never changes: it becomes 0, and 0 or anything else becomes its only value again.
    """

    kind: str
    """"quantile": the 1st and the 99th percentile become -1 and 1; "mean_std": mean 0, standard deviation 1; "identity"."""
    state_offset: tuple[float, ...]
    state_scale: tuple[float, ...]
    action_offset: tuple[float, ...]
    action_scale: tuple[float, ...]

    def normalise_state(self, states: np.ndarray) -> np.ndarray:
        """(..., P) in the robot's units to (..., P) float32."""
        return _normalised(states, self.state_offset, self.state_scale)

    def normalise_actions(self, actions: np.ndarray) -> np.ndarray:
        """(..., A) in the robot's units to (..., A) float32."""
        return _normalised(actions, self.action_offset, self.action_scale)

    def unnormalise_actions(self, actions: np.ndarray) -> np.ndarray:
        """The inverse of `normalise_actions`."""
        values = np.asarray(actions, np.float64) * np.array(self.action_scale) + np.array(self.action_offset)
        return values.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}


def fit_normalisation(states: np.ndarray, actions: np.ndarray, kind: str) -> Normalisation:
    """From all states (F, P) and actions (F, A) of the demonstrations that are trained on. Raises ConfigurationError for an unknown kind."""
    if kind not in KINDS:
        raise ConfigurationError(f"there is no normalisation {kind!r}", hint=f"choose one of: {', '.join(KINDS)}")
    state_offset, state_scale = _fitted(states, kind)
    action_offset, action_scale = _fitted(actions, kind)
    return Normalisation(kind, state_offset, state_scale, action_offset, action_scale)


def normalisation_from_json(content: Any, where: str) -> Normalisation:
    """Raises BadDataError for anything but what `to_json` gives."""
    names = [field.name for field in dataclasses.fields(Normalisation)]
    if not isinstance(content, dict) or set(content) != set(names):
        raise BadDataError(f"{where} does not hold exactly {', '.join(names)}")
    if content["kind"] not in KINDS:
        raise BadDataError(f"{where}: there is no normalisation {content['kind']!r}")
    for name in names[1:]:
        values = content[name]
        if not isinstance(values, list) or not all(type(value) in (int, float) and abs(value) <= _LARGEST for value in values):
            raise BadDataError(f"{where}: {name} is no list of finite numbers")
        if name.endswith("scale") and min(values, default=0) < 0:
            raise BadDataError(f"{where}: {name} holds a number below 0")
    for what in ("state", "action"):
        offset, scale = content[f"{what}_offset"], content[f"{what}_scale"]
        if len(offset) != len(scale):
            raise BadDataError(f"{where}: {what}_offset has {len(offset)} numbers, but {what}_scale has {len(scale)}")
    return Normalisation(content["kind"], *(tuple(float(value) for value in content[name]) for name in names[1:]))


def _normalised(values: np.ndarray, offset: tuple[float, ...], scale: tuple[float, ...]) -> np.ndarray:
    divisor = np.array(scale)
    moves = divisor > 0
    shifted = np.asarray(values, np.float64) - np.array(offset)
    return np.where(moves, shifted / np.where(moves, divisor, 1.0), 0.0).astype(np.float32)


def _fitted(values: np.ndarray, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Offsets and scales of columns (F, n)."""
    values = np.asarray(values, np.float64)
    if kind == "identity":
        return (0.0,) * values.shape[1], (1.0,) * values.shape[1]
    least, most = values.min(axis=0), values.max(axis=0)
    smallest = _SMALLEST_SPREAD * np.maximum(1.0, np.abs(values).max(axis=0))
    if kind == "mean_std":
        offset, scale = values.mean(axis=0), values.std(axis=0)
    else:
        low, high = np.quantile(values, _QUANTILES, axis=0)
        # A number that hardly ever changes, as a gripper may: its quantiles are equal, but its range is not empty.
        rare = high - low <= smallest
        low, high = np.where(rare, least, low), np.where(rare, most, high)
        offset, scale = (low + high) / 2, (high - low) / 2
    constant = most - least <= smallest
    offset, scale = np.where(constant, (least + most) / 2, offset), np.where(constant, 0.0, scale)
    return tuple(offset.tolist()), tuple(scale.tolist())
