"""tracekit finetune as a user runs it: what it says before it starts, and every way in which it may end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from action.finetune_cases import write_demos, write_world_model
from demo_recordings import write_recordings
from run_command import PROGRAM, environment

from tracekit.action.checkpoint import load_policy
from tracekit.cli import run

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TINY = ("--preset", "tiny", "--device", "cpu", "--workers", "0")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world_model(tmp_path_factory.mktemp("world") / "mu0")


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demos(tmp_path_factory.mktemp("demos") / "demos.h5")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower in threads, and sums in threads differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def finetune(*arguments: object) -> Done:
    """In this process: a process of its own takes seconds to import what it needs. Those that end otherwise than by themselves: `start`."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        for name in [name for name in os.environ if name.startswith("TRACEKIT_")]:
            patch.delenv(name)
        code = run(["finetune", *map(str, arguments)])
    return Done(code, out.getvalue(), error.getvalue())


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [*PROGRAM, "finetune", *map(str, arguments)], stderr=subprocess.PIPE, start_new_session=True, env=environment(ONE_THREAD)
    )


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    while process.poll() is None:
        if (folder / "log.jsonl").exists() and len((folder / "log.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


def state(folder: Path, step: int) -> dict[str, bytes]:
    """All that a checkpoint holds."""
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def log(folder: Path) -> list[dict[str, Any]]:
    """Lines without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "samples_per_second")} for line in lines]


NUM_STEPS = 40
LONG = (
    *TINY,
    "--steps",
    NUM_STEPS,
    "--draws",
    1,
    "--validate-every",
    20,
    "--validation-samples",
    2,
    "--save-every",
    1000,
    "--keep-best",
    0,
)


@pytest.fixture(scope="module")
def uninterrupted(world: Path, demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that LONG makes."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = finetune(demos, "--world-model", world, *LONG, "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_row_14_a_signal_ends_in_a_checkpoint_and_the_same_command_goes_on(
    world: Path, demos: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"
    command = (demos, "--world-model", world, *LONG, "--workers", 1, "-o", folder)
    process = start(*command)
    wait_for_step(process, folder, 5)
    os.killpg(process.pid, signal.SIGTERM)
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 75, error
    assert "stopped by SIGTERM after step" in error and "run the same command again" in error and "Traceback" not in error
    done = log(folder)[-1]["step"]
    assert 5 <= done < NUM_STEPS and json.loads((folder / "last.json").read_text())["step"] == done
    again = finetune(*command)
    assert again.returncode == 0 and f"goes on after step {done} of {NUM_STEPS}" in again.stderr, again.stderr
    assert state(folder, NUM_STEPS) == state(uninterrupted, NUM_STEPS) and log(folder) == log(uninterrupted)


def test_row_30_a_kill_costs_only_what_came_after_the_last_checkpoint(
    world: Path, demos: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"
    command = (demos, "--world-model", world, *LONG, "--save-every", 3, "-o", folder)
    process = start(*command)
    wait_for_step(process, folder, 8)
    process.kill()
    process.communicate()
    again = finetune(*command)
    assert again.returncode == 0 and "goes on after step" in again.stderr, again.stderr
    assert state(folder, NUM_STEPS) == state(uninterrupted, NUM_STEPS) and log(folder) == log(uninterrupted)
    assert not [path for place in (folder, folder / "checkpoints") for path in place.iterdir() if path.name.endswith("-part")]


def test_a_kill_before_the_first_checkpoint_begins_anew(world: Path, demos: Path, tmp_path: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "run"
    command = (demos, "--world-model", world, *LONG, "-o", folder)
    process = start(*command)
    wait_for_step(process, folder, 2)
    process.kill()
    process.communicate()
    assert finetune(*command).returncode == 0 and state(folder, NUM_STEPS) == state(uninterrupted, NUM_STEPS)


def test_features_are_computed_once(world: Path, demos: Path, tmp_path: Path) -> None:
    command = (demos, "--world-model", world, *TINY, "--steps", 2, "--cache-features", tmp_path / "cache", "-o", tmp_path / "run")
    done = finetune(*command)
    assert done.returncode == 0 and "26 frames whose features were computed" in done.stderr, done.stderr
    again = finetune(*command, "--force")
    assert again.returncode == 0 and "features were computed" not in again.stderr, again.stderr


# --- bad input


def test_demonstrations_without_a_camera_name_those_that_there_are(world: Path, tmp_path: Path) -> None:
    demos = write_demos(tmp_path / "demos.h5", cameras=("front", "wrist"))
    done = finetune(demos, "--world-model", world, *TINY, "-o", tmp_path / "run")
    assert done.returncode == 65 and "has no camera `agentview_image`" in done.stderr and "front, wrist" in done.stderr
    done = finetune(demos, "--world-model", world, *TINY, "-o", tmp_path / "run", "--camera", "front")
    assert done.returncode == 65 and "has no camera `eye_in_hand_image`" in done.stderr
    for none in ("none", ""):  # the second time goes on with the same run
        named = ("--camera", "front", "--gripper-camera", none, "--steps", 1)
        done = finetune(demos, "--world-model", world, *TINY, *named, "-o", tmp_path / "run")
        assert done.returncode == 0, done.stderr
    assert load_policy(tmp_path / "run").layout.gripper == ""


def test_another_robot_is_named_with_both_sizes(world: Path, demos: Path, tmp_path: Path) -> None:
    done = finetune(demos, "--world-model", world, "--preset", "robocasa365", "-o", tmp_path / "run")
    assert done.returncode == 78 and "actions have 3 numbers in the demonstrations, but 12 in the preset robocasa365" in done.stderr
    assert finetune(demos, "--world-model", world, *TINY, "--steps", 2, "--stop-after", 1, "-o", tmp_path / "run").returncode == 75
    other = write_demos(tmp_path / "other.h5", action_size=4)
    done = finetune(other, "--world-model", world, *TINY, "--steps", 2, "-o", tmp_path / "run")
    assert done.returncode == 78 and "action_size of the network was 3 and is 4" in done.stderr, done.stderr
    done = finetune(demos, other, "--world-model", world, *TINY, "-o", tmp_path / "both")
    assert done.returncode == 65 and "actions have 3 numbers in" in done.stderr and "but 4 in" in done.stderr
    assert not (tmp_path / "both").exists()


def test_actions_that_are_not_finite_are_named(world: Path, tmp_path: Path) -> None:
    demos = write_demos(tmp_path / "demos.h5")
    with h5py.File(demos, "r+") as file:
        file["data/demo_1/actions"][4, 1] = np.nan
    done = finetune(demos, "--world-model", world, *TINY, "-o", tmp_path / "run")
    assert done.returncode == 65 and f"`actions` of demo_1 at step 4, number 1 (from 0) in {demos} is not finite" in done.stderr, (
        done.stderr
    )
    assert "leave demo_1 out" in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_no_world_model(world: Path, demos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, code, message in (
        (tmp_path / "none", 66, "does not exist"),
        (tmp_path / "empty", 66, "there is no checkpoint in"),
        (demos, 66, "is no folder"),
    ):
        done = finetune(demos, "--world-model", folder, *TINY, "-o", tmp_path / "run")
        assert done.returncode == code and message in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_what_does_not_make_sense(world: Path, demos: Path, tmp_path: Path) -> None:
    to = ("-o", tmp_path / "run")
    for arguments, code, message in (
        ((demos, "--world-model", world), 2, "missing: a folder for the policy (-o POLICY)\n"),
        (("--world-model", world, *to), 2, "missing: demonstrations to learn from (DEMOS...)\n"),
        ((), 2, "(DEMOS...), a folder for the policy (-o POLICY), a world model to stand on (--world-model CHECKPOINT)\n"),
        ((tmp_path / "none.h5", "--world-model", world, *to), 66, "does not exist"),
        ((demos, "--head", "diffusion-nano"), 2, "missing: a folder for the policy (-o POLICY)\n"),
        ((demos, *to), 2, "--head nano stands on a world model"),
        ((demos, "--world-model", world, *to, "--json"), 2, "--json is for --dry-run"),
        ((demos, "--world-model", world, *to, "--preset", "paper"), 2, "choose one of: metaworld, robocasa365"),
        ((demos, "--world-model", world, *to, "--head", "1t"), 2, "choose one of: 200m, 300m"),
        ((demos, "--world-model", world, *to, "--head", "diffusion-nano"), 2, "leave out --world-model"),
        ((demos, *to, "--head", "diffusion-nano", "--cache-features", tmp_path / "cache"), 2, "leave out --cache-features"),
        ((demos, "--world-model", world, *to, *TINY, "--execute", 9), 78, "--execute: at most --horizon"),
        ((demos, "--world-model", world, *to, *TINY, "--action-width", 2), 78, "--action-width: more"),
        ((demos, "--world-model", world, *to, "--steps", "0"), 2, "--steps is 0, but the least is 1"),
        ((demos, "--world-model", world, *to, *TINY, "--state", "proprio,hand"), 65, "has no state `hand`"),
    ):
        done = finetune(*arguments)
        assert done.returncode == code and message in done.stderr, (arguments, done.stderr)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


# --- before it starts


def test_demonstrations_without_a_sentence_are_told_at_once(world: Path, tmp_path: Path) -> None:
    demos = write_recordings(tmp_path / "demos.h5", [3, 4, 2], languages=["push it", "", ""])
    command = (demos, "--world-model", world, *TINY, "--dry-run")
    told = "tracekit finetune: 2 of 3 demonstrations have no sentence that says what is done; --language gives one"
    assert finetune(*command).stderr.splitlines()[0] == told
    assert "no sentence" not in finetune(*command, "--language", "push it").stderr


def test_a_dry_run_says_what_would_be_and_touches_nothing(world: Path, demos: Path, tmp_path: Path) -> None:
    command = (demos, "--world-model", world, *TINY, "--dry-run", "-o", tmp_path / "run", "--cache-features", tmp_path / "cache")
    done = finetune(*command, "--json")
    assert done.returncode == 0 and list(tmp_path.iterdir()) == [], done.stderr
    content = json.loads(done.stdout)
    assert (content["head"]["action_size"], content["head"]["state_size"], content["head"]["horizon"]) == (3, 2, 4)
    assert content["demonstrations"] == {"train": 4, "valid": 1} and (content["samples"], content["frames"]) == (21, 26)
    assert content["recipe"]["steps"] == 20 and content["data"]["draws"] == 2 and content["world_model"] == str(world)
    assert sum(content["parts"].values()) <= content["num_parameters"]
    text = finetune(*command).stdout
    for what in ("recipe: steps=20", "transformer", "world model: ", "4 to learn from, 21 frames"):
        assert what in text


def test_options_change_the_head(world: Path, demos: Path) -> None:
    def head(*options: object) -> dict[str, Any]:
        done = finetune(demos, "--world-model", world, *TINY, "--dry-run", "--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["head"]

    plain = head()
    for options, field, value in (
        (("--no-trace",), "use_trace", False),
        (("--gate-init", -4), "gate_init", -4.0),
        (("--horizon", 9), "horizon", 9),
        (("--execute", 1), "execute", 1),
        (("--action-width", 8), "action_width", 8),
        (("--queries", "entities"), "queries", "entities"),
        (("--gripper-camera", ""), "gripper_features", "none"),
        (("--gripper-camera", "none"), "gripper_features", "none"),
    ):
        assert head(*options) == {**plain, field: value}, options
    assert head("--head", "nano")["name"] == "nano"
