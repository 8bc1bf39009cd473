"""Gated cross-attention against Eq. 11 written out, and what it may not be influenced by."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from action_examples import CLOSE, SMALL, batch_of, expert_of, shake, with_features

from tracekit.action.fusion import GatedFusion
from tracekit.errors import ConfigurationError


def inputs(
    frames: int = 2, tokens: int = 5, motions: int = 7, vlm: int = 8, trace: int = 6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, motion = torch.randn(frames, tokens, vlm, generator=generator), torch.randn(frames, motions, trace, generator=generator)
    return z, motion, torch.ones(frames, motions, dtype=torch.bool)


def test_a_gate_of_0_lets_half_of_the_motion_in():
    """One token of motion, values and output as they are: attention has no choice, so that z + LN(W z_trace) / 2 is what comes out."""
    fusion = GatedFusion(8, 6, 2, gate_init=0.0)
    for projection in (fusion.v_proj, fusion.o_proj):
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    z, motion, present = inputs(motions=1)
    projected = motion @ fusion.trace_proj.weight.T + fusion.trace_proj.bias
    normed = (projected - projected.mean(-1, keepdim=True)) / (projected.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(fusion(z, motion, present), z + 0.5 * normed, **CLOSE)


@pytest.mark.parametrize("gate", [-4.0, 0.0, 1.3])
def test_eq_11_written_out(gate: float):
    fusion = shake(GatedFusion(8, 6, 2, gate_init=0.0))
    with torch.no_grad():
        fusion.gate.fill_(gate)
    z, motion, present = inputs()
    present[1, 3:] = False
    expected = z.clone()
    for frame in range(2):
        query = fusion.q_proj(fusion.norm(z[frame]))
        keys = fusion.trace_norm(fusion.trace_proj(motion[frame][present[frame]]))
        key, value = fusion.k_proj(keys), fusion.v_proj(keys)
        seen = torch.zeros(5, 8)
        for head in (slice(0, 4), slice(4, 8)):
            for token in range(5):
                score = torch.stack([query[token, head] @ one[head] for one in key]) / math.sqrt(4)
                share = score.exp() / score.exp().sum()
                seen[token, head] = sum(weight * one[head] for weight, one in zip(share, value, strict=True))
        expected[frame] = z[frame] + fusion.o_proj(seen) / (1 + math.exp(-gate))
    torch.testing.assert_close(fusion(z, motion, present), expected, rtol=0, atol=5e-6)


def test_motion_that_is_not_there_has_no_influence():
    fusion, (z, motion, present) = shake(GatedFusion(8, 6, 2, 0.0)), inputs()
    present[0, 4:] = False
    other = torch.where(present[..., None], motion, 1e3 * torch.randn(motion.shape, generator=torch.Generator().manual_seed(9)))
    torch.testing.assert_close(fusion(z, other, present), fusion(z, motion, present), **CLOSE)
    torch.testing.assert_close(fusion(z, motion, present)[0], fusion(z[:1], motion[:1, :4], present[:1, :4])[0], **CLOSE)


def test_without_any_motion_nothing_is_added_and_gradients_are_finite():
    fusion, (z, motion, present) = shake(GatedFusion(8, 6, 2, 0.0)), inputs()
    present[1] = False
    motion.requires_grad_()
    guided = fusion(z, motion, present)
    assert torch.equal(guided[1], z[1]) and not torch.equal(guided[0], z[0])
    guided.square().sum().backward()
    assert motion.grad[1].eq(0).all() and motion.grad[0].ne(0).any()
    assert all(value.grad.isfinite().all() for value in fusion.parameters())


def test_a_gate_at_minus_infinity_is_z_bit_for_bit():
    fusion, (z, motion, present) = shake(GatedFusion(8, 6, 2, 0.0)), inputs()
    with torch.no_grad():
        fusion.gate.fill_(-math.inf)
    z.requires_grad_()
    motion.requires_grad_()
    guided = fusion(z, motion, present)
    assert torch.equal(guided, z)
    guided.square().sum().backward()
    assert torch.equal(z.grad, 2 * z)
    assert motion.grad.eq(0).all()
    assert all(value.grad is None or value.grad.eq(0).all() for value in fusion.parameters())


@pytest.mark.parametrize("gate", [-math.inf, 0.0])
def test_of_a_whole_expert_traces_have_influence_just_where_the_gate_is_open(gate: float):
    """At minus infinity losses, samples and gradients are those of other traces and of an expert without traces, bit for bit."""
    expert, batch = expert_of(), batch_of()
    with torch.no_grad():
        expert.fusion.gate.fill_(gate)
    without = expert_of(dataclasses.replace(SMALL, use_trace=False))
    without.load_state_dict({name: value for name, value in expert.state_dict().items() if not name.startswith("fusion.")})
    other = with_features(batch, trace=torch.randn(batch.features.trace.shape, generator=torch.Generator().manual_seed(8)) * 30)

    def outcome(model, given) -> dict[str, torch.Tensor]:
        model.zero_grad()
        errors = model(given)
        errors.mean().backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad and name[:6] != "fusion"}
        return {"errors": errors.detach(), "samples": model.sample(given), **gradients}

    one, two, plain = outcome(expert, batch), outcome(expert, other), outcome(without, batch)
    for name in one:
        same = torch.equal(one[name], two[name]), torch.equal(one[name], plain[name])
        assert same == ((True, True) if gate == -math.inf else (False, False)), name


def test_heads_must_share_the_width_evenly():
    with pytest.raises(ConfigurationError, match="10 numbers of the VLM cannot be shared evenly by 4 heads"):
        GatedFusion(10, 6, 4, 0.0)
