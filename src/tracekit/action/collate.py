"""Samples of demonstrations to a batch: sentences as ids, features padded to the longest sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tracekit.action.batch import ActionBatch, Features
from tracekit.action.dataset import ActionSample
from tracekit.action.feature_part import FrameFeatures
from tracekit.mu0.text import Tokenizer


@dataclass(frozen=True)
class ActionCollate:
    """Makes an ActionBatch of samples."""

    tokenizer: Tokenizer

    def __call__(self, samples: Sequence[ActionSample]) -> ActionBatch:
        text, text_present = self.tokenizer([sample.language for sample in samples])
        cached = [sample.features for sample in samples if sample.features is not None]
        return ActionBatch(
            position=torch.tensor([sample.position for sample in samples], dtype=torch.int64),
            image=_stacked([sample.image for sample in samples]),
            gripper=_stacked([sample.gripper for sample in samples]),
            text=torch.from_numpy(text),
            text_present=torch.from_numpy(text_present),
            state=_all([sample.state for sample in samples]),
            actions=_all([sample.actions for sample in samples]),
            action_valid=_all([sample.action_valid for sample in samples]),
            noise=_all([sample.noise for sample in samples]),
            tau=_all([sample.tau for sample in samples]),
            features=features_of(cached, text_present) if cached else None,
        )


def features_of(frames: Sequence[FrameFeatures], text_present: np.ndarray) -> Features:
    """Cached features of B frames as a batch, float16, where `text_present` (B, l) are the tokens of their sentences."""
    num_picture_tokens = frames[0].num_picture_tokens
    length = text_present.shape[1]
    picture = np.ones((len(frames), num_picture_tokens), bool)
    return Features(
        vlm=_right_padded([frame.vlm for frame in frames], num_picture_tokens + length),
        vlm_present=torch.from_numpy(np.concatenate([picture, text_present], axis=1)),
        words=_right_padded([frame.words for frame in frames], length),
        words_present=torch.from_numpy(text_present),
        trace=_stacked([frame.trace for frame in frames]),
        trace_present=_stacked([frame.trace_present for frame in frames]),
        gripper=_stacked([frame.gripper for frame in frames]),
    )


def _right_padded(values: Sequence[np.ndarray], length: int) -> Tensor:
    """Rows (l_i, W) as one tensor (B, length, W), 0 where there is nothing."""
    padded = np.zeros((len(values), length, values[0].shape[1]), values[0].dtype)
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = value
    return torch.from_numpy(padded)


def _stacked(values: Sequence[np.ndarray | None]) -> Tensor | None:
    there = [value for value in values if value is not None]
    return _all(there) if there else None


def _all(values: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(values))
