"""The parts of μ0 that learn at different rates (paper B.1)."""

from __future__ import annotations

import torch
from torch import nn

from tracekit.mu0.recipe import Mu0Recipe
from tracekit.training.optimiser import adamw, trained_parameters

_VLM = "vlm.smolvlm."


def optimiser(model: nn.Module, recipe: Mu0Recipe) -> torch.optim.AdamW:
    """AdamW with two groups: the pretrained weights of the VLM, at `recipe.vlm_rate` of the learning rate, and the rest.

    What a frozen VLM has for depth alone (stem, low-rank paths) is new, and learns like the rest.
    """
    trained = trained_parameters(model)
    vlm = [value for name, value in trained.items() if name.startswith(_VLM) and "lora_" not in name]
    rest = [value for name, value in trained.items() if not (name.startswith(_VLM) and "lora_" not in name)]
    return adamw([(1.0, rest), (recipe.vlm_rate, vlm)], recipe)
