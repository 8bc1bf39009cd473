"""The spline basis against scipy, and the fit against least squares solved one trace at a time."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.special import comb

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.geometry import bspline


def clamped_knots(interior):
    return np.concatenate([np.zeros(4), interior, np.ones(4)])


def fit_one_by_one(targets, valid, num_control_points, ridge, knots):
    """Eq. 4 as it is written: the stacked system of every trace, solved by numpy's SVD."""
    weights = bspline.basis(num_control_points, targets.shape[1] - 1, knots)
    gamma = np.diff(np.eye(num_control_points), axis=0)
    solutions = []
    for target, known in zip(targets, valid, strict=True):
        mask = known.astype(float)
        mask[0] = 1
        data = np.where(mask[:, None] > 0, target, 0.0)
        system = np.vstack([mask[:, None] * weights, ridge * gamma])
        right = np.vstack([data, np.zeros((len(gamma), data.shape[1]))])
        solutions.append(np.linalg.lstsq(system, right, rcond=None)[0])
    return np.stack(solutions)


@pytest.mark.parametrize("num_steps", [1, 5, 32, 100])
@pytest.mark.parametrize("num_control_points", [4, 5, 8, 10, 13])
def test_uniform_basis_is_scipys(num_control_points, num_steps):
    knots = clamped_knots(np.linspace(0, 1, num_control_points - 2)[1:-1])
    t = np.arange(num_steps + 1) / num_steps
    expected = BSpline.design_matrix(t, knots, 3).toarray()
    np.testing.assert_allclose(bspline.basis(num_control_points, num_steps, "uniform"), expected, atol=1e-13)


@pytest.mark.parametrize("num_steps", [1, 9, 32, 100])
@pytest.mark.parametrize("num_control_points", [4, 7, 10, 13])
def test_bezier_basis_is_bernstein_polynomials_segment_by_segment(num_control_points, num_steps):
    num_segments = (num_control_points - 1) // 3
    expected = np.zeros((num_steps + 1, num_control_points))
    for i in range(num_steps + 1):
        segment = min(i * num_segments // num_steps, num_segments - 1)
        s = i * num_segments / num_steps - segment
        expected[i, 3 * segment : 3 * segment + 4] = [comb(3, k) * s**k * (1 - s) ** (3 - k) for k in range(4)]
    np.testing.assert_allclose(bspline.basis(num_control_points, num_steps, "bezier"), expected, atol=1e-12)


@pytest.mark.parametrize("knots", ["bezier", "uniform"])
def test_weights_sum_to_one_and_the_curve_is_pinned_at_both_ends(knots):
    weights = bspline.basis(10, 32, knots)
    assert weights.shape == (33, 10) and weights.dtype == np.float64
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-14)
    assert (weights >= 0).all()
    np.testing.assert_array_equal(weights[0], np.eye(10)[0])
    np.testing.assert_array_equal(weights[-1], np.eye(10)[-1])


@pytest.mark.parametrize(
    "num_control_points, num_steps, knots",
    [(9, 32, "bezier"), (3, 32, "uniform"), (1, 32, "bezier"), (10, 0, "bezier"), (10, 32, "cubic")],
)
def test_what_is_no_basis(num_control_points, num_steps, knots):
    with pytest.raises(ConfigurationError):
        bspline.basis(num_control_points, num_steps, knots)


def test_the_cached_basis_cannot_be_changed():
    with pytest.raises(ValueError):
        bspline.basis(10, 32)[0, 0] = 5.0


@pytest.mark.parametrize("known", [1.0, 0.9, 0.5, 0.05, 0.0])
@pytest.mark.parametrize(
    "num_control_points, num_steps, knots", [(10, 32, "bezier"), (4, 8, "bezier"), (10, 32, "uniform"), (6, 6, "uniform")]
)
def test_fit_is_least_squares(num_control_points, num_steps, knots, known):
    rng = np.random.default_rng(int(known * 100))
    targets = rng.normal(size=(130, num_steps + 1, 3))
    valid = rng.random((130, num_steps + 1)) < known
    expected = fit_one_by_one(targets, valid, num_control_points, 0.2, knots)
    np.testing.assert_allclose(bspline.fit(targets, valid, num_control_points, 0.2, knots), expected, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_fit_is_least_squares_at_other_ridges_and_more_control_points_than_steps(ridge):
    rng = np.random.default_rng(7)
    targets, valid = rng.normal(size=(40, 9, 2)), rng.random((40, 9)) < 0.6
    expected = fit_one_by_one(targets, valid, 13, ridge, "bezier")
    np.testing.assert_allclose(bspline.fit(targets, valid, 13, ridge), expected, atol=1e-9)


def test_complete_and_broken_traces_in_one_batch_keep_their_places():
    rng = np.random.default_rng(8)
    targets, valid = rng.normal(size=(50, 33, 3)), np.ones((50, 33), bool)
    valid[::3] = rng.random((17, 33)) < 0.5
    np.testing.assert_allclose(bspline.fit(targets, valid, 10), fit_one_by_one(targets, valid, 10, 0.2, "bezier"), atol=1e-10)


def test_with_only_the_anchor_the_spline_stays_there():
    targets = np.full((1, 33, 3), np.nan)
    targets[0, 0] = [1.0, -2.0, 3.0]
    fitted = bspline.fit(targets, np.zeros((1, 33), bool), 10)
    np.testing.assert_allclose(fitted, np.broadcast_to(targets[:, :1], (1, 10, 3)), atol=1e-12)


def test_targets_that_are_not_valid_do_not_matter():
    rng = np.random.default_rng(9)
    targets, valid = rng.normal(size=(20, 33, 3)), rng.random((20, 33)) < 0.6
    valid[:, 0] = True
    spoiled = np.where(valid[..., None], targets, np.nan)
    np.testing.assert_array_equal(bspline.fit(spoiled, valid, 10), bspline.fit(targets, valid, 10))


def test_the_anchor_counts_even_when_it_is_marked_invalid():
    targets, valid = np.random.default_rng(10).normal(size=(5, 33, 3)), np.ones((5, 33), bool)
    unmarked = valid.copy()
    unmarked[:, 0] = False
    np.testing.assert_array_equal(bspline.fit(targets, unmarked, 10), bspline.fit(targets, valid, 10))
    assert not unmarked[:, 0].any()  # the caller's mask is left alone


def test_a_valid_target_that_is_not_finite_is_an_error():
    for hole in (False, True):
        targets, valid = np.zeros((3, 33, 3)), np.ones((3, 33), bool)
        valid[:, 5] = not hole
        targets[1, 20, 2] = np.nan
        with pytest.raises(BadDataError, match="trace 1 of 3"):
            bspline.fit(targets, valid, 10)


def test_without_a_ridge_there_is_no_fit():
    with pytest.raises(ConfigurationError, match="ridge"):
        bspline.fit(np.zeros((1, 33, 3)), np.ones((1, 33), bool), 10, ridge=0.0)


def test_float32_is_solved_in_float64():
    rng = np.random.default_rng(11)
    targets, valid = rng.normal(size=(64, 33, 3)).astype(np.float32), rng.random((64, 33)) < 0.7
    fitted = bspline.fit(targets, valid, 10)
    assert fitted.dtype == np.float32
    expected = fit_one_by_one(targets.astype(np.float64), valid, 10, 0.2, "bezier")
    np.testing.assert_allclose(fitted, expected, atol=1e-6)


def test_no_traces():
    assert bspline.fit(np.zeros((0, 33, 3)), np.zeros((0, 33), bool), 10).shape == (0, 10, 3)


def test_a_large_batch_is_split_over_threads_without_a_seam(monkeypatch):
    monkeypatch.setattr(bspline, "_FITS_PER_THREAD", 8)
    monkeypatch.setattr(bspline.os, "cpu_count", lambda: 5)
    rng = np.random.default_rng(13)
    targets, valid = rng.normal(size=(61, 33, 3)), rng.random((61, 33)) < 0.5
    np.testing.assert_allclose(bspline.fit(targets, valid, 10), fit_one_by_one(targets, valid, 10, 0.2, "bezier"), atol=1e-10)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_process_that_has_fitted_may_fork_and_its_child_may_fit():
    code = (
        "import os, numpy as np; from tracekit.geometry import bspline\n"
        "valid = np.arange(33) % 2 * np.ones((9000, 1))\n"
        "fit = lambda: bspline.fit(np.ones((9000, 33, 3)), valid, 10)\n"
        "fit(); child = os.fork()\n"
        "if child == 0: fit(); os._exit(0)\n"
        "os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("knots", ["bezier", "uniform"])
def test_a_spline_is_found_again(knots):
    control_points = np.cumsum(np.random.default_rng(12).normal(size=(6, 10, 3)), axis=1)
    curves = bspline.evaluate(control_points, 32, knots)
    assert curves.shape == (6, 32, 3)
    targets = np.concatenate([control_points[:, :1], curves], axis=1)
    fitted = bspline.fit(targets, np.ones((6, 33), bool), 10, ridge=1e-4, knots=knots)
    np.testing.assert_allclose(fitted, control_points, atol=1e-4)


def test_clip():
    np.testing.assert_array_equal(bspline.clip_control_points(np.array([-2.0, -1.5, 0.1, 1.6])), [-1.5, -1.5, 0.1, 1.5])


def test_importing_and_complete_fits_do_without_numba():
    code = (
        "import sys, numpy as np; from tracekit.geometry import bspline; bspline.fit(np.zeros((2, 33, 3)), np.ones((2, 33), bool), 10);"
        "sys.exit('numba' in sys.modules or 'scipy' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
