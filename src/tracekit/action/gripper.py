"""The gripper's camera as tokens: patch features, averaged to a small grid, and where each stands in it (paper B.4)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.action.config import ActionConfig

_POSITION_SCALE = 0.02
_GROUPS = 8


class GripperTokens(nn.Module):
    """Pictures or frozen patch features to K = pool * pool tokens."""

    def __init__(self, config: ActionConfig, feature_width: int) -> None:
        """`feature_width`: C of the frozen features; the stem has its own."""
        super().__init__()
        self.pool = config.gripper_pool
        self.stem = ConvolutionalStem(config.stem_width) if config.gripper_features == "stem" else None
        width = config.stem_width if self.stem is not None else feature_width
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, config.width)
        self.place = nn.Parameter(torch.randn(self.pool**2, config.width) * _POSITION_SCALE)

    def forward(self, picture: Tensor | None, features: Tensor | None) -> Tensor:
        """(B, K, D) of pictures (B, 3, s, s) uint8 where there is a stem, of features (B, h, w, C) otherwise."""
        if self.stem is not None:
            assert picture is not None
            maps = self.stem(picture)
        else:
            assert features is not None
            maps = features.permute(0, 3, 1, 2).to(self.proj.weight.dtype)
        tokens = F.adaptive_avg_pool2d(maps, self.pool).flatten(2).transpose(1, 2)
        return self.proj(self.norm(tokens)) + self.place


class ConvolutionalStem(nn.Module):
    """Four convolutions that halve the picture each, trained with the rest: where there is no pretrained DINOv2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [3, width // 4, width // 2, width, width]
        layers: list[nn.Module] = []
        for index, (one, other) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(one, other, 5 if index == 0 else 3, stride=2, padding=2 if index == 0 else 1)]
            layers += [nn.GroupNorm(_GROUPS, other), nn.SiLU()]
        self.layers: Any = nn.Sequential(*layers)

    def forward(self, picture: Tensor) -> Tensor:
        """(B, width, s / 16, s / 16) of pictures (B, 3, s, s) uint8."""
        return self.layers(picture.to(self.layers[0].weight.dtype) / 127.5 - 1.0)
