"""A batch of a configuration's own shapes, made up: to try a network, to time it, to know how much memory it needs."""

from __future__ import annotations

import torch

from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.rigid_pairs import rigid_pairs


def example_batch(
    config: Mu0Config,
    num_samples: int = 2,
    num_keypoints: int = 5,
    *,
    seed: int = 0,
    num_text_tokens: int = 6,
    num_entities: int = 2,
    depth: bool = True,
) -> TraceBatch:
    """Random pictures, sentences and keypoints, all present and valid. Every value follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    size, num_points = config.image_size, config.target_points
    per_keypoint = (num_samples, num_keypoints)
    vocabulary = config.vlm["text_config"]["vocab_size"]

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def picture() -> torch.Tensor:
        return torch.randint(0, 256, (num_samples, 3, size, size), generator=generator, dtype=torch.uint8)

    with_depth = depth and config.use_depth
    current = torch.cat(
        [torch.rand(*per_keypoint, 2, generator=generator) * 2 - 1, torch.rand(*per_keypoint, 1, generator=generator) + 0.5], -1
    )
    entity = torch.randint(0, num_entities, per_keypoint, generator=generator)
    target_valid = torch.ones(*per_keypoint, num_points, dtype=torch.bool)
    pair, weight = rigid_pairs(entity, target_valid.all(dim=-1))
    return TraceBatch(
        position=torch.arange(num_samples),
        image=picture(),
        depth=picture() if with_depth else None,
        depth_present=torch.full((num_samples,), with_depth),
        text=torch.randint(2, vocabulary, (num_samples, num_text_tokens), generator=generator),
        text_present=torch.ones(num_samples, num_text_tokens, dtype=torch.bool),
        present=torch.ones(*per_keypoint, dtype=torch.bool),
        current=current,
        history=normal(*per_keypoint, config.history, 3, scale=0.1),
        history_present=torch.ones(*per_keypoint, dtype=torch.bool),
        target=normal(*per_keypoint, num_points, 3, scale=0.5),
        target_valid=target_valid,
        future=normal(*per_keypoint, config.horizon, 3, scale=0.1),
        valid_future=torch.ones(*per_keypoint, config.horizon, dtype=torch.bool),
        entity=entity,
        moving=torch.ones(*per_keypoint, dtype=torch.bool),
        rigid_pair=pair,
        rigid_weight=weight,
        noise=normal(*per_keypoint, num_points, 3),
        tau=torch.rand(num_samples, generator=generator),
    )
