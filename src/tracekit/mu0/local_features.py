"""What a keypoint looks like: features of the picture at its place (paper 3.2, Eq. 5)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.mu0.config import Mu0Config

# Statistics of ImageNet, which DINOv2 was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def sample_at(features: Tensor, uv: Tensor) -> Tensor:
    """Features (B, C, h, w) at places uv (B, N, 2) in [-1, 1], -1 and 1 being the outer edges: (B, N, C), bilinear."""
    sampled = F.grid_sample(features, uv[:, None].to(features.dtype), mode="bilinear", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


class DinoFeatures(nn.Module):
    """Patch tokens of a frozen DINOv2 (transformers), sampled at the keypoints."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mu0Config) -> None:
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        self.model: Any = Dinov2Model(Dinov2Config(**config.dino)).eval().requires_grad_(False)
        self.size = config.dino_size
        self.width = self.model.config.hidden_size
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> DinoFeatures:
        """Frozen: never in training mode."""
        return super().train(False)

    def adopt(self, pretrained: nn.Module) -> None:
        """Take over the weights of a DINOv2 of the same sizes."""
        self.model.load_state_dict(pretrained.state_dict())

    def forward(self, image: Tensor, uv: Tensor) -> Tensor:
        """(B, N, width) at uv (B, N, 2) of pictures (B, 3, S, S) uint8."""
        return sample_at(self.patches(image).permute(0, 3, 1, 2), uv)

    @torch.no_grad()
    def patches(self, image: Tensor) -> Tensor:
        """(B, h, w, width) of pictures (B, 3, S, S) uint8: what DINOv2 says of each of its patches."""
        pixels = (image.float() / 255.0 - self.mean) / self.std
        pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", align_corners=False)
        tokens = self.model(pixel_values=pixels.to(self.model.dtype)).last_hidden_state[:, 1:]  # without the class token
        side = self.size // self.model.config.patch_size
        return tokens.unflatten(1, (side, side))


class StemFeatures(nn.Module):
    """A small convolutional stem, trained with the rest: where there is no pretrained DINOv2. A cell is 4 pixels, and sees 19."""

    def __init__(self, config: Mu0Config) -> None:
        super().__init__()
        self.width = config.stem_width
        self.layers: Any = nn.Sequential(
            nn.Conv2d(3, self.width // 2, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(self.width // 2, self.width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(self.width, self.width, 3, padding=1),
        )

    def forward(self, image: Tensor, uv: Tensor) -> Tensor:
        """(B, N, width) at uv (B, N, 2) of pictures (B, 3, S, S) uint8."""
        return sample_at(self.layers(image.to(self.layers[0].weight.dtype) / 127.5 - 1.0), uv)


def local_features(config: Mu0Config) -> DinoFeatures | StemFeatures | None:
    """What the configuration asks for."""
    if config.local_features == "none":
        return None
    return DinoFeatures(config) if config.local_features == "dinov2" else StemFeatures(config)
