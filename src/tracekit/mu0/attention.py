"""What the layers of the VLM and of the trace expert share: heads, rotary positions, attention.

Letters: B batch, Q queries, K keys, A attention heads, a key-value heads, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32 as Llama's."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.epsilon).to(x.dtype)


def split_heads(x: Tensor, width: int) -> Tensor:
    """(B, Q, A * d) to (B, A, Q, d) with d = `width`."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, A, Q, d) to (B, Q, A * d)."""
    return x.transpose(1, 2).flatten(2)


def rotation(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, 1, Q, d / 2) float32 of rotary position embedding at positions (B, Q) (Su et al. 2021)."""
    rates = base ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angles = positions[:, None, :, None].float() * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + d / 2) of each head of x (B, A, Q, d), as Llama pairs them."""
    cosine, sine = by
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Attention of (B, A, Q, d) over (B, a, K, d), where `allowed` (B, 1, Q or 1, K) bool says so: (B, Q, A * d)."""
    dtype = value.dtype
    out = F.scaled_dot_product_attention(
        query.to(dtype), key.to(dtype), value, attn_mask=allowed, enable_gqa=query.shape[1] != key.shape[1]
    )
    return join_heads(out)
