"""Flow matching over chunks of actions (paper Eq. 12). tau = 0 is noise, tau = 1 is data: the opposite of the traces' (Eq. 6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tracekit.action.batch import ActionBatch

# π0's flow times (Black et al. 2025, B): a Beta distribution that leans to noise, and never quite data.
_ALPHA, _BETA, _LEAST = 1.5, 1.0, 0.001


def draw_flow_times(random: np.random.Generator, number: int) -> np.ndarray:
    """(number,) float32 from 0, noise, to just below 1, data."""
    towards_noise = random.beta(_ALPHA, _BETA, number)
    return (1 - (_LEAST + (1 - _LEAST) * towards_noise)).astype(np.float32)


def noisy_actions(batch: ActionBatch) -> Tensor:
    """a^tau = (1 - tau) epsilon + tau a of each draw: (B, R, T, A)."""
    tau = batch.tau[:, :, None, None]
    return (1 - tau) * batch.noise + tau * batch.actions[:, None]


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Data from noise (B, R, ...) along `velocity(points, tau)`, from tau = 0 to 1 in equal steps; tau is (B, R)."""
    points = noise
    for step in range(steps):
        tau = torch.full(noise.shape[:2], step / steps, device=noise.device)
        points = points + velocity(points, tau).float() / steps
    return points
