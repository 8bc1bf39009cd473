"""A batch of made-up frames of a robot: to try a head, to time it."""

from __future__ import annotations

import torch

from tracekit.action.batch import ActionBatch
from tracekit.action.config import ActionConfig


def example_batch(
    config: ActionConfig,
    num_frames: int = 2,
    *,
    draws: int = 2,
    image_size: int,
    vocabulary: int,
    num_words: int = 6,
    seed: int = 0,
) -> ActionBatch:
    """Random pictures, sentences and actions, all valid, without features. `image_size` and `vocabulary` are those of μ0, or of the baseline.

    Every value follows from the seed.
    """
    generator = torch.Generator().manual_seed(seed)
    chunk = (config.horizon, config.action_size)

    def picture(size: int) -> torch.Tensor:
        return torch.randint(0, 256, (num_frames, 3, size, size), generator=generator, dtype=torch.uint8)

    return ActionBatch(
        position=torch.arange(num_frames),
        image=picture(image_size),
        gripper=picture(config.gripper_size) if config.gripper_features != "none" else None,
        text=torch.randint(2, vocabulary, (num_frames, num_words), generator=generator),
        text_present=torch.ones(num_frames, num_words, dtype=torch.bool),
        state=torch.randn(num_frames, config.state_size, generator=generator),
        actions=torch.randn(num_frames, *chunk, generator=generator),
        action_valid=torch.ones(num_frames, config.horizon, dtype=torch.bool),
        noise=torch.randn(num_frames, draws, *chunk, generator=generator),
        tau=torch.rand(num_frames, draws, generator=generator),
    )
