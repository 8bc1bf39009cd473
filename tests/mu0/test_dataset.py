"""Training samples: what they say is what the corpus says, and what is random follows from seed and position alone."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from corpus_clips import NUM_FRAMES, NUM_MOVING, write_clip
from tiny_corpora import EVERY, config, corpora, fit

from tracekit.errors import BadDataError, ConfigurationError, MissingInputError
from tracekit.format.file import Target, open_records, write_records
from tracekit.format.schema import CORPUS
from tracekit.mu0.corpus_index import clips_held_out
from tracekit.mu0.dataset import EvaluationDataset, TraceDataset, draw_keypoints, draw_tau, most_general, spread
from tracekit.mu0.sample import TraceSample, prediction_fields
from tracekit.mu0.sampling_parameters import EvaluationParameters, SamplingParameters
from tracekit.records import Corpus, Predictions
from tracekit.report import Report

__all__ = ["corpora"]

AS_THEY_ARE = SamplingParameters(color_jitter=0, depth_dropout=0, depth_noise=0, history_dropout=0, keypoint_history_dropout=0)


def read(path: Path) -> Corpus:
    with open_records(path, CORPUS) as file:
        return file.read("")


def same(one: TraceSample, other: TraceSample) -> bool:
    values = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in values)


def rewritten(path: Path, target: Path, **changes: object) -> Path:
    """The corpus at `path` with some fields changed."""
    corpus = dataclasses.replace(read(path), **changes)  # type: ignore[arg-type]
    with write_records(Target(target, force=True), CORPUS) as writer:
        writer.put(corpus)
    return target


# --- what a sample says


@pytest.mark.parametrize("use_bspline", [True, False])
def test_rows_targets_and_pictures_are_those_of_the_corpus(corpora: Path, use_bspline: bool) -> None:
    corpus = read(corpora / "embedded.h5")
    samples = TraceDataset([corpora / "embedded.h5"], config(use_bspline=use_bspline), AS_THEY_ARE, seed=3)
    seen = set()
    for position in range(len(samples)):
        sample = samples[position]
        clip = corpus.clip_name.index(sample.clip)
        (number,) = np.flatnonzero((corpus.sample_clip == clip) & (corpus.sample_frame == sample.frame))
        seen.add(int(number))
        rows = np.arange(*corpus.sample_offset[number : number + 2])
        for current, entity, history, present, valid_history, future, valid_future, target, target_valid, moving in zip(
            sample.current,
            sample.entity,
            sample.history,
            sample.history_present,
            sample.valid_history,
            sample.future,
            sample.valid_future,
            sample.target,
            sample.target_valid,
            sample.moving,
            strict=True,
        ):
            (row,) = rows[(corpus.current[rows] == current).all(axis=1)]
            assert corpus.moving[row] == moving == 1 and corpus.valid_keypoint[row] == 1 and corpus.entity[row] == entity
            np.testing.assert_array_equal(history, corpus.history[row])
            np.testing.assert_array_equal(valid_history, corpus.valid_history[row])
            assert present == corpus.valid_history[row].all()
            np.testing.assert_array_equal(future, corpus.future[row])
            np.testing.assert_array_equal(valid_future, corpus.valid_future[row])
            if use_bspline:
                np.testing.assert_array_equal(target, corpus.control_points[row])
                assert target_valid.all()
            else:
                np.testing.assert_allclose(target, corpus.future[row] / corpus.delta_scale, rtol=1e-6)
                np.testing.assert_array_equal(target_valid, corpus.valid_future[row])
        links = corpus.sample_caption[slice(*corpus.sample_caption_offset[number : number + 2])]
        assert sample.caption in {corpus.caption_text[link] for link in links}
        assert sample.image.shape == (3, 48, 48) and sample.image.dtype == np.uint8
        assert (sample.depth is None) == (sample.clip == "clip-2")
        assert sample.noise.shape == sample.target.shape
    assert seen == set(range(len(corpus.sample_clip)))


def test_pictures_out_of_the_video_are_the_embedded_ones_within_the_error_of_jpeg(corpora: Path) -> None:
    embedded, referenced = (EvaluationDataset([corpora / name], config()) for name in ("embedded.h5", "referenced.h5"))
    assert len(embedded) == len(referenced)
    others = referenced[0].image.astype(float)
    for place in range(0, len(embedded), 5):
        one, other = embedded[place].image.astype(float), referenced[place].image.astype(float)
        assert np.abs(one - other).mean() < 4.0
        if place:
            assert np.abs(one - others).mean() > 10.0  # the texture slides: frames are not mistaken for each other


def test_videos_that_have_moved_are_found_and_others_are_refused(corpora: Path, tmp_path: Path) -> None:
    moved = rewritten(corpora / "referenced.h5", tmp_path / "moved.h5", clip_uri=[f"/nowhere/clip-{number}.mp4" for number in range(3)])
    with pytest.raises(MissingInputError, match=r"clip-\d.mp4 is not there"):
        EvaluationDataset([moved], config())[0]
    found = EvaluationDataset([moved], config(), videos=corpora)[0]
    assert same(found, EvaluationDataset([corpora / "referenced.h5"], config())[0])
    changed = rewritten(corpora / "referenced.h5", tmp_path / "changed.h5", clip_sha256=["0" * 64] * 3)
    with pytest.raises(BadDataError, match="another content"):
        EvaluationDataset([changed], config())[0]


def test_damaged_pictures_are_named_by_clip_and_frame(corpora: Path, tmp_path: Path) -> None:
    corpus = read(corpora / "embedded.h5")
    assert corpus.image_jpeg is not None and corpus.image_offset is not None
    broken = corpus.image_jpeg.copy()
    broken[: corpus.image_offset[1]] = 0
    path = rewritten(corpora / "embedded.h5", tmp_path / "broken.h5", image_jpeg=broken)
    with pytest.raises(BadDataError, match=r"clip clip-0, frame 0 .* no JPEG"):
        EvaluationDataset([path], config())[0]


# --- randomness by position


def test_a_sample_follows_from_seed_and_position_alone(corpora: Path) -> None:
    first, second = (TraceDataset([corpora / "embedded.h5"], config(), seed=7) for _ in range(2))
    positions = [0, 5, 300, 2, 299, 301, 5]
    forward = {position: first[position] for position in positions}
    for position in reversed(positions):
        assert same(second[position], forward[position])
    travelled = pickle.loads(pickle.dumps(first))
    assert same(travelled[5], forward[5])
    other_seed = TraceDataset([corpora / "embedded.h5"], config(), seed=8)
    assert not any(same(other_seed[position], forward[position]) for position in positions)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own(corpora: Path) -> None:
    samples = TraceDataset([corpora / "embedded.h5"], config(image_size=8), seed=1)
    epochs = [[(s.clip, s.frame) for s in (samples[epoch * len(samples) + i] for i in range(len(samples)))] for epoch in (0, 1)]
    assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == len(samples)
    assert epochs[0] != epochs[1]
    again = [samples[i] for i in range(4)] + [samples[len(samples) + i] for i in range(4)]
    first_time, second_time = again[:4], again[4:]
    assert {sample.tau for sample in first_time}.isdisjoint({sample.tau for sample in second_time})


def test_dropouts_and_draws_have_the_probabilities_of_the_paper(corpora: Path) -> None:
    samples = TraceDataset([corpora / "embedded.h5"], config(image_size=8), seed=2)
    drawn = [samples[position] for position in range(1500)]
    with_depth = [sample for sample in drawn if sample.clip != "clip-2"]
    # Three standard deviations of a share of 1000.
    assert np.mean([sample.depth is None for sample in with_depth]) == pytest.approx(0.7, abs=0.045)
    # History that is known as a whole: dropped for all with 0.2, else each with 0.3.
    all_known = [sample for sample in drawn if len(sample.current) >= 4 and sample.valid_history.all()]
    assert len(all_known) > 400
    none_left = np.mean([not sample.history_present.any() for sample in all_known])
    expected_none = np.mean([0.2 + 0.8 * 0.3 ** len(sample.current) for sample in all_known])
    assert none_left == pytest.approx(expected_none, abs=0.06)
    some_left = np.concatenate([sample.history_present for sample in all_known if sample.history_present.any()])
    assert some_left.mean() == pytest.approx(0.7, abs=0.04)
    numbers = np.array([len(sample.current) for sample in drawn if sample.frame < NUM_FRAMES // 4])
    assert numbers.min() == 1 and numbers.max() == NUM_MOVING
    assert np.bincount(numbers, minlength=NUM_MOVING + 1)[1:].min() > 0.6 * len(numbers) / NUM_MOVING
    noise = np.concatenate([sample.noise.ravel() for sample in drawn])
    assert abs(noise.mean()) < 0.01 and noise.std() == pytest.approx(1.0, abs=0.01)
    # A frame of the first half has five sentences, all as likely; the clip's own is one of them.
    early = [sample.caption for sample in drawn if sample.frame < NUM_FRAMES // 2]
    shares = {text: early.count(text) / len(early) for text in set(early)}
    assert set(shares) == {"tidy up", "reach", "go there", "approach", "reach and grasp"}
    assert all(share == pytest.approx(0.2, abs=0.05) for share in shares.values())


def test_flow_times_have_the_distribution_that_is_asked_for() -> None:
    random = np.random.default_rng(0)
    beta = np.array([draw_tau(random, "beta") for _ in range(20_000)])
    uniform = np.array([draw_tau(random, "uniform") for _ in range(20_000)])
    # The distribution function of Beta(1.5, 1) is x^1.5.
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(beta, share) == pytest.approx(0.001 + 0.999 * share ** (1 / 1.5), abs=0.012)
        assert np.quantile(uniform, share) == pytest.approx(0.001 + 0.999 * share, abs=0.015)
    assert min(beta.min(), uniform.min()) >= 0.001 and max(beta.max(), uniform.max()) <= 1


def test_augmentation_changes_pictures_and_depth_and_can_be_switched_off(corpora: Path) -> None:
    plain = TraceDataset([corpora / "embedded.h5"], config(), AS_THEY_ARE, seed=5)
    jittered = TraceDataset([corpora / "embedded.h5"], config(), dataclasses.replace(AS_THEY_ARE, color_jitter=0.3), seed=5)
    noisy = TraceDataset([corpora / "embedded.h5"], config(), dataclasses.replace(AS_THEY_ARE, depth_noise=0.05), seed=5)
    as_stored = EvaluationDataset([corpora / "embedded.h5"], config())
    stored = {(sample.clip, sample.frame): sample for sample in (as_stored[place] for place in range(len(as_stored)))}
    changed = 0
    for position in range(20):
        sample, original = plain[position], stored[plain[position].clip, plain[position].frame]
        np.testing.assert_array_equal(sample.image, original.image)
        changed += not np.array_equal(jittered[position].image, original.image)
        assert same(dataclasses.replace(jittered[position], image=sample.image), sample)  # nothing else is different
        if sample.depth is not None:
            np.testing.assert_array_equal(sample.depth, original.depth)
            assert not np.array_equal(noisy[position].depth, original.depth)
    assert changed == 20


# --- which keypoints


def test_keypoints_are_moving_ones_with_a_target_unless_a_share_of_static_ones_is_asked_for() -> None:
    random = np.random.default_rng(0)
    moving, usable = np.arange(100) < 60, np.arange(100) % 3 > 0
    num_static = []
    for _ in range(500):
        chosen = draw_keypoints(random, moving, usable, SamplingParameters(max_keypoints=20))
        assert 1 <= len(chosen) <= 20 and (np.diff(chosen) > 0).all()
        assert (moving & usable)[chosen].all()
        mixed = draw_keypoints(random, moving, usable, SamplingParameters(max_keypoints=20, static_share=0.5))
        assert usable[mixed].all() and len(mixed) <= 20
        num_static.append((~moving[mixed]).mean())
    assert np.mean(num_static) == pytest.approx(0.5, abs=0.06)


def test_every_usable_keypoint_is_as_likely() -> None:
    random = np.random.default_rng(0)
    everything = np.ones(10, bool)
    times = np.bincount(
        np.concatenate([draw_keypoints(random, everything, everything, SamplingParameters()) for _ in range(4000)]), minlength=10
    )
    assert times == pytest.approx(np.full(10, 4000 * 5.5 / 10), rel=0.06)


def test_samples_without_a_usable_keypoint_are_left_out_and_counted(corpora: Path, tmp_path: Path) -> None:
    still = write_clip(tmp_path, 7, moving=False)
    fit(still, "--every", EVERY, "--scale", corpora / "embedded.h5", "-o", tmp_path / "still.h5")
    with pytest.raises(BadDataError, match=r"no sample of .*still\.h5 has a keypoint that moves"):
        TraceDataset([tmp_path / "still.h5"], config())
    report = Report()
    both = TraceDataset([corpora / "referenced.h5", tmp_path / "still.h5"], config(), report=report)
    alone = TraceDataset([corpora / "referenced.h5"], config())
    assert len(both) == len(alone)
    assert report.counts["samples without a keypoint that moves and has a target (left out)"] == len(
        read(tmp_path / "still.h5").sample_clip
    )


# --- held-out clips


def test_clips_are_held_in_or_held_out_never_both(corpora: Path) -> None:
    path = [corpora / "embedded.h5"]
    parts = [EvaluationDataset(path, config(image_size=8), part=part, held_out=0.34, seed=4) for part in ("held-in", "held-out")]
    clips = [{part[place].clip for place in range(len(part))} for part in parts]
    assert clips[0].isdisjoint(clips[1]) and len(clips[1]) == 1 and len(clips[0]) == 2
    training = TraceDataset(path, config(image_size=8), part="held-in", held_out=0.34, seed=4)
    assert {training[position].clip for position in range(len(training))} == clips[0]


def test_which_clips_are_held_out_does_not_depend_on_their_order() -> None:
    names = [f"clip {number}" for number in range(50)]
    held = clips_held_out(names, 0.2, 1)
    assert held == clips_held_out(names[::-1], 0.2, 1) and len(held) == 10
    assert held != clips_held_out(names, 0.2, 2)
    assert clips_held_out(names, 0.0, 1) == set() == clips_held_out(names[:1], 0.5, 1)
    assert len(clips_held_out(names[:2], 0.01, 1)) == 1 == len(clips_held_out(names[:2], 0.99, 1))


# --- evaluation


def test_evaluation_shows_samples_as_they_are(corpora: Path) -> None:
    corpus = read(corpora / "embedded.h5")
    samples = EvaluationDataset([corpora / "embedded.h5"], config())
    assert [(samples[place].clip, samples[place].frame) for place in range(len(samples))] == [
        (corpus.clip_name[clip], frame) for clip, frame in zip(corpus.sample_clip, corpus.sample_frame, strict=True)
    ]
    sample = samples[4]
    assert sample.caption == "tidy up" and sample.moving.all() and len(sample.current) == NUM_MOVING
    assert sample.depth is not None
    np.testing.assert_array_equal(sample.history_present, sample.valid_history.all(axis=1))
    assert same(sample, samples[4])
    bare = EvaluationDataset(
        [corpora / "embedded.h5"],
        config(),
        EvaluationParameters(num_keypoints=4, use_history=False, use_depth=False),
    )[4]
    assert len(bare.current) == 4 and bare.depth is None and not bare.history_present.any()
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_spread_takes_from_everywhere() -> None:
    rows = np.arange(100, 140)
    assert spread(rows, 4).tolist() == [100, 110, 120, 130]
    assert spread(rows, 0) is rows and len(spread(rows, 99)) == 40 and len(set(spread(rows, 39))) == 39


def test_the_most_general_caption_is_about_the_whole_clip_or_the_most_events() -> None:
    assert most_general(["grasp", "tidy up", "both"], np.array([1, 0, 2])) == "tidy up"
    assert most_general(["grasp", "both", "grip"], np.array([1, 2, 1])) == "both"
    assert most_general([], np.zeros(0, int)) == ""


def test_fields_of_predictions_are_absolute_positions(corpora: Path) -> None:
    corpus = read(corpora / "embedded.h5")
    dataset = EvaluationDataset([corpora / "embedded.h5"], config())
    samples = [dataset[place] for place in (2, 6)]
    fields = prediction_fields(samples)
    num_rows = len(fields["anchor"])
    predictions = Predictions(traces=np.zeros((num_rows, 5, 32, 3), np.float32), validity=None, **fields)
    assert predictions.sample.tolist() == [0] * len(samples[0].current) + [1] * len(samples[1].current)
    assert predictions.sample_caption == ["tidy up"] * 2 and predictions.sample_clip == ["clip-0"] * 2
    rows = np.concatenate([np.arange(*corpus.sample_offset[number : number + 2]) for number in (2, 6)])
    rows = rows[(corpus.valid_keypoint[rows] > 0) & (corpus.moving[rows] > 0)]
    np.testing.assert_array_equal(predictions.anchor, corpus.current[rows])
    np.testing.assert_allclose(predictions.true_traces, corpus.current[rows, None] + corpus.future[rows], rtol=1e-6)
    np.testing.assert_array_equal(predictions.true_valid, corpus.valid_future[rows])
    np.testing.assert_allclose(predictions.history, corpus.current[rows, None] + corpus.history[rows], rtol=1e-6)
    np.testing.assert_array_equal(predictions.history_valid, corpus.valid_history[rows])
    np.testing.assert_array_equal(predictions.moving, corpus.moving[rows])


# --- corpora that the network cannot be trained on


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"history": 16}, "history is 8 in .*, but 16 in the network"),
        ({"horizon": 16}, "horizon is 32 in .*, but 16 in the network"),
        ({"control_points": 7, "control_group": 7}, "control_points is 10 in .*, but 7 in the network"),
        ({"basis": "uniform"}, "basis is bezier in .*, but uniform in the network"),
    ],
)
def test_a_corpus_of_other_steps_or_splines_is_refused_with_both_values(corpora: Path, changes: dict, match: str) -> None:
    with pytest.raises(BadDataError, match=match):
        TraceDataset([corpora / "embedded.h5"], config(**changes))


def test_splines_are_of_no_matter_to_a_network_without_them(corpora: Path) -> None:
    TraceDataset([corpora / "embedded.h5"], config(basis="uniform", control_points=7, use_bspline=False))


def test_a_corpus_without_scales_is_refused(corpora: Path, tmp_path: Path) -> None:
    without = rewritten(corpora / "referenced.h5", tmp_path / "without.h5", delta_scale=np.full(3, np.nan))
    with pytest.raises(BadDataError, match=r"has no scales: delta_scale is .nan"):
        TraceDataset([without], config())


def test_corpora_of_different_scales_do_not_train_one_network(corpora: Path, tmp_path: Path) -> None:
    corpus = read(corpora / "referenced.h5")
    for field, value in (
        ("delta_scale", 2 * corpus.delta_scale),
        ("depth_log_range", corpus.depth_log_range + 1),
        ("metric", False),
        ("stride_seconds", 2 * corpus.stride_seconds),
    ):
        other = rewritten(corpora / "referenced.h5", tmp_path / "other.h5", **{field: value})
        with pytest.raises(BadDataError, match="a step is 0.1 s in .* 0.2 s" if field == "stride_seconds" else field):
            TraceDataset([corpora / "referenced.h5", other], config())


def test_offsets_that_do_not_fit_the_rows_are_refused(corpora: Path, tmp_path: Path) -> None:
    corpus = read(corpora / "referenced.h5")
    wrong = corpus.sample_offset.copy()
    wrong[-1] += 5
    with pytest.raises(BadDataError, match=r"sample_offset .* does not run from 0 to"):
        TraceDataset([rewritten(corpora / "referenced.h5", tmp_path / "wrong.h5", sample_offset=wrong)], config())


def test_no_corpus_and_parameters_out_of_range(corpora: Path) -> None:
    with pytest.raises(BadDataError, match="no corpus"):
        TraceDataset([], config())
    with pytest.raises(MissingInputError):
        TraceDataset([corpora / "absent.h5"], config())
    with pytest.raises(ConfigurationError, match="depth-dropout"):
        TraceDataset([corpora / "embedded.h5"], config(), SamplingParameters(depth_dropout=1.5))
