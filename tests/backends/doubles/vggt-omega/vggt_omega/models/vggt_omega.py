"""A double of VGGT-Omega that knows the answers: its weights hold the cameras and the depth of a scene."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[3]))
from known_views import CameraHead, DepthHead, Eyes


class VGGTOmega(nn.Module):
    def __init__(self, patch_size=16, embed_dim=1024, enable_camera=True, enable_depth=True, enable_alignment=False):
        super().__init__()
        self.aggregator = Eyes(patch_size)
        self.camera_head = CameraHead() if enable_camera else None
        self.dense_head = DepthHead() if enable_depth else None

    def forward(self, images):
        assert not self.training and torch.is_inference_mode_enabled()
        seen = self.aggregator(images)
        depth, confidence = self.dense_head.maps(seen, images)
        return {"pose_enc": self.camera_head.encoding(seen), "depth": depth, "depth_conf": confidence, "images": images}
