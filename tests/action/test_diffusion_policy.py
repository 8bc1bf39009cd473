"""The baseline: its schedule and solver against closed forms, and that it learns what it is shown and told."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tracekit.action.batch import ActionBatch
from tracekit.action.config import ActionConfig
from tracekit.action.diffusion_policy import NUM_STEPS, DiffusionPolicy, ddim, spatial_softmax, squared_cosine, step_of, word_tokenizer
from tracekit.action.example_batch import example_batch
from tracekit.action.heads import build_head
from tracekit.action.presets import HEADS

SMALL = ActionConfig(
    "diffusion",
    width=32,
    layers=2,
    heads=4,
    key_value_heads=1,
    head_width=8,
    inner=48,
    action_size=3,
    state_size=2,
    horizon=5,
    execute=2,
    method="diffusion",
    use_trace=False,
    gripper_features="stem",
    gripper_size=32,
    stem_width=32,
)


def batch_of(num_frames: int, *, draws: int = 2, config: ActionConfig = SMALL) -> ActionBatch:
    return example_batch(config, num_frames, draws=draws, image_size=32, vocabulary=500)


def fit(policy: DiffusionPolicy, batch: ActionBatch, steps: int, draws: int = 8) -> list[float]:
    """Losses of gradient steps on the same frames, with fresh noise each."""
    generator = torch.Generator().manual_seed(5)
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        noise = torch.randn(len(batch), draws, *batch.actions.shape[1:], generator=generator)
        tau = torch.rand(len(batch), draws, generator=generator)
        loss = policy(dataclasses.replace(batch, noise=noise, tau=tau)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_schedule_is_the_squared_cosine():
    remaining = squared_cosine(NUM_STEPS)
    assert remaining.shape == (NUM_STEPS,) and (remaining.diff() < 0).all()
    # Nichol and Dhariwal, Eq. 17: what is left after k + 1 of 100 steps, relative to the start.
    for step in (0, 37, 98):
        expected = (math.cos(((step + 1) / 100 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
        assert float(remaining[step]) == pytest.approx(expected, rel=1e-4)
    assert 0 < remaining[-1] < 1e-6 and remaining[0] > 0.999


def test_tau_0_is_noise_and_all_steps_are_as_wide():
    assert step_of(torch.tensor([0.0, 0.009, 0.011, 0.5, 0.999])).tolist() == [99, 99, 98, 49, 0]
    numbers = step_of((torch.arange(10_000) + 0.5) / 10_000)
    assert torch.bincount(numbers, minlength=NUM_STEPS).eq(100).all()


def test_at_tau_0_only_noise_is_seen_and_at_tau_1_only_data():
    policy = build_head(SMALL, None)
    batch = batch_of(1)
    seen = []
    policy.denoiser.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for tau in (0.0, 0.999):
        policy(dataclasses.replace(batch, tau=torch.full((1, 2), tau)))
    torch.testing.assert_close(seen[0], batch.noise, rtol=0, atol=5e-3)
    torch.testing.assert_close(seen[1], batch.actions[:, None].expand_as(batch.noise), rtol=0, atol=8e-2)


def test_a_fresh_head_predicts_no_noise():
    batch = batch_of(3)
    torch.testing.assert_close(build_head(SMALL, None)(batch), batch.noise.square())


@pytest.mark.parametrize(("mean", "deviation"), [(0.7, 0.2), (-1.5, 0.8)])
def test_ddim_takes_noise_to_a_gaussian(mean: float, deviation: float):
    """For data ~ N(m, s^2) the noise of least error is known, and the ODE keeps each number's place in the distribution."""
    remaining = squared_cosine(NUM_STEPS)

    def predict(noisy: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        left = remaining[step][..., None]
        return (1 - left).sqrt() * (noisy - left.sqrt() * mean) / (left * deviation**2 + 1 - left)

    noise = torch.linspace(-2, 2, 41).reshape(1, 1, -1)
    data = ddim(predict, noise, remaining, NUM_STEPS)
    torch.testing.assert_close(data, mean + deviation * noise, rtol=0, atol=0.04 * (1 + deviation))
    coarse = ddim(predict, noise, remaining, 10)
    error = (coarse - mean - deviation * noise).abs().max()
    assert (data - mean - deviation * noise).abs().max() < error < 0.35


def test_ddim_asks_at_even_steps_down_to_the_first():
    asked = []

    def predict(noisy: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        asked.append(step.unique().tolist())
        return torch.zeros_like(noisy)

    ddim(predict, torch.zeros(2, 3, 4), squared_cosine(NUM_STEPS), 10)
    assert asked == [[step] for step in range(90, -1, -10)]


def test_spatial_softmax_is_where_a_channel_is_bright():
    maps = torch.zeros(1, 3, 5, 9)
    maps[0, 0, 1, 6] = 50.0
    maps[0, 1, 4, 0] = 50.0
    x, y = spatial_softmax(maps)[0].split(3)
    torch.testing.assert_close(x, torch.tensor([0.5, -1.0, 0.0]))
    torch.testing.assert_close(y, torch.tensor([-0.5, 1.0, 0.0]))


def test_draws_frames_and_padded_words_do_not_see_each_other():
    policy, batch = build_head(SMALL, None), batch_of(3)
    fit(policy, batch, 2)
    policy.eval()
    together = policy.sample(batch)
    assert (together[:, 0] - together[:, 1]).abs().max() > 0.1
    one = dataclasses.replace(
        batch,
        image=batch.image[1:2],
        gripper=batch.gripper[1:2],
        text=torch.cat([batch.text[1:2], torch.full((1, 4), 77)], dim=1),
        text_present=torch.cat([batch.text_present[1:2], torch.zeros(1, 4, dtype=torch.bool)], dim=1),
        state=batch.state[1:2],
        noise=batch.noise[1:2, 1:],
        actions=batch.actions[1:2] * math.nan,
    )
    torch.testing.assert_close(policy.sample(one), together[1:2, 1:], rtol=0, atol=1e-5)


def test_bfloat16_products_say_nearly_the_same():
    policy, batch = build_head(SMALL, None), batch_of(3)
    fit(policy, batch, 3)
    exact, samples = policy(batch), policy.sample(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_samples = policy(batch), policy.sample(batch)
    assert rough.dtype == rough_samples.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.02 * exact.mean()
    assert (rough_samples - samples).abs().mean() < 0.03 * samples.abs().mean()


def test_overfits_and_gives_the_chunks_back():
    policy, batch = build_head(SMALL, None), batch_of(6)
    losses = fit(policy, batch, 250)
    assert sum(losses[-20:]) / 20 < 0.15 * losses[0]
    assert (policy.sample(batch) - batch.actions[:, None]).abs().mean() < 0.2 < batch.actions.abs().mean() / 3


def test_the_sentence_decides():
    """The same picture and state, but two sentences with actions of their own."""
    ids, present = (torch.from_numpy(values) for values in word_tokenizer()(["open the drawer", "close the drawer"]))
    batch = batch_of(1)
    both = dataclasses.replace(
        batch_of(2),
        image=batch.image.expand(2, -1, -1, -1),
        gripper=batch.gripper.expand(2, -1, -1, -1),
        state=batch.state.expand(2, -1),
        text=ids,
        text_present=present,
        actions=torch.stack([torch.ones(5, 3), -torch.ones(5, 3)]),
    )
    policy = build_head(SMALL, None)
    fit(policy, both, 180)
    many = torch.randn(2, 32, 5, 3, generator=torch.Generator().manual_seed(1))
    opened, closed = policy.sample(dataclasses.replace(both, noise=many)).mean(dim=(1, 2, 3)).tolist()
    assert opened > 0.5 and closed < -0.5


@pytest.mark.parametrize("camera", ["image", "gripper"])
def test_each_camera_is_looked_at(camera: str):
    policy, batch = build_head(SMALL, None), batch_of(2)
    other = dataclasses.replace(batch, **{camera: 255 - getattr(batch, camera)})
    assert (policy.observe(batch) - policy.observe(other)).abs().max() > 1e-3


def test_without_a_gripper_camera():
    config = dataclasses.replace(SMALL, gripper_features="none")
    batch = batch_of(2, config=config)
    assert batch.gripper is None
    assert build_head(config, None).sample(batch).shape == (2, 2, 5, 3)


def test_weights_follow_from_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, other = (build_head(SMALL, None, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["denoiser.place"], other["denoiser.place"])
    assert "remaining" not in one  # it follows from the code


def test_every_weight_is_trained_once_layers_are_awake():
    policy, batch = build_head(SMALL, None), batch_of(4)
    fit(policy, batch, 3)
    policy(batch).mean().backward()
    assert [name for name, value in policy.named_parameters() if value.grad is None or not value.grad.abs().sum()] == []


def test_the_preset_is_about_as_large_as_nano():
    def weights(name: str) -> int:
        config = ActionConfig(name, action_size=4, state_size=4, **HEADS[name])
        from tracekit.action.frozen import FeatureWidths

        with torch.device("meta"):
            return sum(value.numel() for value in build_head(config, FeatureWidths(256, 192, 0)).parameters())

    assert weights("diffusion-nano") == pytest.approx(weights("nano"), rel=0.1)


def test_what_comes_after_the_end_has_no_influence():
    policy = build_head(SMALL, None, seed=1)
    with torch.no_grad():
        for value in policy.parameters():  # gates and what comes out are 0 at first
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    batch = batch_of(3)
    valid = batch.action_valid.clone()
    valid[0, 2:] = valid[2, 1:] = False
    after = ~valid[:, None, :, None]
    batch = dataclasses.replace(batch, action_valid=valid)
    other = dataclasses.replace(batch, actions=batch.actions + 4.0 * after[:, 0], noise=torch.where(after, batch.noise - 3, batch.noise))
    errors, changed = (torch.where(after, 0.0, policy(one)) for one in (batch, other))
    torch.testing.assert_close(changed, errors, rtol=1e-5, atol=1e-6)
    all_valid = dataclasses.replace(other, action_valid=torch.ones_like(valid))
    assert (torch.where(after, 0.0, policy(all_valid)) - errors).abs().max() > 1e-3
