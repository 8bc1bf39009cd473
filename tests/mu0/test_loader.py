"""Batches: whoever makes them, and wherever one begins, they are the same."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpora import config, corpora

from tracekit.errors import BadDataError, ConfigurationError, StorageError
from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.collate import Collate
from tracekit.mu0.dataset import EvaluationDataset, TraceDataset
from tracekit.mu0.rigid_pairs import rigid_pairs
from tracekit.mu0.sample import TraceSample
from tracekit.mu0.sampling_parameters import SamplingParameters
from tracekit.mu0.text import WordTokenizer
from tracekit.training.loader import evaluation_loader, loader

__all__ = ["corpora"]

COLLATE = Collate(WordTokenizer(500, 48))


def samples(corpora: Path, seed: int = 0, **parameters: float) -> TraceDataset:
    return TraceDataset([corpora / "embedded.h5", corpora / "referenced.h5"], config(), SamplingParameters(**parameters), seed=seed)  # type: ignore[arg-type]


def assert_same(one: TraceBatch, other: TraceBatch) -> None:
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is None and b is None) or torch.equal(a, b), field.name


# --- collating


def test_keypoints_are_padded_with_nothing(corpora: Path) -> None:
    made = [samples(corpora, depth_dropout=0.2)[position] for position in range(8)]
    assert len({sample.depth is None for sample in made}) == 2
    batch = COLLATE(made)
    numbers = [len(sample.current) for sample in made]
    assert batch.present.shape == (8, max(numbers)) and batch.present.sum(dim=1).tolist() == numbers
    assert len(batch) == 8 and batch.position.tolist() == list(range(8))
    for row, sample in enumerate(made):
        number = len(sample.current)
        for field in ("current", "future", "valid_future", "target", "target_valid", "moving", "noise", "history_present"):
            values = getattr(batch, field)[row].numpy()
            np.testing.assert_array_equal(values[:number], getattr(sample, field), err_msg=field)
            assert not values[number:].any(), field
        assert batch.entity[row, number:].eq(-1).all()
        known = sample.history * sample.history_present[:, None, None]
        np.testing.assert_array_equal(batch.history[row, :number].numpy(), known)
        np.testing.assert_array_equal(batch.image[row].numpy(), sample.image)
        assert batch.depth is not None and batch.depth_present[row] == (sample.depth is not None)
        if sample.depth is not None:
            np.testing.assert_array_equal(batch.depth[row].numpy(), sample.depth)
        ids, _ = COLLATE.tokenizer([sample.caption])
        assert batch.text[row, : ids.shape[1]].tolist() == ids[0].tolist()
        assert batch.text_present[row].sum() == ids.shape[1]


def test_without_any_depth_there_is_no_depth(corpora: Path) -> None:
    batch = COLLATE([samples(corpora, depth_dropout=1.0)[position] for position in range(4)])
    assert batch.depth is None and not batch.depth_present.any()


def test_a_batch_moves_and_is_made_of_nothing_but_tensors(corpora: Path) -> None:
    batch = COLLATE([samples(corpora)[0]])
    assert_same(batch.to("cpu"), batch)
    types = {type(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
    assert types <= {torch.Tensor, type(None)}


def test_rigid_pairs_are_all_pairs_of_one_thing_once() -> None:
    random = np.random.default_rng(0)
    for num_samples, num_keypoints, num_entities in ((1, 1, 1), (3, 7, 2), (5, 12, 4), (2, 0, 1)):
        entity = random.integers(-1, num_entities, (num_samples, num_keypoints))
        valid = random.random((num_samples, num_keypoints)) < 0.8
        pairs, weights = rigid_pairs(torch.from_numpy(entity), torch.from_numpy(valid))
        expected = {
            (sample * num_keypoints + one, sample * num_keypoints + other): sample
            for sample in range(num_samples)
            for one in range(num_keypoints)
            for other in range(one + 1, num_keypoints)
            if valid[sample, one] and valid[sample, other] and entity[sample, one] == entity[sample, other] >= 0
        }
        assert len(pairs) == len(expected) and {tuple(pair) for pair in pairs.tolist()} == set(expected)
        of_sample = list(expected.values())
        assert weights.tolist() == pytest.approx([1 / of_sample.count(expected[tuple(pair)]) for pair in pairs.tolist()])


# --- order


@pytest.mark.parametrize(("num_workers", "start_method"), [(1, None), (2, "fork"), (2, "spawn")])
def test_workers_change_nothing(corpora: Path, num_workers: int, start_method: str | None) -> None:
    dataset = samples(corpora)
    dataset[0]  # files are open in this process when others are forked
    alone = list(loader(dataset, COLLATE, 4, stop=26))
    shared = list(loader(dataset, COLLATE, 4, stop=26, num_workers=num_workers, start_method=start_method))
    assert [len(batch) for batch in shared] == [4] * 6 + [2]
    for one, other in zip(alone, shared, strict=True):
        assert_same(one, other)
    dataset[1]  # and usable afterwards


def test_processes_share_every_batch_in_contiguous_parts(corpora: Path) -> None:
    dataset = samples(corpora)
    whole = [batch.position.tolist() for batch in loader(dataset, COLLATE, 6, start=6, stop=30)]
    assert whole == [list(range(first, first + 6)) for first in range(6, 30, 6)]
    parts = [
        [batch.position.tolist() for batch in loader(dataset, COLLATE, 6, start=6, stop=30, rank=rank, world_size=3)] for rank in range(3)
    ]
    assert [[*first, *second, *third] for first, second, third in zip(*parts, strict=True)] == whole
    with pytest.raises(ConfigurationError, match="7 samples cannot be shared by 2"):
        next(loader(dataset, COLLATE, 7, world_size=2))


def test_a_run_that_goes_on_gets_what_the_uninterrupted_one_gets(corpora: Path) -> None:
    length = len(samples(corpora))
    whole = list(loader(samples(corpora), COLLATE, 8, start=length - 16, stop=length + 16))  # over the end of an epoch
    rest = list(loader(samples(corpora), COLLATE, 8, start=length, stop=length + 16, num_workers=1))
    for one, other in zip(whole[2:], rest, strict=True):
        assert_same(one, other)


def test_without_a_stop_the_epoch_is_finished(corpora: Path) -> None:
    dataset = samples(corpora)
    assert sum(len(batch) for batch in loader(dataset, COLLATE, 16)) == len(dataset)


def test_the_random_state_of_torch_is_left_alone(corpora: Path) -> None:
    before = torch.random.get_rng_state()
    list(loader(samples(corpora), COLLATE, 4, stop=8, num_workers=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_comes_with_its_samples_and_without_their_pictures(corpora: Path) -> None:
    dataset = EvaluationDataset([corpora / "embedded.h5"], config())
    seen: list[TraceSample] = []
    for batch, made in evaluation_loader(dataset, COLLATE, 5, num_workers=1):
        assert batch.position.tolist() == [sample.position for sample in made]
        seen += made
    assert [sample.position for sample in seen] == list(range(len(dataset)))
    assert all(sample.image.size == 0 and sample.depth is None for sample in seen)


# --- faults


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_workers_arrive_as_they_were_raised(corpora: Path, num_workers: int) -> None:
    dataset = EvaluationDataset([corpora / "referenced.h5"], config())
    for head in dataset.index.heads:
        head.clip_sha256[1] = "0" * 64
    with pytest.raises(BadDataError, match="another content") as caught:
        list(loader(dataset, COLLATE, 4, num_workers=num_workers))
    assert "Traceback" not in str(caught.value) and "make the corpus again" in caught.value.hint
    assert not multiprocessing.active_children(), "while the error is still there: a worker that is kept holds the program up at its end"


class _Killed(TraceDataset):
    def __getitem__(self, position: int) -> TraceSample:
        if position == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(position)


def test_a_worker_that_is_killed_is_an_error_with_a_way_out(corpora: Path) -> None:
    with pytest.raises(StorageError, match="was ended") as caught:
        list(loader(_Killed([corpora / "embedded.h5"], config()), COLLATE, 4, stop=16, num_workers=1))
    assert "memory" in caught.value.hint
    # torch hears of the end by a signal and raises wherever this process then is: in the midst of receiving a batch, a socket stays open.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del caught
        gc.collect()


class _Garbage:
    """In a cycle with itself: freed by the garbage collector, wherever that runs next."""

    def __init__(self, note: Path) -> None:
        self.itself, self.note, self.pid = self, note, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.pid:
            self.note.write_text("freed by a worker")


class _Collecting(TraceDataset):
    def __getitem__(self, position: int) -> TraceSample:
        gc.collect()
        return super().__getitem__(position)


def test_workers_free_nothing_that_this_process_made(corpora: Path, tmp_path: Path) -> None:
    """A decoder that is freed in a forked process waits for ever."""
    dataset = _Collecting([corpora / "embedded.h5"], config())
    _Garbage(tmp_path / "note")
    assert len(list(loader(dataset, COLLATE, 2, stop=4, num_workers=1, start_method="fork"))) == 2
    assert not (tmp_path / "note").exists()
