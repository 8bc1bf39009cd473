"""The action expert as a whole: what may and what may not influence what, its size, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from action_examples import SMALL, batch_of, expert_of, rows, with_features

from tracekit.action.config import ActionConfig
from tracekit.action.example_batch import example_batch
from tracekit.action.frozen import FrozenMu0, feature_widths
from tracekit.action.heads import build_head
from tracekit.action.model import ActionExpert
from tracekit.action.presets import HEADS
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.presets import PRESETS, build, on_meta

VARIANTS = {
    "full": SMALL,
    "without traces": dataclasses.replace(SMALL, use_trace=False),
    "stem": dataclasses.replace(SMALL, gripper_features="stem"),
    "without a gripper camera": dataclasses.replace(SMALL, gripper_features="none"),
    "entities": dataclasses.replace(SMALL, queries="entities", max_entities=9),
}
each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


@each_variant
def test_absent_tokens_have_no_influence(config: ActionConfig):
    """Of picture, sentence and motion, whether in the middle or as padding of a batch."""
    expert, batch = expert_of(config), batch_of(config=config)
    features = batch.features
    generator = torch.Generator().manual_seed(4)
    presence = {"vlm": features.vlm_present.clone(), "words": features.words_present.clone()}
    presence["vlm"][0, 2] = presence["vlm"][1, -1] = presence["words"][2, 1:] = False
    if config.use_trace:
        presence["trace"] = features.trace_present.clone()
        presence["trace"][0, 1:3] = False
    masked = with_features(batch, **{f"{name}_present": value for name, value in presence.items()})
    noise = {
        name: torch.where(value[..., None], getattr(features, name), 9 * torch.randn(getattr(features, name).shape, generator=generator))
        for name, value in presence.items()
    }
    other = with_features(masked, **noise)
    wider = {}
    for name, value in presence.items():
        tokens = getattr(other.features, name)
        wider[name] = torch.cat([tokens, 9 * torch.randn(len(batch), 2, tokens.shape[2], generator=generator)], dim=1)
        wider[f"{name}_present"] = torch.cat([value, value.new_zeros(len(batch), 2)], dim=1)
    expected, errors = expert.sample(masked), expert(masked)
    assert (expected - expert.sample(batch)).abs().max() > 1e-3
    for given in (other, with_features(masked, **wider)):
        torch.testing.assert_close(expert.sample(given), expected, rtol=5e-6, atol=1e-6)
        torch.testing.assert_close(expert(given), errors, rtol=1e-5, atol=1e-5)


@each_variant
def test_everything_that_is_known_has_influence(config: ActionConfig):
    expert, batch = expert_of(config), batch_of(config=config)
    changed = {
        "state": dataclasses.replace(batch, state=batch.state + 1),
        "vlm": with_features(batch, vlm=batch.features.vlm.flip(-1)),
        "words": with_features(batch, words=batch.features.words.flip(-1)),
    }
    if config.use_trace:
        changed["trace"] = with_features(batch, trace=batch.features.trace.flip(-1))
    if config.gripper_features == "dinov2":
        changed["gripper features"] = with_features(batch, gripper=batch.features.gripper.flip(1))
    if config.gripper_features == "stem":
        changed["gripper"] = dataclasses.replace(batch, gripper=batch.gripper.flip(2))
    samples = expert.sample(batch)
    for name, other in changed.items():
        assert (expert.sample(other) - samples).abs().max() > 1e-3, name


@each_variant
def test_frames_and_draws_do_not_see_each_other(config: ActionConfig):
    expert, batch = expert_of(config), batch_of(3, draws=2, config=config)
    samples, errors = expert.sample(batch), expert(batch)
    assert samples.shape == errors.shape == (3, 2, config.horizon, config.action_size)
    for frame in range(3):
        alone = rows(batch, slice(frame, frame + 1))
        for draw in range(2):
            one = dataclasses.replace(alone, noise=alone.noise[:, draw : draw + 1], tau=alone.tau[:, draw : draw + 1])
            torch.testing.assert_close(expert.sample(one), samples[frame : frame + 1, draw : draw + 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(expert(one), errors[frame : frame + 1, draw : draw + 1], rtol=1e-4, atol=1e-4)


def test_samples_do_not_look_at_actions_or_tau():
    expert, batch = expert_of(), batch_of()
    blind = dataclasses.replace(batch, actions=batch.actions * math.nan, tau=batch.tau * math.nan)
    assert torch.equal(expert.sample(blind), expert.sample(batch))


def test_squared_errors_are_those_of_eq_12():
    expert, batch = expert_of(), batch_of()
    with torch.no_grad():
        tau = batch.tau[..., None, None]
        velocity = expert.velocity((1 - tau) * batch.noise + tau * batch.actions[:, None], batch.tau, expert.read(batch))
        torch.testing.assert_close(expert(batch), (velocity - (batch.actions[:, None] - batch.noise)) ** 2)


def test_the_solver_asks_as_often_as_it_is_told():
    expert, batch = expert_of(), batch_of()
    asked = []
    expert.transformer.register_forward_hook(lambda *_: asked.append(1))
    expert.sample(batch)
    assert len(asked) == SMALL.sampling_steps == 10
    expert.sample(batch, steps=3)
    assert len(asked) == 13


def test_the_prefix_is_read_once_for_all_steps_and_draws():
    expert, batch = expert_of(), batch_of()
    read = []
    expert.transformer.layers[0].prefix_norm.register_forward_hook(lambda *_: read.append(1))
    expert.sample(batch)
    assert len(read) == 1


def test_padding_of_actions_has_no_influence():
    """Neither the weights of numbers that the robot does not have, nor their number; and they learn nothing."""
    expert, batch = expert_of(), batch_of()
    errors, samples = expert(batch), expert.sample(batch)
    errors.mean().backward()
    size = SMALL.action_size
    assert expert.action_in.weight.grad[:, size:].eq(0).all() and expert.action_in.weight.grad[:, :size].ne(0).any()
    assert expert.action_out.weight.grad[size:].eq(0).all() and expert.action_out.bias.grad[size:].eq(0).all()
    with torch.no_grad():
        expert.action_in.weight[:, size:] = 1e3
        expert.action_out.weight[size:] = 1e3
        expert.action_out.bias[size:] = -1e3
    assert torch.equal(expert(batch), errors) and torch.equal(expert.sample(batch), samples)

    narrow = expert_of(dataclasses.replace(SMALL, action_width=size))
    weights = expert.state_dict()
    weights["action_in.weight"] = weights["action_in.weight"][:, :size]
    for name in ("action_out.weight", "action_out.bias"):
        weights[name] = weights[name][:size]
    narrow.load_state_dict(weights)
    torch.testing.assert_close(narrow(batch), errors, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(narrow.sample(batch), samples, rtol=0, atol=1e-5)


def test_a_fresh_expert_knows_nothing_of_the_frame():
    """Adaptive norms start at 0: what is predicted follows from the noisy actions alone."""
    expert, batch = expert_of(awake=False), batch_of()
    other = dataclasses.replace(batch, state=batch.state + 3, features=rows(batch.features, torch.tensor([2, 0, 1])))
    assert torch.equal(expert.sample(batch), expert.sample(other))


def test_bfloat16_products_say_nearly_the_same():
    expert, batch = expert_of(), batch_of()
    exact, samples = expert(batch), expert.sample(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_samples = expert(batch), expert.sample(batch)
    assert rough.dtype == rough_samples.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.02 * exact.mean()
    assert (rough_samples - samples).abs().mean() < 0.03 * samples.abs().mean()


@each_variant
def test_every_trained_weight_has_a_gradient(config: ActionConfig):
    expert, batch = expert_of(config), batch_of(config=config)
    expert(batch).mean().backward()
    assert [name for name, value in expert.named_parameters() if value.requires_grad != (value.grad is not None)] == []


def test_learns_chunks_by_heart():
    config = dataclasses.replace(SMALL, layers=2)
    expert, batch = expert_of(config, awake=False), batch_of(8, config=config)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(expert.parameters(), lr=4e-3)
    losses = []
    for _ in range(250):
        noise = torch.randn(8, 8, config.horizon, config.action_size, generator=generator)
        tau = torch.rand(8, 8, generator=generator) * 0.9
        loss = expert(dataclasses.replace(batch, noise=noise, tau=tau)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < losses[0] / 10
    error = (expert.sample(batch) - batch.actions[:, None]).abs().mean()
    assert error < batch.actions.abs().mean() / 4


@pytest.mark.parametrize(("name", "millions"), [("200m", 200), ("300m", 300), ("400m", 400)])
def test_heads_are_as_large_as_their_names(name: str, millions: int):
    """Counted as π0.5's: layers without what the flow time adds to them."""
    config = ActionConfig(name, action_size=12, state_size=16, **HEADS[name])
    with torch.device("meta"):
        layers = ActionExpert(config, 2048, 1024, 768).transformer.layers
    counted = sum(value.numel() for name, value in layers.named_parameters() if ".modulation." not in name)
    assert counted == pytest.approx(millions * 1e6, rel=0.05)


@pytest.mark.parametrize("head", HEADS)
def test_heads_fit_the_largest_world_model(head: str):
    config = ActionConfig(head, action_size=12, state_size=16, **HEADS[head])
    with torch.device("meta"):
        assert build_head(config, feature_widths(on_meta(PRESETS["2.59b"]))).config == config


@pytest.mark.parametrize(
    ("world", "head"),
    [
        (PRESETS["tiny-random"], dataclasses.replace(SMALL, queries="grid")),
        (PRESETS["tiny-random"], dataclasses.replace(SMALL, queries="entities", max_entities=7)),
        (PRESETS["nano"], ActionConfig("nano", action_size=4, state_size=4, **HEADS["nano"])),
    ],
    ids=["tiny with DINOv2", "tiny with entities", "nano with stem"],
)
def test_pictures_to_actions_with_a_world_model(world: Mu0Config, head: ActionConfig):
    model = build(world)
    frozen = FrozenMu0(model, head)
    expert = build_head(head, feature_widths(model))
    batch = example_batch(head, 2, image_size=world.image_size, vocabulary=world.vlm["text_config"]["vocab_size"])
    batch = dataclasses.replace(batch, features=frozen.complete(batch))
    expert(batch).mean().backward()
    assert all(value.grad is None for value in model.parameters())
    samples = expert.sample(batch)
    assert samples.shape == batch.noise.shape and samples.isfinite().all()
