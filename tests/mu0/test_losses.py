"""The terms of Eq. 10 against cases computed by hand, and the sums that let a global batch be cut anywhere."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tracekit.mu0.example_batch import example_batch
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import done_sum, flow_sum, loss_counts, losses, rigidity_sum
from tracekit.mu0.model import Forecast
from tracekit.mu0.presets import PRESETS
from tracekit.mu0.rigid_pairs import rigid_pairs

TINY = PRESETS["tiny-random"]


def batch_of(num_samples: int = 1, num_keypoints: int = 2, **changes):
    return dataclasses.replace(example_batch(TINY, num_samples, num_keypoints), **changes)


def test_flow_is_the_squared_distance_from_noise_minus_data():
    batch = batch_of(noise=torch.full((1, 2, 10, 3), 2.0), target=torch.full((1, 2, 10, 3), 0.5))
    assert flow_sum(torch.full((1, 2, 10, 3), 1.5), batch) == 0
    # One number is off by 2: a squared distance of 4.
    velocity = torch.full((1, 2, 10, 3), 1.5)
    velocity[0, 1, 7, 2] += 2.0
    assert flow_sum(velocity, batch).item() == pytest.approx(4.0)
    batch.target_valid[0, 1] = False
    assert flow_sum(velocity, batch) == 0
    assert loss_counts(batch)[0] == 1


def test_validity_is_the_cross_entropy_summed_over_steps():
    batch = batch_of()
    batch.valid_future[0, 0, 20:] = False
    logits = torch.zeros(1, 2, 32)
    logits[0, 0, :3] = math.log(3.0)  # sigmoid 3/4
    by_hand = 29 * math.log(2.0) + 3 * math.log(4 / 3) + 32 * math.log(2.0)
    assert done_sum(logits, batch).item() == pytest.approx(by_hand, rel=1e-6)
    batch.present[0, 1] = False
    assert done_sum(logits, batch).item() == pytest.approx(by_hand - 32 * math.log(2.0), rel=1e-6)


def rigid_batch(clean: torch.Tensor, entity: torch.Tensor):
    """A batch whose clean points, given velocity 0, are `clean` (B, N, P, 3): at tau = 1/2, noise and target both are."""
    num_samples, num_keypoints = entity.shape
    pair, weight = rigid_pairs(entity, torch.ones_like(entity, dtype=torch.bool))
    batch = example_batch(TINY, num_samples, num_keypoints)
    tau = torch.full((num_samples,), 0.5)
    return dataclasses.replace(batch, noise=clean, target=clean, tau=tau, rigid_pair=pair, rigid_weight=weight)


def test_what_moves_rigidly_costs_nothing():
    """A body turns and shifts: distances stay. A second one stretches: they do not."""
    body = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    paths = []
    for step in range(10):
        angle = 0.3 * step
        turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1.0]])
        paths.append(body @ turn.T + torch.tensor([0.1 * step, 0, -0.2 * step]))
    rigid = torch.stack(paths, dim=1)[None]
    entity = torch.zeros(1, 4, dtype=torch.long)
    still = torch.zeros_like(rigid)
    for distance in ("squared", "plain"):
        assert rigidity_sum(still, rigid_batch(rigid, entity), distance).item() == pytest.approx(0, abs=1e-9)
        stretched = rigid * torch.linspace(1, 2, 10)[None, None, :, None]
        assert rigidity_sum(still, rigid_batch(stretched, entity), distance) > 0.1


def test_rigidity_by_hand():
    """Two keypoints whose distance is 1 in five points and 3 in the other five; a third of another part far away."""
    clean = torch.zeros(1, 3, 10, 3)
    clean[0, 1, :5, 0], clean[0, 1, 5:, 0] = 1.0, 3.0
    clean[0, 2] = torch.randn(10, 3)
    batch = rigid_batch(clean, torch.tensor([[7, 7, 8]]))
    assert rigidity_sum(torch.zeros_like(clean), batch, "squared").item() == pytest.approx(16.0)  # 1 and 9: variance 4^2
    assert rigidity_sum(torch.zeros_like(clean), batch, "plain").item() == pytest.approx(1.0, rel=1e-5)


def test_rigidity_looks_at_the_clean_points_that_the_velocity_implies():
    """P - tau v (B.3): a velocity that explains the noise away leaves the rigid truth."""
    batch = example_batch(TINY, 1, 3)
    rigid = torch.randn(1, 3, 1, 3).expand(1, 3, 10, 3) + torch.randn(1, 1, 10, 3)
    pair, weight = rigid_pairs(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    batch = dataclasses.replace(batch, target=rigid, rigid_pair=pair, rigid_weight=weight, tau=torch.tensor([0.7]))
    assert rigidity_sum(batch.noise - batch.target, batch).item() == pytest.approx(0, abs=1e-6)
    assert rigidity_sum(torch.zeros_like(rigid), batch) > 0.1


def brute_force_rigidity(clean, entity):
    """Eq. 9 for each sample, pair by pair."""
    total = 0.0
    for b in range(len(entity)):
        variances = []
        for n in range(entity.shape[1]):
            for m in range(n + 1, entity.shape[1]):
                if entity[b, n] == entity[b, m]:
                    squared = [float(((clean[b, n, d] - clean[b, m, d]) ** 2).sum()) for d in range(clean.shape[2])]
                    mean = sum(squared) / len(squared)
                    variances.append(sum((value - mean) ** 2 for value in squared) / len(squared))
        if variances:
            total += sum(variances) / len(variances)
    return total


def test_rigidity_against_loops():
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(3, 9, 10, 3, generator=generator)
    entity = torch.randint(0, 4, (3, 9), generator=generator)
    batch = rigid_batch(clean, entity)
    assert rigidity_sum(torch.zeros_like(clean), batch).item() == pytest.approx(brute_force_rigidity(clean, entity), rel=1e-5)
    assert loss_counts(batch)[2].item() == pytest.approx(3)


def test_two_keypoints_at_one_place_have_a_gradient():
    clean = torch.zeros(1, 2, 10, 3)
    batch = rigid_batch(clean, torch.zeros(1, 2, dtype=torch.long))
    velocity = torch.zeros_like(clean, requires_grad=True)
    rigidity_sum(velocity, batch, "plain").backward()
    assert torch.isfinite(velocity.grad).all()


def forecast_for(batch, seed: int = 0) -> Forecast:
    generator = torch.Generator().manual_seed(seed)
    return Forecast(torch.randn(batch.noise.shape, generator=generator), torch.randn(batch.valid_future.shape, generator=generator))


def test_the_total_is_the_weighted_sum_of_the_terms_over_their_counts():
    batch = batch_of(2, 5)
    batch.target_valid[0, 2] = False
    forecast, counts = forecast_for(batch), loss_counts(batch)
    assert counts.tolist() == [9, 10, 2]
    weights = LossWeights(done=0.3, rigidity=0.7)
    found = losses(forecast, batch, weights, counts)
    assert found.flow.item() == pytest.approx(flow_sum(forecast.velocity, batch).item() / 9)
    assert found.done.item() == pytest.approx(done_sum(forecast.validity_logits, batch).item() / 10)
    assert found.rigidity.item() == pytest.approx(rigidity_sum(forecast.velocity, batch).item() / 2)
    assert found.total.item() == pytest.approx((found.flow + 0.3 * found.done + 0.7 * found.rigidity).item())
    assert losses(forecast, batch, LossWeights(rigidity=0.0), counts).rigidity == 0


def test_parts_over_the_whole_count_add_up_to_the_whole():
    whole = batch_of(4, 5)
    whole.target_valid[1, :3] = False
    forecast, counts, weights = forecast_for(whole), loss_counts(whole), LossWeights()
    at_once = losses(forecast, whole, weights, counts)
    total, counted = 0.0, torch.zeros(3)
    for b in range(4):
        inside = (whole.rigid_pair[:, 0] // 5) == b
        part = dataclasses.replace(
            whole,
            **{name: getattr(whole, name)[b : b + 1] for name in ("noise", "target", "target_valid", "valid_future", "present", "tau")},
            rigid_pair=whole.rigid_pair[inside] - 5 * b,
            rigid_weight=whole.rigid_weight[inside],
        )
        counted += loss_counts(part)
        said = Forecast(forecast.velocity[b : b + 1], forecast.validity_logits[b : b + 1])
        total += losses(said, part, weights, counts).total.item()
    assert torch.allclose(counted, counts)
    assert total == pytest.approx(at_once.total.item(), rel=1e-5)


def test_nothing_to_learn_from_is_a_loss_of_zero():
    batch = batch_of(1, 2)
    batch.target_valid[:] = False
    batch.present[:] = False
    none = dataclasses.replace(batch, rigid_pair=batch.rigid_pair[:0], rigid_weight=batch.rigid_weight[:0])
    found = losses(forecast_for(none), none, LossWeights(), loss_counts(none))
    assert found.total == 0 and torch.isfinite(found.rigidity)


def test_without_splines_only_the_valid_steps_count():
    config = dataclasses.replace(TINY, use_bspline=False)
    batch = example_batch(config, 1, 2)
    batch.target_valid[0, 0, 16:] = False
    velocity = batch.noise - batch.target
    velocity[0, 0, 20] += 5.0
    assert flow_sum(velocity, batch) == 0
    assert loss_counts(batch)[0].item() == pytest.approx(1.5)
