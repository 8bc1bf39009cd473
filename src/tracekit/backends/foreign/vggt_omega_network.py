"""VGGT-Ω (Wang et al. 2026) in a worker: github.com/facebookresearch/vggt-omega.

Facts from vggt_omega/models/vggt_omega.py, heads/{camera_head,dense_head}.py and the README:

- `VGGTOmega()` takes images (1, S, 3, H, W) in 0..1, sides multiples of 16, and gives pose_enc (1, S, 9) of the same make as VGGT's,
  depth (1, S, H, W, 1) > 0 and depth_conf (1, S, H, W) = 1 + exp(x). It chooses its own precision on CUDA, with its heads in float32.
- The weights for 512 px have no head for texts; those that have one are for 256 px and are refused here.
- Without weights, its buffers `bias_mask` are NaN and the `gamma` of its blocks whatever was in memory, and so is what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def load(options: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    from tracekit_foreign_devices import device_of  # type: ignore[import-not-found]
    from tracekit_foreign_safe_weights import load_state, read_state  # type: ignore[import-not-found]

    device = device_of(options)
    if options["weights"] is None:
        model = small()
    else:
        state = read_state(options["weights"])
        model = whole(device)
        load_state(model, state, options["weights"])
    return Network(model.to(device).eval(), device).answer


def whole(device: torch.device) -> Any:
    from vggt_omega.models.vggt_omega import VGGTOmega  # type: ignore[import-not-found]

    with torch.device(device):  # what is random at first, is so sooner there
        return VGGTOmega()


def small() -> Any:
    """A tiny one with random weights, to try the code with: its answers mean nothing."""
    from vggt_omega.models.vggt_omega import VGGTOmega

    torch.manual_seed(0)
    model = VGGTOmega(embed_dim=64)
    for name, value in model.state_dict().items():
        if name.endswith((".bias_mask", ".gamma")):
            value.fill_(0.01)
    return model


class Network:
    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device

    def answer(self, message: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """frames (n, H, W, 3) uint8 and "size" [w, h] -> see `views.cameras_and_depth`."""
        from tracekit_foreign_views import cameras_and_depth, seen, timed  # type: ignore[import-not-found]

        images = seen(arrays["frames"], tuple(message["size"]), self.device)
        with torch.inference_mode():
            found, seconds = timed(self.device, lambda: self.model(images))
        return {"seconds": seconds}, cameras_and_depth(found)
