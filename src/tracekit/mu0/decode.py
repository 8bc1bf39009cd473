"""What the network denoises, back to traces (paper B.2): one matrix product, and nothing moves after its predicted end."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tracekit.geometry import bspline
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.rollout_parameters import RolloutParameters


def decode(
    config: Mu0Config,
    points: Tensor,
    current: Tensor,
    delta_scale: Tensor | np.ndarray,
    validity: Tensor,
    threshold: float = RolloutParameters.end_threshold,
) -> Tensor:
    """Absolute traces (B, S, N, H, 3) float32, steps 1 to H after the anchor, u and v in [-1, 1], z in metres.

    `points` (B, S, N, P, 3) are control points, or without splines the steps themselves, minus the anchor and over `delta_scale` (3,);
    `current` (B, N, 3) are the anchors. Where a step's `validity` (B, S, N, H), the probability that it exists, falls below `threshold`,
    the trace ends: from there on it stays at the step before, at the anchor where the first step ends it.
    """
    scale = torch.as_tensor(delta_scale, dtype=torch.float32, device=points.device)
    steps = points.float()
    if config.use_bspline:
        with torch.autocast(points.device.type, enabled=False):  # traces have more digits than bfloat16
            steps = _basis_after_anchor(config).to(points.device) @ steps
    anchor = current.float()[:, None, :, None]
    with_anchor = torch.cat([anchor.expand(*steps.shape[:3], 1, 3), anchor + steps * scale], dim=3)
    # Steps 1 to H after the anchor are entries 1 to H; the last one that exists may be the anchor itself, entry 0.
    last = (validity >= threshold).int().cumprod(dim=-1).sum(dim=-1, keepdim=True)
    entry = torch.arange(1, config.horizon + 1, device=points.device).minimum(last)
    return with_anchor.take_along_dim(entry[..., None], dim=3)


def _basis_after_anchor(config: Mu0Config) -> Tensor:
    """(H, D): the row of the anchor stripped."""
    rows = bspline.basis(config.control_points, config.horizon, config.basis)[1:]
    return torch.from_numpy(rows.astype(np.float32))
