"""What a network costs before it is run: weights, memory, and operations of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.local_features import DinoFeatures, StemFeatures
from tracekit.mu0.model import Mu0

# Dense bfloat16 operations a second, from the makers' data sheets.
_PEAK = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "A40": 150e12,
    "A6000": 155e12,
    "4090": 165e12,
    "3090": 71e12,
}

# Bytes a layer keeps for each token and unit of width, in float32 and in bfloat16 autocast, which keeps norms in float32: measured.
_BYTES_KEPT = {False: 68, True: 42}


@dataclass(frozen=True)
class Counts:
    """Numbers of weights; tied ones count once."""

    total: int
    trained: int

    def to_json(self) -> dict[str, int]:
        return {"total": self.total, "trained": self.trained}


def count_parts(model: Mu0) -> dict[str, Counts]:
    """By the part of the network, in the order of what a picture goes through. They sum up to `count(model)`."""
    vlm = model.vlm
    parts: list[tuple[str, nn.Module | None]] = [
        ("depth stem", vlm.depth_stem),
        ("vision tower", vlm.vision),
        ("connector", vlm.smolvlm.model.connector),
        ("word embeddings and unused word head", nn.ModuleList([vlm.text.embed_tokens, vlm.smolvlm.lm_head])),  # type: ignore[list-item]
        ("text layers", vlm.text),
        ("local features", model.local),
        ("keypoint tokens", model.tokens),
        ("flow time", model.flow_time),
        ("trace expert", model.expert),
        ("heads", nn.ModuleList([model.velocity, model.validity])),
    ]
    seen: set[int] = set()
    result = {}
    for name, module in parts:
        new = [value for value in module.parameters() if id(value) not in seen] if module is not None else []
        seen.update(map(id, new))
        result[name] = Counts(sum(value.numel() for value in new), sum(value.numel() for value in new if value.requires_grad))
    return result


def count(model: Mu0) -> Counts:
    return Counts(sum(value.numel() for value in model.parameters()), sum(v.numel() for v in model.parameters() if v.requires_grad))


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, estimated."""

    weights: int
    gradients: int
    optimiser: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations

    def to_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("weights", "gradients", "optimiser", "activations", "total")}


def estimate_memory(
    model: Mu0, micro_batch: int, num_keypoints: int, *, bf16: bool, checkpointing: bool, shares: int = 1, num_text: int = 0
) -> Memory:
    """Of training. Weights, with the copies that bfloat16 products take, gradients and AdamW's two means are exact.

    What is kept for the backward pass is counted by layers: of each token and unit of width 68 bytes in float32 and 42 in bfloat16 autocast
    (34 and fewer would do if all were 16-bit numbers, Korthikanti et al. 2022), or 2 numbers with checkpointing, besides one layer whole. The
    vision tower is never checkpointed. As if all samples had depth.
    `shares`: processes that share weights and states out (FSDP).
    """
    counts = count(model)
    frozen_bytes, trained_bytes, number = (2, 6, 2) if bf16 else (4, 4, 4)
    kept_whole = _BYTES_KEPT[bf16]
    activations = 0
    for stack in _stacks(model, num_keypoints, num_text):
        layer = stack.tokens * stack.width
        if stack.backward and checkpointing and not stack.is_vision:
            activations += layer * (number * stack.layers + kept_whole)
        elif stack.backward:
            activations += layer * kept_whole * stack.layers
    return Memory(
        (trained_bytes * counts.trained + frozen_bytes * (counts.total - counts.trained)) // shares,
        4 * counts.trained // shares,
        8 * counts.trained // shares,
        micro_batch * activations,
    )


class StepOperations:
    """Multiplications and additions of forward and backward passes over a batch; what checkpointing repeats does not count.

    A linear layer takes 2 a weight and token, attention 4 a pair of tokens and unit of width; the backward pass takes the same again for
    what only lets gradients through, and twice for what is trained (Kaplan et al. 2020). Norms and the like are left out.
    """

    def __init__(self, model: Mu0) -> None:
        self._model = model
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    def __call__(self, batch: TraceBatch) -> float:
        lengths = (batch.present.shape[1], batch.text.shape[1])
        if lengths not in self._known:
            stacks = _stacks(self._model, *lengths)
            with_depth, always = (
                sum(stack.operations * (1 + stack.backward) for stack in stacks if stack.is_depth is is_depth) for is_depth in (True, False)
            )
            self._known[lengths] = (always, with_depth)
        always, with_depth = self._known[lengths]
        return len(batch) * always + int(batch.depth_present.sum()) * with_depth


def peak_operations(device: torch.device) -> float | None:
    """Of a GPU that we know, a second; None for others."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAK.items() if known in name), None)


@dataclass(frozen=True)
class _Stack:
    """Layers through which one sample's tokens go."""

    tokens: int
    width: int
    layers: int
    operations: float
    """Forward."""
    backward: int
    """Backward operations over forward ones: 0 nothing goes back, 1 gradients pass, 2 it is trained."""
    is_depth: bool = False
    """Only samples with depth go through it."""
    is_vision: bool = False


def _stacks(model: Mu0, num_keypoints: int, num_text: int) -> list[_Stack]:
    config, vlm = model.config, model.vlm
    text, vision = vlm.text.config, vlm.vision.config
    trained = 0 if config.freeze_vlm else 2
    patches = (config.image_size // vision.patch_size) ** 2
    seen = patches // vlm.smolvlm.config.scale_factor**2
    prefix = seen * (2 if config.use_depth else 1) + num_text
    suffix = num_keypoints * (config.history_tokens + config.target_tokens)
    through_text = max(trained, 1 if config.use_depth else 0)

    def layers(of: nn.Module) -> int:
        return _weights(of.layers)  # type: ignore[arg-type]

    look = 2.0 * patches * layers(vlm.vision.encoder) + _attention(patches, patches, vision.hidden_size, vision.num_hidden_layers)  # type: ignore[arg-type]
    look += 2.0 * seen * _weights(vlm.smolvlm.model.connector)  # type: ignore[arg-type]
    read = 2.0 * prefix * layers(vlm.text) + _attention(prefix, prefix, text.hidden_size, text.num_hidden_layers)  # type: ignore[arg-type]
    heads = text.num_attention_heads * text.head_dim
    num_crossing = len(model.expert.layers) // 2
    own = 2.0 * suffix * (layers(model.expert) + _weights(model.tokens) + _weights(model.velocity))
    # The layers that read the prefix only project its keys and values, not the suffix'.
    projections = 2 * (text.num_key_value_heads * text.head_dim) ** 2
    own += 2.0 * num_crossing * projections * (prefix - suffix)
    own += _attention(suffix, prefix, heads, len(model.expert.layers)) + _attention(
        suffix, suffix, heads, len(model.expert.layers) - num_crossing
    )
    width = model.expert.norm.weight.shape[0]
    result = [
        _Stack(patches, vision.hidden_size, vision.num_hidden_layers, look, trained, is_vision=True),
        _Stack(prefix, text.hidden_size, text.num_hidden_layers, read, through_text),
        _Stack(suffix, width, len(model.expert.layers), own, 2),
    ]
    if config.use_depth:
        result.append(_Stack(patches, vision.hidden_size, vision.num_hidden_layers, look, max(1, trained), True, True))
    result += _local_stacks(model)
    return result


def _local_stacks(model: Mu0) -> list[_Stack]:
    if isinstance(model.local, DinoFeatures):
        dino = model.local.model.config
        tokens = (model.local.size // dino.patch_size) ** 2 + 1
        operations = 2.0 * tokens * _weights(model.local.model.encoder) + _attention(
            tokens, tokens, dino.hidden_size, dino.num_hidden_layers
        )
        return [_Stack(tokens, dino.hidden_size, dino.num_hidden_layers, operations, 0)]
    if isinstance(model.local, StemFeatures):
        side, operations = model.config.image_size, 0.0
        for layer in model.local.layers:
            if isinstance(layer, nn.Conv2d):
                side //= layer.stride[0]
                operations += 2.0 * side**2 * layer.weight.numel()
        return [_Stack(side**2, model.local.width, 3, operations, 2)]
    return []


def _attention(queries: int, keys: int, width: int, layers: int) -> float:
    return 4.0 * queries * keys * width * layers


def _weights(module: Any) -> int:
    return sum(value.numel() for value in module.parameters())
