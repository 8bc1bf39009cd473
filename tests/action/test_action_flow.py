"""Eq. 12 and its direction, against closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from action_examples import batch_of

from tracekit.action.flow import draw_flow_times, euler, noisy_actions


def test_tau_0_is_noise_and_tau_1_is_data():
    batch = batch_of()
    for tau, expected in ((0.0, batch.noise), (1.0, batch.actions[:, None].expand_as(batch.noise))):
        assert torch.equal(noisy_actions(dataclasses.replace(batch, tau=torch.full_like(batch.tau, tau))), expected)
    middle = noisy_actions(dataclasses.replace(batch, tau=torch.full_like(batch.tau, 0.25)))
    torch.testing.assert_close(middle, 0.75 * batch.noise + 0.25 * batch.actions[:, None])


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.3), (-2.0, 1.5)])
def test_the_best_velocity_of_a_gaussian_takes_noise_to_it(mean: float, deviation: float):
    """For a ~ N(m, s^2) the velocity of least error is E[a - eps | a^tau], and the flow maps eps to m + s eps."""

    def velocity(points: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        tau = tau[..., None]
        variance = (1 - tau) ** 2 + (tau * deviation) ** 2
        covariance = tau * deviation**2 - (1 - tau)
        return mean + covariance / variance * (points - tau * mean)

    noise = torch.linspace(-2, 2, 21).reshape(1, 1, -1)
    expected = mean + deviation * noise
    errors = [float((euler(velocity, noise, steps) - expected).abs().max()) for steps in (10, 100, 1000)]
    assert errors[2] < 0.01 and errors[1] < errors[0] / 5 and errors[2] < errors[1] / 5
    # The wrong way round, data would not come out.
    assert (euler(lambda points, tau: velocity(points, 1 - tau), noise, 1000) - expected).abs().max() > 0.05


def test_that_velocity_is_what_least_squares_finds():
    """The regression of Eq. 12's target on a^tau, for many draws at one tau, is the closed form of the test above."""
    random = np.random.default_rng(0)
    mean, deviation, tau = 0.5, 0.3, 0.4
    actions, noise = mean + deviation * random.standard_normal(400_000), random.standard_normal(400_000)
    batch = batch_of(1, draws=1)
    batch = dataclasses.replace(
        batch,
        actions=torch.from_numpy(actions)[None, :, None],
        noise=torch.from_numpy(noise)[None, None, :, None],
        tau=torch.full((1, 1), tau, dtype=torch.float64),
    )
    noisy = noisy_actions(batch).flatten().numpy()
    slope, offset = np.polyfit(noisy, actions - noise, 1)
    variance = (1 - tau) ** 2 + (tau * deviation) ** 2
    expected = (tau * deviation**2 - (1 - tau)) / variance
    assert slope == pytest.approx(expected, abs=0.01)
    assert offset == pytest.approx(mean - expected * tau * mean, abs=0.01)


def test_euler_goes_from_0_to_1_in_equal_steps():
    asked = []

    def velocity(points: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        asked.append(tau)
        return torch.ones_like(points, dtype=torch.bfloat16)

    reached = euler(velocity, torch.zeros(2, 3, 4, 5), 4)
    assert [float(tau[0, 0]) for tau in asked] == [0.0, 0.25, 0.5, 0.75] and asked[0].shape == (2, 3)
    assert reached.dtype == torch.float32 and torch.equal(reached, torch.ones(2, 3, 4, 5))


def test_flow_times_lean_to_noise_and_never_reach_data():
    tau = draw_flow_times(np.random.default_rng(0), 200_000)
    assert tau.dtype == np.float32 and tau.min() >= 0 and tau.max() < 1
    # 1 - tau = 0.001 + 0.999 b with b ~ Beta(1.5, 1): its mean is 3/5, and the share below x is x^1.5.
    assert tau.mean() == pytest.approx(1 - (0.001 + 0.999 * 0.6), abs=0.002)
    towards_noise = (1 - tau - 0.001) / 0.999
    for x in (0.2, 0.5, 0.8):
        assert (towards_noise < x).mean() == pytest.approx(x**1.5, abs=0.004)
