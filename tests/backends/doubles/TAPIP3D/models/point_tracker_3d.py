"""A double of TAPIP3D that knows the answers: its weights hold where each point is, in the frame of every camera.

It stands by the conventions of the real one: poses are camera_from_world, queries and answers lie in the world, K and depth on the grid of the
images, windows of `seq_len` frames, nothing right before a query. Given something else, it answers wrongly.
"""

from types import SimpleNamespace

import hydra  # noqa: F401  (the real one imports it, and needs it for training alone)
import third_party.pointops2.functions.pointops as pointops
import torch
from torch import nn

FIRST_GREY = 10
"""Grey level of the clip's first frame; each next is one brighter."""


class PointTracker3D(nn.Module):
    bidirectional = False

    def __init__(self, image_size, seq_len, encoder, corr_feature, point_updater, corr_levels=4, norm_mode="none", eval_mode="local"):
        super().__init__()
        assert encoder.name == "cotracker_cnn" and encoder.pretrained is False, "it would be fetched"
        self.image_size, self.seq_len, self.eval_mode = image_size, seq_len, eval_mode
        self.register_buffer("camera", torch.zeros(corr_feature.num_frames, corr_feature.num_points, 3))
        self.register_buffer("hidden", torch.zeros(corr_feature.num_frames, corr_feature.num_points))
        self.register_buffer("most_frames", torch.zeros(1))

    def set_image_size(self, image_size):
        self.image_size = image_size

    def set_eval_mode(self, eval_mode):
        assert eval_mode in ["raw", "local"]
        self.eval_mode = eval_mode

    def forward(self, *, rgb_obs, depth_obs, num_iters, query_point, intrinsics, extrinsics, mode, flags=(), depth_roi=None):
        _, num_frames, _, height, width = rgb_obs.shape
        assert rgb_obs.shape == (1, num_frames, 3, height, width) and rgb_obs.min() >= 0 and rgb_obs.max() <= 1
        assert depth_obs.shape == (1, num_frames, height, width) and (height, width) == tuple(self.image_size)
        assert intrinsics.shape == (1, num_frames, 3, 3) and extrinsics.shape == (1, num_frames, 4, 4) and depth_roi.shape == (2,)
        assert (
            query_point.shape[0] == 1 and query_point.shape[2] == 4 and mode == "inference" and num_iters == 6 and self.eval_mode == "raw"
        )
        if 0 < self.most_frames < num_frames:
            raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate more than there is")
        coords = query_point[:, None, :, 1:].repeat(1, num_frames, 1, 1)
        visibs = torch.zeros(coords.shape[:3])
        padded = -(-num_frames // (self.seq_len // 2)) * (self.seq_len // 2)
        if padded < self.seq_len:  # it runs through no window
            return SimpleNamespace(coords=coords, visibs=visibs), []

        frame = (rgb_obs[0, :, 0].mean(dim=(1, 2)) * 255).round().long() - FIRST_GREY
        camera, hidden = self.camera[frame], self.hidden[frame]
        world = torch.einsum("tij,tpj->tpi", torch.linalg.inv(extrinsics[0])[:, :3, :3], camera - extrinsics[0, :, None, :3, 3])
        wrong = self._depth_is_not_there(depth_obs[0], intrinsics[0], camera)
        for column, query in enumerate(query_point[0]):
            asked = int(query[0])
            distance = (world[asked] - query[1:]).norm(dim=1)
            point = int(distance.argmin())
            if not distance[point] < 1e-3:  # one of the grid, or one that is not where it should be
                continue
            coords[0, :, column] = world[:, point] + 0.1 * wrong[:, point, None]
            coords[0, :asked, column] = 1e3
            visibs[0, :, column] = 5.0 - 10.0 * hidden[:, point]
        neighbours, _ = pointops.knnquery(
            2, world[0].contiguous(), world[0].contiguous(), torch.tensor([len(world[0])]), torch.tensor([len(world[0])])
        )
        assert torch.isnan(world).any() or (neighbours[:, 0] == torch.arange(len(world[0]))).all()
        return SimpleNamespace(coords=coords, visibs=visibs), []

    def _depth_is_not_there(self, depth, intrinsics, camera):
        """(T, P): a point in the image does not lie on the surface that depth and K show there."""
        height, width = depth.shape[1:]
        pixel = torch.einsum("tij,tpj->tpi", intrinsics, camera)
        uv = pixel[..., :2] / pixel[..., 2:]
        at = uv / torch.tensor([width - 1, height - 1]) * 2 - 1
        z = torch.nn.functional.grid_sample(depth[:, None], at[:, None], align_corners=True, padding_mode="border")[:, 0, 0]
        inside = (at.abs() <= 1).all(dim=-1)
        flat = (depth == 1).all()  # nothing is known of depth
        return (inside & ~flat & (z > 0) & ((z / camera[..., 2] - 1).abs() > 1e-4)).float()
