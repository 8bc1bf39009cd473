"""tracekit pretrain as a user runs it: what it says before it starts, and every way in which it may end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mu0.training_corpus import make_corpus
from run_command import PROGRAM, environment, tracekit

from tracekit.cli import run

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TINY = ("--preset", "tiny-random", "--device", "cpu", "--workers", "0")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def pretrain(*arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
    """In this process: a process of its own takes seconds to import what it needs. Those that end otherwise than by themselves: `start`."""
    out, error = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        contextlib.chdir(cwd or Path()),
    ):
        for name in [name for name in os.environ if name.startswith("TRACEKIT_")]:
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        code = run(["pretrain", *map(str, arguments)])
    return Done(code, out.getvalue(), error.getvalue())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower in threads, and sums in threads differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [*PROGRAM, "pretrain", *map(str, arguments)], stderr=subprocess.PIPE, start_new_session=True, env=environment(ONE_THREAD)
    )


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    while process.poll() is None:
        if (folder / "log.jsonl").exists() and len((folder / "log.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


def weights(folder: Path, step: int) -> bytes:
    return (folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines() if "loss" in json.loads(line)]


LONG = (*TINY, "--steps", 150, "--validate-every", 0, "--save-every", 1000)


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that LONG ends with."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert pretrain(corpus, *LONG, "-o", folder).returncode == 0
    return weights(folder, 150)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_row_14_a_signal_ends_in_a_checkpoint_and_the_same_command_goes_on(
    corpus: Path, tmp_path: Path, number: signal.Signals, uninterrupted: bytes
) -> None:
    """The signal reaches the processes that read samples, too, as it does on a cluster."""
    command = (corpus, *LONG, "--workers", 1, "-o", tmp_path / "run")
    process = start(*command)
    wait_for_step(process, tmp_path / "run", 5)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 75, error
    assert f"stopped by {number.name} after step" in error and "run the same command again" in error and "Traceback" not in error
    done = steps(tmp_path / "run")
    assert 5 <= len(done) < 150 and json.loads((tmp_path / "run" / "last.json").read_text())["step"] == done[-1]
    again = pretrain(*command)
    assert again.returncode == 0 and f"goes on after step {done[-1]} of 150" in again.stderr, again.stderr
    assert steps(tmp_path / "run") == list(range(1, 151))
    assert weights(tmp_path / "run", 150) == uninterrupted


def test_row_30_a_kill_costs_only_what_came_after_the_last_checkpoint(corpus: Path, tmp_path: Path, uninterrupted: bytes) -> None:
    command = (corpus, *LONG, "--save-every", 7, "-o", tmp_path / "run")
    process = start(*command)
    wait_for_step(process, tmp_path / "run", 20)
    process.kill()
    process.communicate()
    again = pretrain(*command)
    assert again.returncode == 0 and "goes on after step" in again.stderr, again.stderr
    assert steps(tmp_path / "run") == list(range(1, 151)) and weights(tmp_path / "run", 150) == uninterrupted
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]


def test_row_15_an_interrupt_leaves_no_temporaries(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, *LONG, "-o", tmp_path / "run")
    wait_for_step(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and b"Traceback" not in error
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_row_17_one_training_a_folder(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, *LONG, "--steps", 5000, "-o", tmp_path / "run")
    wait_for_step(process, tmp_path / "run", 2)
    second = pretrain(corpus, *LONG, "-o", tmp_path / "run", "--force")
    assert second.returncode == 75 and "another process is training in" in second.stderr
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert pretrain(corpus, *LONG, "-o", tmp_path / "run", "--force", "--steps", 1).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds two checkpoints of the tiny network, but not three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_row_10_a_full_disk_leaves_the_checkpoints_before(corpus: Path, small_disk: Path) -> None:
    folder = small_disk / "run"
    command = (corpus, *TINY, "--steps", 4, "--validate-every", 0, "--save-every", 1, "--keep-last", 9, "-o", folder)
    process = start(*command)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 74, error
    assert b"no space left" in error and b"Traceback" not in error
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    again = pretrain(*command)
    assert again.returncode == 0 and "goes on after step 2 of 4" in again.stderr, again.stderr
    assert steps(folder) == [1, 2, 3, 4]


def test_row_32_a_damaged_checkpoint_is_named_and_the_one_before_is_there(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = (corpus, *TINY, "--steps", 4, "--validate-every", 0, "--save-every", 1, "-o", folder)
    assert pretrain(*command, "--stop-after", 2).returncode == 75
    damaged = folder / "checkpoints" / "step-00000002"
    path = damaged / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = pretrain(*command)
    assert done.returncode == 65 and str(path) in done.stderr and "is damaged" in done.stderr
    damaged.rename(tmp_path / "damaged")
    again = pretrain(*command)
    assert again.returncode == 0 and "goes on after step 1 of 4" in again.stderr


def test_row_33_an_unwritable_folder_is_found_first(corpus: Path, tmp_path: Path) -> None:
    done = pretrain(corpus, *TINY, "-o", "/proc/run")
    assert done.returncode == 73 and "Traceback" not in done.stderr
    done = pretrain(corpus, *TINY, "-o", corpus)
    assert done.returncode == 73 and "is a file" in done.stderr


def test_row_36_a_step_that_is_not_finite(corpus: Path, tmp_path: Path) -> None:
    wild = ("--learning-rate", "1e30", "--warmup", 0, "--steps", 30, "--save-every", 1, "--validate-every", 0)
    done = pretrain(corpus, *TINY, *wild, "-o", tmp_path / "run")
    assert done.returncode == 65
    assert "is not finite" in done.stderr and "Positions: " in done.stderr and "clip drift-" in done.stderr


def test_weights_that_are_not_here_are_66_with_what_to_do(corpus: Path, tmp_path: Path) -> None:
    done = pretrain(corpus, "--preset", "342m", "-o", tmp_path / "run", "--device", "cpu")
    assert done.returncode == 66 and "SmolVLM2-256M" in done.stderr and "--download" in done.stderr, done.stderr
    for flag in ("--vlm-weights of pretrain", "--vlm of rollout", "--random-weights", "--preset nano"):
        assert flag in done.stderr
    assert not (tmp_path / "run").exists()
    nearly = pretrain(corpus, *TINY, "--dino-weights", tmp_path / "none", "-o", tmp_path / "run")
    assert nearly.returncode == 66 and "--dino-weights of pretrain" in nearly.stderr and not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    assert pretrain(corpus, "--preset", "342m", "-o", tmp_path / "run", "--device", "cpu").returncode == 66
    assert (tmp_path / "run").exists(), "it was there before"


def test_what_does_not_make_sense(corpus: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        ((corpus,), 2, "-o RUN"),
        (("-o", tmp_path / "run"), 2, "CORPUS..."),
        ((tmp_path / "none.h5", "-o", tmp_path / "run"), 66, "does not exist"),
        ((corpus, "-o", tmp_path / "run", "--json"), 2, "--json is for --dry-run"),
        ((corpus, "-o", tmp_path / "run", "--preset", "paper"), 2, "choose one of: 2.59b, 568m, 342m, nano, tiny-random"),
        (
            (corpus, "-o", tmp_path / "run", "--vlm-weights", "a", "--dino-weights", "b", "--random-weights"),
            2,
            "--random-weights and --vlm-weights and --dino-weights exclude each other",
        ),
        ((corpus, "-o", tmp_path / "run", "--steps", "0"), 2, "--steps is 0, but the least is 1"),
    ):
        done = pretrain(*arguments)
        assert done.returncode == code and message in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def dry_run(*arguments: object, **options: Any) -> dict[str, Any]:
    done = pretrain(*arguments, "--dry-run", "--json", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DRY_RUN_OF_THE_LARGEST = """
import resource, subprocess, sys
done = subprocess.run([*sys.argv[1:], "pretrain", "--preset", "2.59b", "--dry-run", "--json"], capture_output=True, check=True)
sys.stdout.buffer.write(done.stdout)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)
"""


def test_the_largest_network_is_weighed_without_being_built() -> None:
    """Less than 2 GB of memory for 2.6 billion weights."""
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUN_OF_THE_LARGEST, *PROGRAM], capture_output=True, check=True, env=environment(ONE_THREAD), cwd="/"
    )
    assert int(done.stderr) < 2e9
    content = json.loads(done.stdout)
    assert content["num_parameters"] == pytest.approx(2.59e9, rel=0.02) and content["num_trainable"] < 0.25 * content["num_parameters"]
    assert sum(part["total"] for part in content["parts"].values()) == content["num_parameters"]
    assert (content["micro_batch"], content["micro_batches_per_step"], content["recipe"]["steps"]) == (6, 4, 200_000)
    assert content["memory_bytes"]["optimiser"] == 8 * content["num_trainable"]


def test_what_table_6_leaves_out(corpus: Path) -> None:
    whole = dry_run(corpus, *TINY)
    assert whole["first_batch"]["image"] == [4, 3, 32, 32] and whole["first_batch"]["target"][2:] == [10, 3]
    assert whole["samples"] + whole["validation_samples"] > 40 and whole["first_batch_teraflops"] > 0
    for flag, field, value in (
        ("--no-bspline", "use_bspline", False),
        ("--no-dino", "local_features", "none"),
        ("--no-depth", "use_depth", False),
        ("--no-history", "use_history", False),
        ("--train-vlm", "freeze_vlm", False),
    ):
        changed = dry_run(corpus, *TINY, flag)
        assert changed["network"] == {**whole["network"], field: value}, flag
        assert changed["num_parameters"] != whole["num_parameters"] or flag in ("--no-history", "--train-vlm")
        if flag == "--no-bspline":
            assert changed["first_batch"]["target"][2:] == [32, 3]
    assert dry_run(*TINY, "--rigidity", 0)["loss"]["rigidity"] == 0.0


def test_a_dry_run_counts_processes_as_a_training_does() -> None:
    torchrun = {"RANK": "1", "WORLD_SIZE": "2"}
    srun = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu1"}
    srun |= {"SLURM_PROCID": "2", "SLURM_LOCALID": "2"}
    for env, number in (({}, 1), (torchrun, 2), (srun, 4)):
        content = dry_run(*TINY, env=env)
        assert (content["processes"], content["micro_batch"]) == (number, 4 // number)


def test_the_default_that_help_shows_is_the_one_that_is_used() -> None:
    shown = " ".join(pretrain("--help").stdout.split())
    assert dry_run(*TINY)["loss"]["done"] == 0.015625 and "[default: (0.015625)]" in shown and "[default: (1e-10)]" in shown


def test_a_dry_run_touches_nothing_and_reads_well(corpus: Path, tmp_path: Path) -> None:
    done = pretrain(corpus, *TINY, "--dry-run", "-o", tmp_path / "run")
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    text = done.stdout
    for what in ("recipe: steps=20", "trace expert", "memory per device in fp32", "first batch: position 4", "samples to learn from"):
        assert what in text


def test_flag_over_environment_over_config_over_file_over_preset_over_default(tmp_path: Path) -> None:
    def rate(*flags: object, env: dict[str, str] | None = None) -> float:
        return dry_run(*flags, cwd=tmp_path, env=env)["recipe"]["learning_rate"]

    (tmp_path / "empty.toml").write_text("")
    assert rate("--preset", "342m") == 1e-4
    assert rate(*TINY) == 1e-3
    (tmp_path / "tracekit.toml").write_text("[pretrain]\nlearning-rate = 2e-3\n")
    assert rate(*TINY) == 2e-3
    (tmp_path / "run.toml").write_text("learning-rate = 3e-3\npreset = 'nano'\n")
    assert rate(*TINY, "--config", "run.toml") == 3e-3
    assert dry_run("--config", "run.toml", cwd=tmp_path)["preset"] == "nano"
    assert dry_run("--config", "run.toml", cwd=tmp_path)["recipe"]["steps"] == 4000, "the preset of the file counts"
    env = {"TRACEKIT_PRETRAIN_LEARNING_RATE": "4e-3"}
    assert rate(*TINY, "--config", "run.toml", env=env) == 4e-3
    assert rate(*TINY, "--config", "run.toml", "--learning-rate", "5e-3", env=env) == 5e-3


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("learning-rat = 1.0\n", 78, "no option 'learning-rat'"),
        ("[filter]\nthreshold = 1.0\n", 78, "no option 'filter'"),
        ("steps = 'many'\n", 78, "pretrain.steps is 'many', but int is expected"),
        ("steps = -1\n", 78, "--steps is -1, but the least is 1"),
        ("steps = [\n", 78, "run.toml"),
        (None, 66, "run.toml does not exist"),
    ],
)
def test_a_bad_config_file(tmp_path: Path, text: str | None, code: int, message: str) -> None:
    if text is not None:
        (tmp_path / "run.toml").write_text(text)
    done = pretrain(*TINY, "--dry-run", "--config", "run.toml", cwd=tmp_path)
    assert done.returncode == code and message in done.stderr, done.stderr


def test_the_corpus_decides_how_many_steps_there_are(corpus: Path, tmp_path: Path) -> None:
    episodes = sorted(corpus.parent.glob("drift-*.h5"))
    short = tmp_path / "short.h5"
    shape = ("--horizon", 12, "--history", 4, "--control-points", 7)
    assert tracekit("fit-bspline", "-q", "--embed-images", *shape, *episodes, "-o", short).returncode == 0
    done = pretrain(short, *TINY, "--steps", 2, "--validate-every", 1, "-o", tmp_path / "run")
    assert done.returncode == 0 and "horizon is 12, as in" in done.stderr, done.stderr
    network = json.loads((tmp_path / "run" / "checkpoints" / "step-00000002" / "config.json").read_text())["network"]
    assert (network["horizon"], network["history"], network["control_points"]) == (12, 4, 7)


@pytest.mark.slow
def test_processes_of_torchrun_stop_together(corpus: Path, tmp_path: Path) -> None:
    """A signal to one of them is enough."""
    env = environment({**ONE_THREAD, "WORLD_SIZE": "2", "MASTER_PORT": "29617"})
    command = [*PROGRAM, "pretrain", str(corpus), *map(str, LONG), "-o", str(tmp_path / "run")]
    processes = [subprocess.Popen(command, env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE) for rank in range(2)]
    wait_for_step(processes[0], tmp_path / "run", 3)
    processes[1].send_signal(signal.SIGUSR1)
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], errors
    assert b"run the same command again" in errors[0] and b"Traceback" not in errors[0] + errors[1]
    assert steps(tmp_path / "run")[-1] == json.loads((tmp_path / "run" / "last.json").read_text())["step"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(corpus: Path, tmp_path: Path) -> None:
    """The largest of all children so far only grows: the short run comes first."""
    peaks = []
    for number in (20, 600):
        command = ("pretrain", corpus, *TINY, "--steps", number, "--validate-every", 0, "-o", tmp_path / str(number))
        assert tracekit(*command, env=ONE_THREAD).returncode == 0
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    assert peaks[1] < 1.05 * peaks[0]
