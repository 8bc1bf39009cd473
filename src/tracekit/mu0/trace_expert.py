"""The trace expert: a transformer beside the VLM that reads the VLM's keys and values (paper 3.2, B.1; Shukor et al. 2025).

Every second layer attends over [prefix; its own tokens], the others over the prefix alone, through projections of their own of the
VLM's keys and values. The VLM never sees the expert's tokens, so what it makes of the prefix is computed once.
Letters: B batch, Q suffix tokens, L prefix tokens, E width, A heads, a key-value heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tracekit.mu0.attention import RMSNorm, attend, rotate, rotation, split_heads
from tracekit.mu0.vlm import Prefix

_FFN_MULTIPLE = 256


@dataclass(frozen=True)
class Memory:
    """What each layer of the expert reads of a prefix. Computed once, used in every step of the solver."""

    keys: list[Tensor]
    """One (B, a, L, d) a layer; where `room` is kept, (B, a, L + room, d)."""
    values: list[Tensor]
    present: Tensor
    """(B, L) bool."""
    turn: tuple[Tensor, Tensor]
    """Rotation of all suffix tokens: they share the position that follows the prefix, so they have no order among themselves."""
    room: int
    """Places kept behind the prefix's keys, into which the suffix's go, so that no step copies the prefix. 0 in training."""


class TraceExpert(nn.Module):
    """As deep as the VLM."""

    def __init__(self, text: Any, width: int, rope_base: float) -> None:
        """`text`: the configuration of the VLM's text model, whose heads the expert has, too."""
        super().__init__()
        self.layers: Any = nn.ModuleList(
            ExpertLayer(width, text, reads_prefix_only=bool(index % 2)) for index in range(text.num_hidden_layers)
        )
        self.norm = RMSNorm(width, text.rms_norm_eps)
        self.head_width = text.head_dim
        self.rope_base = rope_base
        self.gradient_checkpointing = False

    def read(self, prefix: Prefix, room: int = 0) -> Memory:
        """Prepare a prefix. With `room`, a number of suffix tokens, for inference only."""
        keys, values = [], []
        for layer, key, value in zip(self.layers, prefix.keys, prefix.values, strict=True):
            if layer.reads_prefix_only:
                key, value = layer.self_attn.project(key, value)
            elif room:
                key, value = (torch.cat([x, x.new_empty(*x.shape[:2], room, x.shape[3])], dim=2) for x in (key, value))
            keys.append(key)
            values.append(value)
        return Memory(keys, values, prefix.present, rotation(prefix.length[:, None], self.head_width, self.rope_base), room)

    def forward(self, tokens: Tensor, memory: Memory, allowed: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, Q, E) to hidden states (B, Q, E) before the final norm.

        `allowed` (B, Q, Q) bool: which suffix tokens (second axis of Q) each suffix token may look at. `modulation` is FlowTime's.
        """
        to_prefix = memory.present[:, None, None, :]
        to_all = torch.cat([to_prefix.expand(-1, -1, tokens.shape[1], -1), allowed[:, None]], dim=-1)
        for layer, key, value, vectors in zip(self.layers, memory.keys, memory.values, modulation, strict=True):
            mask = to_prefix if layer.reads_prefix_only else to_all
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, key, value, memory.turn, memory.room, mask, vectors, use_reentrant=False)
            else:
                tokens = layer(tokens, key, value, memory.turn, memory.room, mask, vectors)
        return tokens


class ExpertLayer(nn.Module):
    """A Llama layer, modulated by the flow time."""

    def __init__(self, width: int, text: Any, *, reads_prefix_only: bool) -> None:
        super().__init__()
        self.reads_prefix_only = reads_prefix_only
        self.input_layernorm = RMSNorm(width, text.rms_norm_eps)
        self.self_attn = ExpertAttention(width, text, reads_prefix_only)
        self.post_attention_layernorm = RMSNorm(width, text.rms_norm_eps)
        self.mlp = GatedMLP(width, ffn_width(width))

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, turn: tuple[Tensor, Tensor], room: int, allowed: Tensor, vectors: Tensor
    ) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = vectors.unsqueeze(2)
        modulated = self.input_layernorm(x) * (1 + scale) + shift
        x = x + gate * self.self_attn(modulated, key, value, turn, room, allowed)
        modulated = self.post_attention_layernorm(x) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.mlp(modulated)


class ExpertAttention(nn.Module):
    """Queries are the expert's tokens; keys and values the prefix's and, unless it reads the prefix only, their own."""

    def __init__(self, width: int, text: Any, reads_prefix_only: bool) -> None:
        super().__init__()
        self.head_width = text.head_dim
        self.reads_prefix_only = reads_prefix_only
        inner, outer = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        source = outer if reads_prefix_only else width
        self.q_proj = nn.Linear(width, inner, bias=text.attention_bias)
        self.k_proj = nn.Linear(source, outer, bias=text.attention_bias)
        self.v_proj = nn.Linear(source, outer, bias=text.attention_bias)
        self.o_proj = nn.Linear(inner, width, bias=text.attention_bias)

    def project(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The VLM's keys and values (B, a, L, d) as this layer reads them."""
        flat = (x.transpose(1, 2).flatten(2).to(self.k_proj.weight.dtype) for x in (key, value))
        return tuple(split_heads(project(x), self.head_width) for project, x in zip((self.k_proj, self.v_proj), flat, strict=True))  # type: ignore[return-value]

    def forward(self, x: Tensor, key: Tensor, value: Tensor, turn: tuple[Tensor, Tensor], room: int, allowed: Tensor) -> Tensor:
        query = split_heads(self.q_proj(x), self.head_width)
        if not self.reads_prefix_only:
            query = rotate(query, turn)
            own_key = rotate(split_heads(self.k_proj(x), self.head_width), turn)
            own_value = split_heads(self.v_proj(x), self.head_width)
            if room:
                key[:, :, -room:], value[:, :, -room:] = own_key, own_value
            else:
                key = torch.cat([key.to(own_key.dtype), own_key], dim=2)
                value = torch.cat([value.to(own_value.dtype), own_value], dim=2)
        # Without own keys there is nothing to turn: queries count from the first suffix token, which is position 0.
        return self.o_proj(attend(query, key, value, allowed))


class GatedMLP(nn.Module):
    """SwiGLU, as Llama's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def ffn_width(width: int) -> int:
    """SmolVLA's inner width: two thirds of four times the width, in whole 256s."""
    return _FFN_MULTIPLE * -(-int(4 * int(2 * width / 3)) // _FFN_MULTIPLE)
