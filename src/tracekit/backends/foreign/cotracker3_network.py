"""CoTracker3 offline (Karaev et al. 2024) in a worker: github.com/facebookresearch/co-tracker.

Facts from cotracker/predictor.py and models/build_cotracker.py:

- `CoTrackerPredictor` takes video (1, T, 3, H, W) in 0..255 and queries (1, N, 3) as (t, x, y) in pixels of that video, and gives tracks
  (1, T, N, 2) in the same pixels and visible (1, T, N).
- It resizes the video to its `interp_shape` (height, width) with align_corners=True and scales pixels by (new - 1) / (old - 1): centres of
  pixels are at whole numbers, and nothing shifts by half a pixel.
- It tracks forwards and, with backward_tracking, in the reversed clip what lies before a query; a query's own frame is set to the query.
- A clip may have any length: what tells the frames apart is interpolated from the 60 frames of `window_len`.
- Given a path, it would read weights with an unsafe unpickler; it is given none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

WINDOW = 60
"""Frames that the published weights (scaled_offline.pth) were trained on."""


def load(options: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    from tracekit_foreign_devices import device_of  # type: ignore[import-not-found]
    from tracekit_foreign_safe_weights import load_state, read_state  # type: ignore[import-not-found]

    state = read_state(options["weights"])
    device = device_of(options)
    from cotracker.predictor import CoTrackerPredictor  # type: ignore[import-not-found]

    predictor = CoTrackerPredictor(checkpoint=None, offline=True, window_len=WINDOW)
    load_state(predictor.model, state, options["weights"])
    return Tracker(predictor.to(device).eval(), device).answer


class Tracker:
    """Remembers the clip between requests: the points of a clip come in several."""

    def __init__(self, predictor: Any, device: torch.device) -> None:
        self.predictor, self.device = predictor, device
        self.frames = torch.zeros(0)

    def answer(self, message: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """ "shape": image_size [height, width] that it works on. "clip": rgb (T, H, W, 3) uint8. "track": queries (N, 3) -> tracks (T, N, 2),
        visible (T, N)."""
        if message["ask"] == "shape":
            return {"image_size": [int(side) for side in self.predictor.interp_shape]}, {}
        if message["ask"] == "clip":
            self.frames = torch.zeros(0)  # the old one goes first
            self.frames = torch.from_numpy(arrays["rgb"]).to(self.device)
            return {}, {}
        queries = torch.from_numpy(arrays["queries"]).to(self.device)
        with torch.inference_mode():
            video = self.frames.permute(0, 3, 1, 2)[None].float()
            tracks, visible = self.predictor(video, queries=queries[None], backward_tracking=True)
        return {}, {"tracks": tracks[0].float().cpu().numpy(), "visible": visible[0].bool().cpu().numpy()}
