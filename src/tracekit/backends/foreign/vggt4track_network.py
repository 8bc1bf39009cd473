"""The front end of SpatialTrackerV2 (Xiao et al. 2025) in a worker: github.com/henry123-boy/SpaTrackerV2.

Facts from inference.py and models/SpaTrackV2/models/vggt4track/{models/vggt_moe,utils/load_fn,utils/pose_enc}.py:

- `VGGT4Track()` is VGGT's aggregator, camera head and depth head, the last with a confidence in 0..1 (a sigmoid). Its pose_enc is of
  VGGT's make: camera_from_world (the `poses_pred` that its forward makes of it are the inverse).
- Its forward resizes to a width of 518 and cuts a portrait frame to a square, and then stretches what it found over the whole frame. So the
  parts are called here one by one, which for landscape and square frames at the size below gives what its forward gives.
- inference.py trusts depth where the confidence exceeds 0.5.
- The module of the loss, which only training needs, imports utils3d; modules beside it draw (matplotlib, sklearn).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

TRUSTED = 0.5
NEVER_NEEDED = ("utils3d", "xformers", "easydict", "cv2", "kornia", "matplotlib", "sklearn")


def load(options: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    from tracekit_foreign_devices import device_of  # type: ignore[import-not-found]
    from tracekit_foreign_safe_weights import load_state, read_state  # type: ignore[import-not-found]
    from tracekit_foreign_stand_ins import stand_in_for  # type: ignore[import-not-found]

    stand_in_for(NEVER_NEEDED)
    device = device_of(options)
    if options["weights"] is None:
        model = small()
    else:
        state = read_state(options["weights"])
        model = whole(device)
        load_state(model, state, options["weights"])
    return Network(model.to(device).eval(), device).answer


def whole(device: torch.device) -> Any:
    from models.SpaTrackV2.models.vggt4track.models.vggt_moe import VGGT4Track  # type: ignore[import-not-found]

    with torch.device(device):  # what is random at first, is so sooner there
        return VGGT4Track()


def small() -> Any:
    """A tiny one with random weights, to try the code with: its answers mean nothing."""
    from models.SpaTrackV2.models.vggt4track.models.aggregator import Aggregator  # type: ignore[import-not-found]
    from models.SpaTrackV2.models.vggt4track.models.vggt_moe import VGGT4Track

    torch.manual_seed(0)
    model = VGGT4Track(embed_dim=64)
    model.aggregator = Aggregator(embed_dim=64, num_heads=4, patch_embed="conv")
    model.camera_head.pose_branch.fc2.bias.data[6:] += 0.5  # or angles of view may be 0
    return model


class Network:
    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device

    def answer(self, message: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """frames (n, H, W, 3) uint8 and "size" [w, h] -> pose_encoding (n, 9), depth (n, h, w), 0 where it is not to be trusted, and
        confidence (n,), the mean over the frame's pixels."""
        from tracekit_foreign_views import as_array, seen, timed  # type: ignore[import-not-found]

        images = seen(arrays["frames"], tuple(message["size"]), self.device)
        with torch.inference_mode():
            (encoding, depth, confidence), seconds = timed(self.device, lambda: self.forward(images))
        # What is no number stays none, so that it is noticed.
        trusted = torch.where((confidence <= TRUSTED) & torch.isfinite(depth), torch.zeros_like(depth), depth)
        return {"seconds": seconds}, {
            "pose_encoding": as_array(encoding),
            "depth": as_array(trusted),
            "confidence": as_array(confidence.mean(dim=(1, 2))),
        }

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """pose_enc (n, 9), depth (n, h, w) and its confidence (n, h, w) of images (1, n, 3, h, w)."""
        from tracekit_foreign_views import mixed_precision

        with mixed_precision(self.device):
            tokens, patch_start = self.model.aggregator(images)
        encoding = self.model.camera_head(tokens)[-1]
        depth, confidence = self.model.depth_head(tokens, images=images, patch_start_idx=patch_start)
        shape = (images.shape[1], *images.shape[-2:])
        return encoding[0], depth.reshape(shape), confidence.reshape(shape)
