"""What networks that look at all frames of a clip at once have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def seen(frames: np.ndarray, size: tuple[int, int], device: Any) -> torch.Tensor:
    """Frames (n, H, W, 3) uint8 RGB as (1, n, 3, h, w) float32 in 0..1 on the device, resized to `size` (width, height).

    Bicubic with antialiasing, which is Pillow's, by which these networks' frames are read; one frame after the other, because at their
    own size frames may not all fit on the device.
    """
    width, height = size
    images = torch.empty((len(frames), 3, height, width), device=device)
    for index, frame in enumerate(frames):
        image = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None]
        if image.shape[-2:] != (height, width):
            # Bytes are resized many times faster, but on the CPU alone.
            image = F.interpolate(image if device.type == "cpu" else image.float(), (height, width), mode="bicubic", antialias=True)
        images[index] = image[0]
    return images.clamp_(0, 255).div_(255)[None]


def mixed_precision(device: Any) -> Any:
    """bfloat16 (float16 on GPUs without it) for matrix products on CUDA; float32 elsewhere."""
    dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast(device_type="cuda", dtype=dtype, enabled=device.type == "cuda")


def timed(device: Any, forward: Callable[[], Any]) -> tuple[Any, float]:
    """What `forward` returns, and the seconds that it took on the device."""
    started = time.perf_counter()
    result = forward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def cameras_and_depth(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What VGGT and VGGT-Omega say, for the other side: pose_encoding (n, 9), depth (n, h, w), and confidence (n,), the mean of 1 - 1/c over a
    frame's pixels, 0 for c = 1, the least."""
    return {
        "pose_encoding": as_array(found["pose_enc"][0]),
        "depth": as_array(found["depth"][0, ..., 0]),
        "confidence": as_array((1 - 1 / found["depth_conf"][0].float()).mean(dim=(1, 2))),
    }


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """float32, on the CPU."""
    return tensor.detach().float().cpu().numpy()
