"""What the network is given: samples of a corpus as tensors, padded to the same number of keypoints.

Shape letters of all of `tracekit.mu0`: B samples, N keypoints (padded), h history steps, H future steps, P target points (D control
points, or H without splines), L text tokens, S draws, 3 = (u, v, z).
Everything that is random in training is drawn with the sample (see `TraceDataset`): a batch alone decides the loss.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class TraceBatch:
    """B samples. Entries of keypoints that are not `present` are 0; so is history that is not known."""

    takes_less_memory: ClassVar[str] = "--gradient-checkpointing, --fsdp with several GPUs, --max-keypoints"

    position: Tensor
    """(B,) int64: number of each sample in the order of training, to name it in errors."""
    image: Tensor
    """(B, 3, image_size, image_size) uint8 RGB."""
    depth: Tensor | None
    """(B, 3, image_size, image_size) uint8, depth in Turbo colours (`tracekit.mu0.depth_image`); None when no sample has any."""
    depth_present: Tensor
    """(B,) bool: False where depth is unknown or was dropped. Its tokens are then masked out."""
    text: Tensor
    """(B, L) int64 token ids, padded at the right."""
    text_present: Tensor
    """(B, L) bool."""
    present: Tensor
    """(B, N) bool: which keypoints there are."""
    current: Tensor
    """(B, N, 3) anchors, u and v in [-1, 1], z in metres."""
    history: Tensor
    """(B, N, h, 3) minus the anchor, oldest first, not scaled."""
    history_present: Tensor
    """(B, N) bool: False where history is unknown or was dropped. Its tokens are then masked out."""
    target: Tensor
    """(B, N, P, 3): P* of Eq. 4, or the future minus the anchor, over the delta scale; 0 where not valid."""
    target_valid: Tensor
    """(B, N, P) bool: what counts in the flow loss. With splines all of a keypoint's points or none."""
    future: Tensor
    """(B, N, H, 3) minus the anchor, not scaled; 0 where not valid."""
    valid_future: Tensor
    """(B, N, H) bool."""
    entity: Tensor
    """(B, N) int64, -1 where there is no keypoint."""
    moving: Tensor
    """(B, N) bool."""
    rigid_pair: Tensor
    """(R, 2) int64: pairs of keypoints of one sample and entity whose targets are valid, as places in the flattened (B * N)."""
    rigid_weight: Tensor
    """(R,) float32: one over the number of pairs of the pair's sample."""
    noise: Tensor
    """(B, N, P, 3) float32, epsilon of Eq. 6."""
    tau: Tensor
    """(B,) float32, flow time: 1 is noise, 0 is data."""

    def to(self, device: torch.device | str) -> TraceBatch:
        """The same batch on a device; from pinned memory the copies do not wait."""
        return dataclasses.replace(
            self,
            **{
                field.name: value.to(device, non_blocking=True)
                for field in dataclasses.fields(self)
                if (value := getattr(self, field.name)) is not None
            },
        )

    def pin_memory(self) -> TraceBatch:
        """What torch's DataLoader calls when it pins memory."""
        return dataclasses.replace(
            self,
            **{field.name: value.pin_memory() for field in dataclasses.fields(self) if (value := getattr(self, field.name)) is not None},
        )

    def __len__(self) -> int:
        return len(self.position)

    @property
    def extent(self) -> tuple[int, str]:
        """What a sample's share of the memory goes with."""
        return self.present.shape[1], "keypoints"
