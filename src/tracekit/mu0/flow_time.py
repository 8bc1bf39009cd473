"""How the flow time reaches every layer of the trace expert: adaLN-Zero (Peebles and Xie 2023; paper B.3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class FlowTime(nn.Module):
    """tau (B,) to (shift, scale, gate) of attention and of the MLP in each layer."""

    def __init__(self, width: int, num_layers: int, num_features: int, shortest_period: float, longest_period: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.periods = (shortest_period, longest_period)
        self.embed: Any = nn.Sequential(nn.Linear(num_features, width), nn.SiLU(), nn.Linear(width, width))
        # All zero, so that every layer starts as the identity.
        self.heads: Any = nn.ModuleList(nn.Sequential(nn.SiLU(), zero_linear(width, 6 * width)) for _ in range(num_layers))

    def forward(self, tau: Tensor) -> Tensor:
        """(layers, 6, B, width): shift, scale and gate of attention, then of the MLP."""
        embedded = self.embed(sinusoids(tau, self.num_features, *self.periods).to(self.embed[0].weight.dtype))
        return torch.stack([torch.stack(head(embedded).chunk(6, dim=-1)) for head in self.heads])


def zero_linear(width: int, out: int) -> nn.Linear:
    """A linear layer that says 0 until it has learnt something."""
    layer = nn.Linear(width, out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoids(tau: Tensor, num_features: int, shortest_period: float, longest_period: float) -> Tensor:
    """(B, num_features) float32: sines, then cosines, of tau (B,) at periods spaced evenly in their logarithm."""
    share = torch.linspace(0.0, 1.0, num_features // 2, dtype=torch.float64, device=tau.device)
    periods = shortest_period * (longest_period / shortest_period) ** share
    angles = 2.0 * math.pi * tau.double()[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
