"""A double of VGGT4Track that knows the answers: its weights hold the cameras and the depth of a scene.

Its forward would cut portrait frames; as parts, they take them whole.
"""

import sys
from pathlib import Path

import torch
import utils3d  # noqa: F401  (the real one imports it, for training)
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[6]))
from known_views import CameraHead, DepthHead, Eyes


class _CameraHead(CameraHead):
    def forward(self, aggregated_tokens_list, num_iterations=4):
        return [torch.zeros(1), self.encoding(aggregated_tokens_list)]


class _DepthHead(DepthHead):
    def forward(self, aggregated_tokens_list, images, patch_start_idx, frames_chunk_size=8):
        assert patch_start_idx == 5
        return self.maps(aggregated_tokens_list, images)


class _Aggregator(Eyes):
    def forward(self, images):
        return super().forward(images), 5


class VGGT4Track(nn.Module):
    def __init__(self, img_size=518, patch_size=14, embed_dim=1024):
        super().__init__()
        self.aggregator = _Aggregator(patch_size)
        self.camera_head, self.depth_head = _CameraHead(), _DepthHead()

    def forward(self, images, annots=None, **other):
        raise AssertionError("it would cut portrait frames to a square")
