"""The action expert's transformer: π0.5's (Intelligence et al. 2025), one stack for what is known and what is denoised (paper B.4).

Tokens stand in the order [prefix][actions]. The prefix looks at itself in both directions and never at the actions, so it is walked
through once, and its keys and values serve every draw of noise and every step of the solver. Actions look at the prefix and at all
actions of their own draw. Both share all weights but the norms: the flow time reaches the actions alone, through adaptive RMS norms.

Letters: B frames, Q tokens, L prefix tokens, R draws, T actions, D width, A heads, a key-value heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.action.config import ActionConfig
from tracekit.mu0.attention import attend, rotate, rotation, split_heads
from tracekit.mu0.flow_time import sinusoids, zero_linear


@dataclass(frozen=True)
class Memory:
    """A prefix as the actions read it."""

    keys: list[Tensor]
    """One (B, a, L, d) a layer, positions turned in."""
    values: list[Tensor]
    present: Tensor
    """(B, L) bool."""


class ActionTransformer(nn.Module):
    """Gemma layers (Gemma Team 2024): RMS norms, rotary positions, few key-value heads, a gated GELU."""

    def __init__(self, config: ActionConfig) -> None:
        super().__init__()
        self.config = config
        self.layers: Any = nn.ModuleList(ActionLayer(config) for _ in range(config.layers))
        # Nobody reads what comes out of the last layer of the prefix: this norm is never asked, and must not wait for a gradient.
        self.layers[-1].prefix_mlp_norm.requires_grad_(False)
        self.norm = AdaptiveRMSNorm(config.width, config.norm_epsilon, gated=False)
        self.time: Any = nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width), nn.SiLU())

    def read(self, prefix: Tensor, present: Tensor) -> Memory:
        """Prefix tokens (B, L, D), of which (B, L) are present."""
        turn = rotation(present.long().cumsum(dim=1) - 1, self.config.head_width, self.config.rope_base)
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            prefix, key, value = layer.read(prefix, present, turn, is_last=index == len(self.layers) - 1)
            keys.append(key)
            values.append(value)
        return Memory(keys, values, present)

    def forward(self, actions: Tensor, tau: Tensor, memory: Memory, valid: Tensor | None = None) -> Tensor:
        """Action tokens (B, R, T, D) at flow times (B, R) to hidden states (B, R, T, D) after the final norm.

        Nothing looks at actions that are not `valid` (B, T); None: all are.
        """
        draws, steps = actions.shape[1:3]
        condition = self.time(self._embed_time(tau).to(actions.dtype))
        places = memory.present.sum(dim=1, keepdim=True) + torch.arange(steps, device=actions.device).repeat(draws)
        turn = rotation(places, self.config.head_width, self.config.rope_base)
        own = torch.arange(draws, device=actions.device).repeat_interleave(steps)
        to_own = (own[:, None] == own[None, :]).expand(len(actions), -1, -1)
        if valid is not None:
            to_own = to_own & valid.repeat(1, draws)[:, None, :]
        to_prefix = memory.present[:, None, :].expand(-1, draws * steps, -1)
        allowed = torch.cat([to_prefix, to_own], dim=2)[:, None]
        for layer, key, value in zip(self.layers, memory.keys, memory.values, strict=True):
            actions = layer(actions, key, value, turn, allowed, condition)
        return self.norm(actions, condition)[0]

    def _embed_time(self, tau: Tensor) -> Tensor:
        """(B, R, D). The sinusoids count from data as μ0's do, so that the short periods lie where noise is least."""
        config = self.config
        return sinusoids(1 - tau.flatten(), config.width, config.shortest_period, config.longest_period).unflatten(0, tau.shape)


class ActionLayer(nn.Module):
    """One layer: the same weights for prefix and actions, but for the norms."""

    def __init__(self, config: ActionConfig) -> None:
        super().__init__()
        width, inner, outer = config.width, config.heads * config.head_width, config.key_value_heads * config.head_width
        self.head_width = config.head_width
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, outer, bias=False)
        self.v_proj = nn.Linear(width, outer, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)
        self.gate_proj = nn.Linear(width, config.inner, bias=False)
        self.up_proj = nn.Linear(width, config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, width, bias=False)
        self.prefix_norm = RMSNorm(width, config.norm_epsilon)
        self.prefix_mlp_norm = RMSNorm(width, config.norm_epsilon)
        self.action_norm = AdaptiveRMSNorm(width, config.norm_epsilon)
        self.action_mlp_norm = AdaptiveRMSNorm(width, config.norm_epsilon)

    def read(self, prefix: Tensor, present: Tensor, turn: tuple[Tensor, Tensor], *, is_last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The prefix after this layer, its keys and its values. After the last layer the prefix is as before it."""
        x = self.prefix_norm(prefix)
        key, value = rotate(split_heads(self.k_proj(x), self.head_width), turn), split_heads(self.v_proj(x), self.head_width)
        if is_last:
            return prefix, key, value
        query = rotate(split_heads(self.q_proj(x), self.head_width), turn)
        prefix = prefix + self.o_proj(attend(query, key, value, present[:, None, None, :]))
        return prefix + self._mlp(self.prefix_mlp_norm(prefix)), key, value

    def forward(
        self, actions: Tensor, key: Tensor, value: Tensor, turn: tuple[Tensor, Tensor], allowed: Tensor, condition: Tensor
    ) -> Tensor:
        """Actions (B, R, T, D) after this layer; every action of a draw has its `condition` (B, R, D)."""
        normed, gate = self.action_norm(actions, condition)
        x = normed.flatten(1, 2)
        query = rotate(split_heads(self.q_proj(x), self.head_width), turn)
        own_key, own_value = rotate(split_heads(self.k_proj(x), self.head_width), turn), split_heads(self.v_proj(x), self.head_width)
        seen = attend(query, torch.cat([key, own_key], dim=2), torch.cat([value, own_value], dim=2), allowed)
        actions = actions + gate * self.o_proj(seen).view_as(actions)
        normed, gate = self.action_mlp_norm(actions, condition)
        return actions + gate * self._mlp(normed)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class RMSNorm(nn.Module):
    """Gemma's: the weight counts from 1."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.epsilon).to(x.dtype)


class AdaptiveRMSNorm(nn.Module):
    """adaRMS (π0.5): scale, shift and the gate of the branch follow from the flow time, and are 0 until something is learnt."""

    def __init__(self, width: int, epsilon: float, *, gated: bool = True) -> None:
        super().__init__()
        self.modulation = zero_linear(width, (3 if gated else 2) * width)
        self.width, self.epsilon, self.gated = width, epsilon, gated

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, R, T, D) normalised for the condition (B, R, D), and the gate (B, R, 1, D) of what comes of it; 1 where not `gated`."""
        normed = F.rms_norm(x.float(), (self.width,), eps=self.epsilon).to(x.dtype)
        scale, shift, *gate = self.modulation(condition).unsqueeze(2).chunk(3 if self.gated else 2, dim=-1)
        return normed * (1 + scale) + shift, gate[0] if gate else torch.ones_like(scale)
