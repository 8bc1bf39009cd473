"""Features of the frozen world model: what they are, that they are a function of the frame, and that nothing in it ever changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from action_examples import SMALL, rows
from torch import nn

from tracekit.action.batch import ActionBatch
from tracekit.action.config import ActionConfig
from tracekit.action.example_batch import example_batch
from tracekit.action.frozen import FrozenMu0, feature_widths, pooled, question_about
from tracekit.action.queries import cell_of, entity_keypoints, query_points
from tracekit.mu0.bare_image import grid_points
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import PRESETS, build

TINY = PRESETS["tiny-random"]
ENTITIES = dataclasses.replace(SMALL, queries="entities", max_entities=9)


@pytest.fixture(scope="module")
def world() -> Iterator[Mu0]:
    """Awake: none of its layers is the identity."""
    model = build(TINY)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    yield model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def batch_of(num_frames: int = 3, config: ActionConfig = SMALL) -> ActionBatch:
    batch = example_batch(config, num_frames, image_size=TINY.image_size, vocabulary=128)
    batch.text_present[0, 4:] = False
    return batch


def test_shapes_and_widths(world: Mu0):
    features, widths = FrozenMu0(world, SMALL).complete(batch_of()), feature_widths(world)
    assert (widths.vlm, widths.trace, widths.gripper) == (32, 16, 16)
    assert features.vlm.shape == (3, 4 + 6, widths.vlm) and features.vlm_present.shape == (3, 10)
    assert features.words.shape == (3, 6, widths.vlm)
    assert features.trace.shape == (3, SMALL.trace_tokens, widths.trace) and features.trace_present.all()
    assert features.gripper.shape == (3, 2, 2, widths.gripper)
    assert features.vlm_present[0].tolist() == [True] * 8 + [False] * 2 and features.vlm_present[1:].all()
    assert torch.equal(features.words_present, batch_of().text_present)


def test_nothing_has_a_gradient_and_nothing_is_registered(world: Mu0):
    frozen = FrozenMu0(world, SMALL)
    with torch.enable_grad():
        features = frozen.complete(batch_of())
    tensors = [getattr(features, field.name) for field in dataclasses.fields(features)]
    assert not any(value.requires_grad for value in tensors)
    assert not any(value.requires_grad for value in world.parameters()) and not world.training
    assert not isinstance(frozen, nn.Module)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = frozen

    assert list(Holder().parameters()) == [] and Holder().state_dict() == {}


@pytest.mark.parametrize("config", [SMALL, ENTITIES], ids=["grid", "entities"])
def test_features_follow_from_the_frame_alone(world: Mu0, config: ActionConfig):
    """Not from torch's own random numbers, from what else is in the batch, from its targets, or from who asks."""
    batch = batch_of(config=config)
    together = FrozenMu0(world, config).complete(batch)
    torch.manual_seed(99)
    torch.rand(3)
    again = FrozenMu0(world, config).complete(
        dataclasses.replace(batch, noise=batch.noise + 1, actions=batch.actions - 1, tau=1 - batch.tau)
    )
    for field in dataclasses.fields(together):
        assert torch.equal(getattr(together, field.name), getattr(again, field.name)), field.name
    for frame in range(len(batch)):
        alone = FrozenMu0(world, config).complete(rows(batch, slice(frame, frame + 1)))
        for field in dataclasses.fields(together):
            expected = getattr(together, field.name)[frame : frame + 1]
            torch.testing.assert_close(getattr(alone, field.name), expected, rtol=0, atol=1e-5, msg=field.name)


def test_padding_of_the_sentence_does_not_change_features(world: Mu0):
    batch = batch_of()
    wide = dataclasses.replace(
        batch,
        text=torch.cat([batch.text, torch.full((3, 3), 7)], dim=1),
        text_present=torch.cat([batch.text_present, torch.zeros(3, 3, dtype=torch.bool)], dim=1),
    )
    narrow, wide = (FrozenMu0(world, SMALL).complete(given) for given in (batch, wide))
    torch.testing.assert_close(wide.trace, narrow.trace, rtol=0, atol=1e-5)
    shown = narrow.vlm_present[..., None]
    torch.testing.assert_close(wide.vlm[:, :10] * shown, narrow.vlm * shown, rtol=0, atol=1e-5)


def test_trace_features_are_those_of_the_solvers_first_step(world: Mu0):
    """What the expert has before its final norm when `sample` of μ0 starts from the same noise."""
    config = dataclasses.replace(SMALL, grid_pool=1)
    frozen, batch = FrozenMu0(world, config), batch_of()
    features = frozen.complete(batch)
    uv, present = query_points(batch.image, config)
    seen = []
    hook = world.expert.norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    question = question_about(batch.image, batch.text, batch.text_present, uv, present, TINY)
    noise = torch.randn(config.grid**2, TINY.target_points, 3, generator=torch.Generator().manual_seed(0))
    world.sample(question, noise.expand(3, 1, -1, -1, -1))
    hook.remove()
    assert len(seen) == 4 and features.trace.std() > 0.1
    torch.testing.assert_close(features.trace, seen[0][:, 0, :, 0], rtol=0, atol=1e-5)
    assert (features.trace - seen[1][:, 0, :, 0]).abs().max() > 1e-3


def test_the_frame_and_the_sentence_are_looked_at(world: Mu0):
    batch, frozen = batch_of(), FrozenMu0(world, SMALL)
    features = frozen.complete(batch)
    other = frozen.complete(dataclasses.replace(batch, image=batch.image.flip(3)))
    told = frozen.complete(dataclasses.replace(batch, text=batch.text.flip(1)))
    for changed in (other, told):
        assert (changed.vlm - features.vlm).abs().max() > 1e-3 and (changed.trace - features.trace).abs().max() > 1e-4
    assert torch.equal(other.gripper, features.gripper)


def test_without_traces_all_else_is_the_same(world: Mu0):
    batch = batch_of()
    features = FrozenMu0(world, SMALL).complete(batch)
    without = FrozenMu0(world, dataclasses.replace(SMALL, use_trace=False)).complete(batch)
    assert without.trace is None and without.trace_present is None
    torch.testing.assert_close(without.vlm, features.vlm, rtol=0, atol=1e-6)
    assert torch.equal(without.gripper, features.gripper)


def test_gripper_features_are_dinov2s_patches(world: Mu0):
    batch = batch_of()
    features = FrozenMu0(world, SMALL).complete(batch)
    assert torch.equal(features.gripper, world.local.patches(batch.gripper))
    for unseen in ("stem", "none"):
        assert FrozenMu0(world, dataclasses.replace(SMALL, gripper_features=unseen)).complete(batch).gripper is None


def test_what_a_cache_knows_is_not_computed_again(world: Mu0):
    batch = batch_of()
    known = FrozenMu0(world, SMALL).complete(batch)
    blind = dataclasses.replace(batch, image=None, features=known)
    assert FrozenMu0(world, SMALL).complete(blind) is known


def test_pooling_is_the_mean_of_neighbours():
    side, pool = 6, 3
    hidden = torch.randn(2, side * side, 5, generator=torch.Generator().manual_seed(0))
    means = pooled(hidden, side, pool)
    assert means.shape == (2, 4, 5)
    for row in range(side // pool):
        for column in range(side // pool):
            cells = [(pool * row + down) * side + pool * column + across for down in range(pool) for across in range(pool)]
            torch.testing.assert_close(means[:, row * 2 + column], hidden[:, cells].mean(dim=1), rtol=0, atol=1e-6)
    assert torch.equal(pooled(hidden, side, 1), hidden)


def test_tokens_stand_row_by_row_as_the_grid_does():
    """Means of the places of the fine grid are the coarse grid."""
    fine, coarse = torch.from_numpy(grid_points(20)), torch.from_numpy(grid_points(10))
    torch.testing.assert_close(pooled(fine[None], 20, 2)[0], coarse, rtol=0, atol=1e-6)
    assert coarse[1, 0] > coarse[0, 0] and coarse[1, 1] == coarse[0, 1]


def test_each_point_of_the_grid_has_noise_of_its_own():
    assert cell_of(torch.from_numpy(grid_points(20))[None], 20)[0].tolist() == list(range(400))
    corners = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.01, -0.99]]])
    assert cell_of(corners, 4)[0].tolist() == [0, 3, 12, 15, 2]


def scene(height: int = 120, width: int = 160) -> np.ndarray:
    """A red disc and a blue square on a green table with texture."""
    random = np.random.default_rng(0)
    picture = np.full((height, width, 3), (60, 120, 60)) + random.integers(-9, 9, (height, width, 1))
    v, u = np.mgrid[:height, :width]
    picture[(u - 40) ** 2 + (v - 40) ** 2 < 18**2] = (200, 40, 40)
    picture[70:100, 100:130] = (40, 60, 210)
    return picture.clip(0, 255).astype(np.uint8)


def test_entity_keypoints_lie_on_things():
    uv = entity_keypoints(scene(), 40)
    assert uv.shape == (40, 2) and uv.dtype == np.float32 and np.abs(uv).max() <= 1
    assert len(np.unique(uv, axis=0)) == 40
    u, v = ((uv + 1) / 2 * (160, 120) - 0.5).T
    assert np.allclose(u, u.round(), atol=1e-3) and np.allclose(v, v.round(), atol=1e-3)
    on_disc = (u - 40) ** 2 + (v - 40) ** 2 < 18**2
    on_square = (np.abs(u - 114.5) < 15) & (np.abs(v - 84.5) < 15)
    # Each covers about 5 % of the picture, of which 40 even points would be two; the least share of an entity is 8.
    assert on_disc.sum() >= 5 and on_square.sum() >= 5
    assert np.array_equal(uv, entity_keypoints(scene(), 40))


def test_queries_of_entities_are_padded():
    image = torch.from_numpy(np.stack([scene(64, 64), np.full((64, 64, 3), 9, np.uint8)])).permute(0, 3, 1, 2)
    uv, present = query_points(image, dataclasses.replace(ENTITIES, max_entities=5000))
    assert uv.shape == (2, 5000, 2) and present.shape == (2, 5000)
    for frame in range(2):
        number = int(present[frame].sum())
        assert 0 < number < 5000 and present[frame, :number].all() and uv[frame, number:].eq(0).all()
        expected = entity_keypoints(image[frame].permute(1, 2, 0).numpy(), 5000)
        assert torch.equal(uv[frame, :number], torch.from_numpy(expected))


def test_features_of_entities_are_not_averaged_and_padding_does_not_change_them(world: Mu0):
    few, many = (dataclasses.replace(ENTITIES, max_entities=number) for number in (1100, 1500))
    batch = batch_of(2, ENTITIES)
    narrow, wide = (FrozenMu0(world, config).complete(batch) for config in (few, many))
    assert narrow.trace.shape == (2, 1100, 16) and wide.trace_present.sum(dim=1).lt(1100).all()
    # The budget decides where points lie; of the same points the same is seen.
    uv, present = query_points(batch.image, few)
    questions = [
        question_about(batch.image, batch.text, batch.text_present, *given, TINY)
        for given in ((uv, present), (torch.cat([uv, uv + 0.1], dim=1), torch.cat([present, present & False], dim=1)))
    ]
    noise = torch.randn(2, 1, 2200, TINY.target_points, 3, generator=torch.Generator().manual_seed(0))
    points = [world.sample(question, noise[:, :, : question.present.shape[1]], 1).points[:, :, :1100] for question in questions]
    shown = present[:, None, :, None, None]
    torch.testing.assert_close(points[0] * shown, points[1] * shown, rtol=0, atol=1e-5)
