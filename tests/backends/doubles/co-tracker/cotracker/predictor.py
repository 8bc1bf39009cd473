"""A double of CoTracker3's predictor that knows the answers: its weights hold where each point is in every frame, as a part of the way from the
centre of the first pixel to that of the last.

It stands by the conventions of the real one: pixels of the video passed in, resized with aligned corners, queries (t, x, y), nothing right
before a query unless it tracks backwards, a query's own frame set to the query.
"""

import torch
from torch import nn

FIRST_GREY = 10
NUM_FRAMES, NUM_POINTS = 64, 8


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.model_resolution = (96, 128)
        self.register_buffer("place", torch.zeros(NUM_FRAMES, NUM_POINTS, 2))
        self.register_buffer("hidden", torch.zeros(NUM_FRAMES, NUM_POINTS))


class CoTrackerPredictor(nn.Module):
    def __init__(self, checkpoint="./checkpoints/scaled_offline.pth", offline=True, v2=False, window_len=60):
        super().__init__()
        assert checkpoint is None and offline and not v2 and window_len == 60
        self.model = _Model()
        self.interp_shape = self.model.model_resolution

    def forward(self, video, queries=None, segm_mask=None, grid_size=0, grid_query_frame=0, backward_tracking=False):
        _, num_frames, _, height, width = video.shape
        assert video.shape == (1, num_frames, 3, height, width) and video.dtype == torch.float32 and video.max() > 1
        assert queries.shape[0] == 1 and queries.shape[2] == 3
        resized = torch.tensor([self.interp_shape[1] - 1, self.interp_shape[0] - 1])
        own = torch.tensor([width - 1, height - 1])
        frame = video[0, :, 0].mean(dim=(1, 2)).round().long() - FIRST_GREY
        place = self.model.place[frame] * resized
        tracks = torch.full((1, num_frames, queries.shape[1], 2), 1e3)
        visible = torch.ones(tracks.shape[:3], dtype=torch.bool)
        for column, query in enumerate(queries[0]):
            asked, uv = int(query[0]), query[1:] / own * resized
            distance = (place[asked] - uv).norm(dim=1)
            point = int(distance.argmin())
            if distance[point] < 0.01:
                tracks[0, :, column], visible[0, :, column] = place[:, point], self.model.hidden[frame, point] == 0
            if not backward_tracking:
                tracks[0, :asked, column] = 1e3
            tracks[0, asked, column], visible[0, asked, column] = uv, True
        return tracks / resized * own, visible
