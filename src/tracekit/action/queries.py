"""Which points of a frame μ0 is asked about: a uniform grid, or the keypoints of what is seen (paper 2.1, 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tracekit.action.config import ActionConfig
from tracekit.backends.features.lowlevel import Lowlevel
from tracekit.backends.protocols import BackendSetup
from tracekit.extract.keypoints import KeypointsParameters, select_keypoints
from tracekit.extract.reference_traces import normalise
from tracekit.mu0.bare_image import grid_points
from tracekit.report import Report


def query_points(image: Tensor, config: ActionConfig) -> tuple[Tensor, Tensor]:
    """Points (B, N, 2) in [-1, 1] on pictures (B, 3, S, S) uint8, and which of them are there (B, N) bool; on the pictures' device."""
    if config.queries == "grid":
        uv = np.broadcast_to(grid_points(config.grid), (len(image), config.grid**2, 2))
        present = np.ones(uv.shape[:2], bool)
    else:
        uv = np.zeros((len(image), config.max_entities, 2), np.float32)
        present = np.zeros(uv.shape[:2], bool)
        for row, picture in enumerate(image.permute(0, 2, 3, 1).cpu().numpy()):
            found = entity_keypoints(picture, config.max_entities)
            uv[row, : len(found)], present[row, : len(found)] = found, True
    return torch.tensor(uv, device=image.device), torch.from_numpy(present).to(image.device)


def entity_keypoints(picture: np.ndarray, most: int) -> np.ndarray:
    """At most `most` points (N, 2) float32 in [-1, 1] on a picture (H, W, 3) uint8, shared between its entities as `keypoints` does.

    Entities come from the embedded backend "lowlevel". The points follow from the picture alone.
    """
    parameters = KeypointsParameters(budget=most, chunk=1, representative_frames=1)
    found = select_keypoints(np.ascontiguousarray(picture)[None], Lowlevel(BackendSetup()), parameters, seed=0, report=Report())
    return normalise(found.uv, (picture.shape[1], picture.shape[0])).astype(np.float32)


def cell_of(uv: Tensor, side: int) -> Tensor:
    """The cell (B, N), counted row by row, of a grid of `side` by `side` over the picture in which points (B, N, 2) lie."""
    column, row = ((uv + 1) / 2 * side).long().clamp(0, side - 1).unbind(dim=-1)
    return row * side + column
