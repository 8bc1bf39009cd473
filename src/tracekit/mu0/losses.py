"""What μ0 is trained to do: match the flow, say when a keypoint ends, keep parts rigid (paper 3.3, B.3).

Every term is a sum over a batch divided by a count. Counts come first and may be added up over micro-batches and processes: however
a global batch is cut, the loss and its gradient are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.model import Forecast


@dataclass(frozen=True)
class Losses:
    """The terms of Eq. 10, scalars, each over the global count."""

    total: Tensor
    flow: Tensor
    done: Tensor
    rigidity: Tensor

    def by_name(self) -> dict[str, Tensor]:
        """By TERMS."""
        return dict(zip(TERMS, (self.total, self.flow, self.done, self.rigidity), strict=True))


TERMS = ("loss", "flow", "done", "rigidity")


def loss_counts(batch: TraceBatch) -> Tensor:
    """(3,) float32: keypoints in the flow loss, keypoints in the validity loss, samples with pairs of one part.

    Without splines a keypoint counts in the flow loss by the share of its steps that are valid.
    """
    keypoints = batch.target_valid.float().mean(dim=-1).sum()
    return torch.stack([keypoints, batch.present.float().sum(), batch.rigid_weight.sum()])


def losses(forecast: Forecast, batch: TraceBatch, weights: LossWeights, counts: Tensor) -> Losses:
    """The sums of this batch over `counts`, those of the global batch (a count of 0 makes its term 0)."""
    per = 1.0 / counts.clamp(min=1e-9)
    flow = flow_sum(forecast.velocity, batch) * per[0]
    done = done_sum(forecast.validity_logits, batch) * per[1]
    rigidity = flow.new_zeros(())
    if weights.rigidity > 0:
        rigidity = rigidity_sum(forecast.velocity, batch, weights.rigid_distance) * per[2]
    return Losses(flow + weights.done * done + weights.rigidity * rigidity, flow, done, rigidity)


def flow_sum(velocity: Tensor, batch: TraceBatch) -> Tensor:
    """Eq. 7: squared distance of the velocity (B, N, P, 3) from epsilon - P*, over all of a keypoint's points, summed over keypoints."""
    error = (velocity.float() - (batch.noise - batch.target)).square().sum(dim=-1)
    return (error * batch.target_valid).sum()


def done_sum(logits: Tensor, batch: TraceBatch) -> Tensor:
    """Eq. 8: binary cross-entropy of the logits (B, N, H), summed over steps and over the keypoints that there are."""
    entropy = F.binary_cross_entropy_with_logits(logits.float(), batch.valid_future.float(), reduction="none")
    return (entropy.sum(dim=-1) * batch.present).sum()


def rigidity_sum(velocity: Tensor, batch: TraceBatch, distance: str = "squared") -> Tensor:
    """Eq. 9: variance over the points of the distance of two keypoints of one part, averaged over the pairs of a sample, summed over samples.

    Points are the clean ones that the velocity (B, N, P, 3) implies, P^tau - tau v, in units of the delta scale.
    """
    tau = batch.tau[:, None, None, None]
    clean = tau * batch.noise + (1 - tau) * batch.target - tau * velocity.float()
    one, other = clean.flatten(0, 1)[batch.rigid_pair].unbind(dim=1)
    squared = (one - other).square().sum(dim=-1)
    # The root has no slope at 0.
    kept = squared if distance == "squared" else (squared + 1e-12).sqrt()
    # Not Tensor.var, which warns where there is no pair.
    variance = (kept - kept.mean(dim=-1, keepdim=True)).square().mean(dim=-1)
    return (variance * batch.rigid_weight).sum()
