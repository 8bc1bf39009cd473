"""A small action expert that is no longer what it was at the start, and what it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from tracekit.action.batch import ActionBatch, Features
from tracekit.action.config import ActionConfig
from tracekit.action.example_batch import example_batch
from tracekit.action.model import ActionExpert

SMALL = ActionConfig(
    "small",
    width=24,
    layers=3,
    heads=4,
    key_value_heads=2,
    head_width=6,
    inner=40,
    action_size=3,
    state_size=5,
    horizon=4,
    execute=2,
    action_width=7,
    fusion_heads=2,
    grid=4,
    grid_pool=2,
    gripper_features="dinov2",
    gripper_size=32,
    gripper_pool=2,
    stem_width=32,
)
VLM, TRACE, GRIPPER = 16, 12, 10
CLOSE = {"rtol": 0, "atol": 1e-6}


def shake(module: nn.Module, seed: int = 0, scale: float = 0.2) -> Any:
    """Every weight is another: nothing is the identity, and no gate is shut."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def expert_of(config: ActionConfig = SMALL, *, awake: bool = True) -> ActionExpert:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expert = ActionExpert(config, VLM, TRACE, GRIPPER)
    return shake(expert) if awake else expert


def features_of(batch: ActionBatch, config: ActionConfig = SMALL, *, num_vlm: int = 6, seed: int = 1) -> Features:
    """All present."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(len(batch), *shape, generator=generator)

    number = config.trace_tokens
    return Features(
        vlm=normal(num_vlm, VLM),
        vlm_present=torch.ones(len(batch), num_vlm, dtype=torch.bool),
        words=normal(batch.text.shape[1], VLM),
        words_present=batch.text_present.clone(),
        trace=normal(number, TRACE) if config.use_trace else None,
        trace_present=torch.ones(len(batch), number, dtype=torch.bool) if config.use_trace else None,
        gripper=normal(4, 4, GRIPPER) if config.gripper_features == "dinov2" else None,
    )


def batch_of(num_frames: int = 3, *, draws: int = 2, config: ActionConfig = SMALL, seed: int = 0) -> ActionBatch:
    batch = example_batch(config, num_frames, draws=draws, image_size=32, vocabulary=100, num_words=3, seed=seed)
    return dataclasses.replace(batch, features=features_of(batch, config))


def with_features(batch: ActionBatch, **changes: Tensor | None) -> ActionBatch:
    assert batch.features is not None
    return dataclasses.replace(batch, features=dataclasses.replace(batch.features, **changes))


def rows(record: Any, places: slice) -> Any:
    """The same frames of a batch and of its features."""
    changed = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        changed[field.name] = rows(value, places) if isinstance(value, Features) else None if value is None else value[places]
    return type(record)(**changed)
