"""tracekit simulate as users meet it: its files, repetition, resuming, faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from run_command import PROGRAM, environment, tracekit
from simulator import simulator  # noqa: F401

from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE

pytestmark = pytest.mark.usefixtures("simulator")

TASK = "handle-press-v3"  # the shortest
SMALL = ["simulate", "--env", f"metaworld/{TASK}", "--size", "64x48", "--demo-size", "48x32", "--settle", "2"]
CLOCK = {"SOURCE_DATE_EPOCH": "0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Path:  # noqa: F811
    """Two episodes and their demonstrations."""
    folder = tmp_path_factory.mktemp("made")
    done = tracekit(
        *SMALL,
        "--camera",
        "corner2,handheld",
        "--jobs",
        2,
        "-d",
        folder / "out",
        "--demos",
        folder / "d.h5",
        cwd=folder,
        env={**CLOCK, "MUJOCO_GL": ""},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"2 episodes made; 0 of 2 tries failed, left out" in done.stderr and done.stdout == b""
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".failures"))


def contents(path: Path) -> dict[str, object]:
    """Every dataset and attribute of an HDF5 file, but the command line and where the video is."""
    found: dict[str, object] = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": str(value) for key, value in item.attrs.items() if key not in ("argv", "uri")})
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        keep("/", file)
        file.visititems(keep)
    return found


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def is_whole(folder: Path, name: str) -> bool:
    with open_records(folder / f"{name}.truth.h5", EPISODE) as file:
        file.validate_everything()
        clip = file.read("video")
    with av.open(str(folder / f"{name}.mp4")) as container:
        return sum(1 for _ in container.decode(video=0)) == len(clip.pts)


def test_what_is_written(made: Path) -> None:
    names = [f"{TASK}_{camera}_0_0" for camera in ("corner2", "handheld")]
    assert files(made / "out") == sorted(f"{name}{suffix}" for name in names for suffix in (".mp4", ".truth.h5"))
    assert files(made) == ["d.h5", "out"], "no parts are left"
    for name in names:
        assert is_whole(made / "out", name)
        with open_records(made / "out" / f"{name}.truth.h5", EPISODE) as file:
            episode, step = file.episode(), file.steps()[0]
            assert episode.depth_sensor.depth.shape == (len(episode.video.pts), 48, 64)
        assert episode.clip_id == name and episode.video.task == "press the handle down" and episode.video.fps == 20
        assert (episode.video.width, episode.video.height) == (64, 48)
        assert episode.truth.environment == f"metaworld/{TASK}" and episode.truth.camera == step.parameters["camera"]
        assert step.command == "simulate" and step.backend.startswith("metaworld ") and step.seed == 0
        assert step.counts["tries that the expert failed, left out"] == 0


@pytest.mark.slow
def test_the_same_command_gives_the_same_files_with_any_number_of_jobs(made: Path, tmp_path: Path) -> None:
    done = tracekit(
        *SMALL, "--camera", "corner2,handheld", "--jobs", 1, "-d", tmp_path / "out", "--demos", tmp_path / "d.h5", cwd=tmp_path, env=CLOCK
    )
    assert done.returncode == 0, done.stderr.decode()
    assert files(tmp_path / "out") == files(made / "out")
    for path in (tmp_path / "out").glob("*.mp4"):
        assert path.read_bytes() == (made / "out" / path.name).read_bytes()
    for path in (tmp_path / "out").glob("*.h5"):
        assert contents(path) == contents(made / "out" / path.name)
    assert contents(tmp_path / "d.h5") == contents(made / "d.h5")


def test_tries_that_fail_are_counted(tmp_path: Path) -> None:
    """Meta-World's expert misses the handle from the first start of this seed."""
    done = tracekit(*SMALL, "--env", "metaworld/door-open-v3", "--seed", 2, "-d", tmp_path)
    assert done.returncode == 0 and b"1 episodes made; 1 of 2 tries failed, left out" in done.stderr
    with open_records(tmp_path / "door-open-v3_corner2_2_0.truth.h5", EPISODE) as file:
        assert file.steps()[0].counts["tries that the expert failed, left out"] == 1


def test_only_what_is_missing_is_made(made: Path) -> None:
    arguments = [*SMALL, "--camera", "corner2,handheld", "-d", made / "out", "--demos", made / "d.h5"]
    before, demos_before = stamps(made / "out"), (made / "d.h5").stat().st_mtime_ns
    done = tracekit(*arguments)
    assert done.returncode == 0 and b"2 of 2 episodes are there already" in done.stderr
    assert stamps(made / "out") == before and (made / "d.h5").stat().st_mtime_ns == demos_before
    lost = made / "out" / f"{TASK}_corner2_0_0.mp4"
    content = lost.read_bytes()
    lost.write_bytes(content[:-1])
    done = tracekit(*arguments, "--dry-run")
    assert done.returncode == 0 and done.stderr.decode().splitlines() == [
        f"tracekit simulate: would make {made}/out/{TASK}_corner2_0_0.mp4 and .truth.h5"
    ]
    done = tracekit(*arguments)
    assert done.returncode == 0 and b"1 of 2 episodes are there already" in done.stderr and b"1 episodes made" in done.stderr
    assert lost.read_bytes() == content
    changed = {name for name, when in stamps(made / "out").items() if before.get(name) != when}
    assert changed == {f"{TASK}_corner2_0_0.mp4", f"{TASK}_corner2_0_0.truth.h5"}
    assert (made / "d.h5").stat().st_mtime_ns == demos_before


def test_what_is_not_ours_or_made_otherwise_is_not_replaced(made: Path, tmp_path: Path) -> None:
    done = tracekit(*SMALL, "--size", "80x60", "-d", made / "out")
    assert done.returncode == 73 and b"made with width 64, not 80" in done.stderr and b"--force" in done.stderr
    done = tracekit(*SMALL, "--demo-size", "64x48", "--demos", made / "d.h5", "-d", tmp_path / "out")
    assert done.returncode == 73 and b"d.h5 exists and was made with width 48, not 64" in done.stderr
    done = tracekit(*SMALL, "--seed", 1, "--demos", made / "d.h5", "-d", tmp_path / "out")
    assert done.returncode == 73 and b"not asked for" in done.stderr
    (tmp_path / "other.h5").write_bytes(b"precious")
    done = tracekit(*SMALL, "--demos", tmp_path / "other.h5", "-d", tmp_path / "out")
    assert done.returncode == 73 and (tmp_path / "other.h5").read_bytes() == b"precious"
    foreign = tmp_path / "out" / f"{TASK}_corner2_0_0.truth.h5"
    assert tracekit("caption", made / "out" / f"{TASK}_corner2_0_0.truth.h5", "-o", foreign).returncode == 0, "adds a step"
    with h5py.File(foreign, "r+") as file:
        del file["provenance/0000"]
    done = tracekit(*SMALL, "-d", tmp_path / "out")
    assert done.returncode == 73 and b"was not made by tracekit simulate" in done.stderr


def test_usage(tmp_path: Path) -> None:
    for wrong, said in (
        (["--env", "metaworld/open-sesame-v3"], b"known: mt10, mt50, assembly-v3"),
        (["--camera", "corner2,dolly"], b"known: corner2, orbit, handheld, egocentric"),
        (["--size", "641x480"], b"even"),
        (["--size", "640"], b"WIDTHxHEIGHT"),
        (["--size", "16x16"], b"from 32"),
        (["--num-episodes", "0"], b"--num-episodes"),
    ):
        done = tracekit(*SMALL, *wrong, "-d", tmp_path / "out")
        assert done.returncode == 2 and said in done.stderr, (wrong, done.stderr)
    assert tracekit(*SMALL).returncode == 2
    assert tracekit("simulate", "-d", tmp_path / "out").returncode == 2
    for unwritable in (["-d", "/proc/out"], ["-d", tmp_path / "out", "--demos", "/proc/d.h5"]):
        started = time.monotonic()
        assert tracekit(*SMALL, *unwritable).returncode == 73
        assert time.monotonic() - started < 20
    assert not list(tmp_path.rglob("*.mp4"))


HIDE_THE_PACKAGE = """
import importlib.metadata
found = importlib.metadata.version
def version(name):
    if name == "metaworld":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
"""


def test_without_the_extra_or_without_gl(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDE_THE_PACKAGE)
    done = tracekit(*SMALL, "-d", tmp_path / "out", env={"PYTHONPATH": str(tmp_path / "hidden")})
    assert done.returncode == 69 and b"metaworld is not installed" in done.stderr and b"pip install '.[sim]'" in done.stderr
    (tmp_path / "broken" / "OpenGL").mkdir(parents=True)
    (tmp_path / "broken" / "OpenGL" / "__init__.py").write_text("raise ImportError('no libGL here')")
    env = {"PYTHONPATH": str(tmp_path / "broken"), "MUJOCO_GL": ""}
    done = tracekit(*SMALL, "-d", tmp_path / "out", env=env)
    assert done.returncode == 69 and b"apt-get install libosmesa6" in done.stderr and b"Traceback" not in done.stderr
    done = tracekit(*SMALL, "-d", tmp_path / "out", env={**env, "MUJOCO_GL": "osmesa"})
    assert done.returncode == 69 and b"MUJOCO_GL=osmesa does not work here" in done.stderr and b"no libGL here" in done.stderr


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], env=environment(CLOCK), stderr=subprocess.PIPE, start_new_session=True)


def child_that_films(process: subprocess.Popen, folder: Path, name: str) -> int:
    """The process that has begun to write the video of an episode."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for part in folder.glob(f".{name}.mp4.*.tracekit-part"):
            return int(part.name.rsplit(".", 2)[1].split("-")[0])
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise TimeoutError


def test_a_worker_that_dies_costs_its_episode_only(tmp_path: Path) -> None:
    process = start(*SMALL, "--num-episodes", 2, "-d", tmp_path)
    os.kill(child_that_films(process, tmp_path, f"{TASK}_corner2_0_0"), signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 70, error
    assert f"{TASK}_corner2_0_0 failed: its process ended by signal SIGKILL".encode() in error and b"1 of 2 episodes failed" in error
    assert json.loads((tmp_path / "failures.jsonl").read_text())["id"] == f"{TASK}_corner2_0_0"
    assert files(tmp_path) == ["failures.jsonl", f"{TASK}_corner2_0_1.mp4", f"{TASK}_corner2_0_1.truth.h5"], "no temporaries"
    done = tracekit(*SMALL, "--num-episodes", 2, "-d", tmp_path)
    assert done.returncode == 0 and b"1 of 2 episodes are there already" in done.stderr
    assert is_whole(tmp_path, f"{TASK}_corner2_0_0") and not (tmp_path / "failures.jsonl").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_told_to_stop(tmp_path: Path, number: int, code: int) -> None:
    process = start(*SMALL, "-d", tmp_path)
    child_that_films(process, tmp_path, f"{TASK}_corner2_0_0")
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code and b"Traceback" not in error, error
    assert code == 130 or b"stopped after 0 of 1 episodes" in error
    assert files(tmp_path) == []


@pytest.mark.slow
def test_terminated_and_resumed(made: Path, tmp_path: Path) -> None:
    arguments = [*SMALL, "--camera", "corner2,handheld", "-d", tmp_path / "out", "--demos", tmp_path / "d.h5"]
    process = start(*arguments)
    child_that_films(process, tmp_path / "out", f"{TASK}_handheld_0_0")
    process.terminate()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75 and b"stopped after 1 of 2 episodes" in error and b"Traceback" not in error, error
    assert files(tmp_path / "out") == [f"{TASK}_corner2_0_0.mp4", f"{TASK}_corner2_0_0.truth.h5"], "no temporaries"
    assert files(tmp_path) == [".d.h5.parts", "out"] and files(tmp_path / ".d.h5.parts") == [f"{TASK}_corner2_0_0.h5"]
    done = tracekit(*arguments, env=CLOCK)
    assert done.returncode == 0 and b"1 episodes made" in done.stderr
    assert files(tmp_path) == ["d.h5", "out"]
    assert contents(tmp_path / "d.h5") == contents(made / "d.h5"), "as if it had never stopped"


@pytest.mark.parametrize(("kib", "num_whole"), [(512, 1), (12, 0)], ids=["in a truth file", "in a video"])
def test_a_full_disk_leaves_whole_episodes(tmp_path: Path, kib: int, num_whole: int) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = tracekit(*SMALL, "--num-episodes", 3, "-d", folder)
        assert done.returncode == 74, (done.returncode, done.stderr)
        assert b"no space left" in done.stderr and str(folder).encode() in done.stderr and b"Traceback" not in done.stderr
        assert len(files(folder)) == 2 * num_whole, files(folder)
        for number in range(num_whole):
            assert is_whole(folder, f"{TASK}_corner2_0_{number}")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_demonstrations_are_added_to_a_file_that_lacks_some(made: Path, tmp_path: Path) -> None:
    """Also: what was there is not filmed again, and a file of demonstrations alone may be lost."""
    arguments = [*SMALL, "-d", tmp_path / "out", "--demos", tmp_path / "d.h5"]
    assert tracekit(*arguments, env=CLOCK).returncode == 0
    before = stamps(tmp_path / "out")
    (tmp_path / "d.h5").rename(tmp_path / "lost.h5")
    done = tracekit(*arguments, env=CLOCK)
    assert done.returncode == 0 and stamps(tmp_path / "out") == before
    assert contents(tmp_path / "d.h5") == contents(tmp_path / "lost.h5")
    done = tracekit(*arguments, "--camera", "corner2,handheld", env=CLOCK)
    assert done.returncode == 0 and b"1 of 2 episodes are there already" in done.stderr
    assert contents(tmp_path / "d.h5") == contents(made / "d.h5")
    done = tracekit(*arguments)
    assert done.returncode == 0 and b"1 of 1 episodes are there already" in done.stderr, "more than is asked for is enough"


def test_demonstrations(made: Path) -> None:
    with h5py.File(made / "d.h5") as file:
        assert file.attrs["format"] == "tracekit/demos" and file.attrs["format_version"] == 1
        arguments = json.loads(file["data"].attrs["env_args"])
        assert arguments == {"env_name": f"metaworld/{TASK}", "type": 2, "env_kwargs": {}}
        assert list(file["data"]) == ["demo_0", "demo_1"]
        assert [demo.attrs["name"] for demo in file["data"].values()] == [f"{TASK}_{camera}_0_0" for camera in ("corner2", "handheld")]
        total = 0
        for index, demo in enumerate(file["data"].values()):
            num = demo.attrs["num_samples"]
            total += num
            assert demo.attrs["language"] == "press the handle down" and demo.attrs["success"]
            assert demo["actions"].shape == (num, 4) and demo["actions"].dtype == np.float32 and np.abs(demo["actions"][:]).max() <= 1
            assert demo["rewards"].shape == demo["dones"].shape == (num,)
            dones = demo["dones"][:]
            assert dones[-1] == 1 and 0 < dones.argmax() == num - 3, "two frames settle after the first success"
            proprio = demo["obs/proprio"][:]
            assert proprio.shape == (num, 4)
            # An action moves the hand by up to a centimetre, and what is felt after it comes next.
            step = np.diff(proprio[:, :3], axis=0)
            pushed = np.einsum("ij,ij->i", step, demo["actions"][:-1, :3])
            assert np.abs(step).max() < 0.02 and (pushed > 0).mean() > 0.8
            assert (proprio[:, 3] >= 0).all() and (proprio[:, 3] <= 1).all()
            for name in ("agentview_image", "eye_in_hand_image"):
                images = demo[f"obs/{name}"]
                assert images.shape == (num, 32, 48, 3) and images.dtype == np.uint8 and images.chunks == (1, 32, 48, 3)
                assert images[0].std() > 5 and np.abs(images[-1].astype(int) - images[0]).mean() > 1
            with open_records(made / "out" / f"{demo.attrs['name']}.truth.h5", EPISODE) as truth:
                assert len(truth.read("video").pts) == num
                index_of_hand = truth.read("truth").body_name.index("hand")
                hand = truth.read("truth").world_from_body[:, index_of_hand, :3, 3]
            assert np.linalg.norm(np.diff(hand - proprio[:, :3], axis=0), axis=1).max() < 1e-3, "frame t shows what is felt at t"
            assert index in (0, 1)
        assert file["data"].attrs["total"] == total
        assert [name.decode() for name in file["mask/train"][:]] == ["demo_0", "demo_1"] and len(file["mask/valid"]) == 0, "one start"


def test_robomimic_reads_them(made: Path) -> None:
    """Its own data set class (robomimic 0.3 needs `pip install --no-deps robomimic termcolor`)."""
    pytest.importorskip("robomimic", exc_type=ImportError)
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    with h5py.File(made / "d.h5") as file:
        total = file["data"].attrs["total"]
        actions, images = file["data/demo_0/actions"][5:21], file["data/demo_0/obs/agentview_image"][5:21]
    modalities = {"obs": {"low_dim": ["proprio"], "rgb": ["agentview_image", "eye_in_hand_image"]}}
    obs_utils.initialize_obs_utils_with_obs_specs(modalities)
    dataset = SequenceDataset(
        hdf5_path=str(made / "d.h5"),
        obs_keys=("agentview_image", "eye_in_hand_image", "proprio"),
        dataset_keys=("actions", "rewards", "dones"),
        load_next_obs=False,
        seq_length=16,
        hdf5_cache_mode="low_dim",
        filter_by_attribute="train",
    )
    assert len(dataset) == total
    sample = dataset[5]
    np.testing.assert_array_equal(sample["actions"], actions)
    np.testing.assert_array_equal(sample["obs"]["agentview_image"], images)


def test_other_commands_take_truth_files(made: Path, tmp_path: Path) -> None:
    clip = made / "out" / f"{TASK}_handheld_0_0.mp4"
    truth = clip.with_suffix(".truth.h5")
    for arguments in (
        ["info", "--validate", truth],
        ["view", truth, "-o", tmp_path / "v.png"],
        ["view", truth, "--what", "keypoints", "-o", tmp_path / "k.png"],
        ["fit-bspline", truth, "-o", tmp_path / "corpus.h5"],
        ["caption", truth, "-o", tmp_path / "captions.h5"],
        ["keypoints", clip, "--sensor", truth, "-o", tmp_path / "k.h5"],
        ["keypoints", clip, "--sensor", truth, "--sensor-poses", "no", "-o", tmp_path / "no-poses.h5"],
        ["reconstruct", truth, "-o", tmp_path / "r.h5"],
        ["track", tmp_path / "r.h5", "-o", tmp_path / "t.h5"],
    ):
        done = tracekit(*arguments)
        assert done.returncode == 0, (arguments, done.stderr.decode())
    done = tracekit("track", truth, "-o", tmp_path / "refused.h5")
    assert done.returncode == 65 and b"run reconstruct first" in done.stderr and not (tmp_path / "refused.h5").exists()
    with open_records(truth, EPISODE) as one, open_records(tmp_path / "k.h5", EPISODE) as other:
        np.testing.assert_array_equal(one.read("depth_sensor").depth[3], other.read("depth_sensor").depth[3])
        np.testing.assert_array_equal(one.read("camera_sensor").world_from_camera, other.read("camera_sensor").world_from_camera)
        np.testing.assert_array_equal(one.read("camera_sensor").intrinsics, other.read("camera_sensor").intrinsics)
    with open_records(tmp_path / "no-poses.h5", EPISODE) as file:
        assert file.read("camera_sensor").world_from_camera is None
