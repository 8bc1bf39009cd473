"""Which keypoints should keep their distance: R of Eq. 9."""

from __future__ import annotations

import torch
from torch import Tensor


def rigid_pairs(entity: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of `valid` (B, N) keypoints that share a sample and an entity (B, N): each once, as places in the flattened (B * N).

    Returns (R, 2) int64 and for each pair one over the number of pairs of its sample, (R,) float32. Entities below 0 are no entity.
    """
    num = entity.shape[1]
    usable = valid & (entity >= 0)
    same = (entity[:, :, None] == entity[:, None, :]) & usable[:, :, None] & usable[:, None, :]
    sample, one, other = same.triu(diagonal=1).nonzero(as_tuple=True)
    per_sample = torch.bincount(sample, minlength=len(entity))
    return torch.stack([sample * num + one, sample * num + other], dim=1), 1.0 / per_sample[sample].float()
