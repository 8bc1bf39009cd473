"""Which keypoints should keep their distance: R of Eq. 9."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def rigid_pairs(entity: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of `valid` (B, N) keypoints that share a sample and an entity (B, N): each once, as places in the flattened (B * N).

    Returns (R, 2) int64, the smaller place first, and for each pair one over the number of pairs of its sample, (R,) float32.
    Entities below 0 are no entity. Work and memory are those of the pairs: keypoints of different entities never meet.
    """
    entities = entity.cpu().numpy()
    places = np.flatnonzero(valid.cpu().numpy() & (entities >= 0))
    sample, thing = places // max(1, entities.shape[1]), entities.ravel()[places]
    order = np.lexsort((places, thing, sample))  # keypoints of one thing side by side
    places, sample, thing = places[order], sample[order], thing[order]
    is_first = np.ones(len(places), bool)
    is_first[1:] = (sample[1:] != sample[:-1]) | (thing[1:] != thing[:-1])
    first = np.flatnonzero(is_first)
    num_before = np.arange(len(places)) - np.repeat(first, np.diff([*first, len(places)]))  # of the same thing
    # Each keypoint meets the one before it, the one before that, ... as many as there are.
    second = np.repeat(np.arange(len(places)), num_before)
    back = np.arange(len(second)) - np.repeat(np.cumsum(num_before) - num_before, num_before) + 1
    pairs = np.stack([places[second - back], places[second]], axis=1).astype(np.int64)
    per_sample = np.bincount(sample[second], minlength=len(entities))
    weights = (1.0 / per_sample[sample[second]]).astype(np.float32)
    return torch.from_numpy(pairs).to(entity.device), torch.from_numpy(weights).to(entity.device)
