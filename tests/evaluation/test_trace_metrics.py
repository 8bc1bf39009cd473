"""Distances of traces against enumeration of all alignments, plain loops, and two other libraries."""

from __future__ import annotations

import math
import multiprocessing
from functools import cache

import numpy as np
import pytest

from tracekit.evaluation import trace_metrics

HORIZONS = (8, 16, 32)
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


def random_traces(seed: int = 0, traces: int = 30, draws: int = 3, steps: int = 32, coordinates: int = 3, dtype=np.float64):
    """(traces (R, S, F, C), true ones (R, F, C), valid (R, F)): random walks, a fifth of the steps unknown, the first row all."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(traces, steps, coordinates)).cumsum(axis=1) * 0.1
    predicted = true[:, None] + rng.normal(size=(traces, draws, steps, coordinates)) * 0.3
    valid = rng.random((traces, steps)) < 0.8
    valid[0] = True
    valid[1:3] = False
    valid[2, min(20, steps - 1)] = True  # one step, beyond two horizons
    return predicted.astype(dtype), true.astype(dtype), valid


def all_paths(n: int) -> list[list[tuple[int, int]]]:
    """Every monotonic alignment of two sequences of n."""

    @cache
    def until(i: int, j: int) -> tuple[tuple[tuple[int, int], ...], ...]:
        if i == j == 0:
            return (((0, 0),),)
        before = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        return tuple((*path, (i, j)) for a, b in before if a >= 0 and b >= 0 for path in until(a, b))

    return [list(path) for path in until(n - 1, n - 1)]


def one_by_one(measure, predicted, true, valid, horizons) -> np.ndarray:
    """`measure(predicted steps, true steps)` of every pair over its valid steps within each horizon."""
    result = np.full((*predicted.shape[:2], len(horizons)), np.nan)
    for row, draw, place in np.ndindex(result.shape):
        known = np.flatnonzero(valid[row, : horizons[place]])
        if len(known) and horizons[place] <= valid.shape[1]:
            result[row, draw, place] = measure(predicted[row, draw, known].tolist(), true[row, known].tolist())
    return result


def loop_ade(p: list, t: list) -> float:
    return sum(math.dist(a, b) for a, b in zip(p, t, strict=True)) / len(p)


def loop_fde(p: list, t: list) -> float:
    return math.dist(p[-1], t[-1])


def table(p: list, t: list, join) -> float:
    """The dynamic programme as it is written in textbooks, one cell after the other."""
    cells: dict[tuple[int, int], float] = {}
    for i, a in enumerate(p):
        for j, b in enumerate(t):
            before = [cells[k] for k in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if k in cells]
            cells[i, j] = join(min(before), math.dist(a, b)) if before else math.dist(a, b)
    return cells[len(p) - 1, len(t) - 1]


def loop_dtw(p: list, t: list) -> float:
    return table(p, t, lambda before, cost: before + cost) / len(p)


def loop_frechet(p: list, t: list) -> float:
    return table(p, t, max)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("coordinates", [1, 2, 3])
def test_all_are_what_plain_loops_give(dtype, coordinates) -> None:
    arguments = *random_traces(traces=40, coordinates=coordinates, dtype=dtype), HORIZONS
    ade, fde = trace_metrics.displacement(*arguments)
    found = {loop_ade: ade, loop_fde: fde, loop_dtw: trace_metrics.dtw(*arguments), loop_frechet: trace_metrics.frechet(*arguments)}
    for measure, values in found.items():
        assert values.dtype == dtype and values.shape == (40, 3, 3)
        np.testing.assert_allclose(values, one_by_one(measure, *arguments), rtol=0, atol=TOLERANCE[dtype], err_msg=measure.__name__)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_alignments_are_the_best_of_all(dtype) -> None:
    """Every path there is, for traces of up to five steps."""
    predicted, true, valid = random_traces(1, traces=60, draws=2, steps=5, dtype=dtype)
    where = predicted, true, valid, (2, 5)
    paths = {n: all_paths(n) for n in range(1, 6)}
    assert len(paths[5]) == 321  # a Delannoy number

    def costs(p, t):
        return [[math.dist(p[i], t[j]) for i, j in path] for path in paths[len(p)]]

    measures = {
        "dtw": (trace_metrics.dtw(*where), lambda p, t: min(map(sum, costs(p, t))) / len(p)),
        "path mean": (trace_metrics.dtw(*where, path_mean=True), lambda p, t: np.mean(min(costs(p, t), key=sum))),
        "frechet": (trace_metrics.frechet(*where), lambda p, t: min(map(max, costs(p, t)))),
    }
    for name, (found, brute_force) in measures.items():
        np.testing.assert_allclose(found, one_by_one(brute_force, *where), rtol=0, atol=TOLERANCE[dtype], err_msg=name)


def test_of_equally_good_paths_the_mean_is_over_the_shortest() -> None:
    """A prediction that stands still: repeated steps cost nothing more where the truth passes through it."""
    true = np.array([[[0.0], [0.0], [1.0]]])
    still = np.zeros((1, 1, 3, 1))
    valid = np.ones((1, 3), bool)
    assert trace_metrics.dtw(still, true, valid, (3,), path_mean=True).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dtw_is_that_of_dtaidistance(dtype) -> None:
    dtw_ndim = pytest.importorskip("dtaidistance.dtw_ndim")
    predicted, true, _ = random_traces(2, dtype=dtype)
    valid = np.ones(true.shape[:2], bool)

    def theirs(p, t):
        return dtw_ndim.distance_fast(np.array(p, float), np.array(t, float), inner_dist="euclidean") / len(p)

    found = trace_metrics.dtw(predicted, true, valid, HORIZONS)
    np.testing.assert_allclose(found, one_by_one(theirs, predicted, true, valid, HORIZONS), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_both_alignments_are_those_of_similaritymeasures(dtype) -> None:
    similaritymeasures = pytest.importorskip("similaritymeasures")
    predicted, true, valid = random_traces(3, traces=12, dtype=dtype)
    for found, theirs in (
        (trace_metrics.dtw(predicted, true, valid, HORIZONS), lambda p, t: similaritymeasures.dtw(np.array(p), np.array(t))[0] / len(p)),
        (trace_metrics.frechet(predicted, true, valid, HORIZONS), lambda p, t: similaritymeasures.frechet_dist(np.array(p), np.array(t))),
    ):
        np.testing.assert_allclose(found, one_by_one(theirs, predicted, true, valid, HORIZONS), rtol=0, atol=TOLERANCE[dtype])


def test_bounds_that_hold_for_every_trace() -> None:
    """The diagonal is one path, so DTW is no more than ADE; every path ends at the end, so Fréchet is no less than FDE."""
    for seed in range(5):
        arguments = *random_traces(seed, traces=200, draws=2), HORIZONS
        ade, fde = trace_metrics.displacement(*arguments)
        dtw, frechet = trace_metrics.dtw(*arguments), trace_metrics.frechet(*arguments)
        known = ~np.isnan(ade)
        assert (dtw <= ade + 1e-12)[known].all() and (dtw < ade - 1e-6)[known].mean() > 0.3
        assert (frechet >= fde - 1e-12)[known].all()
        assert (trace_metrics.dtw(*arguments, path_mean=True) <= dtw + 1e-12)[known].all()


def every_measure(*arguments) -> list[np.ndarray]:
    return [
        *trace_metrics.displacement(*arguments),
        trace_metrics.dtw(*arguments),
        trace_metrics.dtw(*arguments, path_mean=True),
        trace_metrics.frechet(*arguments),
    ]


def test_equal_traces_are_at_distance_zero_and_shifted_ones_at_the_shift() -> None:
    _, true, valid = random_traces()
    same, shifted = true[:, None], true[:, None] + np.array([0.3, 0.0, 0.4])
    for values in every_measure(same, true, valid, HORIZONS):
        assert np.nanmax(values) == 0
    ade, fde, *_, frechet = every_measure(shifted, true, valid, HORIZONS)
    for values in (ade, fde):
        np.testing.assert_allclose(values[~np.isnan(values)], 0.5, atol=1e-12)
    assert np.nanmax(frechet) <= 0.5 + 1e-12


def test_moving_both_changes_nothing_and_neither_does_order() -> None:
    predicted, true, valid = random_traces()
    order = np.random.default_rng(5).permutation(len(true))
    shift = np.array([1.0, -2.0, 0.5])
    for one, moved, permuted in zip(
        every_measure(predicted, true, valid, HORIZONS),
        every_measure(predicted + shift, true + shift, valid, HORIZONS),
        every_measure(predicted[order], true[order], valid[order], HORIZONS),
        strict=True,
    ):
        np.testing.assert_allclose(moved, one, atol=1e-12)
        np.testing.assert_array_equal(permuted, one[order])


def test_a_horizon_is_a_prefix() -> None:
    """The same figures as for predictions that end there, and later steps may be anything but infinite."""
    predicted, true, valid = random_traces()
    whole = every_measure(predicted, true, valid, HORIZONS)
    for place, horizon in enumerate(HORIZONS):
        cut = every_measure(predicted[:, :, :horizon], true[:, :horizon], valid[:, :horizon], (horizon,))
        for one, other in zip(whole, cut, strict=True):
            np.testing.assert_array_equal(one[..., place], other[..., 0])


def test_what_is_not_valid_is_never_read() -> None:
    predicted, true, valid = random_traces()
    expected = every_measure(predicted, true, valid, HORIZONS)
    predicted.transpose(0, 2, 1, 3)[~valid] = np.nan
    true[~valid] = np.inf
    for one, other in zip(expected, every_measure(predicted, true, valid, HORIZONS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_told_is_nan_and_never_zero() -> None:
    predicted, true, valid = random_traces()
    for values in every_measure(predicted, true, valid, (*HORIZONS, 64)):
        assert np.isnan(values[1]).all()  # nothing is known of this one
        assert np.isnan(values[2, :, :2]).all() and not np.isnan(values[2, :, 2]).any()
        assert np.isnan(values[..., 3]).all()  # longer than the prediction


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [0, 5, 7, 20, 31])
def test_what_is_not_finite_spoils_the_horizons_that_it_is_in_and_nothing_else(step: int, value: float, dtype) -> None:
    predicted, true, valid = random_traces(dtype=dtype)
    valid[0] = True
    expected = every_measure(predicted, true, valid, HORIZONS)
    spoilt, spoilt_truth = predicted.copy(), true.copy()
    spoilt[0, 1, step, 2] = value
    spoilt_truth[0, step, 0] = value
    for prediction, truth, draws in ((spoilt, true, [1]), (predicted, spoilt_truth, [0, 1, 2])):
        for index, (values, before) in enumerate(zip(every_measure(prediction, truth, valid, HORIZONS), expected, strict=True)):
            wrong = np.zeros(values.shape, bool)
            for place, horizon in enumerate(HORIZONS):
                wrong[0, draws, place] = step == horizon - 1 if index == 1 else step < horizon  # FDE reads one step
            assert not np.isfinite(values[wrong]).any()
            np.testing.assert_array_equal(values[~wrong], before[~wrong])


def test_fde_at_the_horizon_needs_the_truth_there() -> None:
    predicted, true, valid = random_traces()
    _, last = trace_metrics.displacement(predicted, true, valid, (*HORIZONS, 64))
    _, there = trace_metrics.displacement(predicted, true, valid, (*HORIZONS, 64), at_horizon=True)
    for place, horizon in enumerate(HORIZONS):
        known = valid[:, horizon - 1]
        assert 0 < known.sum() < len(known)
        np.testing.assert_array_equal(there[known, :, place], last[known, :, place])
        assert np.isnan(there[~known, :, place]).all()
    assert np.isnan(there[..., 3]).all()


def test_nothing_to_score() -> None:
    for shape in ((0, 3, 32, 3), (4, 0, 32, 3)):
        traces = np.zeros(shape)
        for values in every_measure(traces, np.zeros((shape[0], 32, 3)), np.ones((shape[0], 32)), HORIZONS):
            assert values.shape == (*shape[:2], 3)


def test_shapes_that_do_not_fit() -> None:
    predicted, true, valid = random_traces()
    with pytest.raises(ValueError, match="true traces"):
        trace_metrics.dtw(predicted, true[:-1], valid, HORIZONS)
    with pytest.raises(ValueError, match="the least is 1"):
        trace_metrics.frechet(predicted, true, valid, (0,))


def score_many(size: int) -> float:
    predicted, true, valid = random_traces(traces=size, draws=1)
    return float(np.nansum(every_measure(predicted, true, valid, HORIZONS)))


def test_many_traces_in_threads_are_like_few_and_a_process_may_fork_afterwards() -> None:
    predicted, true, valid = random_traces(traces=9000, draws=2)
    for whole, part in zip(
        every_measure(predicted, true, valid, HORIZONS),
        every_measure(predicted[777:790], true[777:790], valid[777:790], HORIZONS),
        strict=True,
    ):
        np.testing.assert_array_equal(whole[777:790], part)
    expected = score_many(9000)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(score_many, (9000,)).get(timeout=60) == expected
