"""The network: what may and what may not influence what, whatever the batch looks like."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tracekit.errors import ConfigurationError
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.example_batch import example_batch
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import loss_counts, losses
from tracekit.mu0.model import Mu0, suffix_attention
from tracekit.mu0.presets import PRESETS, build, on_meta, without
from tracekit.mu0.vlm import DepthLoraLinear

TINY = PRESETS["tiny-random"]
CLOSE = {"rtol": 0, "atol": 1e-5}
VARIANTS = {
    "full": TINY,
    "several tokens": dataclasses.replace(TINY, history_group=2, control_group=5),
    "without splines": without(TINY, bspline=True),
    "without local features": without(TINY, dino=True),
    "stem": dataclasses.replace(TINY, local_features="stem"),
    "without history": without(TINY, history=True),
    "without depth": without(TINY, depth=True),
}
PER_KEYPOINT = (
    "present",
    "current",
    "history",
    "history_present",
    "target",
    "target_valid",
    "future",
    "valid_future",
    "entity",
    "moving",
    "noise",
)


def awake(config, seed: int = 0) -> Mu0:
    """A network none of whose layers is the identity any more."""
    model = build(config, seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def keypoints(batch: TraceBatch, places: torch.Tensor) -> TraceBatch:
    return dataclasses.replace(batch, **{name: getattr(batch, name)[:, places] for name in PER_KEYPOINT})


def samples(batch: TraceBatch, places: slice) -> TraceBatch:
    fields = {
        field.name: value[places]
        for field in dataclasses.fields(batch)
        if field.name not in ("rigid_pair", "rigid_weight") and (value := getattr(batch, field.name)) is not None
    }
    return dataclasses.replace(batch, **fields)


def padded(batch: TraceBatch, num: int, text: int) -> TraceBatch:
    """More places for keypoints and words, filled with what must not matter."""
    changes = {}
    for name in PER_KEYPOINT:
        value = getattr(batch, name)
        more = torch.zeros(value.shape[0], num, *value.shape[2:], dtype=value.dtype)
        if value.is_floating_point():
            more = torch.randn(more.shape) * 9
        changes[name] = torch.cat([value, more], dim=1)
    changes["present"][:, -num:] = False
    words = torch.randint(2, 100, (len(batch), text))
    changes["text"] = torch.cat([batch.text, words], dim=1)
    changes["text_present"] = torch.cat([batch.text_present, torch.zeros(len(batch), text, dtype=torch.bool)], dim=1)
    return dataclasses.replace(batch, **changes)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_order_of_keypoints_does_not_matter(config):
    model, batch = awake(config), example_batch(config, 3, 7)
    batch.history_present[1, 2:5] = False
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight, shuffled = model(batch), model(keypoints(batch, order))
    assert straight.velocity.std() > 0.01
    torch.testing.assert_close(shuffled.velocity, straight.velocity[:, order], **CLOSE)
    torch.testing.assert_close(shuffled.validity_logits, straight.validity_logits[:, order], **CLOSE)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_padding_does_not_matter(config):
    model, batch = awake(config), example_batch(config, 2, 4)
    wide = padded(batch, 5, 3)
    noise = torch.randn(2, 2, 9, config.target_points, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(wide).velocity[:, :4], model(batch).velocity, **CLOSE)
    torch.testing.assert_close(model.sample(wide, noise).points[:, :, :4], model.sample(batch, noise[:, :, :4]).points, **CLOSE)


def test_padded_keypoints_take_no_part_in_the_losses():
    model, batch = awake(TINY), example_batch(TINY, 2, 4)
    wide = padded(batch, 5, 3)
    wide.target_valid[:, 4:] = False
    pair = batch.rigid_pair  # places count from the flattened (B * N), which has grown
    wide = dataclasses.replace(wide, rigid_pair=pair // 4 * 9 + pair % 4)
    with torch.no_grad():
        narrow_losses, wide_losses = (losses(model(b), b, LossWeights(), loss_counts(b)) for b in (batch, wide))
    for term in ("total", "flow", "done", "rigidity"):
        torch.testing.assert_close(getattr(wide_losses, term), getattr(narrow_losses, term), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_samples_of_a_batch_do_not_see_each_other(config):
    model, batch = awake(config), example_batch(config, 3, 4)
    with torch.no_grad():
        together = model(batch).velocity
        alone = torch.cat([model(samples(batch, slice(b, b + 1))).velocity for b in range(3)])
    torch.testing.assert_close(together, alone, **CLOSE)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_all_draws_at_once_are_the_draws_one_by_one(config):
    model, batch = awake(config), example_batch(config, 2, 4)
    noise = torch.randn(2, 5, 4, config.target_points, 3, generator=torch.Generator().manual_seed(0))
    together = model.sample(batch, noise)
    assert together.points.std(dim=1).min() > 1e-4
    for draw in range(5):
        alone = model.sample(batch, noise[:, draw : draw + 1])
        torch.testing.assert_close(together.points[:, draw : draw + 1], alone.points, **CLOSE)
        torch.testing.assert_close(together.validity[:, draw : draw + 1], alone.validity, **CLOSE)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_solving_with_what_is_remembered_of_the_prefix_is_solving_with_whole_passes(config):
    """Euler's method written out: a training pass, prefix and all, at each step."""
    model, batch = awake(config), example_batch(config, 2, 4)
    noise = torch.randn(2, 4, config.target_points, 3, generator=torch.Generator().manual_seed(0))
    points = noise
    with torch.no_grad():
        for tau in (1.0, 0.75, 0.5, 0.25):
            # P^tau is given: noise = target = P^tau makes tau * noise + (1 - tau) * target the same.
            whole = model(dataclasses.replace(batch, noise=points, target=points, tau=torch.full((2,), tau)))
            points = points - 0.25 * whole.velocity
    drawn = model.sample(batch, noise[:, None])
    torch.testing.assert_close(drawn.points[:, 0], points, **CLOSE)
    torch.testing.assert_close(drawn.validity[:, 0], whole.validity_logits.sigmoid(), **CLOSE)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_at_step_zero_the_expert_is_the_identity_and_keypoints_are_thought_valid(config):
    model, batch = build(config), example_batch(config, 2, 4)
    query = model.read(batch, 1, for_inference=False)
    points = batch.noise[:, None]
    tokens = model.tokens.target(points, query.place, query.look)
    torch.testing.assert_close(model.hidden(query, points, model.flow_time(batch.tau)), tokens, rtol=0, atol=0)
    assert model(batch).validity_logits.eq(config.validity_bias).all()
    assert query.place.eq(0).all()


def test_history_that_is_hidden_has_no_influence():
    model, batch = awake(TINY), example_batch(TINY, 2, 4)
    batch.history_present[0] = False
    batch.history_present[1, 1] = False
    changed = dataclasses.replace(batch, history=batch.history.clone())
    changed.history[0] += 1.0
    changed.history[1, 1] += 1.0
    seen = dataclasses.replace(batch, history=batch.history.clone())
    seen.history[1, 2] += 1.0
    with torch.no_grad():
        before = model(batch).velocity
        torch.testing.assert_close(model(changed).velocity, before, rtol=0, atol=0)
        assert (model(seen).velocity[1] - before[1]).abs().max() > 1e-4
    nowhere = dataclasses.replace(batch, history_present=torch.zeros_like(batch.history_present))
    noise = batch.noise[:, None]
    shortened = model.sample(nowhere, noise).points  # leaves the history tokens out
    masked = dataclasses.replace(nowhere, noise=batch.noise, target=batch.noise, tau=torch.ones(2))
    with torch.no_grad():
        torch.testing.assert_close(model.sample(nowhere, noise, num_steps=1).points[:, 0], batch.noise - model(masked).velocity, **CLOSE)
    assert torch.isfinite(shortened).all()


def test_depth_that_is_absent_is_as_if_there_were_none():
    model, batch = awake(TINY), example_batch(TINY, 3, 4)
    batch.depth_present[:] = torch.tensor([True, False, False])
    other = dataclasses.replace(batch, depth=255 - batch.depth)
    none = dataclasses.replace(batch, depth=None, depth_present=torch.zeros(3, dtype=torch.bool))
    with torch.no_grad():
        before = model(batch).velocity
        assert (model(other).velocity[0] - before[0]).abs().max() > 1e-5
        torch.testing.assert_close(model(other).velocity[1:], before[1:], rtol=0, atol=1e-6)
        torch.testing.assert_close(model(none).velocity[1:], before[1:], **CLOSE)


def test_with_weights_shared_out_the_way_does_not_depend_on_whether_there_is_depth():
    """Else processes that validate with and without depth gather layers at different times, and wait for each other for ever."""
    model, batch = awake(TINY), example_batch(TINY, 2, 3, depth=False)
    looks: list[int] = []
    model.vlm.vision.register_forward_hook(lambda *_: looks.append(1))
    with torch.no_grad():
        before = model(batch).velocity
        assert len(looks) == 1
        model.vlm.always_sees_depth = True
        torch.testing.assert_close(model(batch).velocity, before, **CLOSE)
        assert len(looks) == 3
        model(example_batch(TINY, 2, 3, depth=True))
        assert len(looks) == 5


def test_a_picture_of_depth_takes_its_own_path_and_leaves_the_rgb_path_as_it_was():
    model = awake(TINY)
    batch = example_batch(TINY, 2, 4)
    lora = [module for module in model.vlm.modules() if isinstance(module, DepthLoraLinear)]
    assert len(lora) == 6 * TINY.vlm["vision_config"]["num_hidden_layers"]
    with torch.no_grad():
        rgb = model.vlm._see(batch.image)
        for module in lora:
            module.lora_B.add_(1.0)
        torch.testing.assert_close(model.vlm._see(batch.image), rgb, rtol=0, atol=0)
        as_depth = model.vlm._see_depth(dataclasses.replace(batch, depth=batch.image))
    assert (as_depth - rgb).abs().max() > 1e-3
    assert model.vlm.vision.embeddings.patch_embedding is not model.vlm.depth_stem


def test_depth_starts_as_a_copy_of_the_rgb_path():
    model, batch = build(TINY), example_batch(TINY, 2, 4)
    with torch.no_grad():
        as_depth = model.vlm._see_depth(dataclasses.replace(batch, depth=batch.image))
        torch.testing.assert_close(as_depth, model.vlm._see(batch.image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("with_depth", [True, False])
def test_gradients_flow_to_all_that_is_trained_and_to_nothing_else(config, with_depth):
    model, batch = awake(config).train(), example_batch(config, 2, 5, depth=with_depth)
    losses(model(batch), batch, LossWeights(), loss_counts(batch)).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert any("text_model.layers.0" in name for name in frozen)
    assert not any(name.startswith(("expert", "tokens", "flow_time", "velocity", "validity", "vlm.depth_stem")) for name in frozen)
    if config.local_features == "dinov2":
        assert {name for name, _ in model.named_parameters() if name.startswith("local")} <= set(frozen)


def test_an_unfrozen_vlm_learns_all_but_what_has_no_influence():
    config = dataclasses.replace(TINY, freeze_vlm=False)
    model, batch = awake(config).train(), example_batch(config, 2, 5)
    losses(model(batch), batch, LossWeights(), loss_counts(batch)).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad and "tokens.group" not in name and "embed" not in name:
            assert parameter.grad.abs().max() > 0, name
    assert model.vlm.text.layers[0].mlp.up_proj.weight.requires_grad
    assert not model.vlm.text.layers[-1].mlp.up_proj.weight.requires_grad


def test_frozen_parts_never_go_into_training_mode():
    model = build(TINY).train()
    assert model.training and model.expert.training
    assert not model.vlm.smolvlm.training and not model.local.training and not model.local.model.training
    assert build(dataclasses.replace(TINY, freeze_vlm=False, local_features="stem")).train().vlm.smolvlm.training


def test_recomputing_activations_gives_the_same_gradients():
    config = dataclasses.replace(TINY, freeze_vlm=False)
    batch = example_batch(config, 2, 5)
    gradients = []
    for again in (False, True):
        model = awake(config).train()
        model.vlm.gradient_checkpointing = model.expert.gradient_checkpointing = again
        losses(model(batch), batch, LossWeights(), loss_counts(batch)).total.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_bfloat16_gives_nearly_the_same():
    model, batch = awake(TINY), example_batch(TINY, 2, 5)
    with torch.no_grad():
        exact = model(batch).velocity
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch).velocity
            drawn = model.sample(batch, batch.noise[:, None]).points
    assert rough.dtype == torch.float32
    assert torch.isfinite(drawn).all()
    assert (rough - exact).norm() < 0.05 * exact.norm()


def brute_force_attention(present, known, history_tokens, target_tokens, draws):
    """Who may look at whom, token by token."""
    tokens = [("history", n, g, None) for n in range(len(present)) for g in range(history_tokens)] if known is not None else []
    tokens += [("target", n, g, s) for s in range(draws) for n in range(len(present)) for g in range(target_tokens)]
    may = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for i, (kind, _, group, draw) in enumerate(tokens):
        for j, (other, n, other_group, other_draw) in enumerate(tokens):
            if other == "history":
                may[i, j] = bool(known[n]) and (kind == "target" or other_group <= group)
            else:
                may[i, j] = bool(present[n]) and kind == "target" and draw == other_draw
    return may


@pytest.mark.parametrize(("history_tokens", "target_tokens", "draws"), [(1, 1, 1), (4, 2, 3), (2, 1, 5)])
@pytest.mark.parametrize("with_history", [True, False])
def test_attention_within_the_suffix_is_as_described(history_tokens, target_tokens, draws, with_history):
    present = torch.tensor([[True, True, False], [True, False, True]])
    known = torch.tensor([[True, False, False], [True, False, True]]) if with_history else None
    allowed = suffix_attention(present, known, history_tokens, target_tokens, draws)
    for b in range(2):
        wanted = brute_force_attention(present[b], known[b] if with_history else None, history_tokens, target_tokens, draws)
        assert torch.equal(allowed[b], wanted)


@pytest.mark.parametrize(("name", "millions"), [("2.59b", 2590), ("568m", 568), ("342m", 342)])
def test_the_presets_have_the_papers_sizes(name, millions):
    model = on_meta(PRESETS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    assert len(model.expert.layers) == 20
    text = PRESETS[name].vlm["text_config"]
    assert model.expert.norm.weight.shape == (text["hidden_size"] // 2,)


def test_nano_is_a_few_million_and_all_of_it_is_used():
    model = on_meta(PRESETS["nano"])
    assert 4e6 < sum(parameter.numel() for parameter in model.parameters()) < 12e6


def test_the_same_seed_gives_the_same_network_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = build(TINY, 1), build(TINY, 1), build(TINY, 2)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(one.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.velocity.weight, other.velocity.weight)


@pytest.mark.parametrize(
    "changes", [{"history_group": 3}, {"control_group": 4}, {"control_points": 9}, {"local_features": "clip"}, {"tokenizer": "bytes"}]
)
def test_a_network_that_cannot_be_built_is_refused(changes):
    with pytest.raises(ConfigurationError):
        Mu0(dataclasses.replace(TINY, **changes))
