"""The baseline: a diffusion policy (Chi et al. 2023) that is trained from scratch and knows nothing of μ0.

Both cameras go through convolutions of their own and a spatial softmax (Levine et al. 2016), the sentence through embeddings of its
words; a small transformer with adaptive layer norms (Peebles and Xie 2023) says which noise is in a chunk of actions, as the paper's own
baseline does (D.3). Step k = 0 is data with a trace of noise, the last is noise: tau of a batch counts the other way.
Shape letters: see `tracekit.action.batch`; D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.action.batch import ActionBatch
from tracekit.action.config import ActionConfig
from tracekit.action.gripper import ConvolutionalStem
from tracekit.mu0.attention import join_heads, split_heads
from tracekit.mu0.flow_time import sinusoids, zero_linear
from tracekit.mu0.text import WordTokenizer

NUM_STEPS = 100
"""Steps of the noise schedule."""
_NUM_WORDS, _MOST_WORDS, _WORD_WIDTH = 4096, 48, 64
# Periods of the sinusoids of a step's share of the schedule, from two steps to all of it and more.
_PERIODS = (2 / NUM_STEPS, 4.0)
# Normalised actions lie in about [-1, 1]. Near pure noise a small error of the prediction is a large one of the actions.
_FARTHEST = 5.0
_POSITION_SCALE = 0.02


def word_tokenizer() -> WordTokenizer:
    """Where the ids of its sentences come from, for who trains it without a world model; ids of others are folded into as many."""
    return WordTokenizer(_NUM_WORDS, _MOST_WORDS)


class DiffusionPolicy(nn.Module):
    """Pictures, proprioception and a sentence to chunks of actions. Features of a batch are not looked at."""

    remaining: Tensor

    def __init__(self, config: ActionConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.scene = CameraEncoder(config.stem_width)
        self.gripper = CameraEncoder(config.stem_width) if config.gripper_features != "none" else None
        self.words = nn.EmbeddingBag(_NUM_WORDS, _WORD_WIDTH, mode="mean", padding_idx=0)
        num_cameras = 1 if self.gripper is None else 2
        num_seen = num_cameras * self.scene.num_outputs + _WORD_WIDTH + config.state_size
        self.observation = nn.Sequential(nn.Linear(num_seen, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.denoiser = Denoiser(config)
        self.register_buffer("remaining", squared_cosine(NUM_STEPS), persistent=False)

    def forward(self, batch: ActionBatch) -> Tensor:
        """Squared errors (B, R, T, A) of the noise that it sees at the batch's own tau and noise; those of actions that are not valid mean nothing."""
        step = step_of(batch.tau)
        remaining = self.remaining[step][..., None, None]
        noisy = remaining.sqrt() * batch.actions[:, None] + (1 - remaining).sqrt() * batch.noise
        return (self.denoiser(noisy, step, self.observe(batch), batch.action_valid).float() - batch.noise).square()

    @torch.no_grad()
    def sample(self, batch: ActionBatch, steps: int | None = None) -> Tensor:
        """Chunks (B, R, T, A), normalised, from the batch's noise; its actions and tau are not looked at."""
        seen = self.observe(batch)
        return ddim(lambda noisy, step: self.denoiser(noisy, step, seen), batch.noise, self.remaining, steps or self.config.sampling_steps)

    def observe(self, batch: ActionBatch) -> Tensor:
        """(B, D): all that does not depend on the noise."""
        assert batch.image is not None
        parts = [self.scene(batch.image)]
        if self.gripper is not None:
            assert batch.gripper is not None
            parts.append(self.gripper(batch.gripper))
        # 0 pads: no word may have it.
        ids = torch.where(batch.text_present, 1 + batch.text % (_NUM_WORDS - 1), 0)
        parts += [self.words(ids).to(parts[0].dtype), batch.state.to(parts[0].dtype)]
        return self.observation(torch.cat(parts, dim=1))


class CameraEncoder(nn.Module):
    """A picture to where each channel of a convolutional net sees its own, and how much of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = ConvolutionalStem(width)
        self.channels = nn.Conv2d(width, width, 1)
        self.num_outputs = 3 * width

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3 * width) of pictures (B, 3, S, S) uint8."""
        maps = self.stem(picture)
        return torch.cat([spatial_softmax(self.channels(maps)), maps.mean(dim=(2, 3))], dim=1)


def spatial_softmax(maps: Tensor) -> Tensor:
    """Mean place (B, 2 C), x and then y in [-1, 1], of each channel of maps (B, C, h, w), weighted by the exponential of its values."""
    height, width = maps.shape[2:]
    weight = maps.flatten(2).float().softmax(dim=-1).unflatten(-1, (height, width))
    x, y = (torch.linspace(-1, 1, number, device=maps.device) for number in (width, height))
    # No matrix products: autocast would round places to less than a pixel's worth.
    return torch.cat([(weight.sum(dim=2) * x).sum(dim=-1), (weight.sum(dim=3) * y).sum(dim=-1)], dim=1).to(maps.dtype)


class Denoiser(nn.Module):
    """Noisy chunks to the noise in them. What was observed, and the step, reach every layer by adaptive norms."""

    def __init__(self, config: ActionConfig) -> None:
        super().__init__()
        width = config.width
        self.action_in = nn.Linear(config.action_size, width)
        self.place = nn.Parameter(torch.randn(config.horizon, width) * _POSITION_SCALE)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(DenoiserLayer(config) for _ in range(config.layers))
        self.modulation = zero_linear(width, 2 * width)
        self.action_out = zero_linear(width, config.action_size)

    def forward(self, noisy: Tensor, step: Tensor, observation: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, R, T, A) at steps (B, R) of what was observed as (B, D): (B, R, T, A). Nothing looks at actions that are not `valid` (B, T)."""
        dtype = self.action_in.weight.dtype
        time = sinusoids(step.flatten() / NUM_STEPS, self.place.shape[1], *_PERIODS).unflatten(0, step.shape)
        condition = F.silu(self.time(time.to(dtype)) + observation[:, None]).flatten(0, 1)
        tokens = self.action_in(noisy.to(dtype)).flatten(0, 1) + self.place
        allowed = None if valid is None else self._seen(valid).repeat_interleave(step.shape[1], dim=0)[:, None]
        for layer in self.layers:
            tokens = layer(tokens, condition, allowed)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.action_out(_normed(tokens) * (1 + scale) + shift).unflatten(0, step.shape)

    @staticmethod
    def _seen(valid: Tensor) -> Tensor:
        """(B, T, T): every action looks at the valid ones, and at itself, so that there is always something."""
        return valid[:, None, :] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)


class DenoiserLayer(nn.Module):
    """Attention between the actions of a chunk, and an MLP, each scaled, shifted and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: ActionConfig) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_width
        self.head_width = config.head_width
        self.qkv_proj = nn.Linear(width, 3 * inner)
        self.o_proj = nn.Linear(inner, width)
        self.mlp = nn.Sequential(nn.Linear(width, config.inner), nn.GELU(approximate="tanh"), nn.Linear(config.inner, width))
        self.modulation = zero_linear(width, 6 * width)

    def forward(self, tokens: Tensor, condition: Tensor, allowed: Tensor | None) -> Tensor:
        """(B R, T, D) for conditions (B R, D); `allowed` (B R, 1, T, T) says which action looks at which, None: all do at all."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition)[:, None].chunk(6, dim=-1)
        query, key, value = (split_heads(x, self.head_width) for x in self.qkv_proj(_normed(tokens) * (1 + scale) + shift).chunk(3, dim=-1))
        tokens = tokens + gate * self.o_proj(join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)))
        return tokens + mlp_gate * self.mlp(_normed(tokens) * (1 + mlp_scale) + mlp_shift)


def squared_cosine(num_steps: int) -> Tensor:
    """(steps,) share of the variance of data that is left at each step (Nichol and Dhariwal 2021): from nearly 1 to nearly 0."""
    times = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    left = torch.cos((times + 0.008) / 1.008 * math.pi / 2).square()
    # The last step would leave nothing, and say nothing about the data.
    return (left[1:] / left[:-1]).clamp(min=0.001).cumprod(dim=0).float()


def step_of(tau: Tensor) -> Tensor:
    """The step of flow times in [0, 1), all equally wide: 0, noise, is the last."""
    return (NUM_STEPS - 1 - (tau * NUM_STEPS).long()).clamp(0, NUM_STEPS - 1)


def ddim(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, remaining: Tensor, steps: int) -> Tensor:
    """Data from noise (B, R, ...) by DDIM without noise of its own (Song et al. 2021): `predict(noisy, step)` says the noise, step (B, R).

    The steps are multiples of the same number, down to 0.
    """
    stride = max(1, len(remaining) // steps)
    numbers = [stride * index for index in reversed(range(min(steps, len(remaining))))]
    noisy = noise
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        here = remaining[number]
        predicted = predict(noisy, torch.full(noise.shape[:2], number, device=noise.device)).float()
        data = ((noisy - (1 - here).sqrt() * predicted) / here.sqrt()).clamp(-_FARTHEST, _FARTHEST)
        noisy = data if following is None else remaining[following].sqrt() * data + (1 - remaining[following]).sqrt() * predicted
    return noisy


def _normed(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
