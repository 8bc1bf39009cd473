"""A double of VGGT that knows the answers: its weights hold the cameras and the depth of a scene."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[3]))
from known_views import CameraHead, DepthHead, Eyes


class VGGT(nn.Module):
    def __init__(self, img_size=518, patch_size=14, embed_dim=1024):
        super().__init__()
        self.aggregator = Eyes(patch_size)
        self.camera_head, self.depth_head = CameraHead(), DepthHead()
        self.point_head, self.track_head = nn.Linear(3, 4), nn.Linear(2, 1)

    def forward(self, images, query_points=None):
        assert not self.training and torch.is_inference_mode_enabled()
        assert self.point_head is None and self.track_head is None, "heads that nobody asks cost memory"
        seen = self.aggregator(images)
        depth, confidence = self.depth_head.maps(seen, images)
        return {"pose_enc": self.camera_head.encoding(seen), "depth": depth, "depth_conf": confidence, "images": images}
