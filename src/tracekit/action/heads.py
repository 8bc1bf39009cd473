"""Heads: what is trained on demonstrations, by the method of a configuration."""

from __future__ import annotations

import torch

from tracekit.action.config import ActionConfig
from tracekit.action.diffusion_policy import DiffusionPolicy
from tracekit.action.frozen import FeatureWidths
from tracekit.action.model import ActionExpert

Head = ActionExpert | DiffusionPolicy
"""`forward(batch)` gives squared errors (B, R, T, A), `sample(batch)` chunks (B, R, T, A)."""


def build_head(config: ActionConfig, widths: FeatureWidths | None, seed: int = 0) -> Head:
    """A head with random weights that follow from the seed alone. `widths` are those of the world model; the baseline has none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.method == "diffusion":
            return DiffusionPolicy(config)
        assert widths is not None
        return ActionExpert(config, widths.vlm, widths.trace, widths.gripper)
