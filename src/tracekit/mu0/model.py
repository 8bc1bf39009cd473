"""μ0: a picture, a sentence and query keypoints to the velocity of their noisy futures, and futures by solving it (paper 3, B).

tau = 1 is noise, tau = 0 is data (Eq. 6). Shape letters: see `tracekit.mu0.batch`; Q suffix tokens, E width of the expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.flow_time import FlowTime
from tracekit.mu0.local_features import local_features
from tracekit.mu0.query_tokens import QueryTokens
from tracekit.mu0.rollout_parameters import RolloutParameters
from tracekit.mu0.trace_expert import Memory, TraceExpert
from tracekit.mu0.vlm import VisionLanguageModel


@dataclass(frozen=True)
class Forecast:
    """What the network says of noisy targets."""

    velocity: Tensor
    """(B, S, N, P, 3), of epsilon - P* (Eq. 7); without S for the one draw of training."""
    validity_logits: Tensor
    """(B, S, N, H): does the keypoint exist at each future step? (Eq. 8); without S for training."""


@dataclass(frozen=True)
class Samples:
    """S futures of each keypoint."""

    points: Tensor
    """(B, S, N, P, 3) target points, in units of the delta scale."""
    validity: Tensor
    """(B, S, N, H) probability that each step exists."""


@dataclass(frozen=True)
class Query:
    """A batch as the expert sees it, whatever the noise."""

    memory: Memory
    place: Tensor
    """(B, N, E)."""
    look: Tensor | None
    """(B, N, C) local features."""
    history: Tensor | None
    """(B, N * Gh, E) tokens; None where no keypoint has any."""
    allowed: Tensor
    """(B, Q, Q) bool."""
    features: Tensor | None
    """(B, L, width) the VLM's last layer; None unless asked for."""


class Mu0(nn.Module):
    """The trace world model."""

    def __init__(self, config: Mu0Config) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.vlm = VisionLanguageModel(config)
        text = self.vlm.text.config
        width = int(text.hidden_size * config.expert_width)
        self.local = local_features(config)
        self.tokens = QueryTokens(config, width, self.local.width if self.local else 0)
        self.flow_time = FlowTime(width, text.num_hidden_layers, config.time_features, config.shortest_period, config.longest_period)
        self.expert = TraceExpert(text, width, config.rope_base)
        self.velocity = nn.Linear(width, 3 * config.points_per_token)
        self.validity = nn.Linear(width, config.horizon)
        nn.init.zeros_(self.validity.weight)
        nn.init.constant_(self.validity.bias, config.validity_bias)

    def forward(self, batch: TraceBatch) -> Forecast:
        """The velocity at the batch's own tau and noise: one training step's forward pass."""
        tau = batch.tau[:, None, None, None]
        noisy = tau * batch.noise + (1 - tau) * batch.target
        query = self.read(batch, num_draws=1, for_inference=False)
        forecast = self.forecast(query, noisy[:, None], self.flow_time(batch.tau))
        return Forecast(forecast.velocity[:, 0], forecast.validity_logits[:, 0])

    @torch.no_grad()
    def sample(self, batch: TraceBatch, noise: Tensor, num_steps: int = RolloutParameters.steps) -> Samples:
        """Futures from noise (B, S, N, P, 3) by Euler's method from tau = 1 to 0 in equal steps (B.3).

        The prefix is encoded once for all draws and steps. The batch's target, noise and tau are not looked at.
        """
        query = self.read(batch, num_draws=noise.shape[1], for_inference=True)
        taus = torch.arange(num_steps, 0, -1, device=noise.device, dtype=torch.float32) / num_steps
        modulations = self.flow_time(taus)  # of all steps at once: they are the same for every sample
        points = noise
        for step in range(num_steps):
            forecast = self.forecast(query, points, modulations[:, :, step : step + 1])
            points = points - forecast.velocity / num_steps
        return Samples(points, forecast.validity_logits.sigmoid())

    def read(self, batch: TraceBatch, num_draws: int, *, for_inference: bool, with_features: bool = False) -> Query:
        """All that does not depend on the noise. Draws share it: they differ only in their target tokens, which do not see each other's."""
        config = self.config
        uv = batch.current[..., :2]
        look = None if self.local is None else self.local(batch.image, uv) * batch.present[..., None]
        place = self.tokens.embed_place(uv) * batch.present[..., None]
        known = batch.present & batch.history_present
        # In training history's tokens are always there, masked or not, so that every process has gradients of the same parameters.
        uses_history = config.use_history and (not for_inference or bool(known.any()))
        history = self.tokens.history(batch.history, place, look).flatten(1, 2) if uses_history else None
        allowed = suffix_attention(batch.present, known if uses_history else None, config.history_tokens, config.target_tokens, num_draws)
        prefix = self.vlm(batch, with_features=with_features)
        memory = self.expert.read(prefix, allowed.shape[1] if for_inference else 0)
        return Query(memory, place, look, history, allowed, prefix.features)

    def forecast(self, query: Query, points: Tensor, modulation: Tensor) -> Forecast:
        """Velocity and validity of noisy targets (B, S, N, P, 3), where `modulation` is FlowTime's of their tau."""
        hidden = self.expert.norm(self.hidden(query, points, modulation))
        with torch.autocast(hidden.device.type, enabled=False):  # the heads are small, and what they say is added up in the solver
            velocity = self.velocity(hidden.float()).flatten(3).unflatten(3, (-1, 3))
            return Forecast(velocity, self.validity(hidden.float().mean(dim=3)))

    def hidden(self, query: Query, points: Tensor, modulation: Tensor) -> Tensor:
        """The expert's hidden states of the target tokens before the final norm, (B, S, N, Gp, E)."""
        targets = self.tokens.target(points, query.place, query.look)
        tokens = targets.flatten(1, 3)
        if query.history is not None:
            tokens = torch.cat([query.history, tokens], dim=1)
        hidden = self.expert(tokens, query.memory, query.allowed, modulation)
        return hidden[:, -targets.shape[1] * targets.shape[2] * targets.shape[3] :].unflatten(1, targets.shape[1:4])


def suffix_attention(present: Tensor, known: Tensor | None, history_tokens: int, target_tokens: int, num_draws: int) -> Tensor:
    """Which suffix tokens look at which, (B, Q, Q) bool: rows look at columns.

    Tokens stand in the order [history of all keypoints][targets of draw 1][targets of draw 2]...; keypoints are `present` (B, N) and
    their history is `known` (B, N), or nobody's is (None). History is causal over its groups and does not look at targets; targets look
    at all history and at the targets of their own draw (B.2). Nothing looks at what is not there.
    """
    num = present.shape[1]
    device = present.device
    groups_of_history = torch.arange(history_tokens, device=device).repeat(num) if known is not None else torch.zeros(0, device=device)
    draw = torch.arange(num_draws, device=device).repeat_interleave(num * target_tokens)
    # History is draw -1, and has its group as time; targets come after all history.
    draws = torch.cat([torch.full((len(groups_of_history),), -1, device=device), draw])
    times = torch.cat([groups_of_history.long(), torch.full((len(draw),), history_tokens, device=device)])
    may = (times[None, :] <= times[:, None]) & ((draws[None, :] == draws[:, None]) | (draws[None, :] == -1))
    there = present.repeat_interleave(target_tokens, dim=1).repeat(1, num_draws)
    if known is not None:
        there = torch.cat([known.repeat_interleave(history_tokens, dim=1), there], dim=1)
    return may[None] & there[:, None, :]
