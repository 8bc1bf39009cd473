"""`tracekit rollout --env` as a user runs it: what is printed and written, what is refused, and that what is written can be learnt from."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import time
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from action.finetune_cases import plan, train, write_world_model
from rollouts.point_world import SIDE
from run_command import PROGRAM, environment, tracekit
from simulator import simulator  # noqa: F401

from tracekit import cli
from tracekit.format.demos import describe_demos
from tracekit.trace_pictures import LEAST_WIDTH

POINT = "rollouts.point_world:PointWorld-v0"
KEYS = ("--camera", "eyes/scene", "--gripper-camera", "eyes/hand", "--state", "place,goal", "--text", "go there")


def rollout(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error. In this process, which has paid for its imports already."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli.run(["rollout", *map(str, arguments)])
    assert "Traceback" not in said.getvalue()
    return code, out.getvalue(), said.getvalue()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random rollouts, in one file."""
    path = tmp_path_factory.mktemp("recorded") / "demos.h5"
    code, _, said = rollout("--env", POINT, *KEYS, "--policy", "random", "--num-episodes", 3, "--max-steps", 6, "-o", path)
    assert code == 0, said
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, recorded: Path) -> Path:
    """A policy that has seen four batches of them."""
    folder = tmp_path_factory.mktemp("policy")
    train(plan(write_world_model(folder / "world"), recorded), folder / "policy")
    return folder / "policy"


def test_the_table(recorded: Path) -> None:
    code, out, _ = rollout("--env", POINT, *KEYS, "--policy", "random", "--num-episodes", 2, "--max-steps", 5, "--num-envs", 2)
    head, line, *_ = out.splitlines()
    assert code == 0 and head.split() == ["task", "episodes", "successes", "rate", "95", "%", "interval", "steps", "failed", "to", "run"]
    assert line.split() == [POINT, "2", "0", "0.0%", "0.0%", "-", "65.8%", "-", "0"]


def test_the_file_is_one_of_demonstrations(recorded: Path) -> None:
    about = describe_demos(recorded, every_value=True)
    assert about["groups"]["data/demo_0"].endswith("6 steps, not done: go there") and about["groups"]["mask/valid"] == "1 demonstration"
    (step,) = about["provenance"]
    assert step["command"] == "rollout" and step["backend"] == "random" and step["parameters"]["env"] == POINT
    with h5py.File(recorded) as file:
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == POINT
        demos = [file[f"data/demo_{number}"] for number in range(3)]
        actions = np.concatenate([demo["actions"][:] for demo in demos])
        assert [demo["obs/proprio"].shape for demo in demos] == [(6, 4)] * 3
        assert np.abs(actions).max() <= 1 and np.abs(actions.mean()) < 0.5 and actions.std() > 0.4
        assert json.loads(demos[1].attrs["parameters"])["number"] == 1


def test_a_policy_acts_the_same_in_one_process_and_in_two(policy: Path, tmp_path: Path) -> None:
    results = []
    for number in (1, 2):
        code, out, said = rollout(
            *(
                "--env",
                POINT,
                *KEYS,
                "--policy",
                policy,
                "--num-episodes",
                3,
                "--max-steps",
                6,
                "--num-envs",
                number,
                "--json",
                "--device",
                "cpu",
            ),
            *("-o", tmp_path / f"{number}.h5"),
        )
        assert code == 0, said
        results.append(json.loads(out))
    one, two = results
    assert one["tasks"] == two["tasks"] and one["seconds_per_plan"] > 0
    assert one["num_plans"] == two["num_plans"] == 9, "horizon 4, execute 2, 6 steps"
    assert (one["num_episodes"], one["success_rate"], one["failed_to_run"], one["seed"]) == (3, 0, 0, 0)
    assert one["interval"] == pytest.approx([0, 0.5615], abs=1e-4) and one["versions"].keys() == {"tracekit", "gymnasium"}
    with h5py.File(tmp_path / "1.h5") as first, h5py.File(tmp_path / "2.h5") as second:
        for number in range(3):
            for what in ("actions", "obs/agentview_image"):
                name = f"data/demo_{number}/{what}"
                assert np.array_equal(first[name][:], second[name][:])


def test_videos_and_a_folder(policy: Path, tmp_path: Path) -> None:
    """Traces of the world model are drawn in: pictures of the same actions differ from those without them."""
    videos, files = tmp_path / "videos", tmp_path / "files"
    arguments = ("--env", POINT, *KEYS, "--num-episodes", 2, "--max-steps", 4, "-q")
    assert rollout(*arguments, "--policy", policy, "--video", videos, "-o", files, "--execute", 1)[0] == 0
    names = [f"rollouts.point_world_PointWorld-v0_0_{number}" for number in (0, 1)]
    assert sorted(path.name for path in videos.iterdir()) == [f"{name}.mp4" for name in names]
    assert sorted(path.name for path in files.iterdir()) == [f"{name}.h5" for name in names]
    with av.open(str(videos / f"{names[0]}.mp4")) as film:
        rate = film.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert rate == 10 and len(frames) == 4 + 1 + 10, "a picture a step, one after the last, which stays a second"
    assert frames[0].shape[1] >= LEAST_WIDTH
    describe_demos(files / f"{names[1]}.h5", every_value=True)
    with h5py.File(files / f"{names[0]}.h5") as file:
        scene = file["data/demo_0/obs/agentview_image"][0]
    scale = frames[0].shape[1] // SIDE
    middles = frames[0][: SIDE * scale].reshape(SIDE, scale, SIDE, scale, 3)[:, scale // 2, :, scale // 2]
    differs = np.abs(middles.astype(int) - scene).max(axis=-1) > 60
    assert differs.sum() > 20, "the scene is black, but for two points"


def test_outputs_in_the_way_stay(recorded: Path, tmp_path: Path) -> None:
    arguments = ("--env", POINT, *KEYS, "--policy", "random", "--num-episodes", 1, "--max-steps", 1)
    before = recorded.read_bytes()
    code, _, said = rollout(*arguments, "-o", recorded)
    assert code == 73 and "exists" in said and recorded.read_bytes() == before
    (tmp_path / "rollouts.point_world_PointWorld-v0_0_0.mp4").write_text("mine")
    code, _, said = rollout(*arguments, "--video", tmp_path)
    assert code == 73 and "_0_0.mp4 exists" in said
    assert rollout(*arguments, "--video", tmp_path, "--force", "-q")[0] == 0
    assert next(iter(tmp_path.iterdir())).stat().st_size > 1000


def test_episodes_that_failed_to_run_are_told_apart(tmp_path: Path) -> None:
    env = "rollouts.point_world:CrashWorld-v0"
    arguments = ("--env", env, *KEYS, "--policy", "random", "--num-episodes", 7, "--max-steps", 5, "--json", "-o", tmp_path / "all.h5")
    code, out, said = rollout(*arguments)
    content = json.loads(out)
    failed = [episode["number"] for episode in content["tasks"][env]["episodes"] if "error" in episode]
    assert code == 70 and 0 < len(failed) < 7 and f"{len(failed)} of 7 episodes failed to run" in said and "SIGKILL" in said
    assert content["failed_to_run"] == len(failed) and content["num_episodes"] == 7 - len(failed)
    with h5py.File(tmp_path / "all.h5") as file:
        assert len(file["data"]) == 7 - len(failed)
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]


def test_a_sentence_that_the_policy_never_learnt_is_said_once(policy: Path) -> None:
    """The one of its demonstrations is "go there"."""
    arguments = ("--env", POINT, *KEYS[:-2], "--policy", policy, "--num-episodes", 2, "--max-steps", 4)
    code, _, said = rollout(*arguments)
    assert code == 0 and said.count("is told '', but learnt from 'go there' (see --text)") == 1
    code, _, said = rollout(*arguments, "--text", "go there")
    assert code == 0 and "is told" not in said


@pytest.mark.parametrize(
    ("env", "keys", "code", "messages"),
    [
        ("BrokenWorld-v0", KEYS, 69, ["BrokenWorld-v0 cannot be made: RuntimeError: its meshes are not there", "no episode was run"]),
        ("BlindWorld-v0", KEYS[2:], 2, ["BlindWorld-v0 cannot be made: it takes no render_mode", "--camera KEY"]),
    ],
)
def test_an_environment_that_cannot_be_made(env: str, keys: tuple[str, ...], code: int, messages: list[str], tmp_path: Path) -> None:
    arguments = ("--env", f"rollouts.point_world:{env}", *keys, "--policy", "random", "--num-envs", 2)
    got, out, said = rollout(*arguments, "-o", tmp_path / "all.h5")
    assert got == code and not out and all(message in said for message in messages), said
    assert "failed to run" not in said and not list(tmp_path.iterdir())
    if env.startswith("Blind"):
        assert rollout(*arguments, *KEYS[:2], "--num-episodes", 1, "--max-steps", 1)[0] == 0


def test_another_robot_is_refused_naming_both(policy: Path) -> None:
    code, out, said = rollout("--env", POINT, *KEYS[:4], "--state", "place", "--policy", policy)
    assert code == 2 and not out and "knows states of 4 numbers, but those of rollouts.point_world:PointWorld-v0 have 2" in said
    code, _, said = rollout("--env", POINT, "--camera", "eyes/scene", *KEYS[4:], "--policy", policy)
    assert code == 2 and "camera on the gripper" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--env", POINT), 2, "say what is to act"),
        (("--policy", "random"), 2, "--policy is about a policy in an environment"),
        (("--env", POINT, "--policy", "random", "--samples", 3), 2, "--samples is about predictions"),
        (("--env", POINT, "--policy", "random", "--picture", "a.png"), 2, "--picture is about predictions"),
        (("mu0", "--env", POINT, "--policy", "random"), 2, "mu0 was named"),
        (("--env", POINT, "--policy", "random", "--execute", 3), 2, "decides anew at every step"),
        (("--env", POINT, *KEYS, "--policy", "scripted"), 2, "has no scripted expert"),
        (("--env", POINT, *KEYS[:4], "--state", "joints", "--policy", "random"), 2, "no joints (--state)"),
        (("--env", POINT, "--policy", "nowhere"), 66, "nowhere"),
        (("--env", "Pendulum-v9", "--policy", "random"), 2, "Pendulum-v1"),
        (("--env", "metaworld/drawer-opn-v3", "--policy", "random"), 2, "did you mean drawer-open-v3"),
        (("--env", POINT, "--policy", "random", "--size", "7x7"), 2, "both must be even"),
        (("--env", POINT, "--policy", "random", "--num-episodes", 0), 2, "--num-episodes is 0"),
    ],
)
def test_what_is_refused(arguments: tuple[object, ...], code: int, message: str) -> None:
    got, out, said = rollout(*arguments)
    assert (got, message in said, out) == (code, True, ""), said


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    code, out, said = rollout(
        "--env", f"{POINT}", "--policy", "random", "--num-episodes", 3, "-n", "-o", tmp_path / "a", "--video", tmp_path / "b"
    )
    assert code == 0 and not out and "would run 3 episodes" in said and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("simulator")
def test_the_scripted_expert_as_a_user_runs_it() -> None:
    """A process of its own, which imports no torch."""
    done = tracekit("rollout", "--env", "metaworld/drawer-open-v3", "--policy", "scripted", "--num-episodes", 2, "--num-envs", 2, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["success_rate"] == 1 and content["mean_steps_to_success"] < 120 and content["seconds_per_plan"] is None
    assert content["versions"].keys() == {"tracekit", "metaworld", "mujoco"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_it_leaves_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    """In the middle of episodes that hang: no process, no parts, no output."""
    env = environment({"PYTHONPATH": str(Path(__file__).parents[1])})
    arguments = (
        "--env",
        "rollouts.point_world:HangWorld-v0",
        *KEYS,
        "--policy",
        "random",
        "--num-envs",
        "2",
        "-o",
        str(tmp_path / "all.h5"),
    )
    process = subprocess.Popen([*PROGRAM, "rollout", *arguments], env=env, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    hanging: list[str] = []
    for _ in range(120):
        if len(hanging) == 2:  # both are in the middle of an episode
            break
        time.sleep(0.5)
        hanging = [child for child in children.read_text().split() if "sleep" in Path(f"/proc/{child}/wchan").read_text()]
    assert len(hanging) == 2
    process.send_signal(number)
    assert process.wait(60) == code
    assert not any(Path(f"/proc/{child}").exists() for child in hanging)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_not_there_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom tracekit.cli import run\n"
        f"code = run(['rollout', '--env', 'metaworld/drawer-open-v3', '--policy', {str(tmp_path / 'none')!r}])\n"
        "print(code, sorted({'torch', 'mujoco', 'gymnasium', 'metaworld'} & set(sys.modules)))"
    )
    done = subprocess.run([PROGRAM[0], "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "66 []\n", done.stderr
    assert f"{tmp_path / 'none'}: there is no such folder" in done.stderr
    assert "tracekit finetune makes policies; scripted and random need none" in done.stderr
