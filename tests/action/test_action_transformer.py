"""The joint transformer of prefix and actions: against the same written out as one, and what may see what."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from action_examples import CLOSE, SMALL, shake
from torch import Tensor

from tracekit.action.expert import ActionTransformer, AdaptiveRMSNorm, RMSNorm

FRAMES, PREFIX, DRAWS, STEPS = 2, 6, 3, 4


def transformer_of(*, awake: bool = True, **changes) -> ActionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ActionTransformer(dataclasses.replace(SMALL, **changes))
    return shake(made) if awake else made


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prefix, which of it is present, actions and flow times."""
    generator = torch.Generator().manual_seed(2)
    present = torch.ones(FRAMES, PREFIX, dtype=torch.bool)
    present[1, [2, 5]] = False
    prefix = torch.randn(FRAMES, PREFIX, SMALL.width, generator=generator)
    actions = torch.randn(FRAMES, DRAWS, STEPS, SMALL.width, generator=generator)
    return prefix, present, actions, torch.rand(FRAMES, DRAWS, generator=generator)


def jointly(model: ActionTransformer, prefix: Tensor, actions: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """One draw of one frame, prefix (L, D) and actions (T, D) in one sequence, by the book: the hidden states of both.

    Root-mean-square norms, rotary positions that count through the sequence, grouped heads, a gated GELU; the mask is written out:
    the prefix looks at the prefix, actions look at everything.
    """
    config = model.config
    length, number = len(prefix), len(prefix) + len(actions)
    allowed = torch.tensor([[column < length or row >= length for column in range(number)] for row in range(number)])
    share = torch.linspace(0, 1, config.width // 2, dtype=torch.float64)
    periods = config.shortest_period * (config.longest_period / config.shortest_period) ** share
    angles = 2 * math.pi * (1 - torch.tensor(tau).double()) / periods
    condition = model.time(torch.cat([angles.sin(), angles.cos()]).float())
    half = config.head_width // 2
    turn = torch.arange(number)[:, None] * config.rope_base ** (-torch.arange(half) / half)

    def normed(x: Tensor) -> Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + config.norm_epsilon).sqrt()

    def norms(plain, adaptive, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each token its own, and the gates of what comes of it."""
        scale, shift, gate = (adaptive.modulation.weight @ condition + adaptive.modulation.bias).chunk(3)
        first = normed(x[:length]) * (1 + plain.weight)
        gates = torch.cat([torch.ones(length, config.width), gate.expand(number - length, -1)])
        return torch.cat([first, normed(x[length:]) * (1 + scale) + shift]), gates

    def rotated(x: Tensor) -> Tensor:
        a, b = x[:, :half], x[:, half:]
        return torch.cat([a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()], dim=1)

    x = torch.cat([prefix, actions])
    for layer in model.layers:
        inner, gates = norms(layer.prefix_norm, layer.action_norm, x)
        query, key, value = (projection(inner).split(config.head_width, dim=1) for projection in (layer.q_proj, layer.k_proj, layer.v_proj))
        heads = []
        for head in range(config.heads):
            shared = head // (config.heads // config.key_value_heads)
            score = rotated(query[head]) @ rotated(key[shared]).T / math.sqrt(config.head_width)
            heads.append(score.masked_fill(~allowed, -math.inf).softmax(dim=1) @ value[shared])
        x = x + gates * layer.o_proj(torch.cat(heads, dim=1))
        inner, gates = norms(layer.prefix_mlp_norm, layer.action_mlp_norm, x)
        gate = layer.gate_proj(inner)
        gelu = 0.5 * gate * (1 + (math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)).tanh())
        x = x + gates * layer.down_proj(gelu * layer.up_proj(inner))
    scale, shift = (model.norm.modulation.weight @ condition + model.norm.modulation.bias).chunk(2)
    return x[:length], normed(x[length:]) * (1 + scale) + shift


@torch.no_grad()
def test_reading_once_and_denoising_is_one_joint_transformer():
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    hidden = model(actions, tau, model.read(prefix, present))
    assert hidden.std() > 0.3
    for frame in range(FRAMES):
        for draw in range(DRAWS):
            _, expected = jointly(model, prefix[frame, present[frame]], actions[frame, draw], float(tau[frame, draw]))
            torch.testing.assert_close(hidden[frame, draw], expected, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_the_prefix_never_sees_actions():
    """Of the joint transformer the prefix ends the same whatever the actions; and ours has no way back into what was read."""
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    one, other = (jointly(model, prefix[0], given, 0.3)[0] for given in (actions[0, 0], 50 * actions[0, 1]))
    assert torch.equal(one, other)
    memory = model.read(prefix, present)
    before = [value.clone() for value in memory.keys + memory.values]
    first = model(actions, tau, memory)
    model(-7 * actions, tau, memory)
    assert all(torch.equal(value, kept) for value, kept in zip(memory.keys + memory.values, before, strict=True))
    assert torch.equal(model(actions, tau, memory), first)


@torch.no_grad()
def test_draws_at_once_are_draws_one_by_one():
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    memory = model.read(prefix, present)
    together = model(actions, tau, memory)
    for draw in range(DRAWS):
        alone = model(actions[:, draw : draw + 1], tau[:, draw : draw + 1], memory)
        torch.testing.assert_close(together[:, draw : draw + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_absent_prefix_tokens_have_no_influence():
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    hidden = model(actions, tau, model.read(prefix, present))
    other = torch.where(present[..., None], prefix, 100 * prefix.flip(-1))
    assert torch.equal(model(actions, tau, model.read(other, present)), hidden)
    # Nor do they take a place.
    shorter = prefix[1:, present[1]]
    memory = model.read(shorter, torch.ones(shorter.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(model(actions[1:], tau[1:], memory), hidden[1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_action_sees_every_action_of_its_draw_and_the_order_counts():
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    memory = model.read(prefix, present)
    hidden = model(actions, tau, memory)
    for step in range(STEPS):
        other = actions.clone()
        other[:, 1, step] += 1
        change = (model(other, tau, memory) - hidden).abs().amax(dim=(0, 3))
        assert (change[1] > 1e-4).all() and (change[[0, 2]] == 0).all()
    swapped = model(actions.flip(2), tau, memory).flip(2)
    assert (swapped - hidden).abs().max() > 1e-2


@torch.no_grad()
def test_the_flow_time_reaches_its_own_draw_alone():
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    memory = model.read(prefix, present)
    later = tau.clone()
    later[:, 2] = (later[:, 2] + 0.5) % 1
    change = (model(actions, later, memory) - model(actions, tau, memory)).abs().amax(dim=(0, 2, 3))
    assert change[2] > 1e-2 and (change[:2] == 0).all()


@torch.no_grad()
def test_fresh_layers_are_the_identity_for_actions():
    """Gates are shut until something is learnt: what is known, and the flow time, do not matter yet."""
    model, (prefix, present, actions, tau) = transformer_of(awake=False), inputs()
    hidden = model(actions, tau, model.read(prefix, present))
    torch.testing.assert_close(hidden, actions / (actions.square().mean(-1, keepdim=True) + SMALL.norm_epsilon).sqrt(), **CLOSE)
    assert torch.equal(hidden, model(actions, 1 - tau, model.read(-prefix, present)))


def test_fresh_gates_have_gradients():
    model, (prefix, present, actions, tau) = transformer_of(awake=False), inputs()
    weights = torch.randn(actions.shape, generator=torch.Generator().manual_seed(3))
    (model(actions, tau, model.read(prefix, present)) * weights).sum().backward()
    assert all(layer.action_norm.modulation.weight.grad.abs().max() > 0 for layer in model.layers)


def test_every_trained_weight_has_a_gradient():
    """Processes that share a model wait for each of them."""
    model, (prefix, present, actions, tau) = transformer_of(), inputs()
    model(actions, tau, model.read(prefix, present)).square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad != (value.grad is not None)] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_of_root_mean_square(dtype: torch.dtype):
    x = torch.tensor([[3.0, -4.0]], dtype=dtype)
    plain = RMSNorm(2, 0.0).to(dtype)
    expected = torch.tensor([[3.0, -4.0]]) / math.sqrt(12.5)
    torch.testing.assert_close(plain(x).float(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)
    with torch.no_grad():
        plain.weight.fill_(1.0)  # counts from 1
    torch.testing.assert_close(plain(x).float(), 2 * expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_adaptive_norm_scales_shifts_and_gates():
    norm = AdaptiveRMSNorm(2, 0.0)
    with torch.no_grad():
        norm.modulation.weight.copy_(torch.tensor([[1, 0], [0, 1], [2, 0], [0, 2], [3, 0], [0, 3]]))
    out, gate = norm(torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([[[0.5, -1.0]]]))
    rms = math.sqrt(12.5)
    torch.testing.assert_close(out, torch.tensor([[[[3 / rms * 1.5 + 1.0, 0.0 - 2.0]]]]), **CLOSE)
    torch.testing.assert_close(gate, torch.tensor([[[[1.5, -3.0]]]]), **CLOSE)
