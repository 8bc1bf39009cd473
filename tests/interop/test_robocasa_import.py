"""RoboCasa's LeRobot folders, as convert_hdf5_lerobot.py of robocasa leaves them: v2.1, three cameras, 64-bit numbers, base first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from lerobot_folders import Episode, Folder, picture
from tracekit.commands.import_ import RobocasaChoice, command

from tracekit.errors import BadDataError
from tracekit.format.demo_file import DemoFile

CAMERAS = tuple(f"observation.images.robot0_{name}" for name in ("eye_in_hand", "agentview_left", "agentview_right"))
SLICES = {
    "state": {
        "base_position": (0, 3),
        "base_rotation": (3, 7),
        "end_effector_position_relative": (7, 10),
        "end_effector_rotation_relative": (10, 14),
        "gripper_qpos": (14, 16),
    },
    "action": {
        "base_motion": (0, 4),
        "control_mode": (4, 5),
        "end_effector_position": (5, 8),
        "end_effector_rotation": (8, 11),
        "gripper_close": (11, 12),
    },
}
ENV_ARGS = {"env_name": "OpenDrawer", "type": 1, "env_kwargs": {"robots": "PandaOmron", "control_freq": 20}}
# Numbers that tell their places: base 1 to 4, mode 5, position 6 to 8, rotation 9 to 11, gripper 12.
IN_THE_FOLDER = np.arange(1, 13)
IN_THE_ENVIRONMENT = [6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5]


def bring_in(folder: Path, output: Path, **choice: Any) -> None:
    (kind,) = (kind for kind in command.kinds if kind.name == "import robocasa")
    kind.run([str(folder)], RobocasaChoice(output=str(output), **choice))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two episodes, in the folder `lerobot` where RoboCasa's downloads have it."""
    steps = np.arange(5)[:, None]
    episodes = []
    for number in range(2):
        one = Episode((IN_THE_FOLDER + steps / 8) / 16, number + steps + np.arange(16) / 32, 0)
        one.extra = {"next.reward": (steps[:, 0] == 4).astype(np.float32), "next.done": steps[:, 0] == 4}
        episodes.append(one)
    made = Folder(tmp_path / "OpenDrawer" / "lerobot", "v2.1", episodes, cameras=CAMERAS)
    write_modality(made.path, SLICES)
    for number in range(2):
        extra = made.path / "extras" / f"episode_{number:06d}"
        extra.mkdir(parents=True)
        (extra / "ep_meta.json").write_text(json.dumps({"layout_id": number, "lang": "open the drawer"}))
    (made.path / "extras" / "dataset_meta.json").write_text(json.dumps({"total": 10, "env_args": ENV_ARGS}))
    return made


def write_modality(path: Path, slices: dict[str, dict[str, tuple[int, int]]]) -> None:
    content = {kind: {name: {"start": start, "end": stop} for name, (start, stop) in parts.items()} for kind, parts in slices.items()}
    (path / "meta" / "modality.json").write_text(json.dumps(content))


def test_what_a_folder_holds_comes_over(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "demos.h5"
    bring_in(folder.path.parent, output)
    assert "cameras:" not in capsys.readouterr().err  # nothing is guessed
    with DemoFile(output) as file:
        np.testing.assert_array_equal(file.actions("demo_1"), folder.episodes[1].actions.astype(np.float32))
        np.testing.assert_array_equal(file.states("demo_1"), folder.episodes[1].states.astype(np.float32))
        assert file.demos[0].language == folder.tasks[0]
        for place, seen in ((1, file.agentview("demo_1", 2)), (0, file.gripper("demo_1", 2))):  # left agentview, eye in hand
            assert np.abs(seen.astype(int) - picture(place, 1, 2)).max() <= 6
    with h5py.File(output) as stored:
        assert json.loads(stored["data"].attrs["env_args"]) == ENV_ARGS
        assert json.loads(stored["data/demo_1"].attrs["ep_meta"])["layout_id"] == 1
        assert stored["data/demo_0/rewards"][:].tolist() == [0, 0, 0, 0, 1]


def test_actions_in_the_order_of_the_raw_files(folder: Folder, tmp_path: Path) -> None:
    bring_in(folder.path, tmp_path / "demos.h5", action_order="environment")
    with DemoFile(tmp_path / "demos.h5") as file:
        assert file.actions("demo_1")[0].tolist() == [number / 16 for number in IN_THE_ENVIRONMENT]
        assert file.actions("demo_0")[4].tolist() == [(number + 0.5) / 16 for number in IN_THE_ENVIRONMENT]


def test_another_camera_and_no_extras(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / "extras" / "dataset_meta.json").unlink()
    (folder.path / "extras" / "episode_000001" / "ep_meta.json").unlink()
    bring_in(folder.path, tmp_path / "demos.h5", agentview="robot0_agentview_right")
    said = capsys.readouterr().err
    assert "will not say how to make its environment" in said and "1 episodes without extras" in said
    with DemoFile(tmp_path / "demos.h5") as file:
        assert np.abs(file.agentview("demo_0", 1).astype(int) - picture(2, 0, 1)[0, 0]).max() <= 6


def test_other_orders_and_other_robots_are_refused(folder: Folder, tmp_path: Path) -> None:
    swapped = {**SLICES["action"], "control_mode": (11, 12), "gripper_close": (4, 5)}
    write_modality(folder.path, {**SLICES, "action": swapped})
    with pytest.raises(BadDataError, match="the parts of `action` are not in RoboCasa's order"):
        bring_in(folder.path, tmp_path / "demos.h5")
    small = Folder(tmp_path / "small", "v2.1", [Episode(np.zeros((4, 7)), np.zeros((4, 16)), 0)], images=True)
    with pytest.raises(BadDataError, match=r"action has shape \[7\]"):
        bring_in(small.path, tmp_path / "demos.h5")
    assert not (tmp_path / "demos.h5").exists()
