"""What an action expert is trained to do: match the flow over chunks of actions (paper Eq. 12), wherever a demonstration still goes on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from tracekit.action.batch import ActionBatch
from tracekit.action.frozen import FrozenMu0


@dataclass(frozen=True)
class ActionObjective:
    """Mean squared error over valid actions, all draws of noise and all numbers of an action, of the global batch."""

    frozen: FrozenMu0 | None
    """Looks at pictures of which no features are cached; None for a head that needs no features, or with a cache."""

    def prepared(self, batch: ActionBatch) -> ActionBatch:
        """With the features of its pictures."""
        return batch if self.frozen is None else dataclasses.replace(batch, features=self.frozen.complete(batch))

    def counts(self, batch: ActionBatch) -> Tensor:
        """(1,) float32: numbers that are compared."""
        draws, _, size = batch.noise.shape[1:]
        return (batch.action_valid.sum() * draws * size).float()[None]

    def losses(self, output: Tensor, batch: ActionBatch, counts: Tensor) -> dict[str, Tensor]:
        """Of squared errors (B, R, T, A). What comes after the end of a demonstration has no influence."""
        errors = torch.where(batch.action_valid[:, None, :, None], output, 0.0)
        return {"loss": errors.sum() / counts[0].clamp(min=1.0)}
