"""Keypoints as tokens: their history, their noisy target, where they are and what they look like (paper 3.2, B.2).

Letters: E width of the expert, Gh history tokens and Gp target tokens of a keypoint, S draws.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.mu0.config import Mu0Config
from tracekit.mu0.flow_time import zero_linear

_HISTORY, _TARGET = 0, 1


class QueryTokens(nn.Module):
    """Lifts, embeddings and fusion. Nothing in a token says which place its keypoint has in the list."""

    def __init__(self, config: Mu0Config, width: int, local_width: int) -> None:
        super().__init__()
        self.config = config
        self.lift_history = nn.Linear(3 * config.history_group, width) if config.use_history else None
        self.lift_target = nn.Linear(3 * config.points_per_token, width)
        # As many rows as the release has; a token of a keypoint takes the row of its number.
        self.group = nn.Embedding(config.history + config.horizon, width)
        self.segment = nn.Embedding(2, width)
        self.place: Any = nn.Sequential(nn.Linear(4 * config.fourier_bands, width), nn.SiLU(), zero_linear(width, width))
        self.fuse_in = nn.Linear(width + local_width, width) if local_width else None
        self.fuse_out = nn.Linear(width, width) if local_width else None

    def history(self, history: Tensor, place: Tensor, look: Tensor | None) -> Tensor:
        """(B, N, Gh, E) from history (B, N, h, 3)."""
        assert self.lift_history is not None
        tokens = self.lift_history(history.unflatten(2, (self.config.history_tokens, -1)).flatten(3))
        return self._finish(tokens, 0, _HISTORY, place, look)

    def target(self, points: Tensor, place: Tensor, look: Tensor | None) -> Tensor:
        """(B, S, N, Gp, E) from noisy targets (B, S, N, P, 3)."""
        tokens = self.lift_target(points.unflatten(3, (self.config.target_tokens, -1)).flatten(4))
        # Group numbers go on where history's end, whether history is used or not.
        first = self.config.history // self.config.history_group
        return self._finish(tokens, first, _TARGET, place[:, None], None if look is None else look[:, None])

    def embed_place(self, uv: Tensor) -> Tensor:
        """(B, N, E) from places (B, N, 2) in [-1, 1]."""
        return self.place(fourier_features(uv, self.config.fourier_bands).to(self.place[0].weight.dtype))

    def _finish(self, tokens: Tensor, first_group: int, segment: int, place: Tensor, look: Tensor | None) -> Tensor:
        groups = self.group.weight[first_group : first_group + tokens.shape[-2]]
        tokens = tokens + groups + self.segment.weight[segment] + place.unsqueeze(-2)
        if self.fuse_in is None or self.fuse_out is None:
            return tokens
        assert look is not None
        seen = look.unsqueeze(-2).expand(*tokens.shape[:-1], -1)
        return self.fuse_out(F.silu(self.fuse_in(torch.cat([tokens, seen.to(tokens.dtype)], dim=-1))))


def fourier_features(uv: Tensor, num_bands: int) -> Tensor:
    """(..., 4 * num_bands) from uv (..., 2): for u, then v, the sines and then the cosines of 2^k pi times it, k = 0, 1, ..."""
    rates = math.pi * 2.0 ** torch.arange(num_bands, device=uv.device, dtype=torch.float32)
    angles = uv.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
