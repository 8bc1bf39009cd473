"""AdamW over what is trained, and the learning rate of every step (paper B.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from tracekit.training.recipe import Recipe


def learning_rate(step: int, recipe: Recipe) -> float:
    """Of step 1, 2, ... `recipe.steps`: linear from 0 over the warm-up, then half a cosine down to the final rate at the last step."""
    warmup = min(recipe.warmup, recipe.steps // 10)
    if step <= warmup:
        return recipe.learning_rate * step / warmup
    share = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) * 0.5 * (1.0 + math.cos(math.pi * share))


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What has gradients, by name, in the network's own order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adamw(parts: Sequence[tuple[float, Sequence[nn.Parameter]]], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over parts of what is trained, each at its own factor of the learning rate; those without any weight are left out."""
    groups = [{"params": list(values), "rate": rate} for rate, values in parts if values]
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=groups[0]["params"][0].is_cuda,  # type: ignore[index]
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """To `rate` times each group's own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
