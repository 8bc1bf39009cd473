"""A double of SpatialTrackerV2's predictor that knows the answers: its weights hold where each point is, in the frame of every camera.

It stands by the conventions of the real one: poses go in as world_from_camera and come out relative to the first, points come out in the frame
of each camera, pixels and K are scaled by new / old, queries on doubtful depth are replaced unless `full_point`, cameras are moved unless
`fixed_cam`, three frames at least, everything goes to the GPU that is there, only some kernels are
allowed, and a debugger opens.
"""

from types import SimpleNamespace

import kornia  # noqa: F401  (the real one imports them, for training and viewing)
import moviepy.editor  # noqa: F401
import numpy as np
import torch
import utils3d
from torch import nn
from torchvision.io import write_video  # noqa: F401

FIRST_GREY = 10


class _Network(nn.Module):
    def __init__(self, backbone_cfg, Track_cfg, resolution=518, moge_as_base=False, **other):
        super().__init__()
        assert not moge_as_base and not backbone_cfg["ckpt_dir"] and not Track_cfg["base_ckpt"], "it would be fetched or unpickled"
        self.resolution, self.track_num = resolution, 0
        self.register_buffer("camera", torch.zeros(64, 8, 3))
        self.register_buffer("hidden", torch.zeros(64, 8))


class Predictor(nn.Module):
    def __init__(self, args=None):
        super().__init__()
        self.spatrack = _Network(**args)
        self.S_wind = args["Track_cfg"]["s_wind"]

    def to(self, device):
        self.spatrack.to(device)

    def forward(
        self, video, depth=None, unc_metric=None, intrs=None, extrs=None, queries=None, queries_3d=None, iters_track=4, full_point=False,
        fps=30, track2d_gt=None, fixed_cam=False, query_no_BA=False, stage=0, support_frame=0, replace_ratio=0.6,
    ):  # fmt: skip
        num_frames, _, height, width = video.shape
        assert video.max() > 1 and depth.shape == (num_frames, height, width) and intrs.shape == (num_frames, 3, 3)
        assert extrs.shape == (num_frames, 4, 4) and isinstance(queries, np.ndarray) and stage == 1 and self.spatrack.track_num > 0
        assert 3 <= num_frames <= self.S_wind
        edge = utils3d.torch.depth_edge(depth[:, None], rtol=0.03, mask=(depth > 0)[:, None])
        assert edge.shape == (num_frames, 1, height, width) and not edge.any()
        if not full_point:
            queries = np.roll(queries, 1, axis=0)
        frame = video[:, 0].mean(dim=(1, 2)).round().long() - FIRST_GREY
        camera, hidden = self.spatrack.camera[frame].cuda(), self.spatrack.hidden[frame]
        # What it resizes to; K and pixels with it, without regard to their centres.
        scale = max(self.spatrack.resolution / side for side in (width, height))
        resized = torch.tensor([max(round(scale * side / 14) * 14, self.spatrack.resolution) for side in (width, height)])
        factor = resized / torch.tensor([width, height])
        k = intrs.clone()
        k[:, :2] *= factor[:, None]
        uv = torch.einsum("tij,tpj->tpi", k, camera)
        uv = uv[..., :2] / uv[..., 2:]
        track3d = torch.full((num_frames, len(queries), 6), 1e3).cuda()
        visibility = torch.full((num_frames, len(queries), 1), 1.2)
        first = extrs[:1].inverse() @ extrs
        steady = torch.einsum("tij,tj->ti", extrs[:, :3, :3], camera[:, 0]) + extrs[:, :3, 3]
        if not (steady - steady[0]).norm(dim=1).max() < 1e-3:  # the point that rests does not, seen from these cameras
            camera = camera + 0.5
        seen_depth = torch.nn.functional.grid_sample(
            depth[:, None], ((uv + 0.5) / resized * 2 - 1)[:, None], align_corners=False, padding_mode="border"
        )[:, 0, 0]
        wrong = ((seen_depth / camera[..., 2] - 1).abs() > 1e-4).float()
        for column, query in enumerate(torch.from_numpy(queries)):
            distance = (uv[int(query[0])] - query[1:] * factor).norm(dim=1)
            point = int(distance.argmin())
            if distance[point] < 0.02:
                track3d[:, column, :3] = camera[:, point] + 0.1 * wrong[:, point, None]
                visibility[:, column, 0] = 1.2 - hidden[:, point]
        if not fixed_cam:
            first = first.clone()
            first[1:, :3, 3] *= 1.1
        with torch.backends.cuda.sdp_kernel(enable_flash=False, enable_math=False, enable_mem_efficient=False):  # as where it has no flash
            even = torch.zeros(1, 1, 4, 8)
            assert nn.functional.scaled_dot_product_attention(even, even, even).shape == even.shape
        import pdb

        pdb.set_trace()
        nothing = SimpleNamespace()
        return first, intrs, nothing, nothing, track3d, nothing, visibility, nothing, video
