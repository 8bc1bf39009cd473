"""Our demonstrations as a LeRobotDataset, and back again. That lerobot itself loads it: test_demo_peers.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from tracekit.commands.export_lerobot import DemoFolderOptions, LerobotExport
from tracekit.commands.import_ import LerobotChoice, command

from tracekit.errors import BadDataError, CannotCreateError, UnavailableError, UsageError
from tracekit.format.demo_file import DemoFile
from tracekit.format.demos import Demo, merge_demos, write_demo
from tracekit.format.demos_writer import DemoRecord, new_demos
from tracekit.format.provenance import Step
from tracekit.interop import lerobot_export
from tracekit.interop.lerobot_export import LerobotParameters
from tracekit.interop.lerobot_stats import PictureStats, stats_of

LENGTHS = (5, 8, 4)


def smooth(rng: np.random.Generator, length: int) -> np.ndarray:
    """Pictures (T, 24, 32, 3) as a camera sees them: colours change slowly over the picture, and from step to step."""
    v, u, t = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 32), np.arange(length), indexing="ij")
    phases = rng.uniform(0, 6) + np.array([0, 0.2, 0.4])
    waves = [127 + 100 * np.sin(3 * u + 2 * v + 0.4 * t + phase) for phase in phases]
    return np.stack(waves, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)


def demo(number: int, length: int) -> Demo:
    rng = np.random.default_rng(number)
    return Demo(
        name=f"push_{number}",
        parameters={"number": number, "fps": 10.0},
        language=("push the puck", "pull the puck")[number % 2],
        success=number != 1,
        actions=rng.uniform(-1, 1, (length, 3)).astype(np.float32),
        rewards=rng.uniform(size=length).astype(np.float32),
        dones=np.arange(length) == length - 1,
        agentview_image=smooth(rng, length),
        eye_in_hand_image=smooth(rng, length),
        proprio=rng.normal(size=(length, 2)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations, the last for validation."""
    folder = tmp_path_factory.mktemp("demos")
    for number, length in enumerate(LENGTHS):
        write_demo(folder / f"{number}.h5", demo(number, length))
    sources = {f"push_{number}": folder / f"{number}.h5" for number in range(3)}
    merge_demos(folder / "all.h5", sources, ["metaworld/push-v3"], Step("simulate", [], "0", {}, []))
    return folder / "all.h5"


def export(source: Path, target: Path, *, force: bool = False, gripper: str = "eye_in_hand_image", **parameters: Any) -> None:
    LerobotExport().run(
        [str(source)], LerobotParameters(**parameters), DemoFolderOptions(gripper=gripper, out_dir=str(target), force=force)
    )


def bring_in(folder: Path, output: Path) -> None:
    (kind,) = (kind for kind in command.kinds if kind.name == "import lerobot")
    kind.run([str(folder)], LerobotChoice(output=str(output)))


def psnr(seen: np.ndarray, true: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((seen.astype(float) - true) ** 2))))


@pytest.mark.parametrize("codebase", ["v3.0", "v2.1"])
@pytest.mark.parametrize("images", [False, True])
def test_there_and_back(demos: Path, codebase: str, images: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(demos, tmp_path / "set", codebase=codebase, images=images)
    bring_in(tmp_path / "set", tmp_path / "back.h5")
    assert "agentview agentview, gripper eye_in_hand" in capsys.readouterr().err
    with DemoFile(demos) as there, DemoFile(tmp_path / "back.h5") as back:
        np.testing.assert_array_equal(there.all_actions, back.all_actions)
        np.testing.assert_array_equal(there.all_states, back.all_states)
        assert [(head.num_samples, head.language, head.split) for head in there.demos] == [
            (head.num_samples, head.language, head.split) for head in back.demos
        ]
        for head in there.demos:
            for step in range(head.num_samples):
                for camera in (DemoFile.agentview, DemoFile.gripper):
                    true, seen = camera(there, head.key, step), camera(back, head.key, step)
                    if images:
                        np.testing.assert_array_equal(seen, true)
                    else:
                        assert psnr(seen, true) > 35
                if step and not images:  # the frame before is another picture
                    assert psnr(back.agentview(head.key, step), there.agentview(head.key, step - 1)) < 25
    with h5py.File(demos) as there_file, h5py.File(tmp_path / "back.h5") as back_file:
        for key in ("demo_0", "demo_1", "demo_2"):
            for part in ("rewards", "dones"):
                np.testing.assert_array_equal(there_file[f"data/{key}/{part}"], back_file[f"data/{key}/{part}"])
            assert there_file[f"data/{key}"].attrs["success"] == back_file[f"data/{key}"].attrs["success"]
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["codebase_version"] == codebase and info["splits"] == {"train": "0:2", "valid": "2:3"} and info["fps"] == 10


def test_files_are_split_by_size(demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for nothing every episode gets files of its own; the importer finds all of them."""
    monkeypatch.setattr(lerobot_export, "_DATA_MB", 0)
    monkeypatch.setattr(lerobot_export, "_VIDEO_MB", 0)
    monkeypatch.setattr(lerobot_export, "_CHUNK_SIZE", 2)
    export(demos, tmp_path / "set")
    names = sorted(
        str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*") if "agentview" in str(path) and path.is_file()
    )
    assert names == [
        f"videos/observation.images.agentview/{place}.mp4" for place in ("chunk-000/file-000", "chunk-000/file-001", "chunk-001/file-000")
    ]
    assert len(list((tmp_path / "set/data").rglob("*.parquet"))) == 3
    bring_in(tmp_path / "set", tmp_path / "back.h5")
    with DemoFile(demos) as there, DemoFile(tmp_path / "back.h5") as back:
        np.testing.assert_array_equal(there.all_actions, back.all_actions)
        for head in there.demos:
            assert psnr(back.agentview(head.key, 3), there.agentview(head.key, 3)) > 35


def test_statistics_are_those_of_all_numbers_and_pixels(demos: Path, tmp_path: Path) -> None:
    export(demos, tmp_path / "set", images=True)
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    with DemoFile(demos) as file:
        pixels = np.stack([file.agentview(head.key, step) for head in file.demos for step in range(head.num_samples)]) / 255.0
        cases = {"action": (file.all_actions, 17), "observation.state": (file.all_states, 17)}
    cases["observation.images.agentview"] = (pixels.reshape(-1, 3), 17)
    for key, (values, count) in cases.items():
        of_key, rows = stats[key], values.astype(np.float64)
        for name, expected in {
            "min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0),
            **{f"q{percent:02d}": np.quantile(rows, percent / 100, axis=0) for percent in (1, 10, 50, 90, 99)},
        }.items():  # fmt: skip
            np.testing.assert_allclose(np.ravel(of_key[name]), expected, rtol=1e-12, atol=1e-12, err_msg=f"{key} {name}")
        assert of_key["count"] == [count]
    assert np.shape(stats["observation.images.agentview"]["q01"]) == (3, 1, 1)
    assert stats["index"]["max"] == [16] and stats["episode_index"]["mean"] == [pytest.approx((8 + 2 * 4) / 17)]
    rows = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, 5, 13] and rows[1]["length"] == 8 and rows[1]["tasks"] == ["pull the puck"]
    np.testing.assert_allclose(rows[1]["stats/action/q90"], np.quantile(demo(1, 8).actions.astype(np.float64), 0.9, axis=0))


def test_statistics_of_one_step_and_of_one_colour() -> None:
    assert stats_of(np.array([[2.0, 3.0]]))["std"] == [0.0, 0.0] and stats_of(np.array([True, False]))["mean"] == [0.5]
    black = PictureStats()
    black.add(np.zeros((2, 2, 3), np.uint8))
    assert all(np.max(value) == 0 for name, value in black.result().items() if name != "count")


def test_a_file_of_robomimic_and_one_camera(tmp_path: Path) -> None:
    """No names, sentences, masks or outcomes; the rate is the environment's; states are put together; odd pictures stay odd."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "low.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for number in range(2):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = rng.normal(size=(4, 7))
            group["obs/agentview_image"] = rng.integers(0, 256, (4, 9, 11, 3), np.uint8)
            group["obs/eef_pos"], group["obs/gripper"] = rng.normal(size=(4, 3)), rng.normal(size=(4, 1))
    options = DemoFolderOptions(gripper="none", state="eef_pos,gripper", out_dir=str(tmp_path / "set"))
    LerobotExport().run([str(tmp_path / "low.hdf5")], LerobotParameters(images=True), options)
    bring_in(tmp_path / "set", tmp_path / "back.h5")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["fps"] == 20 and info["robot_type"] == "Lift" and info["features"]["observation.state"]["shape"] == [4]
    with h5py.File(tmp_path / "low.hdf5") as there, h5py.File(tmp_path / "back.h5") as back:
        np.testing.assert_array_equal(there["data/demo_1/obs/agentview_image"], back["data/demo_1/obs/agentview_image"])
        np.testing.assert_array_equal(there["data/demo_1/obs/gripper"][:].astype(np.float32), back["data/demo_1/obs/proprio"][:, 3:])
        assert "eye_in_hand_image" not in back["data/demo_0/obs"]


def test_demonstrations_in_no_split_are_counted(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "masked.h5"
    path.write_bytes(demos.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["mask/train"]
        file["mask/train"] = np.array(["demo_0"], dtype="S")
    export(path, tmp_path / "set", images=True)
    assert "1 demonstrations that the masks name in no split" in capsys.readouterr().err
    assert json.loads((tmp_path / "set/meta/info.json").read_text())["splits"] == {"train": "0:2", "valid": "2:3"}


def test_what_is_in_the_way_and_what_cannot_be(demos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CannotCreateError, match="no LeRobotDataset"):
        export(demos, other, force=True)
    export(demos, tmp_path / "set", images=True)
    with pytest.raises(CannotCreateError, match="--force"):
        export(demos, tmp_path / "set")
    export(demos, tmp_path / "set", force=True, images=True)
    with pytest.raises(BadDataError, match="its cameras are: agentview_image, eye_in_hand_image"):
        export(demos, tmp_path / "new", gripper="wrist")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "set"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda file: file["data/demo_1"].attrs.__setitem__("parameters", '{"number": 1, "fps": 12.5}'), UsageError, "several rates"),
        (lambda file: file["data/demo_1"].attrs.__setitem__("parameters", "{"), BadDataError, "is no JSON"),
        (lambda file: file["data/demo_1/rewards"].__setitem__(0, np.nan), BadDataError, "rewards in .* is not finite"),
        (
            lambda file: file["data/demo_1"].attrs.__setitem__("success", [1, 0]),
            BadDataError,
            "success of data/demo_1 .* 0 or 1 is expected",
        ),
        (lambda file: file["data/demo_1"].attrs.__setitem__("success", "no"), BadDataError, "success of data/demo_1 .* 0 or 1 is expected"),
        (
            lambda file: file["data/demo_1"].__delitem__("dones") or file.__setitem__("data/demo_1/dones", [0]),
            BadDataError,
            "no column of 8",
        ),
    ],
)
def test_damage_is_named_and_nothing_is_left(
    demos: Path, change: Callable[[h5py.File], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.h5"
    path.write_bytes(demos.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(error, match=message):
        export(path, tmp_path / "set", images=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.h5"]


def test_without_pyarrow_both_ways_say_what_to_install(demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for attempt in (lambda: export(demos, tmp_path / "set"), lambda: bring_in(tmp_path, tmp_path / "demos.h5")):
        with pytest.raises(UnavailableError, match="pyarrow") as raised:
            attempt()
        assert "'.[lerobot]'" in raised.value.hint
    assert not any(tmp_path.iterdir())


def peak(*arguments: object) -> int:
    """As peak_kilobytes, asked for by a small process: a child begins with what its parent has, and this one has much."""
    script = "import sys; from run_command import peak_kilobytes; print(peak_kilobytes(*sys.argv[1:]))"
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("images", [(), ("--images",)])
def test_memory_does_not_grow_with_the_pictures(images: tuple[str, ...], tmp_path: Path) -> None:
    """74 MB more of pictures in an episode, in and out again, take less than 25 MB more of memory."""
    peaks = []
    for length in (24, 64):  # what is kept of frames, 16 MB a camera, is full by then
        picture = np.add.outer(np.arange(480), np.arange(640)).astype(np.uint8)
        seen = [np.repeat(np.roll(picture, step, axis=1)[:, :, None], 3, axis=2) for step in range(length)]
        record = DemoRecord(
            "one", {"number": 0, "fps": 10}, "push", True, np.zeros((length, 3)), np.zeros((length, 2)), *np.zeros((2, length))
        )
        with new_demos(tmp_path / f"{length}.h5") as writer:
            writer.add(record, ((one, one) for one in seen))
            writer.finish({}, Step("simulate", [], "0", {}, []))
        folder = tmp_path / f"set{length}"
        peaks.append(
            (
                peak("export", "lerobot", tmp_path / f"{length}.h5", "-d", folder, *images),
                peak("import", "lerobot", folder, "-o", tmp_path / f"back{length}.h5"),
            )
        )
    assert (np.diff(peaks, axis=0) < 25_000).all(), peaks
