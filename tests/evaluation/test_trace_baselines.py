"""Baselines on paths of which the continuation is known."""

from __future__ import annotations

import numpy as np
from evaluation.predicted import straight

from tracekit.evaluation import trace_baselines


def test_static_stays() -> None:
    anchor = np.array([[0.5, -0.5, 2.0], [0.0, 0.0, 1.0]], np.float32)
    traces = trace_baselines.static(anchor, 7)
    assert traces.shape == (2, 1, 7, 3) and traces.dtype == np.float32
    np.testing.assert_array_equal(traces, np.broadcast_to(anchor[:, None, None], traces.shape))


def test_constant_velocity_is_exact_on_straight_paths_however_much_history_is_known() -> None:
    p = straight()
    assert p.history is not None and p.history_valid is not None and p.true_traces is not None
    for num_unknown in range(4):  # the latest steps are lost, then the velocity is that since the last known one
        known = p.history_valid.copy()
        known[:, 4 - num_unknown :] = 0
        history = np.where(known[..., None] == 1, p.history, np.nan)
        traces, has_history = trace_baselines.constant_velocity(p.anchor, history, known, 32)
        assert has_history.all() and traces.dtype == np.float32
        np.testing.assert_allclose(traces[:, 0], p.true_traces, atol=1e-6)


def test_it_takes_the_last_known_step_only() -> None:
    anchor, history = np.array([[0.0]]), np.array([[[-9.0], [-5.0], [-2.0]]])
    traces, _ = trace_baselines.constant_velocity(anchor, history, np.array([[1, 1, 0]]), 3)
    np.testing.assert_allclose(traces[0, 0, :, 0], [2.5, 5.0, 7.5])  # five in two steps
    traces, _ = trace_baselines.constant_velocity(anchor, history, np.array([[1, 1, 1]]), 3)
    np.testing.assert_allclose(traces[0, 0, :, 0], [2, 4, 6])


def test_without_history_it_stands_still() -> None:
    p = straight()
    still = trace_baselines.static(p.anchor, 8)
    for history, known in ((None, None), (p.history, np.zeros_like(p.history_valid)), (np.zeros((24, 0, 3)), np.zeros((24, 0)))):
        traces, has_history = trace_baselines.constant_velocity(p.anchor, history, known, 8)
        assert not has_history.any()
        np.testing.assert_array_equal(traces, still)
