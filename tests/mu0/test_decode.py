"""Decoding against curves computed by hand, and the rule for what happens after a trace's end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tracekit.geometry import bspline
from tracekit.mu0.decode import decode
from tracekit.mu0.presets import PRESETS

TINY = PRESETS["tiny-random"]
ONE_SEGMENT = dataclasses.replace(TINY, control_points=4, control_group=4, horizon=4)
SCALE = np.array([0.5, 2.0, 0.1])


def everything_exists(points: torch.Tensor, horizon: int) -> torch.Tensor:
    return torch.ones(*points.shape[:3], horizon)


def test_one_bezier_segment_equals_bernstein_polynomials() -> None:
    # Control points (0, 1, 2, 4) in u at t = 1/4, 1/2, 3/4, 1, with the weights (1-t)^3, 3t(1-t)^2, 3t^2(1-t), t^3.
    points = torch.zeros(1, 1, 1, 4, 3)
    points[..., 0] = torch.tensor([0.0, 1.0, 2.0, 4.0])
    points[..., 2] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    current = torch.tensor([[[0.2, -0.3, 1.5]]])
    traces = decode(ONE_SEGMENT, points, current, SCALE, everything_exists(points, 4))
    u = [27 / 64 + 2 * 9 / 64 + 4 / 64, 3 / 8 + 6 / 8 + 4 / 8, 9 / 64 + 2 * 27 / 64 + 4 * 27 / 64, 4.0]
    # 3t(1-t)^2 is 27/64, 3/8, 9/64, 0 and 3t^2(1-t) is 9/64, 3/8, 27/64, 0.
    np.testing.assert_allclose(traces[0, 0, 0, :, 0], 0.2 + 0.5 * np.array(u), rtol=1e-6)
    np.testing.assert_allclose(traces[0, 0, 0, :, 1], -0.3)
    np.testing.assert_allclose(traces[0, 0, 0, :, 2], 1.5 + 0.1 * np.array([1, 8, 27, 64]) / 64, rtol=1e-6)


@pytest.mark.parametrize("basis", ["bezier", "uniform"])
def test_equals_the_curves_of_the_corpus_whatever_the_batch(basis: str) -> None:
    config = dataclasses.replace(TINY, basis=basis)
    random = np.random.default_rng(1)
    points = random.normal(size=(2, 3, 5, config.control_points, 3)).astype(np.float32)
    current = random.normal(size=(2, 5, 3)).astype(np.float32)
    traces = decode(config, torch.from_numpy(points), torch.from_numpy(current), SCALE, torch.ones(2, 3, 5, config.horizon))
    expected = current[:, None, :, None] + SCALE * bspline.evaluate(points.astype(np.float64), config.horizon, basis)
    np.testing.assert_allclose(traces, expected, atol=1e-5)


def test_traces_are_single_precision_where_the_network_is_not() -> None:
    points, current = torch.randn(1, 2, 3, TINY.control_points, 3, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 3)
    plain = decode(TINY, points, current, SCALE, everything_exists(points, TINY.horizon))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decode(TINY, points, current, SCALE, everything_exists(points, TINY.horizon)), plain)


def test_without_splines_points_are_the_steps() -> None:
    config = dataclasses.replace(TINY, use_bspline=False)
    points = torch.randn(1, 2, 3, config.horizon, 3, generator=torch.Generator().manual_seed(0))
    current = torch.full((1, 3, 3), 0.25)
    traces = decode(config, points, current, SCALE, torch.ones(1, 2, 3, config.horizon))
    np.testing.assert_allclose(traces, 0.25 + points * SCALE, atol=1e-6)


@pytest.mark.parametrize(
    ("validity", "expected"),
    [
        ([0.9, 0.9, 0.9, 0.9], [1.1, 1.2, 1.3, 1.4]),
        ([0.9, 0.9, 0.4, 0.9], [1.1, 1.2, 1.2, 1.2]),  # it does not come back
        ([0.9, 0.4, 0.9, 0.4], [1.1, 1.1, 1.1, 1.1]),
        ([0.4, 0.9, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0]),  # the anchor
        ([0.5, 0.5, 0.5, 0.49], [1.1, 1.2, 1.3, 1.3]),  # at the threshold it exists
    ],
)
def test_holds_the_last_step_before_the_end(validity: list[float], expected: list[float]) -> None:
    config = dataclasses.replace(TINY, use_bspline=False, horizon=4)
    points = torch.tensor([0.1, 0.2, 0.3, 0.4])[None, None, None, :, None].expand(1, 1, 1, 4, 3)
    traces = decode(config, points, torch.ones(1, 1, 3), np.ones(3), torch.tensor(validity)[None, None, None])
    np.testing.assert_allclose(traces[0, 0, 0], np.repeat(np.array(expected)[:, None], 3, axis=1), rtol=1e-6)


def test_every_draw_and_keypoint_ends_by_itself() -> None:
    config = dataclasses.replace(TINY, use_bspline=False, horizon=3)
    points = torch.arange(1.0, 4.0)[None, None, None, :, None].expand(1, 2, 2, 3, 3)
    validity = torch.tensor([[[[1, 1, 1], [1, 0, 0]], [[0, 0, 0], [1, 1, 0]]]])
    traces = decode(config, points, torch.zeros(1, 2, 3), np.ones(3), validity)
    assert traces[0, :, :, :, 0].tolist() == [[[1, 2, 3], [1, 1, 1]], [[0, 0, 0], [1, 2, 2]]]


def test_the_threshold_is_the_callers() -> None:
    config = dataclasses.replace(TINY, use_bspline=False, horizon=2)
    points = torch.ones(1, 1, 1, 2, 3)
    validity = torch.tensor([[[[0.3, 0.3]]]])
    assert decode(config, points, torch.zeros(1, 1, 3), np.ones(3), validity)[..., 0].tolist() == [[[[0, 0]]]]
    assert decode(config, points, torch.zeros(1, 1, 3), np.ones(3), validity, threshold=0.2)[..., 0].tolist() == [[[[1, 1]]]]


def test_half_precision_points_give_float32_traces() -> None:
    points = torch.ones(1, 1, 1, TINY.control_points, 3, dtype=torch.bfloat16)
    assert decode(TINY, points, torch.zeros(1, 1, 3), SCALE, torch.ones(1, 1, 1, TINY.horizon)).dtype == torch.float32
