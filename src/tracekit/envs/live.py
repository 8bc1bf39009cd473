"""Environments that a policy acts in, one step after the other: what is common to simulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tracekit.action.observation import Observation


@dataclass(frozen=True)
class EnvRequest:
    """Which environment, and what of it is shown. It travels to the process of the environment."""

    name: str
    """SUITE/TASK, or the id of a Gymnasium environment."""
    width: int
    """Of pictures, pixels."""
    height: int
    language: str | None = None
    """What is to be done; None: what the environment says."""
    camera: str = ""
    """The camera that sees the scene: its name, or its key in the observations; "": the environment's own choice."""
    gripper_camera: str = ""
    state: tuple[str, ...] = ()
    """Keys of the observations that make up proprioception, concatenated; (): the environment's own choice."""


@dataclass(frozen=True)
class StepOutcome:
    """What came of an action."""

    reward: float
    success: bool
    """The task is done."""
    ended: bool
    """Nothing can follow: the environment wants a new start."""


class LiveEnv(Protocol):
    """One simulated robot at its task."""

    action_size: int
    """A."""
    state_size: int
    """P."""
    action_low: np.ndarray
    """(A,) the least of each number of an action."""
    action_high: np.ndarray
    """(A,)."""
    max_steps: int
    """Actions of an episode, unless another number is asked for."""
    fps: float
    """Rate at which a video of it plays, a picture for each action."""
    has_expert: bool
    has_gripper_camera: bool
    versions: dict[str, str]
    """Of the packages that decide what happens."""

    def reset(self, seed: int) -> None:
        """Start an episode that follows from the seed alone, whatever was before."""
        ...

    def observe(self) -> Observation:
        """What is seen and felt now. Pictures are drawn when this is called, and at no other time; it changes nothing."""
        ...

    def step(self, action: np.ndarray) -> StepOutcome:
        """Carry out an action (A,)."""
        ...

    def expert_action(self) -> np.ndarray | None:
        """(A,) float32, what a scripted expert would do now; None where there is none."""
        ...

    def close(self) -> None:
        """Free what is outside of Python's memory."""
        ...
