"""The conditioning backbone: picture, depth and sentence through SmolVLM's first layers, whose keys and values the trace expert reads
(paper 3.1, B.1).

The modules are transformers' own; the walk through them is ours, because the trace expert needs every layer's keys and values with
positions turned in, and a picture of depth takes a path of its own through the vision tower.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from tracekit.mu0.attention import attend, rotate, rotation, split_heads
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.config import Mu0Config

# The linear layers of a SigLIP layer that get a low-rank path for depth (the release's choice).
_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class Prefix:
    """What the VLM makes of L prefix tokens: [RGB picture][depth picture][sentence]."""

    keys: list[Tensor]
    """One (B, a, L, d) a layer, rotary positions turned in."""
    values: list[Tensor]
    """One (B, a, L, d) a layer."""
    present: Tensor
    """(B, L) bool; the others are masked out wherever they are keys."""
    features: Tensor | None
    """(B, L, width): the last layer's output after the final norm, for the action expert; None unless asked for."""

    @property
    def length(self) -> Tensor:
        """(B,) tokens that are present."""
        return self.present.sum(dim=1)


class DepthLoraLinear(nn.Linear):
    """A linear layer with a low-rank path (Hu et al. 2022) that only pictures of depth take."""

    def __init__(self, plain: nn.Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.lora_A = nn.Parameter(torch.empty(rank, plain.in_features))
        self.lora_B = nn.Parameter(torch.zeros(plain.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_scale = alpha / rank
        self.sees_depth = False

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if not self.sees_depth:
            return out
        return out + (nn.functional.linear(nn.functional.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.lora_scale).to(
            out.dtype
        )


class VisionLanguageModel(nn.Module):
    """SmolVLM as a prefix encoder."""

    def __init__(self, config: Mu0Config) -> None:
        super().__init__()
        self.config = config
        self.smolvlm: Any = SmolVLMForConditionalGeneration(SmolVLMConfig(**config.vlm))
        self.depth_stem: nn.Module | None = None
        if config.use_depth:
            self.depth_stem = copy.deepcopy(self.vision.embeddings.patch_embedding)
            if config.depth_lora_rank:
                self._add_depth_lora()
        self.gradient_checkpointing = False
        self.always_sees_depth = False
        """Also where no sample has depth: processes that share weights out must all go the same way (`tracekit.training.shared_model`)."""
        self._freeze()

    @property
    def vision(self) -> Any:
        return self.smolvlm.model.vision_model

    @property
    def text(self) -> Any:
        return self.smolvlm.model.text_model

    def train(self, mode: bool = True) -> VisionLanguageModel:
        """A frozen VLM never drops anything out."""
        return super().train(mode and not self.config.freeze_vlm)

    def forward(self, batch: TraceBatch, *, with_features: bool = False) -> Prefix:
        tokens, present = self._tokens(batch)
        text = self.text.config
        turn = rotation(present.long().cumsum(dim=1) - 1, text.head_dim, self.config.rope_base)
        allowed = present[:, None, None, :]
        keys, values = [], []
        hidden = tokens
        last = len(self.text.layers) - 1
        for index, layer in enumerate(self.text.layers):
            needed = index < last or with_features
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden, key, value = checkpoint(_layer, layer, hidden, turn, allowed, text.head_dim, needed, use_reentrant=False)
            else:
                hidden, key, value = _layer(layer, hidden, turn, allowed, text.head_dim, needed)
            keys.append(key)
            values.append(value)
        return Prefix(keys, values, present, self.text.norm(hidden) if with_features else None)

    def adopt(self, pretrained: nn.Module) -> None:
        """Take over the weights of a SmolVLM of the same sizes; the path of depth starts as a copy of the picture's (B.1)."""
        weights = pretrained.state_dict()
        own = self.smolvlm.state_dict()
        lora = [name for name in own if ".lora_" in name]
        self.smolvlm.load_state_dict({**weights, **{name: own[name] for name in lora}})
        if self.depth_stem is not None:
            self.depth_stem.load_state_dict(self.vision.embeddings.patch_embedding.state_dict())

    def depth_parameters(self) -> Iterator[nn.Parameter]:
        """What is trained for depth alone, even where the VLM is frozen."""
        if self.depth_stem is not None:
            yield from self.depth_stem.parameters()
        for module in self.vision.modules():
            if isinstance(module, DepthLoraLinear):
                yield from (module.lora_A, module.lora_B)

    def _tokens(self, batch: TraceBatch) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, width) of the prefix, times the root of their width, and which are present (B, L)."""
        parts = [self._see(batch.image)]
        present = [parts[0].new_ones(parts[0].shape[:2], dtype=torch.bool)]
        # In training the depth path always takes part, so that its parameters have a gradient on every process.
        if self.config.use_depth and (batch.depth is not None or self.training_depth or self.always_sees_depth):
            parts.append(self._see_depth(batch))
            present.append(batch.depth_present[:, None].expand(-1, parts[-1].shape[1]))
        parts.append(self.text.embed_tokens(batch.text))
        present.append(batch.text_present)
        tokens = torch.cat([part * math.sqrt(part.shape[-1]) for part in parts], dim=1)
        return tokens, torch.cat(present, dim=1)

    @property
    def training_depth(self) -> bool:
        return self.depth_stem is not None and torch.is_grad_enabled() and next(self.depth_stem.parameters()).requires_grad

    def _see(self, image: Tensor) -> Tensor:
        """Tokens (B, l, width) of pictures (B, 3, S, S) uint8."""
        pixels = image.to(self.vision.embeddings.patch_embedding.weight.dtype) / 127.5 - 1.0
        return self.smolvlm.model.connector(self.vision(pixel_values=pixels, patch_attention_mask=None).last_hidden_state)

    def _see_depth(self, batch: TraceBatch) -> Tensor:
        """Tokens of the depth pictures. Only those that are present are looked at, and one at least."""
        num = len(batch.image)
        seen = batch.depth_present.nonzero()[:, 0]
        if len(seen) == 0:
            seen = torch.zeros(1, dtype=torch.long, device=batch.image.device)
        depth = batch.depth if batch.depth is not None else torch.zeros_like(batch.image)
        embeddings, rgb_stem = self.vision.embeddings, self.vision.embeddings.patch_embedding
        lora = [module for module in self.vision.modules() if isinstance(module, DepthLoraLinear)]
        try:
            embeddings.patch_embedding = self.depth_stem
            for module in lora:
                module.sees_depth = True
            tokens = self._see(depth[seen])
        finally:
            embeddings.patch_embedding = rgb_stem
            for module in lora:
                module.sees_depth = False
        return tokens.new_zeros(num, *tokens.shape[1:]).index_copy(0, seen, tokens)

    def _add_depth_lora(self) -> None:
        for parent in list(self.vision.modules()):
            for name, child in list(parent.named_children()):
                if name in _LORA_TARGETS and isinstance(child, nn.Linear):
                    setattr(parent, name, DepthLoraLinear(child, self.config.depth_lora_rank, self.config.depth_lora_alpha))

    def _freeze(self) -> None:
        """The VLM where it is frozen, and whatever has no influence on the traces; never what depth alone uses."""
        if self.config.freeze_vlm:
            self.smolvlm.requires_grad_(False)
        else:
            last = self.text.layers[-1]
            for unused in (self.text.norm, last.self_attn.q_proj, last.self_attn.o_proj, last.post_attention_layernorm, last.mlp):
                unused.requires_grad_(False)
            if not self.smolvlm.config.tie_word_embeddings:
                self.smolvlm.lm_head.requires_grad_(False)
        for parameter in self.depth_parameters():
            parameter.requires_grad_(True)


def _layer(
    layer: Any, hidden: Tensor, turn: tuple[Tensor, Tensor], allowed: Tensor, head_width: int, needed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One Llama layer over the prefix: its output, its keys and its values. Where the output is not needed, it is the input."""
    attention = layer.self_attn
    x = layer.input_layernorm(hidden)
    key = rotate(split_heads(attention.k_proj(x), head_width), turn)
    value = split_heads(attention.v_proj(x), head_width)
    if not needed:
        return hidden, key, value
    query = rotate(split_heads(attention.q_proj(x), head_width), turn)
    hidden = hidden + attention.o_proj(attend(query, key, value, allowed))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), key, value
