"""The engine: a run that stops and goes on is the run that does not, however the work is cut; what goes wrong is named."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from training_corpus import make_corpus

from tracekit.errors import BadDataError, ConfigurationError, ResumableError, StorageError, UnavailableError
from tracekit.evaluation.trace_scores import TraceParameters, score
from tracekit.mu0.checkpoint import load_model
from tracekit.mu0.collate import Collate
from tracekit.mu0.corpus_reader import read_head
from tracekit.mu0.cost import StepOperations, count, count_parts, estimate_memory
from tracekit.mu0.example_batch import example_batch
from tracekit.mu0.loss_weights import LossWeights
from tracekit.mu0.losses import loss_counts, losses
from tracekit.mu0.optimiser import optimiser
from tracekit.mu0.presets import PRESETS, build, tokenizer_of
from tracekit.mu0.recipe import Mu0Engine as EngineParameters
from tracekit.mu0.recipe import Mu0Recipe as Recipe
from tracekit.mu0.rollout import predictions, rollout
from tracekit.mu0.rollout_parameters import RolloutParameters
from tracekit.mu0.sampling_parameters import SamplingParameters
from tracekit.mu0.scenes import Scene
from tracekit.mu0.training import Plan, corpus_statistics, pretrain, training_dataset, validation_dataset
from tracekit.mu0.validation import Validation
from tracekit.report import Report
from tracekit.training.loop import micro_batches
from tracekit.training.optimiser import learning_rate, trained_parameters
from tracekit.training.processes import Processes, first_host, meeting_place
from tracekit.training.run_folder import RunFolder
from tracekit.training.run_log import RunLog
from tracekit.training.stop_signals import StopRequest
from tracekit.training.train_step import explained_exhaustion

ALONE = Processes(0, 1, torch.device("cpu"))
TINY = PRESETS["tiny-random"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower in threads, and sums in threads differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("corpus")))


def plan(corpus: str, *, engine: dict[str, Any] | None = None, network: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """Four steps of the tiny network; `changes` are of the recipe, or of the plan."""
    recipe = {"steps": 4, "batch_size": 4, "warmup": 1, "learning_rate": 1e-3}
    recipe |= {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    settings = {"micro_batch": 4, "validate_every": 0, "precision": "fp32"} | (engine or {})
    config = dataclasses.replace(TINY, **(network or {}))
    return dataclasses.replace(
        Plan(config, Recipe(**recipe), LossWeights(), SamplingParameters(), EngineParameters(**settings), [corpus]), **changes
    )


def train(what: Plan, folder: Path, **options: Any) -> RunFolder:
    run = RunFolder(folder)
    pretrain(what, run, ALONE, StopRequest(), Report(), **options)
    return run


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    last = run.last()
    assert last is not None
    return safetensors.torch.load_file(last / "model.safetensors")


def log(run: RunFolder) -> list[dict[str, Any]]:
    """Lines without what depends on the clock."""
    clock = ("seconds", "samples_per_second", "teraflops", "mfu")
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_learning_rate_rises_and_falls_as_the_paper_says() -> None:
    recipe = Recipe()
    assert learning_rate(1, recipe) == pytest.approx(1e-7) and learning_rate(1000, recipe) == pytest.approx(1e-4)
    assert learning_rate(1000 + 199_000 // 2, recipe) == pytest.approx((1e-4 + 2.5e-6) / 2)
    assert learning_rate(200_000, recipe) == pytest.approx(2.5e-6)
    short = Recipe(steps=20, warmup=1000)
    assert [learning_rate(step, short) for step in (1, 2)] == pytest.approx([5e-5, 1e-4]), "a tenth of the steps at most"
    assert learning_rate(1, Recipe(steps=1)) == pytest.approx(2.5e-6)


def test_the_vlm_learns_slowly_where_it_learns() -> None:
    frozen = optimiser(build(TINY), Recipe())
    assert [group["rate"] for group in frozen.param_groups] == [1.0], "its depth stem and low-rank paths are new"
    model = build(dataclasses.replace(TINY, freeze_vlm=False))
    groups = optimiser(model, Recipe()).param_groups
    slow = {id(value) for group in groups if group["rate"] == 0.1 for value in group["params"]}
    named = trained_parameters(model)
    assert {name for name, value in named.items() if id(value) in slow} == {
        name for name in named if name.startswith("vlm.smolvlm.") and "lora_" not in name
    }
    assert sum(len(group["params"]) for group in groups) == len(named)
    assert groups[0]["betas"] == (0.9, 0.95) and groups[0]["weight_decay"] == 1e-10


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(24, 6, 1, (6, 4)), (24, 6, 2, (6, 2)), (24, 6, 8, (3, 1)), (24, 7, 2, (6, 2)), (10, 4, 1, (2, 5)), (7, 3, 1, (1, 7))],
)
def test_a_batch_is_cut_evenly(batch: int, micro: int, processes: int, expected: tuple[int, int]) -> None:
    assert micro_batches(Recipe(batch_size=batch), EngineParameters(micro_batch=micro), processes) == expected
    with pytest.raises(ConfigurationError, match="cannot be shared by 9"):
        micro_batches(Recipe(batch_size=batch), EngineParameters(), 9)


def test_a_run_that_stops_and_goes_on_is_the_run_that_does_not(corpus: str, tmp_path: Path) -> None:
    validating = {"validate_every": 2, "validation_samples": 4, "validation_draws": 2}
    through = train(plan(corpus, engine=validating, held_out=0.25), tmp_path / "through")
    stopping = plan(corpus, engine={**validating, "stop_after": 2}, held_out=0.25)
    with pytest.raises(ResumableError, match="after step 2 of 4"):
        train(stopping, tmp_path / "stopped")
    stopped = train(stopping, tmp_path / "stopped")
    for name in ("model.safetensors", "train_state/optimizer.safetensors", "train_state/state.json"):
        one, other = (run.step_folder(4) / name for run in (through, stopped))
        assert one.read_bytes() == other.read_bytes(), name
    assert log(through) == log(stopped) and [line["step"] for line in log(through)] == [1, 2, 2, 3, 4, 4]
    assert json.loads((through.path / "best.json").read_text()) == json.loads((stopped.path / "best.json").read_text())
    report = Report()
    pretrain(stopping, stopped, ALONE, StopRequest(), report)
    assert any("all 4 steps are done" in note for note in report.notes)


def test_steps_after_the_last_checkpoint_are_done_and_logged_again(corpus: str, tmp_path: Path) -> None:
    """As after a kill: the log is ahead of the checkpoint, and its last line is cut."""
    through = train(plan(corpus), tmp_path / "through")
    with pytest.raises(ResumableError):
        train(plan(corpus, engine={"stop_after": 2}), tmp_path / "killed")
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    killed = train(plan(corpus), tmp_path / "killed")
    assert log(killed) == log(through) and difference(weights(killed), weights(through)) == 0.0


def test_micro_batches_add_up_to_the_batch(corpus: str, tmp_path: Path) -> None:
    whole = train(plan(corpus), tmp_path / "whole")
    parts = train(plan(corpus, engine={"micro_batch": 1}), tmp_path / "parts")
    assert difference(weights(whole), weights(parts)) < 1e-5
    for one, other in zip(log(whole), log(parts), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_gradient_checkpointing_changes_nothing(corpus: str, tmp_path: Path) -> None:
    plain = train(plan(corpus), tmp_path / "plain")
    again = train(plan(corpus, engine={"gradient_checkpointing": True}), tmp_path / "again")
    assert difference(weights(plain), weights(again)) < 1e-6


def test_only_what_is_trained_changes_and_learns(corpus: str, tmp_path: Path) -> None:
    run = train(plan(corpus, steps=60, learning_rate=3e-3, batch_size=8), tmp_path / "run")
    before, after = build(TINY), load_model(run.path)[0]
    trained = trained_parameters(before)
    for name, value in before.named_parameters():
        same = torch.equal(value, after.get_parameter(name))
        assert same == (name not in trained) or not value.any(), name
    lines = log(run)
    first, last = (np.mean([line["loss"] for line in part]) for part in (lines[:10], lines[-10:]))
    assert last < 0.8 * first


def test_bfloat16_keeps_float32_where_it_learns(corpus: str, tmp_path: Path) -> None:
    run = train(plan(corpus, engine={"precision": "bf16"}), tmp_path / "run")
    exact = train(plan(corpus), tmp_path / "exact")
    trained = trained_parameters(build(TINY))
    for name, value in weights(run).items():
        assert value.dtype == (torch.float32 if name in trained else torch.bfloat16), name
    assert log(run)[-1]["loss"] == pytest.approx(log(exact)[-1]["loss"], rel=0.05)
    load_model(run.path)


def test_another_configuration_is_refused_by_name(corpus: str, tmp_path: Path) -> None:
    run = train(plan(corpus), tmp_path / "run")
    other = plan(corpus, learning_rate=0.5, seed=3, network={"use_depth": False})
    with pytest.raises(ConfigurationError) as caught:
        train(other, run.path)
    for what in ("--learning-rate was 0.001 and is 0.5", "--seed was 0 and is 3", "use_depth of the network was True and is False"):
        assert what in caught.value.message
    assert list(run.steps()) == [4]
    before = weights(run)
    train(other, run.path, force=True)
    assert list(run.steps()) == [4] and weights(run).keys() != before.keys()
    assert len(log(run)) == 4


def test_other_samples_are_another_run(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(ResumableError):
        train(plan(corpus, engine={"stop_after": 1}), tmp_path / "run")
    other = make_corpus(tmp_path / "other", num_clips=2)
    with pytest.raises(ConfigurationError, match="the corpus holds other samples"):
        train(plan(str(other)), tmp_path / "run")
    moved = tmp_path / "moved.h5"
    moved.write_bytes(Path(corpus).read_bytes())
    train(plan(str(moved)), tmp_path / "run")


def test_a_step_that_is_not_finite_stops_by_name(corpus: str, tmp_path: Path) -> None:
    """A learning rate that throws the weights out of the range of float32."""
    wild = plan(corpus, learning_rate=1e30, steps=30, warmup=0, engine={"save_every": 1})
    with pytest.raises(BadDataError) as caught:
        train(wild, tmp_path / "run")
    lines = log(RunFolder(tmp_path / "run"))
    step = lines[-1]["step"] + 1
    positions = ", ".join(str(position) for position in range(4 * (step - 1), 4 * step))
    assert f"step {step} is not finite" in caught.value.message and f"Positions: {positions}" in caught.value.message
    dataset = training_dataset(wild, Report())
    assert f"clip {dataset[4 * (step - 1)].clip}, frame" in caught.value.message
    run = RunFolder(tmp_path / "run")
    assert run.last() == run.step_folder(step - 1), "what was whole before is still there"
    assert load_model(run.step_folder(step - 1))


def test_validation_is_what_rollout_and_evaluate_say(corpus: str, tmp_path: Path) -> None:
    settings = {"validate_every": 2, "validation_samples": 6, "validation_draws": 5}
    what = plan(corpus, steps=2, engine=settings, held_out=0.25)
    run = train(what, tmp_path / "run")
    figures = log(run)[-1]["validation"]
    model, statistics = load_model(run.path)
    learnt = training_dataset(what, Report())
    dataset = validation_dataset(what, learnt.index, Report())
    assert dataset is not None and len(dataset) == 6
    held_out = {dataset[place].clip for place in range(6)}
    assert held_out.isdisjoint(learnt[position].clip for position in range(len(learnt)))

    scenes = [Scene(dataset[place], np.zeros((1, 1, 3), np.uint8)) for place in range(6)]
    answers = rollout(model, tokenizer_of(TINY), statistics, scenes, RolloutParameters(samples=5, precision="fp32"))
    expected = score(predictions(answers), TraceParameters(metric=["ade", "dtw"], horizons="32", resamples=0)).numbers()
    for name in ("ade/top1/32", "ade/top5/32", "dtw/top1/32", "dtw/top5/32", "static/ade/top1/32"):
        assert figures[name] == pytest.approx(expected[name], rel=1e-4), name
    assert json.loads((run.path / "best.json").read_text())["value"] == figures["ade/top5/32"]
    assert statistics == corpus_statistics(learnt.index) and statistics.delta_scale == tuple(read_head(corpus).delta_scale)


def test_a_corpus_of_its_own_to_validate_on(corpus: str, tmp_path: Path) -> None:
    other = str(make_corpus(tmp_path / "other", num_clips=2, speed=0.9))
    what = plan(corpus, steps=1, engine={"validate_every": 1}, held_out=0.25)
    with pytest.raises(BadDataError, match=r"delta_scale is \[0.308.* and \[0.511"):
        train(dataclasses.replace(what, validation=[other]), tmp_path / "run")
    own = dataclasses.replace(what, validation=[corpus])
    learnt = training_dataset(own, Report())
    assert len(learnt) == 52, "nothing is held out then"
    assert "validation" in log(train(own, tmp_path / "own"))[-1]


def test_the_best_checkpoints_are_kept(corpus: str, tmp_path: Path) -> None:
    settings = {"validate_every": 1, "validation_samples": 4, "validation_draws": 1, "keep_last": 1, "keep_best": 1}
    run = train(plan(corpus, steps=6, engine=settings, held_out=0.25), tmp_path / "run")
    scores = {line["step"]: line["validation"]["ade/top1/32"] for line in log(run) if "validation" in line}
    best = min(scores, key=lambda step: scores[step])
    assert set(run.steps()) == {best, 6} and run.best() == run.step_folder(best)


def test_a_validation_that_is_not_finite_is_nobodys_best(corpus: str, tmp_path: Path) -> None:
    """The first step is finite, and with this learning rate leaves weights that no picture survives."""
    settings = {"validate_every": 1, "validation_samples": 4, "validation_draws": 1}
    what = plan(corpus, steps=1, learning_rate=1e36, final_learning_rate=1e36, engine=settings, held_out=0.25)
    report, run = Report(), RunFolder(tmp_path / "run")
    pretrain(what, run, ALONE, StopRequest(), report)
    assert any("step 1: the validation is not finite and counts for nothing" in note for note in report.notes)
    assert run.last() == run.step_folder(1) and run.best() is None
    assert json.loads((run.step_folder(1) / "train_state/state.json").read_text()) == {"step": 1, "score": None}
    assert log(run)[-1]["validation"]["loss"] is None


@pytest.mark.parametrize(
    ("figures", "score"),
    [
        ({"loss": 2.0, "ade/top2/32": 0.5}, 0.5),
        ({"loss": 2.0, "ade/top2/32": math.nan}, 2.0),
        ({"loss": 2.0}, 2.0),
        ({"loss": 2.0, "ade/top2/32": math.inf}, None),
        ({"loss": math.nan}, None),
        ({"loss": math.nan, "ade/top2/32": 0.5}, None),
        ({"loss": math.inf, "ade/top2/32": math.nan}, None),
    ],
)
def test_a_score_is_finite_or_none(corpus: str, figures: dict[str, float], score: float | None) -> None:
    assert validation(corpus, num_samples=4, micro_batch=2).score(figures) == score


def validation(corpus: str, num_samples: int, micro_batch: int) -> Validation:
    what = plan(corpus, engine={"validate_every": 1, "validation_samples": num_samples}, held_out=0.25)
    dataset = validation_dataset(what, training_dataset(what, Report()).index, Report())
    assert dataset is not None and len(dataset) == num_samples
    return Validation(TINY, dataset, Collate(tokenizer_of(TINY)), LossWeights(), 2, micro_batch, 0, False)


@pytest.mark.parametrize(
    ("num_samples", "micro_batch", "world_size", "sizes"),
    [(7, 4, 1, [4, 3]), (7, 2, 3, [2]), (10, 4, 2, [4, 1]), (6, 3, 2, [3]), (3, 8, 2, [1])],
)
def test_only_the_last_batch_of_a_validation_is_smaller(
    corpus: str, num_samples: int, micro_batch: int, world_size: int, sizes: list[int]
) -> None:
    what, seen = validation(corpus, num_samples, micro_batch), []
    for rank in range(world_size):
        batches = list(what._batches(Processes(rank, world_size, torch.device("cpu"))))
        assert [len(samples) for _, samples in batches] == sizes, "as many in every process"
        seen += [sample.position for _, samples in batches for sample in samples]
    assert sorted(seen) == list(range(num_samples // world_size * world_size))


def test_samples_are_named_without_being_read(corpus: str, tmp_path: Path) -> None:
    copy = shutil.copy(corpus, tmp_path / "corpus.h5")
    what = plan(str(copy))
    dataset = training_dataset(what, Report())
    positions = range(0, 2 * len(dataset), 5)
    expected = [(sample.clip, sample.frame) for sample in map(dataset.__getitem__, positions)]
    dataset = training_dataset(what, Report())
    os.remove(copy)
    assert [dataset.origin(position) for position in positions] == expected


def test_one_clip_cannot_be_held_out(tmp_path: Path) -> None:
    lonely = str(make_corpus(tmp_path, num_clips=1))
    report = Report()
    what = plan(lonely, steps=1, held_out=0.5, engine={"validate_every": 1})
    pretrain(what, RunFolder(tmp_path / "run"), ALONE, StopRequest(), report)
    assert any("nothing to validate on" in note for note in report.notes)
    assert RunFolder(tmp_path / "run").last() is not None


def test_packages_that_are_not_there_are_named(corpus: str, tmp_path: Path) -> None:
    asked = plan(corpus, engine={"wandb": "project"})
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(UnavailableError, match="pip install wandb"):
            train(asked, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_the_log_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    run.log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    writer = RunLog(run, EngineParameters(), 2, {})
    writer.write(3, {"loss": math.nan, "seconds": {"data": 0.5}})
    writer.close()
    assert run.log.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": null, "seconds": {"data": 0.5}}\n'


@pytest.mark.parametrize("network", [{}, {"use_depth": False}, {"freeze_vlm": False}])
def test_operations_are_those_that_torch_counts(network: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = build(dataclasses.replace(TINY, **network)).train()
    batch = example_batch(model.config, num_samples=2, num_keypoints=40)
    counter = FlopCounterMode(display=False)
    with counter:
        losses(model(batch), batch, LossWeights(), loss_counts(batch)).total.backward()
    assert StepOperations(model)(batch) == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("preset", ["tiny-random", "nano"])
def test_parts_sum_up_to_the_network(preset: str) -> None:
    model = build(PRESETS[preset])
    parts = count_parts(model).values()
    assert (sum(part.total for part in parts), sum(part.trained for part in parts)) == (count(model).total, count(model).trained)
    memory = estimate_memory(model, 4, 100, bf16=True, checkpointing=False)
    assert memory.gradients == 4 * count(model).trained and memory.optimiser == 8 * count(model).trained
    assert memory.weights == 2 * count(model).total + 4 * count(model).trained
    assert estimate_memory(model, 4, 100, bf16=True, checkpointing=True).activations < memory.activations


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_kept_for_the_backward_pass_is_about_what_was_estimated(bf16: bool, checkpointing: bool) -> None:
    model = build(PRESETS["nano"]).train()
    model.vlm.gradient_checkpointing = model.expert.gradient_checkpointing = checkpointing
    batch = example_batch(model.config, num_samples=4, num_keypoints=100, num_text_tokens=12)
    weights, kept = {value.untyped_storage().data_ptr() for value in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        forecast = model(batch)
    assert forecast.velocity.requires_grad
    memory = estimate_memory(model, 4, 100, bf16=bf16, checkpointing=checkpointing, num_text=12)
    copies = 2 * count(model).trained if bf16 else 0
    ratio = (memory.activations + copies) / sum(storage.nbytes() for storage in kept.values())
    assert 0.8 < ratio < (2.0 if checkpointing else 1.25)


@pytest.mark.parametrize(
    ("hosts", "first"), [("gpu007", "gpu007"), ("gpu[003-007,9],cpu1", "gpu003"), ("a1,b2", "a1"), ("n[12]", "n12"), ("x-[1,3]", "x-1")]
)
def test_the_first_host_of_a_job(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


TRAIN_TOGETHER = """
import sys, torch
from pathlib import Path
sys.path[:0] = {paths!r}
torch.set_num_threads(1)
from test_training import *
from tracekit.training.processes import join_processes
with join_processes("cpu") as processes:
    what = plan({corpus!r}, held_out=0.25, batch_size=4,
                engine={{"micro_batch": 1, "fsdp": {fsdp}, "stop_after": 2, "validate_every": 2, "validation_samples": 4, "validation_draws": 1}})
    for again in range(2):
        try:
            pretrain(what, RunFolder(Path({folder!r})), processes, StopRequest(), Report())
        except ResumableError:
            assert again == 0
"""


@pytest.mark.parametrize("fsdp", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_are_one(corpus: str, tmp_path: Path, fsdp: bool) -> None:
    """The same global batch, with accumulation, a validation, and a stop in the middle."""
    settings = {"micro_batch": 4, "validate_every": 2, "validation_samples": 4, "validation_draws": 1}
    alone = train(plan(corpus, held_out=0.25, engine=settings), tmp_path / "alone")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script = TRAIN_TOGETHER.format(paths=paths, corpus=corpus, folder=str(tmp_path / "together"), fsdp=fsdp)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore::FutureWarning", "-c", script],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in together]
    assert [process.returncode for process in together] == [0, 0], errors
    run = RunFolder(tmp_path / "together")
    assert list(run.steps()) == [2, 4] and difference(weights(alone), weights(run)) < 1e-5
    for one, other in zip(log(alone), log(run), strict=True):
        assert one.keys() == other.keys()
        if "validation" in one:
            assert one["validation"]["ade/top1/32"] == pytest.approx(other["validation"]["ade/top1/32"], rel=1e-3)
        else:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


def test_a_full_gpu_says_what_to_set() -> None:
    """What torch raises there; what it says is passed on."""
    batch = example_batch(TINY, num_samples=6, num_keypoints=9)
    with (
        pytest.raises(StorageError, match=r"6 samples of 9 keypoints at a time \(CUDA out of memory") as caught,
        explained_exhaustion([batch]),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    for flag in ("--micro-batch 3", "--gradient-checkpointing", "--fsdp", "--max-keypoints"):
        assert flag in caught.value.hint
    assert {"micro_batch", "gradient_checkpointing", "fsdp"} <= set(EngineParameters.__dataclass_fields__)


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu1", "MASTER_PORT": "1234"}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[1-2]",
}


def test_processes_find_each_other_by_torchrun_or_srun() -> None:
    assert meeting_place({}) is None and meeting_place({"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert meeting_place(TORCHRUN) == (3, 4, 1, "gpu1", 1234)
    assert meeting_place(SRUN) == (3, 4, 1, "gpu1", 20_000 + 77 * 16 + 2)
    assert meeting_place({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None, "the batch script itself is alone"
    with pytest.raises(ConfigurationError, match="RANK"):
        meeting_place({"WORLD_SIZE": "4"})
