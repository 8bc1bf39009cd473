"""What the action expert is given: frames of demonstrations, or of a running robot, as tensors.

Shape letters of all of `tracekit.action`: B frames, T actions of a chunk, A numbers of an action, P numbers of proprioception, R draws of
noise, L tokens of the VLM's prefix, W its width, l words, G tokens of motion, E width of the trace expert, K gripper tokens.
Everything that is random in training is drawn with the sample (see `tracekit.action.dataset`): a batch alone decides the loss.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tracekit.action.observation import Observation as Observation


@dataclass(frozen=True)
class Features:
    """What the frozen μ0 makes of frames. Nothing here has a gradient."""

    vlm: Tensor
    """(B, L, W) z of Eq. 11: the last layer's output after the final norm."""
    vlm_present: Tensor
    """(B, L) bool."""
    words: Tensor
    """(B, l, W) the VLM's embeddings of the words of the sentence."""
    words_present: Tensor
    """(B, l) bool."""
    trace: Tensor | None
    """(B, G, E) z_trace: hidden states of the trace expert before the final norm; None without traces."""
    trace_present: Tensor | None
    """(B, G) bool."""
    gripper: Tensor | None
    """(B, h, w, C) patch features of the gripper's picture; None where the expert has its own stem, or no such camera."""


@dataclass(frozen=True)
class ActionBatch:
    """B frames. `features` are those of `image`, `text` and `gripper`, once μ0 has looked at them or a cache knows them."""

    takes_less_memory: ClassVar[str] = "--draws, --cache-features"

    position: Tensor
    """(B,) int64: number of each sample in the order of training, to name it in errors."""
    image: Tensor | None
    """(B, 3, S, S) uint8 RGB; None where `features` are known already."""
    gripper: Tensor | None
    """(B, 3, s, s) uint8 RGB."""
    text: Tensor
    """(B, l) int64 token ids, padded at the right."""
    text_present: Tensor
    """(B, l) bool."""
    state: Tensor
    """(B, P) float32, normalised."""
    actions: Tensor
    """(B, T, A) float32, normalised; 0 where not valid."""
    action_valid: Tensor
    """(B, T) bool: False after the end of a demonstration."""
    noise: Tensor
    """(B, R, T, A) float32, epsilon of Eq. 12."""
    tau: Tensor
    """(B, R) float32, flow time: 0 is noise, 1 is data: the opposite of the traces' (Eq. 6)."""
    features: Features | None = None

    def to(self, device: torch.device | str) -> ActionBatch:
        """The same batch on a device; from pinned memory the copies do not wait."""
        return _each_tensor(self, lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> ActionBatch:
        """What torch's DataLoader calls when it pins memory."""
        return _each_tensor(self, lambda value: value.pin_memory())

    def __len__(self) -> int:
        return len(self.position)

    @property
    def extent(self) -> tuple[int, str]:
        """What a sample's share of the memory goes with."""
        return self.noise.shape[1], "draws of noise"


def _each_tensor(record: Any, change: Any) -> Any:
    changed = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif isinstance(value, Features):
            changed[field.name] = _each_tensor(value, change)
    return dataclasses.replace(record, **changed)
