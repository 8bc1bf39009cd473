"""Finetuning: the engine's promises hold for an action expert, too; what is frozen stays; what is padded has no influence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
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
from action_examples import SMALL, batch_of, expert_of
from demo_recordings import write_recordings
from finetune_cases import ALONE, plan, train, write_demos, write_world_model

from tracekit.action.checkpoint import load_policy
from tracekit.action.dataset import DemoDataset
from tracekit.action.feature_cache import world_digest
from tracekit.action.finetune_options import HeadOptions
from tracekit.action.head_choice import choose_head
from tracekit.action.objective import ActionObjective
from tracekit.action.recipes import PRESETS
from tracekit.action.training import ActionLearner, finetune
from tracekit.errors import BadDataError, ConfigurationError, ResumableError
from tracekit.mu0.checkpoint import load_model
from tracekit.report import Report
from tracekit.training.loop import go_on
from tracekit.training.run_folder import RunFolder
from tracekit.training.stop_signals import StopRequest
from tracekit.training.train_state import TrainState

VALIDATING = {"validate_every": 2, "validation_samples": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower in threads, and sums in threads differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world_model(tmp_path_factory.mktemp("world") / "mu0")


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demos(tmp_path_factory.mktemp("demos") / "demos.h5")


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    last = run.last()
    assert last is not None
    return safetensors.torch.load_file(last / "model.safetensors")


def log(run: RunFolder) -> list[dict[str, Any]]:
    """Lines without what depends on the clock."""
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "samples_per_second")} for line in lines]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# --- recipes


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("robocasa365", (16, 8, 32, 1e-4, 1000, 50_000)),
        ("ur3-pick-sink", (50, 25, 32, 5e-5, 400, 8000)),
        ("ur3-pour", (50, 25, 32, 5e-5, 300, 6000)),
        ("ur3-towel", (50, 25, 32, 5e-5, 300, 6000)),
    ],
)
def test_the_recipes_are_those_of_the_tables(preset: str, expected: tuple) -> None:
    names = ("horizon", "execute", "batch_size", "learning_rate", "warmup", "steps")
    assert tuple(PRESETS[preset][name] for name in names) == expected


@pytest.mark.parametrize(
    ("preset", "sizes", "message"),
    [
        ("robocasa365", (7, 16), "actions have 7 numbers in the demonstrations, but 12 in the preset robocasa365"),
        ("robocasa365", (12, 9), "states have 9 numbers in the demonstrations, but 16 in the preset robocasa365"),
        ("ur3-pour", (12, 7), "actions have 12 numbers in the demonstrations, but 7 in the preset ur3-pour"),
    ],
)
def test_a_preset_is_for_one_robot(preset: str, sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        choose_head(preset, HeadOptions(), *sizes, None, Report(), has_gripper_camera=True)


def test_the_gripper_camera_is_seen_as_the_world_model_can(world: Path, demos: Path) -> None:
    from tracekit.action.frozen import FeatureWidths

    def kind(dino: int, *, camera: bool, head: str = "200m") -> str:
        widths = FeatureWidths(768, 64, dino)
        return choose_head("tiny", HeadOptions(head), 4, 4, widths, Report(), has_gripper_camera=camera).gripper_features

    assert (kind(768, camera=True), kind(0, camera=True), kind(768, camera=False)) == ("dinov2", "stem", "none")
    assert kind(768, camera=True, head="nano") == "stem", "small heads have convolutions of their own"


# --- the loss


def test_what_is_padded_has_no_influence() -> None:
    """Neither on the loss nor on its gradient: actions after the end, and numbers that the robot does not have."""
    expert, objective = expert_of(), ActionObjective(None)
    batch = batch_of(3)
    valid = batch.action_valid.clone()
    valid[0, 2:] = valid[2, 1:] = False
    batch = dataclasses.replace(batch, action_valid=valid, actions=batch.actions * valid[..., None])

    def gradient(of: Any) -> tuple[float, dict[str, torch.Tensor]]:
        expert.zero_grad()
        loss = objective.losses(expert(of), of, objective.counts(of))["loss"]
        loss.backward()
        return float(loss.detach()), {name: value.grad.clone() for name, value in expert.named_parameters() if value.grad is not None}

    loss, slope = gradient(batch)
    errors = expert(batch).detach()
    expected = np.mean([float(errors[b, r, t, a]) for b, t in valid.nonzero().tolist() for r in range(2) for a in range(SMALL.action_size)])
    assert loss == pytest.approx(expected, rel=1e-5)
    after = ~valid[:, None, :, None]
    longer = dataclasses.replace(
        batch, actions=torch.where(after[:, 0], 5.0, batch.actions), noise=torch.where(after, batch.noise.flip(0) - 3, batch.noise)
    )
    other, other_slope = gradient(longer)
    assert other == pytest.approx(loss, rel=1e-6)
    for name in slope:
        torch.testing.assert_close(other_slope[name], slope[name], rtol=1e-5, atol=1e-6)
    infinite = torch.where(valid[:, None, :, None], expert(batch).detach(), torch.inf)
    assert float(objective.losses(infinite, batch, objective.counts(batch))["loss"]) == loss

    size = SMALL.action_size
    assert slope["action_in.weight"][:, :size].abs().min() > 0 and not slope["action_in.weight"][:, size:].any()
    assert slope["action_out.weight"][:size].abs().min() > 0
    assert not slope["action_out.weight"][size:].any() and not slope["action_out.bias"][size:].any()
    with torch.no_grad():
        expert.action_in.weight[:, size:] = 7.0
        expert.action_out.weight[size:] = -3.0
    again, slope_again = gradient(batch)
    assert again == loss and all(torch.equal(slope[name], slope_again[name]) for name in slope)


def test_draws_share_a_prefix_and_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    expert, objective = expert_of(), ActionObjective(None)
    batch = batch_of(2, draws=3)
    read = []
    original = expert.transformer.read
    monkeypatch.setattr(expert.transformer, "read", lambda *args: read.append(1) or original(*args))
    together = objective.losses(expert(batch), batch, objective.counts(batch))["loss"]
    assert len(read) == 1
    alone = []
    for draw in range(3):
        one = dataclasses.replace(batch, noise=batch.noise[:, draw : draw + 1], tau=batch.tau[:, draw : draw + 1])
        alone.append(float(objective.losses(expert(one).detach(), one, objective.counts(one))["loss"]))
    assert float(together.detach()) == pytest.approx(np.mean(alone), rel=1e-5)


# --- the engine


def test_a_run_that_stops_and_goes_on_is_the_run_that_does_not(world: Path, demos: Path, tmp_path: Path) -> None:
    through = train(plan(world, demos, engine=VALIDATING), tmp_path / "through")
    stopping = plan(world, demos, engine={**VALIDATING, "stop_after": 2})
    with pytest.raises(ResumableError, match="after step 2 of 4"):
        train(stopping, tmp_path / "stopped")
    stopped = train(stopping, tmp_path / "stopped")
    for name in ("model.safetensors", "normalisation.json", "config.json", "train_state/optimizer.safetensors", "train_state/state.json"):
        one, other = (run.step_folder(4) / name for run in (through, stopped))
        assert one.read_bytes() == other.read_bytes(), name
    assert log(through) == log(stopped) and [line["step"] for line in log(through)] == [1, 2, 2, 3, 4, 4]
    report = Report()
    finetune(stopping, stopped, ALONE, StopRequest(), report)
    assert any("all 4 steps are done" in note for note in report.notes)


def test_micro_batches_add_up_to_the_batch(world: Path, demos: Path, tmp_path: Path) -> None:
    whole = train(plan(world, demos), tmp_path / "whole")
    parts = train(plan(world, demos, engine={"micro_batch": 1}), tmp_path / "parts")
    assert difference(weights(whole), weights(parts)) < 1e-5
    for one, other in zip(log(whole), log(parts), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


TRAIN_TOGETHER = """
import sys, torch
from pathlib import Path
sys.path[:0] = {paths!r}
torch.set_num_threads(1)
from demo_recordings import write_recordings
from finetune_cases import *
from tracekit.errors import ResumableError
from tracekit.training.processes import join_processes
with join_processes("cpu") as processes:
    what = plan(Path({world!r}), Path({demos!r}), engine={{"micro_batch": 1, "stop_after": 2, "validate_every": 2, "validation_samples": 4}},
                head={{"head": {head!r}}})
    for again in range(2):
        try:
            finetune(what, RunFolder(Path({folder!r})), processes, StopRequest(), Report())
        except ResumableError:
            assert again == 0
"""


@pytest.mark.parametrize("head", ["pico", pytest.param("diffusion-nano", marks=pytest.mark.slow)])
def test_two_processes_are_one(world: Path, demos: Path, tmp_path: Path, head: str) -> None:
    """The same global batch, with accumulation, a validation, and a stop in the middle."""
    alone = train(plan(world, demos, engine=VALIDATING, head={"head": head}), tmp_path / "alone")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script = TRAIN_TOGETHER.format(paths=paths, world=str(world), demos=str(demos), folder=str(tmp_path / "together"), head=head)
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
            assert one["validation"] == pytest.approx(other["validation"], rel=1e-3)
        else:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("head", ["pico", "diffusion-nano"])
def test_it_learns(world: Path, demos: Path, tmp_path: Path, head: str) -> None:
    run = train(plan(world, demos, steps=40, batch_size=4, learning_rate=3e-3, head={"head": head}), tmp_path / "run")
    lines = log(run)
    first, last = (np.mean([line["loss"] for line in part]) for part in (lines[:10], lines[-10:]))
    assert last < 0.7 * first


def test_another_plan_is_refused_by_name(world: Path, demos: Path, tmp_path: Path) -> None:
    run = train(plan(world, demos), tmp_path / "run")
    moved = tmp_path / "moved.h5"
    moved.write_bytes(demos.read_bytes())
    train(plan(world, moved), run.path)
    other_world = write_world_model(tmp_path / "other-mu0", seed=1)
    other_demos = write_demos(tmp_path / "other.h5", valid=False)
    other = plan(
        other_world, other_demos, learning_rate=0.5, seed=3, draws=1, head={"trace": False}, cache_features=str(tmp_path / "cache")
    )
    with pytest.raises(ConfigurationError) as caught:
        train(other, run.path)
    for what in (
        "--learning-rate was 0.001 and is 0.5",
        "--seed was 0 and is 3",
        "--draws was 2 and is 1",
        "--cache-features was False and is True",
        "use_trace of the network was True and is False",
        "the demonstrations are others",
        "the world model is another one",
    ):
        assert what in caught.value.message
    assert not (tmp_path / "cache").exists()
    train(other, run.path, force=True)
    assert load_policy(run.path).description.world_model == other.world.checkpoint.digest  # type: ignore[union-attr]


def test_a_step_that_is_not_finite_names_the_demonstration(world: Path, demos: Path, tmp_path: Path) -> None:
    wild = plan(world, demos, learning_rate=1e30, steps=30, warmup=0, engine={"save_every": 1}, clip_norm=0.0)
    with pytest.raises(BadDataError, match=r"is not finite .* Positions: .* of: demonstration demo_\d of .*demos.h5, frame \d"):
        train(wild, tmp_path / "run")
    assert load_policy(tmp_path / "run")


# --- the world model


def test_frozen_means_frozen(world: Path, demos: Path, tmp_path: Path) -> None:
    files = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in world.rglob("*") if path.is_file()}
    before = world_digest(load_model(world)[0])
    learner = ActionLearner(plan(world, demos, steps=8, learning_rate=1e-2), None, TrainState(0), ALONE, StopRequest(), Report())
    frozen = learner.objective.frozen
    assert frozen is not None and world_digest(frozen.model) == before
    run = RunFolder(tmp_path / "run")
    run.create()
    go_on(learner, TrainState(0), {}, run, ALONE, StopRequest(), Report())
    run.release()
    assert world_digest(frozen.model) == before, "after eight steps"
    assert not any(value.requires_grad or value.grad is not None for value in frozen.model.parameters())
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == files
    assert world_digest(load_model(run.path / "world_model")[0]) == before
    for name in ("model.safetensors", "config.json", "stats.json"):
        assert (run.path / "world_model" / name).read_bytes() == (world / name).read_bytes()
    assert not (run.path / "world_model" / "train_state").exists()


def test_cached_features_are_those_that_are_computed(world: Path, demos: Path, tmp_path: Path) -> None:
    """But for float16."""
    cache = str(tmp_path / "cache")
    live = train(plan(world, demos, augment=False, engine=VALIDATING), tmp_path / "live")
    cached = train(plan(world, demos, augment=False, engine=VALIDATING, cache_features=cache), tmp_path / "cached")
    for one, other in zip(log(live), log(cached), strict=True):
        if "validation" in one:
            assert one["validation"] == pytest.approx(other["validation"], rel=1e-2)
        else:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
    written = {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.npy")}
    learner = ActionLearner(plan(world, demos, cache_features=cache, seed=1), None, TrainState(0), ALONE, StopRequest(), Report())
    assert learner.objective.frozen is None, "it is not even loaded"
    assert learner.dataset[0].image is None and learner.dataset[0].gripper is not None
    assert written and {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.npy")} == written


def test_a_request_to_stop_while_features_are_computed_keeps_them(world: Path, tmp_path: Path) -> None:
    """And leaves no folder of a run that never began."""
    demos = write_recordings(tmp_path / "long.h5", [300, 300])
    what = plan(world, demos, steps=1, cache_features=str(tmp_path / "cache"))
    asked = StopRequest()
    asked.name = "SIGTERM"
    with pytest.raises(ResumableError, match="of 600 frames"):
        finetune(what, RunFolder(tmp_path / "run"), ALONE, asked, Report())
    assert not (tmp_path / "run").exists() and list((tmp_path / "cache").rglob("vlm.npy.growing"))
    train(what, tmp_path / "run")
    assert load_policy(tmp_path / "run").description.trained_on.frames == 600


def test_a_baseline_needs_no_world_model(demos: Path, tmp_path: Path) -> None:
    run = train(plan(None, demos, head={"head": "diffusion-nano"}), tmp_path / "run")
    assert not (run.path / "world_model").exists()
    policy = load_policy(run.path)
    assert policy.frozen is None and policy.image_size == 32 and policy.config.method == "diffusion"


def test_a_run_that_starts_anew_without_a_world_model_keeps_none(world: Path, demos: Path, tmp_path: Path) -> None:
    run = train(plan(world, demos, steps=1), tmp_path / "run")
    assert (run.path / "world_model").exists()
    train(plan(None, demos, steps=1, head={"head": "diffusion-nano"}), run.path, force=True)
    assert not (run.path / "world_model").exists() and load_policy(run.path).frozen is None


# --- validation


def test_validation_is_what_the_policy_does(world: Path, demos: Path, tmp_path: Path) -> None:
    what = plan(world, demos, steps=2, engine={"validate_every": 2, "validation_samples": 5})
    run = train(what, tmp_path / "run")
    figures = log(run)[-1]["validation"]
    policy = load_policy(run.path)
    assert policy.frozen is not None
    dataset = DemoDataset(what.index, None, policy.config, policy.image_size, policy.normalisation, seed=0, split="valid")
    learner = ActionLearner(what, None, TrainState(0), ALONE, StopRequest(), Report())
    distances, errors = [], []
    for position in range(5):
        name, step = dataset.origin(position)
        assert name.startswith("demo_4 of ")
        batch = learner.collate([dataset[position]])
        batch = dataclasses.replace(batch, features=policy.frozen.complete(batch))
        with torch.no_grad():
            chunk = policy.normalisation.unnormalise_actions(policy.expert.sample(batch)[0, 0].numpy())
            squared = policy.expert(batch)[0, 0].numpy()
        done = what.index.files[0].actions("demo_4")[step : step + policy.config.horizon]
        distances.append(np.abs(chunk[: len(done)] - done))
        errors.append(squared[: len(done)])
    assert figures["action_l1"] == pytest.approx(np.concatenate(distances).mean(), rel=1e-3)
    assert figures["loss"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-3)
    best = json.loads((run.path / "best.json").read_text())
    assert (best["metric"], best["value"]) == ("action_l1", figures["action_l1"])


def test_nothing_to_validate_on_is_said(world: Path, tmp_path: Path) -> None:
    demos = write_demos(tmp_path / "demos.h5", valid=False)
    report = Report()
    finetune(plan(world, demos, steps=1, engine={"validate_every": 1}), RunFolder(tmp_path / "run"), ALONE, StopRequest(), report)
    assert any("no demonstration is in mask/valid" in note for note in report.notes)
    assert load_policy(tmp_path / "run").checkpoint.name == "step-00000001"
