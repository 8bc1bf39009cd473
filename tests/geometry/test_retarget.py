"""Retiming against paths whose length is known in closed form."""

import numpy as np
import pytest

from tracekit.geometry import retarget


def along_x(positions, num_traces=1):
    """Traces (T, N, 3) that move along u together."""
    points = np.zeros((len(positions), num_traces, 3))
    points[..., 0] = np.asarray(positions, float)[:, None]
    return points, np.ones(points.shape[:2], bool)


def test_a_path_of_constant_speed_is_only_sampled_anew():
    points, valid = along_x(0.05 * np.arange(11))
    moved, known, times = retarget.retarget(points, valid, step=0.05)
    np.testing.assert_allclose(times, np.arange(11), atol=1e-9)
    np.testing.assert_allclose(moved, points, atol=1e-12)
    assert known.all()


def test_doubling_of_speed_is_removed():
    slow_then_fast = np.concatenate([0.05 * np.arange(11), 0.5 + 0.1 * np.arange(1, 6)])
    moved, known, times = retarget.retarget(*along_x(slow_then_fast), step=0.05)
    np.testing.assert_allclose(moved[:, 0, 0], 0.05 * np.arange(21), atol=1e-12)
    np.testing.assert_allclose(times, np.concatenate([np.arange(10), 10 + 0.5 * np.arange(11)]), atol=1e-9)
    assert known.all()


def test_pauses_are_removed():
    moved, _, times = retarget.retarget(*along_x([0, 0.1, 0.1, 0.1, 0.2]), step=0.05)
    np.testing.assert_allclose(moved[:, 0, 0], [0, 0.05, 0.1, 0.15, 0.2], atol=1e-12)
    np.testing.assert_allclose(times, [0, 0.5, 1, 3.5, 4], atol=1e-9)


def test_a_given_number_of_samples_is_spread_over_the_whole_path():
    accelerating = np.arange(9.0) ** 2 / 64
    moved, _, _ = retarget.retarget(*along_x(accelerating), num_samples=33)
    np.testing.assert_allclose(moved[:, 0, 0], np.linspace(0, 1, 33), atol=1e-12)


def test_length_is_euclidean_in_all_three_coordinates():
    points = np.zeros((3, 1, 3))
    points[1, 0] = [2, 3, 6]
    points[2, 0] = [2, 3, 7]
    np.testing.assert_allclose(retarget.path_length(points, np.ones((3, 1), bool)), [0, 7, 8])


def test_length_grows_by_the_mean_of_the_fastest_traces():
    points, valid = along_x([0, 1], num_traces=100)
    points[1, :, 0] = np.random.default_rng(0).permutation(np.arange(100.0))
    assert retarget.path_length(points, valid, fastest=0.02)[-1] == pytest.approx((99 + 98) / 2)
    assert retarget.path_length(points, valid, fastest=0.05)[-1] == pytest.approx(97)
    assert retarget.path_length(points, valid, fastest=1.0)[-1] == pytest.approx(49.5)
    assert retarget.path_length(points, valid, fastest=0.0)[-1] == pytest.approx(99)  # at least one


def test_only_traces_known_in_both_frames_have_a_speed():
    points, valid = along_x([0, 1, 2], num_traces=2)
    points[:, 1, 0] = [0, 100, 105]
    valid[0, 1] = False
    points[~valid] = np.nan
    np.testing.assert_allclose(retarget.path_length(points, valid, fastest=0.5), [0, 1, 6])
    valid[1] = False
    np.testing.assert_allclose(retarget.path_length(points, valid), [0, 0, 0])


def test_all_traces_share_one_warp():
    points, valid = along_x([0, 0.1, 0.3, 0.4], num_traces=50)
    points[:, 1, 0] = 0  # a slower trace
    points[:, 1, 1] = [0, 0.02, 0.05, 0.08]
    moved, _, times = retarget.retarget(points, valid, step=0.1)
    np.testing.assert_allclose(times, [0, 1, 1.5, 2, 3], atol=1e-9)
    np.testing.assert_allclose(moved[:, 1, 1], np.interp(times, np.arange(4), points[:, 1, 1]), atol=1e-12)


def test_a_group_that_does_not_move_yields_its_first_frame():
    points, valid = along_x(np.full(6, 0.3))
    moved, known, times = retarget.retarget(points, valid)
    np.testing.assert_array_equal(moved, points[:1])
    assert known.tolist() == [[True]] and times.tolist() == [0]
    repeated, _, _ = retarget.retarget(points, valid, num_samples=4)
    np.testing.assert_array_equal(repeated, points[:4])


def test_one_frame_no_frames_no_traces():
    for num_frames, num_traces, num_samples in [(1, 3, 1), (0, 3, 0), (4, 0, 1)]:
        moved, known, times = retarget.retarget(np.zeros((num_frames, num_traces, 3)), np.ones((num_frames, num_traces), bool))
        assert moved.shape == (num_samples, num_traces, 3) and known.shape == (num_samples, num_traces) and times.shape == (num_samples,)


def test_a_sample_is_valid_only_if_both_its_neighbours_are():
    points, valid = along_x([0, 1, 2, 3.0])
    valid[2] = False
    points[2] = np.nan
    moved, known = retarget.resample(points, valid, np.array([0, 0.5, 1, 1.5, 2, 2.5, 3]))
    assert known[:, 0].tolist() == [True, True, True, False, False, False, True]
    np.testing.assert_allclose(moved[known][:, 0], [0, 0.5, 1, 3])
    assert np.isnan(moved[~known]).all()


def test_there_is_nothing_before_the_start_nor_after_the_end():
    points, valid = along_x([0, 1.0])
    _, known = retarget.resample(points, valid, np.array([-0.1, 0, 1, 1.1, np.nan]))
    assert known[:, 0].tolist() == [False, True, True, False, False]
    assert np.isnan(retarget.times_at(np.array([0, 1.0]), np.array([1.001]))).all()


def test_the_first_time_at_a_length_by_brute_force():
    rng = np.random.default_rng(1)
    length = np.concatenate([[0], np.cumsum(rng.choice([0, 0.3, 1.1], size=30))])
    wanted = np.sort(rng.uniform(0, length[-1], size=40))
    grid = np.arange(0, 30, 1e-4)
    reached = np.interp(grid, np.arange(31), length)
    expected = [grid[np.argmax(reached >= want)] for want in wanted]
    np.testing.assert_allclose(retarget.times_at(length, wanted), expected, atol=2e-4)
