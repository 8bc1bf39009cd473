"""What plain vision transformers of timm say of the patches of a frame: the common part of `dinov2`, `dinov3` and `timm`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tracekit.backends.batches import Batches, inference
from tracekit.backends.devices import torch_device
from tracekit.backends.features.timm_weights import FILES, architecture_in, load_timm
from tracekit.backends.memory import free_memory
from tracekit.backends.packages import missing_package
from tracekit.backends.protocols import BackendSetup, PatchFeatures
from tracekit.backends.weights import Published, find_weights, get_weights, is_path, missing_weights, sha256_of
from tracekit.errors import UnavailableError

PIXELS_ACROSS = 518
"""Longer side of the picture that a network sees, to the nearest whole patch: 37 patches of 14 px, what DINOv2 was trained for in the end,
32 of 16 px (512 px: a size of DINOv3's training at high resolution). The same for all, so that all see the same detail."""
FRAMES_AT_ONCE = 16
"""Frames of one forward on a GPU, to begin with."""


class VitFeatures:
    """Normalised patch tokens of the last block, without class token and registers.

    `setup.weights` is the name of a timm model ("vit_large_patch14_reg4_dinov2.lvd142m") or of a repository on the hub, a folder in the hub's
    layout (config.json with "architecture", perhaps "model_args" and "pretrained_cfg", and model.safetensors), or a file of weights. DINOv2 is
    taken in the form of transformers, too.

    On a CPU everything is float32, and a frame's features are the same, to the bit, whatever other frames are described with it. On a GPU the
    matrices are multiplied in bfloat16, and they are the same to its rounding (8 bits).
    """

    name: ClassVar[str]
    stateless: ClassVar[bool] = True
    published: ClassVar[Published]
    """The default weights."""
    family: ClassVar[str] = ""
    """What the name of an architecture must contain for the weights to be of this kind."""

    def __init__(self, setup: BackendSetup) -> None:
        if reason := self.missing(setup):
            raise UnavailableError(f"features backend {self.name} cannot run here: {reason}")
        self.device = torch_device(setup.device)
        self.weights = get_weights(_named_in_full(setup), self.published)
        if reason := self._of_another_kind(architecture_in(self.weights), self.weights):  # what was fetched may be anything
            raise UnavailableError(reason)
        self.model: Any = load_timm(self.weights, self.family).to(self.device)
        self.batches = Batches(self.device, FRAMES_AT_ONCE)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        if reason := missing_package("torch", "timm", "safetensors"):
            return reason
        setup = _named_in_full(setup)
        if reason := missing_weights(setup, cls.published):
            return reason
        found = find_weights(setup, cls.published)
        if found is not None:
            return cls._of_another_kind(architecture_in(found), found)
        return cls._of_another_kind(setup.weights, setup.weights) if setup.weights and setup.weights.startswith("timm/") else None

    @classmethod
    def _of_another_kind(cls, architecture: str | None, where: Path | str) -> str | None:
        if architecture is None or cls.family in architecture:
            return None
        return f"{where}: {architecture} is no {cls.family}; another kind of vision transformer is taken by --features timm"

    def weights_sha256(self) -> str:
        return sha256_of(self.weights)

    def close(self) -> None:
        """Free the memory of the device. Nothing can be described any more."""
        self.model = None
        free_memory()

    def describe(self, frames: np.ndarray) -> PatchFeatures:
        """`frames` (n, H, W, 3) uint8 RGB -> (n, gh, gw, F); the grid covers the frame, its longer side about 518 px of the network's input."""
        rows, columns = self.grid(*frames.shape[1:3])
        if len(frames) == 0:
            return PatchFeatures(np.zeros((0, rows, columns, self.model.num_features), np.float32))
        (features,) = self.batches.map(lambda batch: (self._describe(batch, rows, columns),), frames, f"features backend {self.name}")
        return PatchFeatures(features)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of frames of this size."""
        tall, wide = self.model.patch_embed.patch_size
        scale = PIXELS_ACROSS / max(height, width)
        return max(1, round(scale * height / tall)), max(1, round(scale * width / wide))

    def _describe(self, frames: Any, rows: int, columns: int) -> np.ndarray:
        import torch

        tall, wide = self.model.patch_embed.patch_size
        expected = self.model.pretrained_cfg
        mean, std = (torch.tensor(expected[key], device=self.device).reshape(1, 3, 1, 1) * 255 for key in ("mean", "std"))
        with inference(self.device):
            pictures = torch.nn.functional.interpolate(frames.float(), (rows * tall, columns * wide), mode="bilinear", antialias=True)
            tokens = self.model.forward_intermediates((pictures - mean) / std, indices=1, norm=True, intermediates_only=True)
            features: np.ndarray = tokens[0].permute(0, 2, 3, 1).float().cpu().numpy()
        return features


def on_hub(model: str) -> Published:
    """A model of timm on the hub."""
    return Published(f"timm/{model}", files=FILES, beside=("config.json",))


def _named_in_full(setup: BackendSetup) -> BackendSetup:
    """Models of timm are known by their bare names, too: on the hub they are under its name."""
    if setup.weights is None or is_path(setup.weights) or Path(setup.weights).expanduser().exists():
        return setup
    name = setup.weights.removeprefix("hf-hub:")
    return dataclasses.replace(setup, weights=name if "/" in name else f"timm/{name}")
