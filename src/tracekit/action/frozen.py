"""The frozen μ0 as the action expert sees it: features of its VLM, and of one step of its solver (paper B.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracekit.action.batch import ActionBatch, Features
from tracekit.action.config import ActionConfig
from tracekit.action.queries import cell_of, query_points
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.local_features import DinoFeatures
from tracekit.mu0.model import Mu0

_NOISE_SEED = 0


@dataclass(frozen=True)
class FeatureWidths:
    """Of the features of a world model."""

    vlm: int
    """W."""
    trace: int
    """E."""
    gripper: int
    """C, 0 where μ0 has no DINOv2."""


def feature_widths(model: Mu0) -> FeatureWidths:
    local = model.local
    return FeatureWidths(
        model.vlm.text.config.hidden_size,
        int(model.vlm.text.config.hidden_size * model.config.expert_width),
        local.width if isinstance(local, DinoFeatures) else 0,
    )


class FrozenMu0:
    """Looks at frames, and learns nothing. It is no module, so that no optimiser and no checkpoint takes it for one's own part."""

    def __init__(self, model: Mu0, config: ActionConfig) -> None:
        self.model = model.requires_grad_(False).eval()
        self._config = config
        # The same noise for every frame, in training as on the robot: features are then a function of what is seen. It is drawn for
        # cells of the picture, so that a keypoint that moves a little keeps its noise, whichever row it stands in.
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self._noise = torch.randn(config.grid**2, model.config.target_points, 3, generator=generator)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def complete(self, batch: ActionBatch) -> Features:
        """The features of a batch's pictures and sentences; those that a cache knows, as they are."""
        if batch.features is not None:
            return batch.features
        assert batch.image is not None
        config = self._config
        uv, present = query_points(batch.image, config)
        question = question_about(batch.image, batch.text, batch.text_present, uv, present, self.model.config)
        query = self.model.read(question, num_draws=1, for_inference=True, with_features=True)
        assert query.features is not None
        trace = trace_present = None
        if config.use_trace:
            noise = self.noise_at(uv)
            at_noise = torch.ones(1, device=noise.device)  # the first of the solver's steps starts at μ0's tau = 1
            trace, trace_present = self.model.hidden(query, noise, self.model.flow_time(at_noise))[:, 0, :, -1], present
            if config.queries == "grid":
                trace = pooled(trace, config.grid, config.grid_pool)
                trace_present = present.new_ones(trace.shape[:2])
        return Features(
            vlm=query.features,
            vlm_present=query.memory.present,
            words=self.model.vlm.text.embed_tokens(batch.text),
            words_present=batch.text_present,
            trace=trace,
            trace_present=trace_present,
            gripper=self.gripper(batch.gripper),
        )

    def noise_at(self, uv: Tensor) -> Tensor:
        """(B, 1, N, P, 3) of points (B, N, 2) in [-1, 1]."""
        return self._noise.to(uv.device)[cell_of(uv, self._config.grid)][:, None]

    @torch.no_grad()
    def gripper(self, picture: Tensor | None) -> Tensor | None:
        """Patch features (B, h, w, C) of pictures (B, 3, s, s) uint8; None where the expert sees the picture itself."""
        if picture is None or self._config.gripper_features != "dinov2":
            return None
        assert isinstance(self.model.local, DinoFeatures)
        return self.model.local.patches(picture)


def pooled(hidden: Tensor, side: int, pool: int) -> Tensor:
    """Means of `pool` by `pool` neighbours of hidden states (B, side * side, E) on a grid: (B, (side / pool)^2, E), row by row."""
    cells = hidden.unflatten(1, (side // pool, pool, side // pool, pool))
    return cells.mean(dim=(2, 4)).flatten(1, 2)


def question_about(image: Tensor, text: Tensor, text_present: Tensor, uv: Tensor, present: Tensor, config: Mu0Config) -> TraceBatch:
    """What μ0 is asked of pictures (B, 3, S, S) and points uv (B, N, 2), present (B, N), of which nothing else is known: no depth, no past."""
    device, (size, number) = image.device, present.shape
    anchors = torch.cat([uv, torch.zeros_like(uv[..., :1])], dim=-1)

    def nothing(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(size, number, *shape, dtype=dtype, device=device)

    return TraceBatch(
        position=torch.arange(size, device=device),
        image=image,
        depth=None,
        depth_present=torch.zeros(size, dtype=torch.bool, device=device),
        text=text,
        text_present=text_present,
        present=present,
        current=anchors,
        history=nothing(config.history, 3),
        history_present=torch.zeros_like(present),
        target=nothing(config.target_points, 3),
        target_valid=nothing(config.target_points, dtype=torch.bool),
        future=nothing(config.horizon, 3),
        valid_future=nothing(config.horizon, dtype=torch.bool),
        entity=torch.arange(number, device=device).expand(size, -1),
        moving=present,
        rigid_pair=torch.zeros(0, 2, dtype=torch.int64, device=device),
        rigid_weight=torch.zeros(0, device=device),
        noise=nothing(config.target_points, 3),
        tau=torch.ones(size, device=device),
    )
