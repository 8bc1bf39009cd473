"""LeRobotDatasets of other people, in both layouts, as our demonstrations."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_folders import FPS, HEIGHT, TOP, WIDTH, WRIST, Folder, episode, picture, png
from PIL import Image
from run_command import tracekit
from tracekit.commands.import_ import LerobotChoice, command

from tracekit.errors import BadDataError, CannotCreateError, TracekitError, UsageError
from tracekit.format.demo_file import DemoFile, DemoLayout
from tracekit.format.demos import describe_demos
from tracekit.format.provenance import read
from tracekit.interop.lerobot_import import choose_cameras, choose_episodes
from tracekit.interop.lerobot_layout import open_lerobot
from tracekit.report import Report

VERSIONS = ("v2.1", "v3.0")


def bring_in(folder: Path, output: Path, **choice: Any) -> None:
    """`tracekit import lerobot` in this process."""
    (kind,) = (kind for kind in command.kinds if kind.name == "import lerobot")
    kind.run([str(folder)], LerobotChoice(output=str(output), **choice))


def three_episodes() -> list[Any]:
    return [episode(0, 6), episode(1, 9, task=1), episode(2, 4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Folder]:
    """By version, and whether pictures are images. Never written to."""
    base = tmp_path_factory.mktemp("lerobot")
    return {
        (version, images): Folder(base / f"{version}-{images}", version, three_episodes(), images=images)
        for version in VERSIONS
        for images in (False, True)
    }


def copy(folder: Folder, target: Path) -> Path:
    return Path(shutil.copytree(folder.path, target))


def check_pictures(path: Path, numbers: list[int], *, exact: bool) -> None:
    with DemoFile(path) as file:
        for head, number in zip(file.demos, numbers, strict=True):
            for step in range(head.num_samples):
                for place, seen in enumerate((file.agentview(head.key, step), file.gripper(head.key, step))):
                    off = np.abs(seen.astype(int) - picture(place, number, step)).max()
                    assert off == 0 if exact else off <= 6, (number, step, place, off)  # neighbours are 18 apart


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("images", [False, True])
def test_every_number_and_every_frame_comes_over(
    folders: dict[tuple[str, bool], Folder], version: str, images: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders[version, images]
    output = tmp_path / "demos.h5"
    bring_in(folder.path, output)
    assert "agentview top, gripper wrist" in capsys.readouterr().err
    check_pictures(output, [0, 1, 2], exact=images)
    with DemoFile(output) as file:
        for head, one in zip(file.demos, folder.episodes, strict=True):
            np.testing.assert_array_equal(file.actions(head.key), one.actions)
            np.testing.assert_array_equal(file.states(head.key), one.states)
            assert head.language == folder.tasks[one.task]
        assert [head.name for head in file.demos] == ["episode_000000", "episode_000001", "episode_000002"]
        assert [head.split for head in file.demos] == ["train", "train", "valid"]
    with h5py.File(output) as stored:
        assert stored["data/demo_1/dones"][:].tolist() == [0] * 8 + [1] and not stored["data/demo_1/rewards"][:].any()
        assert json.loads(stored["data/demo_1"].attrs["parameters"])["episode"] == 1
        assert stored["data"].attrs["total"] == 19 and stored["data/demo_0"].attrs["success"]
        (step,) = read(stored)
        assert step.command == "import lerobot" and len(step.inputs) == 1
        assert step.counts["demonstrations that do not say whether they succeed, taken for successes"] == 3
    assert describe_demos(output, every_value=True)["groups"]["data/demo_1"].endswith("9 steps, done: pull the block")


@pytest.mark.parametrize(("version", "flags"), zip(VERSIONS, [("--agentview", "--gripper"), ("--camera", "--gripper-camera")], strict=True))
def test_chosen_episodes_and_one_camera(
    folders: dict[tuple[str, bool], Folder], version: str, flags: tuple[str, str], tmp_path: Path
) -> None:
    """As a user asks for it. The first episode that is wanted begins in the middle of a shared video and of shared rows."""
    output = tmp_path / "demos.h5"
    choice = ("--episodes", "1:", flags[0], WRIST, flags[1], "none", "--max-size", "16")
    done = tracekit("import", "lerobot", folders[version, False].path, "-o", output, *choice)
    assert done.returncode == 0 and b"cameras:" not in done.stderr, done.stderr
    with DemoFile(output, DemoLayout(gripper="")) as file:
        assert [head.num_samples for head in file.demos] == [9, 4]
        for head, number in zip(file.demos, (1, 2), strict=True):
            seen = file.agentview(head.key, 2)
            assert seen.shape == (12, 16, 3) and np.abs(seen.astype(int) - picture(1, number, 2)[0, 0]).max() <= 6
    assert describe_demos(output)["groups"]["data/demo_0"].startswith("episode_000001")


def test_av1_which_lerobot_writes_by_default(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "av1", "v3.0", [episode(0, 6), episode(1, 9)], codec="libsvtav1")
    bring_in(folder.path, tmp_path / "demos.h5")
    check_pictures(tmp_path / "demos.h5", [0, 1], exact=False)


def test_outcomes_one_number_actions_and_a_split_of_their_own(tmp_path: Path) -> None:
    """Features of one number are plain columns; next.* say how an episode went; `val` is kept from training."""
    episodes = [episode(seed, 4, actions=1, states=1) for seed in range(3)]
    for number, one in enumerate(episodes):
        one.extra = {
            "next.reward": np.arange(4, dtype=np.float32),
            "next.done": np.array([0, 0, 1, 1], bool),
            "next.success": np.array([0, 0, number == 1, 0], bool),
        }
    folder = Folder(tmp_path / "set", "v3.0", episodes, images=True)
    for number, path in enumerate(sorted((folder.path / "data").rglob("*.parquet"))):
        table = pq.read_table(path)
        for key in ("action", "observation.state"):
            table = table.set_column(table.schema.get_field_index(key), key, pa.array(table[key].combine_chunks().flatten()))
        pq.write_table(table, path, row_group_size=3 + number)
    folder.info(splits={"train": "1:3", "val": "0:1"})
    bring_in(folder.path, tmp_path / "demos.h5")
    with DemoFile(tmp_path / "demos.h5") as file:
        assert [head.split for head in file.demos] == ["valid", "train", "train"]
        for head, one in zip(file.demos, episodes, strict=True):
            np.testing.assert_array_equal(file.actions(head.key), one.actions)
    check_pictures(tmp_path / "demos.h5", [0, 1, 2], exact=True)
    with h5py.File(tmp_path / "demos.h5") as stored:
        assert [bool(stored[f"data/demo_{number}"].attrs["success"]) for number in range(3)] == [False, True, False]
        assert stored["data/demo_0/rewards"][:].tolist() == [0, 1, 2, 3] and stored["data/demo_0/dones"][:].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"agentview": "front"}, "its cameras are: top, wrist"),
        ({"agentview": "top", "gripper": "top"}, "cannot be both"),
        ({"state": "joints"}, "what may be a state: observation.state"),
        ({"episodes": "7:9"}, "has episodes 0 to 2"),
        ({"episodes": "a"}, "give numbers and ranges"),
        ({"episodes": "1:2:3"}, "give numbers and ranges"),
        ({"episodes": "1 2"}, "give numbers and ranges"),
        ({"episodes": "1,"}, "give numbers and ranges"),
    ],
)
def test_wrong_choices_name_what_there_is(
    folders: dict[tuple[str, bool], Folder], choice: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        bring_in(folders["v3.0", True].path, tmp_path / "demos.h5", **choice)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(None, [0, 1, 2]), ("0:2", [0, 1]), ("1:", [1, 2]), (":1", [0]), ("2", [2]), ("2,0:1", [0, 2]), ("0:99999999", [0, 1, 2])],
)
def test_episodes_are_chosen_by_number(folders: dict[tuple[str, bool], Folder], text: str | None, numbers: list[int]) -> None:
    chosen = choose_episodes(open_lerobot(folders["v3.0", True].path), text)
    assert [episode.index for episode in chosen] == numbers


@pytest.mark.parametrize(
    ("cameras", "agentview", "gripper"),
    [
        (["robot0_eye_in_hand", "robot0_agentview_right", "robot0_agentview_left"], "robot0_agentview_left", "robot0_eye_in_hand"),
        (["wrist_left", "laptop", "front"], "front", "wrist_left"),
        (["image", "wrist_image"], "image", "wrist_image"),
        (["image"], "image", ""),
        (["gripper"], "gripper", ""),
    ],
)
def test_a_guess_at_the_cameras(folders: dict[tuple[str, bool], Folder], cameras: list[str], agentview: str, gripper: str) -> None:
    folder = replace(open_lerobot(folders["v3.0", True].path), cameras={f"observation.images.{name}": "video" for name in cameras})
    found = choose_cameras(folder, None, None, report := Report())
    assert [name.removeprefix("observation.images.") for name in found] == [agentview, gripper]
    assert f"agentview {agentview}, gripper {gripper or 'none'}" in report.notes[0]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _table(path: Path, change: Any) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _replaced(table: pa.Table, key: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(key), key, values)


def _not_a_number(table: pa.Table) -> pa.Table:
    values = table["action"].to_pylist()
    values[3][1] = float("nan")
    return _replaced(table, "action", pa.array(values, table.schema.field("action").type))


def _ragged(table: pa.Table) -> pa.Table:
    values = table["action"].to_pylist()
    values[3] = values[3][:2]
    return _replaced(table, "action", pa.array(values, pa.list_(pa.float32())))


def _wider(table: pa.Table) -> pa.Table:
    return _replaced(table, "action", pa.array([[*row, 0.0] for row in table["action"].to_pylist()], pa.list_(pa.float32())))


def _no_task(table: pa.Table) -> pa.Table:
    return _replaced(table, "task_index", pa.array([float("nan")] * len(table)))


def _one_task(path: Path, task: str) -> None:
    (path / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": task}) + "\n")


def _episodes(path: Path, key: str, value: Any) -> None:
    """Change what meta/ says about the first episode."""
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[0][key] = value
    pq.write_table(pa.Table.from_pylist(rows), file)


ROWS_21, ROWS_30 = "data/chunk-000/episode_000001.parquet", "data/chunk-000/file-000.parquet"
VIDEO_21, VIDEO_30 = f"videos/chunk-000/{TOP}/episode_000001.mp4", f"videos/{TOP}/chunk-000/file-000.mp4"
FAULTS: list[tuple[str, bool, Any, int, str]] = [
    ("v2.1", False, lambda path: (path / ROWS_21).unlink(), 66, "episode_000001.parquet does not exist"),
    ("v3.0", False, lambda path: (path / VIDEO_30).unlink(), 66, "file-000.mp4, the video of episode 0"),
    ("v2.1", False, lambda path: _cut(path / ROWS_21), 65, "episode_000001.parquet is no Parquet file, or is damaged"),
    ("v2.1", False, lambda path: _cut(path / VIDEO_21), 65, "episode_000001.mp4"),
    ("v3.0", False, lambda path: _table(path / ROWS_30, _not_a_number), 65, "`action` is not finite in row 3"),
    ("v3.0", True, lambda path: _table(path / ROWS_30, _ragged), 65, "rows of different lengths"),
    ("v3.0", True, lambda path: _table(path / ROWS_30, lambda table: table.slice(1)), 65, "episode 0"),
    ("v3.0", True, lambda path: _table(path / ROWS_30, lambda table: table.slice(0, 7)), 65, "has 7 rows, but rows 6 to 15"),
    ("v2.1", True, lambda path: _table(path / ROWS_21, lambda table: table.slice(0, 7)), 65, "has 7 rows, but meta/episodes.jsonl says 9"),
    ("v3.0", True, lambda path: _table(path / ROWS_30, lambda table: table.drop_columns(["task_index"])), 65, "has no column task_index"),
    ("v2.1", True, lambda path: (path / "meta/episodes.jsonl").write_text('{"episode_index": 0}\n'), 65, "line 1: length is None"),
    ("v2.1", True, lambda path: (path / "meta/tasks.jsonl").write_text("[1]\n"), 65, "line 1 holds no JSON object"),
    ("v2.1", True, lambda path: (path / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "push"}\n'), 65, "is of task 1"),
    ("v3.0", True, lambda path: (path / "meta/tasks.parquet").unlink(), 66, "tasks.parquet does not exist"),
    ("v3.0", True, lambda path: shutil.rmtree(path / "meta/episodes"), 66, "holds no Parquet file"),
    ("v2.1", True, lambda path: _one_task(path, "a\0b"), 65, "line 1: the task is 'a\\x00b'"),
    ("v2.1", True, lambda path: _one_task(path, "a\ud800"), 65, "line 1: the task is 'a\\ud800'"),
    ("v2.1", True, lambda path: _table(path / ROWS_21, _no_task), 65, "a task_index is not a number"),
    ("v2.1", True, lambda path: _table(path / ROWS_21, _wider), 65, "`action` has 4 numbers, but 3 in earlier episodes"),
    ("v2.1", True, lambda path: _table(path / ROWS_21, lambda table: _replaced(table, TOP, table["index"])), 65, "holds no image"),
    ("v3.0", True, lambda path: _table(path / ROWS_30, lambda table: _replaced(table, "action", table[TOP])), 65, "numbers are expected"),
    ("v3.0", False, lambda path: (path / VIDEO_30).write_bytes(b"no video"), 65, "the video of episode 0"),
    ("v3.0", False, lambda path: _episodes(path, f"videos/{TOP}/from_timestamp", float("nan")), 65, "from_timestamp is nan"),
    ("v3.0", False, lambda path: _episodes(path, "dataset_from_index", -1), 65, "dataset_from_index is -1"),
    ("v3.0", False, lambda path: _episodes(path, "episode_index", 2), 65, "lists episode 2 twice"),
    ("v3.0", False, lambda path: _episodes(path, "length", 0), 65, "episode 0 has no steps"),
    ("v3.0", True, lambda path: (path / "meta/info.json").write_text('{"codebase_version": "v2.0"}'), 65, "codebase_version 'v2.0'"),
]


@pytest.mark.parametrize(("version", "images", "fault", "exit_code", "message"), FAULTS)
def test_damage_is_named_and_nothing_is_left(
    folders: dict[tuple[str, bool], Folder], version: str, images: bool, fault: Any, exit_code: int, message: str, tmp_path: Path
) -> None:
    path = copy(folders[version, images], tmp_path / "set")
    fault(path)
    with pytest.raises(TracekitError) as raised:
        bring_in(path, tmp_path / "demos.h5")
    assert raised.value.exit_code == exit_code and message in str(raised.value), raised.value
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_video_shorter_than_its_rows(folders: dict[tuple[str, bool], Folder], tmp_path: Path) -> None:
    folder = folders["v2.1", False]
    path = copy(folder, tmp_path / "set")
    shutil.copy(path / f"videos/chunk-000/{TOP}/episode_000002.mp4", path / VIDEO_21)
    with pytest.raises(BadDataError, match="has no frame for row 4 of episode 1"):
        bring_in(path, tmp_path / "demos.h5")


def test_a_packed_image_that_is_none(folders: dict[tuple[str, bool], Folder], tmp_path: Path) -> None:
    path = copy(folders["v3.0", True], tmp_path / "set")
    table = pq.read_table(path / ROWS_30)
    cells = table[WRIST].to_pylist()
    script = io.BytesIO()  # Pillow would have Ghostscript run it
    Image.new("RGB", (WIDTH, HEIGHT)).save(script, "EPS")
    for bad, message in (
        ({"bytes": b"GIF89a", "path": None}, "can be read"),
        ({"bytes": script.getvalue(), "path": None}, "cannot identify image file"),
        ({"bytes": None, "path": "/etc/passwd"}, "holds no image"),
    ):
        changed = [*cells[:7], bad, *cells[8:]]
        pq.write_table(_replaced(table, WRIST, pa.array(changed, table.schema.field(WRIST).type)), path / ROWS_30)
        with pytest.raises(BadDataError, match=message) as raised:
            bring_in(path, tmp_path / "demos.h5")
        assert f"episode 1 of {path}, row 1: `{WRIST}`" in str(raised.value)
    small = [*cells[:7], png(np.zeros((HEIGHT, WIDTH // 2, 3), np.uint8)), *cells[8:]]
    pq.write_table(_replaced(table, WRIST, pa.array(small, table.schema.field(WRIST).type)), path / ROWS_30)
    with pytest.raises(BadDataError, match="picture 1 of episode_000001"):
        bring_in(path, tmp_path / "demos.h5")


@pytest.mark.parametrize(
    "template",
    [
        "../secret/{episode_index}.parquet",
        "/etc/{episode_index}.parquet",
        "data/{episode_index.__class__}",
        "data/{episode_index!r}",
        "data/{episode_index:>999999999d}",
        "data/{video_key}",
        "data/{0}",
        "data/{",
        "data/{episode_index}\ud800",
        "a" * 256 + "{episode_index}",
        "a/" * 512 + "{episode_index}",
        "",
        7,
    ],
)
def test_templates_stay_inside_the_folder(folders: dict[tuple[str, bool], Folder], template: Any, tmp_path: Path) -> None:
    path = copy(folders["v2.1", True], tmp_path / "set")
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps({**info, "data_path": template}))
    with pytest.raises(BadDataError, match="names no file inside the folder"):
        bring_in(path, tmp_path / "demos.h5")


def test_a_camera_that_is_a_way_out(folders: dict[tuple[str, bool], Folder], tmp_path: Path) -> None:
    path = copy(folders["v2.1", False], tmp_path / "set")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["../../x"] = info["features"][TOP]
    (path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(BadDataError, match="cannot name a feature"):
        bring_in(path, tmp_path / "demos.h5")


def test_what_exists_is_kept(folders: dict[tuple[str, bool], Folder], tmp_path: Path) -> None:
    output = tmp_path / "demos.h5"
    output.write_text("mine")
    source = folders["v3.0", True].path
    with pytest.raises(CannotCreateError):
        bring_in(source, output)
    assert output.read_text() == "mine"
    bring_in(source, output, force=True)
    bring_in(source, output, force=True)
    inside = copy(folders["v3.0", True], tmp_path / "set") / "meta" / "info.json"
    with pytest.raises(UsageError, match="inputs are never changed"):
        bring_in(tmp_path / "set", inside, force=True)
    assert json.loads(inside.read_text())["fps"] == FPS
