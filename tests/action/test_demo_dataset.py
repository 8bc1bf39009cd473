"""Samples of demonstrations: what they say is what the files say, and what is random follows from seed and position alone."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_features import TOKENIZER, WORLD, expert, two_files
from demo_recordings import actions, pictures, write_recordings

from tracekit.action.augmentation import augmented
from tracekit.action.collate import ActionCollate
from tracekit.action.dataset import ActionSample, DemoDataset, draw_tau
from tracekit.action.demo_index import DemoIndex
from tracekit.action.normalisation import Normalisation, fit_normalisation
from tracekit.errors import BadDataError, ConfigurationError
from tracekit.format.demo_file import DemoLayout
from tracekit.pictures import to_square
from tracekit.report import Report
from tracekit.training.loader import loader

PLAIN = Normalisation("identity", (0.0,) * 2, (1.0,) * 2, (0.0,) * 3, (1.0,) * 3)


def same(one: ActionSample, other: ActionSample) -> bool:
    values = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in values)


def dataset(files: list[Path], **changes: object) -> DemoDataset:
    config = changes.pop("config", expert(gripper_features="stem", gripper_size=16))
    return DemoDataset(files, None, config, WORLD, PLAIN, **{"seed": 3, **changes})  # type: ignore[arg-type]


def test_every_frame_of_a_split_comes_once_an_epoch_with_what_follows_it(tmp_path: Path) -> None:
    samples = dataset(two_files(tmp_path), split="train", draws=5)
    assert len(samples) == 3 + 6 + 4 + 6
    lengths = {("one", 0): 3, ("one", 1): 6, ("other", 0): 4, ("other", 1): 6}
    sentences = {("one", 0): "push it", ("one", 1): "lift the red block up there", ("other", 0): "close", ("other", 1): ""}
    for epoch in range(2):
        seen = []
        for position in range(epoch * len(samples), (epoch + 1) * len(samples)):
            sample = samples[position]
            where, step = samples.origin(position)
            number, name = int(where.split()[0].removeprefix("demo_")), Path(where.split()[-1]).stem
            seen.append((name, number, step))
            length = lengths[name, number]
            truth = actions(number, length).astype(np.float32)
            for later in range(4):
                assert sample.action_valid[later] == (step + later < length)
                expected = truth[step + later] if step + later < length else np.zeros(3)
                np.testing.assert_array_equal(sample.actions[later], expected)
            np.testing.assert_array_equal(sample.state, np.arange(2) + 2 * step + 1000 * number)
            assert sample.language == sentences[name, number] and sample.position == position
            for place, (shown, size) in enumerate(((sample.image, 32), (sample.gripper, 16))):
                assert shown is not None
                expected = to_square(pictures(number, length, place)[step], size).transpose(2, 0, 1)
                np.testing.assert_array_equal(shown, expected)
            assert sample.noise.shape == (5, 4, 3) and sample.noise.dtype == np.float32
            assert sample.tau.shape == (5,) and sample.tau.dtype == np.float32
        assert len(set(seen)) == len(samples)
        assert {(name, number) for name, number, _ in seen} == set(lengths)
    orders = [[samples.origin(epoch * 19 + place) for place in range(19)] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_the_splits_share_nothing(tmp_path: Path) -> None:
    files = [two_files(tmp_path)[0]]
    origins = {name: {dataset(files, split=name).origin(place) for place in range(20)} for name in ("train", "valid", "all")}
    assert not origins["train"] & origins["valid"]
    assert origins["train"] | origins["valid"] == origins["all"]
    assert {key for key, _ in origins["valid"]} == {f"demo_2 of {files[0]}"}
    with pytest.raises(BadDataError, match="in the split `valid`"):
        dataset([write_recordings(tmp_path / "d.h5", [3])], split="valid")


def test_a_sample_follows_from_seed_and_position_alone(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    one, other = dataset(files, augment=True), pickle.loads(pickle.dumps(dataset(files, augment=True)))
    there = [one[position] for position in range(25)]
    back = [other[position] for position in reversed(range(25))][::-1]
    assert all(same(a, b) for a, b in zip(there, back, strict=True))
    assert not same(there[0], dataset(files, augment=True, seed=4)[0])


def test_augmentation_changes_pictures_and_nothing_else(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    plain, changed = dataset(files)[2], dataset(files, augment=True)[2]
    assert not np.array_equal(plain.image, changed.image) and not np.array_equal(plain.gripper, changed.gripper)
    assert same(plain, dataclasses.replace(changed, image=plain.image, gripper=plain.gripper))


def test_a_picture_is_shifted_a_little_and_its_light_changes() -> None:
    """A white square on black: after shift and light it is a square still, of one grey, close to where it was."""
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60, 40:60] = 120
    places, greys = set(), set()
    for number in range(200):
        seen = augmented(picture, np.random.default_rng(number)).astype(int)
        assert seen.shape == picture.shape
        grey = seen[50, 50, 0]
        rows, columns = np.nonzero(seen[..., 0] == grey)
        assert len(rows) == 400 and np.ptp(rows) == np.ptp(columns) == 19
        places.add((rows.min() - 40, columns.min() - 40))
        greys.add(grey)
    offsets = np.array(list(places))
    assert offsets.min() == -4 and offsets.max() == 4 and len(places) > 50
    assert 120 * 0.8**2 < min(greys) < 95 and 145 < max(greys) < 120 * 1.2**2


def test_a_gripper_camera_is_read_where_it_is_looked_at(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    sizes = {}
    for kind in ("dinov2", "stem", "none"):
        gripper = dataset(files, config=expert(gripper_features=kind, gripper_size=16))[0].gripper
        sizes[kind] = None if gripper is None else gripper.shape
    assert sizes == {"dinov2": (3, 32, 32), "stem": (3, 16, 16), "none": None}
    layout = DemoLayout(gripper="")
    assert DemoDataset(files, layout, expert(gripper_features="none"), 8, PLAIN)[0].image.shape == (3, 8, 8)  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="gripper camera"):
        DemoDataset(files, layout, expert(gripper_features="stem"), WORLD, PLAIN)


def test_another_robot_is_refused(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    with pytest.raises(BadDataError, match=r"actions have 3 numbers in .*one\.h5, but 7 in the policy"):
        dataset(files, config=expert(action_size=7))
    with pytest.raises(BadDataError, match=r"states have 2 numbers in .*one\.h5, but 9 in the policy"):
        dataset(files, config=expert(state_size=9))
    more = write_recordings(tmp_path / "more.h5", [3], action_size=4)
    with pytest.raises(BadDataError, match=r"actions have 3 numbers in .*one\.h5, but 4 in .*more\.h5"):
        dataset([*files, more])
    with pytest.raises(BadDataError, match="no demonstrations to learn from"):
        dataset([])


def test_a_sentence_for_those_that_have_none_and_what_is_counted(tmp_path: Path) -> None:
    report = Report()
    files = two_files(tmp_path)
    index = DemoIndex(files, report=report)
    assert report.counts == {
        "demonstrations": 5,
        "demonstrations that the masks name in no split (left out)": 0,
        "demonstrations without a sentence": 1,
        "frames": 21,
    }
    assert index.language == ["push it", "lift the red block up there", "push it", "close", ""]
    assert DemoIndex(files, language=" wait ").language == ["push it", "lift the red block up there", "push it", "close", "wait"]


def test_the_index_gives_the_numbers_to_fit_a_normalisation_to(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    index = DemoIndex(files)
    expected = np.concatenate([actions(0, 3), actions(1, 6), actions(0, 4), actions(1, 6)]).astype(np.float32)
    np.testing.assert_array_equal(index.actions("train"), expected)
    np.testing.assert_array_equal(index.actions("valid"), actions(2, 2).astype(np.float32))
    assert index.states("all").shape == (21, 2)
    fitted = fit_normalisation(index.states("train"), index.actions("train"), "mean_std")
    samples = DemoDataset(index, None, expert(gripper_features="none"), WORLD, fitted, seed=3)
    plain = dataset(files)
    for position in range(5):
        one, other = samples[position], plain[position]
        np.testing.assert_array_equal(one.state, fitted.normalise_state(other.state))
        valid = one.action_valid
        np.testing.assert_array_equal(one.actions[valid], fitted.normalise_actions(other.actions[valid]))
        assert (one.actions[~valid] == 0).all()  # where 0 is not what 0 becomes: padding stays 0


def test_flow_times_lean_to_noise_and_those_of_diffusion_do_not() -> None:
    random = np.random.default_rng(0)
    flow, diffusion = draw_tau(random, 20_000, "flow"), draw_tau(random, 20_000, "diffusion")
    assert flow.min() >= 0 and flow.max() < 1 and diffusion.min() >= 0 and diffusion.max() < 1
    # 1 - (least + (1 - least) x) with x of Beta(1.5, 1), whose mean is 0.6
    np.testing.assert_allclose(flow.mean(), 0.999 * 0.4, atol=0.006)
    np.testing.assert_allclose(diffusion.mean(), 0.5, atol=0.006)


def test_a_batch_holds_the_samples_and_their_sentences(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    samples = dataset(files, draws=2)
    chosen = [samples[position] for position in range(7)]
    batch = ActionCollate(TOKENIZER)(chosen)
    text, present = TOKENIZER([sample.language for sample in chosen])
    np.testing.assert_array_equal(batch.text, text)
    np.testing.assert_array_equal(batch.text_present, present)
    assert batch.features is None and len(batch) == 7
    for row, sample in enumerate(chosen):
        for name in ("image", "gripper", "state", "actions", "action_valid", "noise", "tau"):
            np.testing.assert_array_equal(getattr(batch, name)[row], getattr(sample, name))
    assert batch.position.tolist() == list(range(7))
    assert batch.position.dtype == torch.int64 and batch.action_valid.dtype == torch.bool and batch.image.dtype == torch.uint8  # type: ignore[union-attr]
    without = ActionCollate(TOKENIZER)([dataset(files, config=expert(gripper_features="none"))[0]])
    assert without.gripper is None


def test_workers_read_the_same_batches_and_their_errors_arrive_as_they_are(tmp_path: Path) -> None:
    files = two_files(tmp_path)
    samples = dataset(files, augment=True)
    samples[0]  # the file is open here, too, when the workers begin
    here = list(loader(samples, ActionCollate(TOKENIZER), 4, start=2, stop=40))
    there = list(loader(samples, ActionCollate(TOKENIZER), 4, start=2, stop=40, num_workers=2))
    assert [len(batch) for batch in there] == [4] * 9 + [2]
    for one, other in zip(here, there, strict=True):
        for field in dataclasses.fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert (a is None and b is None) or torch.equal(a, b), field.name
    files[1].write_bytes(files[1].read_bytes()[:-1000])
    with pytest.raises(BadDataError, match=r"other\.h5 is cut off"):
        list(loader(dataset_of(samples), ActionCollate(TOKENIZER), 4, num_workers=1))


def dataset_of(samples: DemoDataset) -> DemoDataset:
    """As it comes to another process: without open files."""
    return pickle.loads(pickle.dumps(samples))
