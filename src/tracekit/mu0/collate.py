"""Samples to a batch: keypoints padded, captions as ids, pairs of keypoints that may be rigid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.rigid_pairs import rigid_pairs
from tracekit.mu0.sample import TraceSample
from tracekit.mu0.text import Tokenizer


@dataclass(frozen=True)
class Collate:
    """Makes a TraceBatch of samples."""

    tokenizer: Tokenizer

    def __call__(self, samples: Sequence[TraceSample]) -> TraceBatch:
        width = max(len(sample.current) for sample in samples)
        present = np.arange(width) < np.array([[len(sample.current)] for sample in samples])
        entity = torch.from_numpy(_padded([sample.entity.astype(np.int64) for sample in samples], width, -1))
        target_valid = torch.from_numpy(_padded([sample.target_valid for sample in samples], width))
        history_present = _padded([sample.history_present for sample in samples], width)
        history = _padded([sample.history for sample in samples], width)
        pair, weight = rigid_pairs(entity, target_valid.all(dim=2))
        text, text_present = self.tokenizer([sample.caption for sample in samples])
        depths = [sample.depth for sample in samples]
        depth = None
        if any(picture is not None for picture in depths):
            depth = torch.from_numpy(np.stack([np.zeros_like(samples[0].image) if picture is None else picture for picture in depths]))
        return TraceBatch(
            position=torch.tensor([sample.position for sample in samples], dtype=torch.int64),
            image=torch.from_numpy(np.stack([sample.image for sample in samples])),
            depth=depth,
            depth_present=torch.tensor([picture is not None for picture in depths]),
            text=torch.from_numpy(text),
            text_present=torch.from_numpy(text_present),
            present=torch.from_numpy(present),
            current=torch.from_numpy(_padded([sample.current for sample in samples], width)),
            history=torch.from_numpy(history * history_present[..., None, None]),
            history_present=torch.from_numpy(history_present),
            target=torch.from_numpy(_padded([sample.target for sample in samples], width)),
            target_valid=target_valid,
            future=torch.from_numpy(_padded([sample.future for sample in samples], width)),
            valid_future=torch.from_numpy(_padded([sample.valid_future for sample in samples], width)),
            entity=entity,
            moving=torch.from_numpy(_padded([sample.moving for sample in samples], width)),
            rigid_pair=pair,
            rigid_weight=weight,
            noise=torch.from_numpy(_padded([sample.noise for sample in samples], width)),
            tau=torch.tensor([sample.tau for sample in samples], dtype=torch.float32),
        )


def _padded(arrays: Sequence[np.ndarray], width: int, fill: int = 0) -> np.ndarray:
    """Arrays (N_i, ...) as one (B, width, ...)."""
    result = np.full((len(arrays), width, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: len(array)] = array
    return result
