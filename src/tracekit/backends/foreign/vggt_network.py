"""VGGT (Wang et al. 2025) in a worker: github.com/facebookresearch/vggt.

Facts from vggt/models/vggt.py, heads/{camera_head,dpt_head,head_act}.py and the README:

- `VGGT()` takes images (1, S, 3, H, W) in 0..1, sides multiples of 14, and gives pose_enc (1, S, 9), depth (1, S, H, W, 1) > 0 and
  depth_conf (1, S, H, W) = 1 + exp(x). It runs its heads in float32 itself, with autocast around it or not.
- Its checkpoints also hold a head for points and one for tracks, which are not built here.
- Of one frame it makes what it makes of many; nothing is squeezed away.
- Copies of 2025 keep the output of all 24 blocks; later ones keep the four that are needed, and use less memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

NOT_BUILT = ("point_head.", "track_head.")


def load(options: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    from tracekit_foreign_devices import device_of  # type: ignore[import-not-found]
    from tracekit_foreign_safe_weights import load_state, read_state  # type: ignore[import-not-found]

    device = device_of(options)
    if options["weights"] is None:
        model = small()
    else:
        state = {name: value for name, value in read_state(options["weights"]).items() if not name.startswith(NOT_BUILT)}
        model = whole(device)
        load_state(model, state, options["weights"])
    return Network(model.to(device).eval(), device).answer


def whole(device: torch.device) -> Any:
    from vggt.models.vggt import VGGT  # type: ignore[import-not-found]

    with torch.device(device):  # what is random at first, is so sooner there
        model = VGGT()
    return without_other_heads(model)


def small() -> Any:
    """A tiny one with random weights, to try the code with: its answers mean nothing."""
    from vggt.models.aggregator import Aggregator  # type: ignore[import-not-found]
    from vggt.models.vggt import VGGT

    torch.manual_seed(0)
    model = VGGT(embed_dim=64)
    model.aggregator = Aggregator(embed_dim=64, num_heads=4, patch_embed="conv")
    model.camera_head.pose_branch.fc2.bias.data[6:] += 0.5  # or angles of view may be 0
    return without_other_heads(model)


def without_other_heads(model: Any) -> Any:
    """Deleted first: torch takes weights of a part that was set to None, and says nothing."""
    for prefix in NOT_BUILT:
        delattr(model, prefix.removesuffix("."))
        setattr(model, prefix.removesuffix("."), None)
    return model


class Network:
    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device

    def answer(self, message: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """frames (n, H, W, 3) uint8 and "size" [w, h] -> see `views.cameras_and_depth`."""
        from tracekit_foreign_views import cameras_and_depth, mixed_precision, seen, timed  # type: ignore[import-not-found]

        images = seen(arrays["frames"], tuple(message["size"]), self.device)
        with torch.inference_mode(), mixed_precision(self.device):
            found, seconds = timed(self.device, lambda: self.model(images))
        return {"seconds": seconds}, cameras_and_depth(found)
