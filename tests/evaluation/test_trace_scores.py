"""Figures of whole predictions files: closed forms, plain loops over slots, and what must be refused."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from evaluation.predicted import NUM_STEPS, OFFSETS, changed, straight

from tracekit.errors import BadDataError, ConfigurationError
from tracekit.evaluation.paper_tables import paper_rows
from tracekit.evaluation.trace_protocols import ClipBootstrap, choose_keypoints
from tracekit.evaluation.trace_scores import TraceParameters, TraceScores, score
from tracekit.records import Predictions
from tracekit.report import Report

SHORT = TraceParameters(resamples=0)


def noisy(seed: int = 3, **shape: int) -> Predictions:
    """Draws with noise of their own, slots of unequal size, gaps in the truth, keypoints that stand still."""
    p = straight(seed=seed, **shape)
    rng = np.random.default_rng(seed)
    assert p.true_valid is not None
    valid = (rng.random(p.true_valid.shape) < 0.7).astype(np.uint8)
    valid[::7] = 0
    moving = (rng.random(len(p.moving)) < 0.8).astype(np.uint8)
    return changed(p, traces=p.traces + rng.normal(size=p.traces.shape).astype(np.float32) / 4, true_valid=valid, moving=moving)


def mean(scores: TraceScores, metric: str, top: int, horizon: int, *, joint: bool = False, method: int = 0) -> float:
    figure = scores.methods[method].figure(metric, top, horizon, joint=joint)
    assert figure is not None
    return figure.mean


def test_draws_at_known_distances() -> None:
    scores = score(straight(), SHORT)
    for horizon in (8, 16, 32):
        for metric in ("ade", "fde", "frechet"):
            assert mean(scores, metric, 1, horizon) == pytest.approx(OFFSETS[0], abs=1e-5)
            assert mean(scores, metric, 5, horizon) == pytest.approx(min(OFFSETS), abs=1e-5)
        assert mean(scores, "dtw", 1, horizon) <= OFFSETS[0] + 1e-6
    assert mean(score(straight(), TraceParameters(top="3", resamples=0)), "ade", 3, 8) == pytest.approx(0.2, abs=1e-5)
    assert scores.num_traces == 24 and scores.num_slots == 6 and scores.num_clips == 3


@pytest.mark.parametrize("name", ["static", "constant-velocity"])
def test_a_file_may_have_the_name_of_a_baseline(name: str) -> None:
    scores = score(straight(), TraceParameters(top="1,64", resamples=0), name=name)
    assert [method.is_baseline for method in scores.methods] == [False, True, True]
    assert math.isnan(mean(scores, "ade", 64, 8)), "the file has fewer draws"
    assert [mean(scores, "ade", 64, 8, method=m) for m in (1, 2)] == [mean(scores, "ade", 1, 8, method=m) for m in (1, 2)]


def test_baselines_on_straight_paths() -> None:
    """Static is off by |v| t at step t; constant velocity by nothing."""
    p = straight()
    assert p.history is not None
    speed = np.linalg.norm(p.anchor - p.history[:, -1], axis=1).mean()
    scores = score(p, SHORT)
    assert [method.name for method in scores.methods] == ["predictions", "static", "constant-velocity"]
    for horizon in (8, 16, 32):
        for top in (1, 5):
            assert mean(scores, "ade", top, horizon, method=1) == pytest.approx(speed * (horizon + 1) / 2, rel=1e-5)
            assert mean(scores, "fde", top, horizon, method=1) == pytest.approx(speed * horizon, rel=1e-5)
            assert mean(scores, "dtw", top, horizon, method=2) == pytest.approx(0, abs=1e-6)
    without = score(changed(p, history=None, history_valid=None), SHORT)
    assert mean(without, "ade", 1, 8, method=2) == mean(without, "ade", 1, 8, method=1)
    assert without.counts["keypoints without history (constant-velocity stands still)"] == 24


@pytest.mark.parametrize("space", ["uv", "uvz", "z"])
@pytest.mark.parametrize("protocol", ["mu0", "paper"])
def test_averages_are_those_of_plain_loops(protocol: str, space: str) -> None:
    p = noisy(num_samples=8, keypoints=6)
    assert p.true_traces is not None and p.true_valid is not None
    axes = {"uv": [0, 1], "uvz": [0, 1, 2], "z": [2]}[space]
    scores = score(p, TraceParameters(protocol=protocol, space=space, resamples=0))
    for horizon in (8, 16, 32):
        errors: dict[int, list[list[float]]] = {}  # of every draw of every keypoint, by slot
        for row in range(len(p.sample)):
            known = np.flatnonzero(p.true_valid[row, :horizon])
            if p.moving[row] and len(known):
                distances = np.linalg.norm((p.traces[row] - p.true_traces[row])[:, known][..., axes].astype(float), axis=-1)
                errors.setdefault(int(p.sample[row]), []).append(distances.mean(axis=1).tolist())
        for top in (1, 5):
            best = [[min(draws[:top]) for draws in slot] for slot in errors.values()]
            joint = [min(np.mean(slot, axis=0)[:top]) for slot in errors.values()]
            if protocol == "paper":
                expected, expected_joint = np.mean([np.mean(slot) for slot in best]), np.mean(joint)
            else:
                expected = np.mean([value for slot in best for value in slot])
                expected_joint = np.average(joint, weights=[len(slot) for slot in errors.values()])
            assert mean(scores, "ade", top, horizon) == pytest.approx(expected, rel=1e-5)
            if top > 1:
                assert mean(scores, "ade", top, horizon, joint=True) == pytest.approx(expected_joint, rel=1e-5)
                assert expected_joint > expected


@pytest.mark.parametrize("protocol", ["mu0", "paper"])
def test_one_draw_for_a_slot_is_never_better_than_one_for_each_keypoint(protocol: str) -> None:
    scores = score(noisy(), TraceParameters(protocol=protocol, resamples=0))
    for metric in ("ade", "fde", "dtw", "frechet"):
        for horizon in (8, 16, 32):
            assert mean(scores, metric, 5, horizon, joint=True) >= mean(scores, metric, 5, horizon)
            assert mean(scores, metric, 1, horizon) >= mean(scores, metric, 5, horizon)
    with_one_keypoint = score(straight(keypoints=1), TraceParameters(protocol=protocol, resamples=0))
    assert mean(with_one_keypoint, "ade", 5, 8, joint=True) == mean(with_one_keypoint, "ade", 5, 8)


@pytest.mark.parametrize("protocol", ["mu0", "paper"])
def test_the_order_of_rows_and_clips_changes_nothing(protocol: str) -> None:
    p = noisy(keypoints=24)
    order = np.random.default_rng(1).permutation(len(p.sample))
    by_row = ("sample", "entity", "moving", "anchor", "traces", "true_traces", "true_valid", "history", "history_valid")
    shuffled = changed(p, **{name: getattr(p, name)[order] for name in by_row})
    parameters = TraceParameters(protocol=protocol)
    one, other = score(p, parameters).numbers(), score(shuffled, parameters).numbers()
    assert one.keys() == other.keys() and len(one) > 50
    for key, value in one.items():
        assert other[key] == pytest.approx(value, rel=1e-6), key


def test_only_what_moves_counts_and_all_that_is_left_out_is_counted() -> None:
    p = straight()
    assert p.true_valid is not None
    moving, valid = p.moving.copy(), p.true_valid.copy()
    moving[3:6] = 0
    valid[6] = 0
    valid[7, :10] = 0
    report = Report()
    scores = score(changed(p, moving=moving, true_valid=valid), SHORT, report=report)
    assert scores.num_traces == 20
    assert report.counts["keypoints that do not move (left out)"] == 3
    assert report.counts["moving keypoints without a valid step (left out)"] == 1
    assert report.counts["steps without truth (masked)"] == 10
    figures = [scores.methods[0].figure("ade", 1, horizon) for horizon in (8, 16, 32)]
    assert [figure.num_traces for figure in figures if figure] == [19, 20, 20]
    at_horizon = score(changed(p, true_valid=valid), TraceParameters(fde="at-horizon", horizons="8,32", resamples=0))
    assert at_horizon.counts["keypoints without truth at step 8 (no FDE there)"] == 1  # the seventh has no step at all
    figure = at_horizon.methods[0].figure("fde", 1, 8)
    assert figure and figure.num_traces == 22


def test_steps_beyond_the_horizons_do_not_count_as_masked() -> None:
    p = straight()
    assert p.true_valid is not None
    valid = p.true_valid.copy()
    valid[:, 8:] = 0
    assert score(changed(p, true_valid=valid), TraceParameters(horizons="8", resamples=0)).counts["steps without truth (masked)"] == 0


def test_both_normalisations_of_dtw_are_there_and_the_choice_is_which_is_called_dtw() -> None:
    one, other = score(noisy(), SHORT).numbers(), score(noisy(), TraceParameters(dtw="path-mean", resamples=0)).numbers()
    assert one["dtw/top5/32"] == other["dtw_valid_steps/top5/32"] > one["dtw_path_mean/top5/32"] == other["dtw/top5/32"]


def test_only_what_is_asked_for_is_measured() -> None:
    parameters = TraceParameters(metric=["fde", "dtw"], horizons="4", top="2", resamples=0)
    assert set(score(straight(), parameters).numbers()) == {
        prefix + key for prefix in ("", "static/", "constant-velocity/") for key in ("fde/top2/4", "dtw/top2/4", "dtw_path_mean/top2/4")
    } | {"fde/top2-joint/4", "dtw/top2-joint/4", "dtw_path_mean/top2-joint/4"}


def test_what_the_file_is_too_short_for_is_nan_with_a_note() -> None:
    p = straight()
    scores = score(changed(p, traces=p.traces[:, :1]), TraceParameters(horizons="32,64"))
    assert math.isnan(mean(scores, "ade", 5, 32)) and math.isnan(mean(scores, "ade", 1, 64))
    assert math.isnan(mean(scores, "ade", 1, 64, method=1)) and not math.isnan(mean(scores, "ade", 5, 32, method=1))
    assert not math.isnan(mean(scores, "ade", 1, 32))
    assert scores.notes == [
        "predictions predicts 32 steps: nothing is known at T = 64",
        "predictions holds 1 draw: nothing is known of top 5",
    ]


@pytest.mark.parametrize("why", ["nothing moves", "nothing is known", "no rows"])
@pytest.mark.parametrize("protocol", ["mu0", "paper"])
def test_nothing_to_score_is_nan_with_a_note_and_never_zero(why: str, protocol: str) -> None:
    p = straight()
    assert p.true_valid is not None
    if why == "nothing moves":
        p = changed(p, moving=np.zeros_like(p.moving))
    elif why == "nothing is known":
        p = changed(p, true_valid=np.zeros_like(p.true_valid))
    else:
        by_row = ("sample", "entity", "moving", "anchor", "traces", "true_traces", "true_valid", "history", "history_valid")
        p = changed(p, sample_clip=[], sample_frame=np.zeros(0, int), **{name: getattr(p, name)[:0] for name in by_row})
    scores = score(p, TraceParameters(protocol=protocol))
    assert all(math.isnan(value) for value in scores.numbers().values())
    assert "there is nothing to score" in scores.notes[0] and scores.num_traces == scores.num_clips == 0


def test_a_prediction_that_is_not_finite_is_refused_where_it_counts_and_only_there() -> None:
    p = straight()
    assert p.true_valid is not None
    moving, valid, traces = p.moving.copy(), p.true_valid.copy(), p.traces.copy()
    moving[2], valid[5, 10] = 0, 0
    traces[2], traces[5, :, 10], traces[7, :, 16:] = np.nan, np.inf, np.nan
    masked = changed(p, moving=moving, true_valid=valid, traces=traces)
    score(masked, TraceParameters(horizons="8,16"))
    with pytest.raises(BadDataError, match=r"prediction/traces\[7, 0, 16\] of a.h5 is \(nan, nan, nan\).*80 such") as caught:
        score(masked, TraceParameters(horizons="8,32"), name="a.h5")
    assert caught.value.exit_code == 65
    traces = p.traces.copy()
    traces[9, 3, 4, 2] = np.nan
    for top, space in (("1", "uvz"), ("3", "uvz"), ("5", "uv")):
        score(changed(p, traces=traces), TraceParameters(top=top, space=space))
    with pytest.raises(BadDataError, match=r"prediction/traces\[9, 3, 4\]") as caught:
        score(changed(p, traces=traces), TraceParameters(top="4"))
    assert "--space uv" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "index", "place"),
    [
        ("true_traces", (3, 5, 0), r"truth/traces\[3, 5\]"),
        ("anchor", (3, 1), r"rows/anchor\[3\]"),
        ("history", (3, 2, 0), r"history/traces\[3, 2\]"),
    ],
)
def test_other_values_that_count_must_be_finite(field: str, index: tuple[int, ...], place: str) -> None:
    p = straight()
    values = getattr(p, field).copy()
    values[index] = np.nan
    with pytest.raises(BadDataError, match=place):
        score(changed(p, **{field: values}), SHORT)


def test_without_truth_there_is_nothing_to_score() -> None:
    with pytest.raises(BadDataError, match=r"a\.h5 has no truth/traces and no truth/valid"):
        score(changed(straight(), true_traces=None, true_valid=None), name="a.h5")
    with pytest.raises(BadDataError, match="has no truth/valid: there"):
        score(changed(straight(), true_valid=None))
    with pytest.raises(BadDataError, match="holds no draws"):
        score(changed(straight(), traces=straight().traces[:, :0]))


@pytest.mark.parametrize(
    "parameters",
    [{"metric": ["mse"]}, {"horizons": "8,x"}, {"horizons": ""}, {"top": "0"}, {"horizons": "8.5"}, {"top": "-1"}, {"protocol": "mine"}],
)
def test_parameters_that_make_no_sense(parameters: dict) -> None:
    with pytest.raises(ConfigurationError, match=f"--{next(iter(parameters))}"):
        score(straight(), TraceParameters(**parameters))


def test_the_paper_protocol_takes_sixteen_keypoints_of_a_slot() -> None:
    p = straight(num_samples=4, keypoints=40)
    small = changed(p, moving=((np.arange(160) % 40 < 10) | (np.arange(160) < 80)).astype(np.uint8))
    parameters = TraceParameters(protocol="paper", resamples=0)
    scores = score(small, parameters)
    assert np.bincount(scores.values.sample).tolist() == [16, 16, 10, 10]
    assert scores.counts["moving keypoints beyond 16 in their slot (left out)"] == 48
    assert score(small, parameters).values.row.tolist() == scores.values.row.tolist()
    assert score(small, parameters, seed=1).values.row.tolist() != scores.values.row.tolist()
    assert score(small, TraceParameters(protocol="paper", keypoints_per_slot=0)).num_traces == 100
    assert score(small, TraceParameters()).num_traces == 100


def test_every_keypoint_of_a_slot_is_equally_likely_to_be_chosen() -> None:
    order = np.random.default_rng(0).normal(size=(8, 3))
    times = sum(choose_keypoints(np.zeros(8, int), ["a"], order, 2, seed).astype(int) for seed in range(2000))
    assert times.sum() == 4000 and abs(times - 500).max() < 5 * math.sqrt(2000 * 0.25 * 0.75)


def test_intervals_are_those_of_clips_drawn_with_replacement() -> None:
    """The average over clips of equal size is nearly normal: its interval is 1.96 standard errors wide on either side."""
    values = np.random.default_rng(0).normal(5, 2, size=(400, 1))
    low, high = ClipBootstrap(400, 4000, 0).interval(values * 3, np.full((400, 1), 3))
    error = values.std() / math.sqrt(400)
    assert low[0] == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high[0] == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_where_no_draw_meets_a_clip_with_a_value_there_is_no_interval() -> None:
    denominator = np.zeros((50, 1))
    denominator[:2] = 1
    bounds = [ClipBootstrap(50, 1, seed).interval(denominator * 7, denominator) for seed in range(40)]
    assert {float(low[0]) for low, _ in bounds if not math.isnan(low[0])} == {7.0}
    assert any(math.isnan(low[0]) and math.isnan(high[0]) for low, high in bounds)


def test_intervals_contain_the_mean_follow_the_seed_and_need_two_clips() -> None:
    scores, same, other = (score(noisy(num_samples=20), seed=seed) for seed in (0, 0, 1))
    for figure in (figure for method in scores.methods[:2] for figure in method.figures):
        assert figure.low <= figure.mean <= figure.high and figure.low < figure.high
    assert repr(same.methods) == repr(scores.methods) and repr(other.methods) != repr(scores.methods)
    alone = score(straight(num_samples=2))
    assert all(math.isnan(figure.low) and math.isnan(figure.high) for figure in alone.methods[0].figures)
    assert alone.notes == ["predictions is about one clip: there are no intervals"]


def test_values_of_single_traces_average_to_the_figures() -> None:
    p = noisy()
    scores = score(p, SHORT)
    values = scores.values
    assert values.dtw is not None and values.ade is not None
    assert values.dtw.shape == (scores.num_traces, 3, 2, 3) and values.top.tolist() == [1, 5] and values.horizon.tolist() == [8, 16, 32]
    for method, name in enumerate(values.predictor):
        assert scores.methods[method].name == name
        assert np.nanmean(values.dtw[:, method, 1, 2].astype(float)) == pytest.approx(mean(scores, "dtw", 5, 32, method=method), rel=1e-6)
    assert (p.moving[values.row] == 1).all() and values.sample.tolist() == p.sample[values.row].tolist()
    assert values.clip == [p.sample_clip[sample] for sample in values.sample]
    np.testing.assert_array_equal(np.isnan(values.ade[:, 0, 0]), values.num_valid == 0)


def test_the_papers_rows() -> None:
    """Spot checks of Tables 1 and 3, and what must hold of any such table."""
    ours = paper_rows("uvz")[-1]
    assert ours.name == "μ0" and [ours.figure("dtw", 5, horizon) for horizon in (8, 16, 32)] == [0.127, 0.187, 0.223]
    assert ours.figure("frechet", 1, 32) == 0.527 and ours.figure("fde", 5, 8) == 0.200 and ours.figure("ade", 1, 4) is None
    flat = paper_rows("uv")
    assert len(flat) == 6 and flat[3].name == "Track2Act" and flat[3].figure("fde", 1, 32) == 0.555
    assert flat[-1].figure("frechet", 5, 16) == 0.306 and paper_rows("z") == []
    for row in [*flat, *paper_rows("uvz")]:
        for horizon in (8, 16, 32):
            for metric in ("ade", "fde", "dtw", "frechet"):
                top1, top5 = row.figure(metric, 1, horizon), row.figure(metric, 5, horizon)
                assert top1 is not None and top5 is not None and top5 <= top1
            assert row.figure("dtw", 5, horizon) <= row.figure("ade", 5, horizon)


def test_scoring_imports_nothing_heavy_before_it_scores() -> None:
    script = (
        "import sys, tracekit.evaluation.trace_scores;"
        " print(sorted({'torch', 'h5py', 'numba', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_one_step_is_enough() -> None:
    p = straight()
    scores = score(p, TraceParameters(horizons="1", resamples=0))
    for metric in ("ade", "fde", "dtw", "frechet"):
        assert mean(scores, metric, 1, 1) == pytest.approx(0.5, abs=1e-5)
    assert p.traces.shape[2] == NUM_STEPS
