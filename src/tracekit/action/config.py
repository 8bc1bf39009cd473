"""What makes one action expert differ from another: sizes, the robot's interface, and what it is shown (paper 3.4, B.4, E.2).

A configuration is plain data: it goes into a policy's config.json as it is, and with that of the world model a network follows from it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from tracekit.errors import BadDataError, ConfigurationError

METHODS = ("flow", "diffusion")
GRIPPER_FEATURES = ("dinov2", "stem", "none")
QUERIES = ("grid", "entities")

# The stem's narrowest layer is a quarter as wide, and is normalised in eight groups.
STEM_WIDTHS = 32

# Far beyond any network that is trained.
_SIZES = {
    "width": 65_536,
    "layers": 1_000,
    "heads": 1_000,
    "key_value_heads": 1_000,
    "head_width": 4_096,
    "inner": 1_000_000,
    "action_size": 4_096,
    "action_width": 4_096,
    "state_size": 4_096,
    "horizon": 10_000,
    "execute": 10_000,
    "grid": 256,
    "grid_pool": 256,
    "gripper_size": 4_096,
    "gripper_pool": 256,
    "stem_width": 4_096,
    "fusion_heads": 1_000,
    "max_entities": 65_536,
    "sampling_steps": 1_000,
}
_POSITIVE = ("rope_base", "shortest_period", "longest_period", "norm_epsilon")


@dataclass(frozen=True)
class ActionConfig:
    """One action expert. Letters as in `tracekit.action.batch`."""

    name: str
    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    inner: int
    """Width of the gated MLP."""

    action_size: int
    """A: numbers in one action of the robot."""
    state_size: int
    """P: numbers of proprioception."""
    horizon: int = 16
    """T: actions in a chunk."""
    execute: int = 8
    """Actions of a chunk that are carried out before the next one is predicted."""
    action_width: int = 32
    """Actions are padded with zeros to this many numbers, so that robots share a layout. What is padded has no influence."""

    method: str = "flow"
    """"flow": Eq. 12. "diffusion": the baseline without a world model (Chi et al. 2023)."""
    use_trace: bool = True
    """False: "w/o Trace" of Table 8."""
    gate_init: float = 0.0
    """g of Eq. 11 before training."""
    fusion_heads: int = 8

    queries: str = "grid"
    """Which points μ0 is asked about: a uniform grid, or the entity keypoints of the frame."""
    grid: int = 20
    """Points along a side of the grid."""
    grid_pool: int = 2
    """Features of this many by this many points are averaged to one token."""
    max_entities: int = 100
    """Keypoints that are asked about at most, where they are those of entities. They are not averaged."""

    gripper_features: str = "dinov2"
    """Of the gripper camera: μ0's frozen DINOv2, a convolutional stem that is trained, or no such camera."""
    gripper_size: int = 128
    """Side of the picture that the stem sees, in pixels; DINOv2 has its own."""
    gripper_pool: int = 8
    """Patch features are averaged to this many by this many tokens."""
    stem_width: int = 128

    sampling_steps: int = 10
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    shortest_period: float = 4e-3
    longest_period: float = 4.0

    def check(self) -> None:
        """Raise ConfigurationError for a network that cannot be built."""
        for name, most in _SIZES.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigurationError(f"{name} is {getattr(self, name)}", hint=f"it must be from 1 to {most}")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)}", hint="it must be a number greater than 0")
        if math.isnan(self.gate_init):
            raise ConfigurationError("gate_init is not a number")
        for what, choices in (("method", METHODS), ("gripper_features", GRIPPER_FEATURES), ("queries", QUERIES)):
            if getattr(self, what) not in choices:
                raise ConfigurationError(f"{what} is {getattr(self, what)!r}", hint=f"choose one of: {', '.join(choices)}")
        if self.execute > self.horizon:
            raise ConfigurationError(
                f"{self.execute} actions of a chunk of {self.horizon} cannot be executed", hint="--execute: at most --horizon"
            )
        if self.action_size > self.action_width:
            raise ConfigurationError(
                f"actions of {self.action_size} numbers do not fit into {self.action_width}", hint="--action-width: more"
            )
        if self.heads % self.key_value_heads:
            raise ConfigurationError(f"{self.heads} heads cannot share {self.key_value_heads} key-value heads evenly")
        if self.head_width % 2 or self.width % 2:
            raise ConfigurationError("widths must be even: rotary positions and flow times come in pairs")
        if self.stem_width % STEM_WIDTHS:
            raise ConfigurationError(f"stem_width is {self.stem_width}", hint=f"it must be a multiple of {STEM_WIDTHS}")
        if self.method == "diffusion" and (self.use_trace or self.gripper_features == "dinov2"):
            what = "traces" if self.use_trace else "features of the gripper's camera"
            raise ConfigurationError(f"the baseline has no world model whose {what} it could use", hint="it has eyes of its own: a stem")
        if self.grid % self.grid_pool:
            raise ConfigurationError(f"a grid of {self.grid} points a side cannot be averaged {self.grid_pool} by {self.grid_pool}")

    @property
    def trace_tokens(self) -> int:
        """Tokens of motion: one for each cell of the averaged grid, or one for each entity keypoint."""
        return (self.grid // self.grid_pool) ** 2 if self.queries == "grid" else self.max_entities

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def config_from_json(content: Any, where: str) -> ActionConfig:
    """The configuration in a policy. Raises BadDataError naming unknown, missing or mistyped fields, and values that make no network."""
    if not isinstance(content, dict):
        raise BadDataError(f"{where} holds no configuration of an action expert")
    fields = {entry.name: entry for entry in dataclasses.fields(ActionConfig)}
    faults = [f"unknown field {name}" for name in sorted(set(content) - set(fields))]
    faults += [f"no field {name}" for name, entry in fields.items() if name not in content and entry.default is dataclasses.MISSING]
    if faults:
        raise BadDataError(f"{where}: " + "; ".join(faults))
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}
    for name, value in content.items():
        kind = kinds[str(fields[name].type)]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise BadDataError(f"{where}: {name} is {value!r}, but {fields[name].type} is expected")
    config = ActionConfig(**content)
    try:
        config.check()
    except ConfigurationError as error:  # not the user's: the file came like that
        raise BadDataError(f"{where}: {error.message}", hint=error.hint) from None
    return config
