"""What drives a robot: observations in, chunks of actions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tracekit.action.batch import Observation


@dataclass(frozen=True)
class Moment:
    """Which decision is made: all that is random in it follows from this, whatever else is decided at the same time."""

    seed: int
    """Of the episode."""
    step: int
    """Actions that were carried out before."""


class Policy(Protocol):
    """Plans for several robots at a time; what it plans for one does not depend on the others."""

    execute: int
    """Actions of a chunk that are carried out before the next observation."""

    def plan(self, observations: Sequence[Observation], moments: Sequence[Moment]) -> np.ndarray:
        """(B, T, A) float32 actions in the robot's own units, T >= execute."""
        ...

    def foresee(self, observation: Observation, moment: Moment) -> np.ndarray | None:
        """(N, H + 1, 3) the traces that the world model predicts for its queries, u and v in [-1, 1], the first point of each where it is now;
        None for a policy without a world model."""
        ...
