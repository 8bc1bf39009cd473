"""Rollouts: what is drawn belongs to the keypoint, whatever is asked besides; and what the network is shown is what was asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_episode
from mu0.questions import CONFIG, EPISODES, HEIGHT, NUM_MOVING, STATISTICS, WIDTH, network, sliding_episode, write_corpus
from torch import Tensor

from tracekit.errors import BadDataError, StorageError, UsageError
from tracekit.format.file import open_records
from tracekit.mu0.bare_image import grid_points
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.collate import Collate
from tracekit.mu0.corpus_reader import CorpusReader, read_head
from tracekit.mu0.decode import decode
from tracekit.mu0.model import Mu0, Samples
from tracekit.mu0.presets import tokenizer_of
from tracekit.mu0.rollout import Rollout, draw_noise, predictions, rollout
from tracekit.mu0.rollout_parameters import RolloutParameters
from tracekit.mu0.scenes import Scene, SceneMaker, captions_of_other_tasks
from tracekit.report import Report

MODEL = network()
TOKENIZER = tokenizer_of(CONFIG)
# Sums in another order: padded batches are other matrices.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.h5")


def ask(corpus_file: Path, *, caption: str | None = None, report: Report | None = None, **parameters: object) -> list[Scene]:
    maker = SceneMaker(CONFIG, STATISTICS, RolloutParameters(**parameters), report or Report(), caption)  # type: ignore[arg-type]
    return list(maker.of_corpus(corpus_file))


def answer(scenes: list[Scene], model: Mu0 = MODEL, seed: int = 0, **parameters: object) -> list[Rollout]:
    return list(rollout(model, TOKENIZER, STATISTICS, scenes, RolloutParameters(**parameters), seed))  # type: ignore[arg-type]


def by_sample(rollouts: list[Rollout]) -> dict[tuple[str, int], np.ndarray]:
    return {(one.scene.sample.clip, one.scene.sample.frame): one.traces for one in rollouts}


def with_rows(scene: Scene, rows: np.ndarray) -> Scene:
    """The same question about some of the keypoints, in some order."""
    names = (
        "current",
        "history",
        "valid_history",
        "history_present",
        "target",
        "target_valid",
        "future",
        "valid_future",
        "entity",
        "moving",
    )
    sample = scene.sample
    return dataclasses.replace(
        scene, sample=dataclasses.replace(sample, noise=sample.noise[rows], **{name: getattr(sample, name)[rows] for name in names})
    )


def test_every_draw_of_every_moving_keypoint(corpus_file: Path) -> None:
    report = Report()
    scenes = ask(corpus_file, report=report)
    result = predictions(answer(scenes, samples=3))
    num_rows = sum(len(scene.sample.current) for scene in scenes)
    assert num_rows == NUM_MOVING * len(scenes) and len(scenes) == 12
    assert result.traces.shape == (num_rows, 3, CONFIG.horizon, 3) and result.validity.shape == (num_rows, CONFIG.horizon)
    assert np.isfinite(result.traces).all()
    assert len(np.unique(result.traces[:, :, -1, 0])) == result.traces[:, :, -1, 0].size, "all draws differ"
    assert report.counts["keypoints that do not move (left out)"] == 2 * len(scenes)


def test_is_the_networks_own_sample_decoded(corpus_file: Path) -> None:
    scene = ask(corpus_file)[1]
    batch = Collate(TOKENIZER)([scene.sample])
    noise = torch.from_numpy(draw_noise(scene.sample, 5, CONFIG, seed=7))[None]
    drawn = MODEL.sample(batch, noise, num_steps=3)
    expected = decode(CONFIG, drawn.points, batch.current, np.array(STATISTICS.delta_scale), drawn.validity)[0]
    (result,) = answer([scene], seed=7, steps=3)
    np.testing.assert_allclose(result.traces, expected.transpose(0, 1), atol=ROUNDING)
    np.testing.assert_allclose(result.validity, drawn.validity[0].mean(dim=0), atol=ROUNDING)


def test_batches_and_order_change_nothing(corpus_file: Path) -> None:
    scenes = ask(corpus_file)
    scenes[4] = with_rows(scenes[4], np.arange(2))  # so that others of its batch are padded
    one_by_one = by_sample(answer(scenes, batch_size=1))
    for other in (answer(scenes, batch_size=5), answer(scenes[::-1], batch_size=7), answer(scenes[3:6], batch_size=3)):
        for name, traces in by_sample(other).items():
            np.testing.assert_allclose(traces, one_by_one[name], atol=ROUNDING)


def test_again_is_the_same_and_another_seed_is_not(corpus_file: Path) -> None:
    scenes = ask(corpus_file)[:2]
    first, again, other = answer(scenes), answer(scenes), answer(scenes, seed=1)
    assert np.array_equal(first[0].traces, again[0].traces)
    assert np.abs(first[0].traces - other[0].traces).max() > 0.01


def test_fewer_draws_are_the_first_of_more(corpus_file: Path) -> None:
    scenes = ask(corpus_file)[:1]
    np.testing.assert_allclose(answer(scenes, samples=2)[0].traces, answer(scenes, samples=5)[0].traces[:, :2], atol=ROUNDING)


def test_the_order_of_keypoints_is_of_no_matter(corpus_file: Path) -> None:
    scene = ask(corpus_file, history=True)[1]
    order = np.random.default_rng(0).permutation(NUM_MOVING)
    (straight,), (shuffled,) = answer([scene]), answer([with_rows(scene, order)])
    assert not np.array_equal(order, np.arange(NUM_MOVING))
    np.testing.assert_allclose(shuffled.traces, straight.traces[order], atol=ROUNDING)
    np.testing.assert_allclose(shuffled.validity, straight.validity[order], atol=ROUNDING)


def test_noise_belongs_to_the_keypoint(corpus_file: Path) -> None:
    one, other = (scene.sample for scene in ask(corpus_file)[:2])
    noise = draw_noise(one, 4, CONFIG, 0)
    some = with_rows(Scene(one, np.zeros(0)), np.array([5, 2])).sample
    assert np.array_equal(draw_noise(some, 4, CONFIG, 0), noise[:, [5, 2]])
    assert np.array_equal(draw_noise(dataclasses.replace(one, caption="x", position=99), 4, CONFIG, 0), noise), "nor of the sentence"
    drawn = [
        noise,
        draw_noise(one, 4, CONFIG, 1),
        draw_noise(other, 4, CONFIG, 0),
        draw_noise(dataclasses.replace(one, clip="x"), 4, CONFIG, 0),
    ]
    assert len(np.unique(np.concatenate([values.ravel() for values in drawn]))) == 4 * noise.size


def test_noise_is_standard_normal() -> None:
    scene = SceneMaker(CONFIG, STATISTICS, RolloutParameters(), Report()).of_picture("x", np.zeros((8, 8, 3), np.uint8), grid_points(24))
    noise = draw_noise(scene.sample, 8, CONFIG, 0)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    # Neither draws nor neighbours on a grid have anything in common.
    flat = noise.reshape(8, 24, 24, -1)
    assert abs(np.corrcoef(flat[0].ravel(), flat[1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]) < 0.02


def test_the_picture_and_the_sentence_are_read_once_for_all_draws_and_steps(corpus_file: Path) -> None:
    scenes = ask(corpus_file)[:4]
    read: list[int] = []
    handle = MODEL.vlm.register_forward_hook(lambda module, inputs, output: read.append(len(inputs[0])))
    try:
        answer(scenes, samples=5, steps=4, batch_size=2)
    finally:
        handle.remove()
    assert read == [2, 2]


def test_by_default_neither_history_nor_depth_is_seen(corpus_file: Path) -> None:
    plain, seeing = ask(corpus_file)[1], ask(corpus_file, history=True, depth=True)[1]
    assert plain.sample.depth is None and not plain.sample.history_present.any()
    assert seeing.sample.depth is not None and seeing.sample.history_present.all()
    blind = dataclasses.replace(plain, sample=dataclasses.replace(plain.sample, history=plain.sample.history + 5))
    assert np.array_equal(answer([plain])[0].traces, answer([blind])[0].traces)


@pytest.mark.parametrize("what", ["history", "depth"])
def test_history_and_depth_matter_where_they_are_shown(corpus_file: Path, what: str) -> None:
    (plain,), (seeing,) = answer(ask(corpus_file)[1:2]), answer(ask(corpus_file, **{what: True})[1:2])
    assert np.abs(plain.traces - seeing.traces).max() > 1e-3


@pytest.mark.parametrize("what", ["history", "depth"])
def test_a_network_without_an_input_refuses_it(what: str) -> None:
    config = dataclasses.replace(CONFIG, use_history=what != "history", use_depth=what != "depth")
    with pytest.raises(UsageError, match=f"made without {what}"):
        SceneMaker(config, STATISTICS, RolloutParameters(**{what: True}), Report())


def test_an_incomplete_history_is_not_shown_and_counted(corpus_file: Path) -> None:
    report = Report()
    first = ask(corpus_file, history=True, report=report)[0]
    assert first.sample.frame == 0 and not first.sample.history_present.any()
    assert report.counts["keypoints without a complete history (predicted without it)"] == 3 * NUM_MOVING


def test_the_truth_and_the_history_are_those_of_the_corpus(corpus_file: Path) -> None:
    result = predictions(answer(ask(corpus_file)))
    with open_records(corpus_file) as file:
        rows = file.read("")
    moving = rows.moving > 0
    assert np.array_equal(result.anchor, rows.current[moving])
    assert np.array_equal(result.true_valid, rows.valid_future[moving]) and np.array_equal(result.history_valid, rows.valid_history[moving])
    np.testing.assert_allclose(result.true_traces, rows.current[moving][:, None] + rows.future[moving], atol=1e-6)
    np.testing.assert_allclose(result.history, rows.current[moving][:, None] + rows.history[moving], atol=1e-6)
    assert result.sample_clip == [rows.clip_name[clip] for clip in rows.sample_clip] and result.sample_frame.tolist() == [0, 3, 6, 9] * 3


def test_the_most_general_caption_is_said_or_what_the_user_says(corpus_file: Path) -> None:
    assert [scene.sample.caption for scene in ask(corpus_file)[3:5]] == ["slide the block", "open the drawer"]
    assert {scene.sample.caption for scene in ask(corpus_file, caption="")} == {""}
    said, other = answer(ask(corpus_file)[:1])[0], answer(ask(corpus_file, caption="close the window")[:1])[0]
    assert np.abs(said.traces - other.traces).max() > 1e-3


def test_swapped_captions_are_of_another_task(corpus_file: Path, tmp_path: Path) -> None:
    maker = SceneMaker(CONFIG, STATISTICS, RolloutParameters(), Report())
    captions = {scene.sample.clip: scene.sample.caption for scene in maker.of_corpus(corpus_file, swap_seed=0)}
    assert captions == {"first": "open the drawer", "second": "slide the block", "third": "slide the block"}
    same = write_corpus(tmp_path / "same.h5", EPISODES[1:])
    with pytest.raises(BadDataError, match=r"all clips of .*same\.h5 have the same or none"):
        captions_of_other_tasks(CorpusReader(read_head(same)), 0)


def test_keypoints_are_limited_evenly(corpus_file: Path) -> None:
    report = Report()
    few, all_of_them = ask(corpus_file, max_keypoints=3, report=report)[0].sample, ask(corpus_file)[0].sample
    assert np.array_equal(few.current, all_of_them.current[[0, 2, 4]])
    assert report.counts["moving keypoints beyond --max-keypoints (left out)"] == 4 * 12


def test_an_episode_gives_the_samples_of_its_corpus(corpus_file: Path, tmp_path: Path) -> None:
    episode = EPISODES[0]
    path = write_episode(tmp_path / "episode.h5", episode)
    maker = SceneMaker(CONFIG, STATISTICS, RolloutParameters(history=True, depth=True), Report())
    with open_records(path) as file:
        assert episode.video.frames is not None
        scenes = list(maker.of_episode(file, episode.video.frames))
    dense = write_corpus(tmp_path / "dense.h5", [episode], every=4)
    expected = ask(dense, history=True, depth=True)
    assert [scene.sample.frame for scene in scenes] == [0, 4, 8] == [scene.sample.frame for scene in expected]
    for one, other in zip(scenes, expected, strict=True):
        assert one.sample.caption == other.sample.caption and np.array_equal(one.sample.depth, other.sample.depth)
        for name in ("current", "history", "future", "valid_history", "valid_future", "history_present", "entity"):
            np.testing.assert_allclose(getattr(one.sample, name), getattr(other.sample, name), atol=1e-6, err_msg=name)
        # The file keeps positions in single precision: the last bits differ, and what is drawn does not.
        assert np.array_equal(draw_noise(one.sample, 2, CONFIG, 0), draw_noise(other.sample, 2, CONFIG, 0))
        assert np.array_equal(one.picture, episode.video.frames[one.sample.frame])


def test_steps_of_an_episode_are_as_long_as_the_networks(tmp_path: Path) -> None:
    """At 0.2 s a step, every other frame of a clip of ten frames a second."""
    slow = dataclasses.replace(STATISTICS, stride_seconds=0.2)
    with open_records(write_episode(tmp_path / "episode.h5", EPISODES[0])) as file:
        frames = EPISODES[0].video.frames
        assert frames is not None
        (scene, *_) = SceneMaker(CONFIG, slow, RolloutParameters(), Report()).of_episode(file, frames)
        (fast, *_) = SceneMaker(CONFIG, STATISTICS, RolloutParameters(), Report()).of_episode(file, frames)
    np.testing.assert_allclose(scene.sample.future[:, :2], fast.sample.future[:, 1::2], atol=1e-6)


def test_a_corpus_with_other_steps_is_refused_naming_both(tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other.h5", config=dataclasses.replace(CONFIG, horizon=6))
    with pytest.raises(BadDataError, match=r"horizon is 6 steps in .*other\.h5, but 4 in the network"):
        ask(other)


def test_what_the_network_did_not_learn_from_is_said(corpus_file: Path) -> None:
    report = Report()
    list(
        SceneMaker(CONFIG, dataclasses.replace(STATISTICS, stride_seconds=0.5, metric=False), RolloutParameters(), report).of_corpus(
            corpus_file
        )
    )
    assert any("a step is 0.1 s in" in note and "0.5 s" in note for note in report.notes)
    assert any("z is metres in" in note and "relative" in note for note in report.notes)


def test_a_bare_picture_has_no_truth_and_no_history() -> None:
    maker = SceneMaker(CONFIG, STATISTICS, RolloutParameters(), Report(), "open the drawer")
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    result = predictions(answer([maker.of_picture("scene", picture, grid_points(4))]))
    assert result.traces.shape == (16, 5, CONFIG.horizon, 3) and result.sample_caption == ["open the drawer"]
    assert result.true_traces is None and result.true_valid is None and result.history is None and result.history_valid is None
    assert not result.anchor[:, 2].any()
    with pytest.raises(UsageError, match="bare picture has no depth"):
        SceneMaker(CONFIG, STATISTICS, RolloutParameters(depth=True), Report()).of_picture("scene", picture, grid_points(1))


def test_a_network_gone_wrong_is_named_with_its_sample(corpus_file: Path) -> None:
    broken = network()
    with torch.no_grad():
        broken.velocity.bias[0] = float("nan")
    with pytest.raises(BadDataError, match="clip first, frame 0 is not finite"):
        answer(ask(corpus_file), broken)


def test_nothing_that_moves_is_an_error(tmp_path: Path) -> None:
    episode = sliding_episode()
    assert episode.motion is not None
    episode = dataclasses.replace(
        episode, motion=dataclasses.replace(episode.motion, moving=np.zeros(len(episode.motion.moving), np.uint8))
    )
    report = Report()
    scenes = ask(write_corpus(tmp_path / "still.h5", [episode]), report=report)
    assert scenes == [] and report.counts["samples in which nothing moves (left out)"] == 4
    with pytest.raises(BadDataError, match="nothing to predict"):
        predictions(answer(scenes))


class SmallDevice(Mu0):
    """A device that holds so many draws at once and no more; torch raises the same error for a graphics card that is full."""

    most = 0

    def sample(self, batch: TraceBatch, noise: Tensor, num_steps: int = 4) -> Samples:
        if noise.shape[0] * noise.shape[1] > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().sample(batch, noise, num_steps)


def test_halves_where_memory_does_not_suffice(corpus_file: Path) -> None:
    small = SmallDevice(CONFIG)
    small.load_state_dict(MODEL.state_dict())
    scenes = ask(corpus_file)[:5]
    expected = by_sample(answer(scenes))
    for most in (8, 5, 2, 1):
        small.most = most
        for name, traces in by_sample(answer(scenes, small.eval())).items():
            np.testing.assert_allclose(traces, expected[name], atol=ROUNDING)
    small.most = 0
    with pytest.raises(StorageError, match="7 keypoints"):
        answer(scenes, small)
