"""AdamW over what is trained, and the learning rate of every step (paper B.1)."""

from __future__ import annotations

import math

import torch
from torch import nn

from tracekit.training.recipe import Recipe

_VLM = "vlm.smolvlm."


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


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with two groups: the pretrained weights of the VLM, at `recipe.vlm_rate` of the learning rate, and the rest.

    What a frozen VLM has for depth alone (stem, low-rank paths) is new, and learns like the rest.
    """
    trained = trained_parameters(model)
    vlm = [value for name, value in trained.items() if name.startswith(_VLM) and "lora_" not in name]
    rest = [value for name, value in trained.items() if not (name.startswith(_VLM) and "lora_" not in name)]
    groups = [{"params": rest, "rate": 1.0}, {"params": vlm, "rate": recipe.vlm_rate}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=next(iter(trained.values())).is_cuda,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """To `rate` times each group's own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
