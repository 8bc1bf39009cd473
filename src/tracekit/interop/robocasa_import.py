"""RoboCasa's LeRobot folders as our demonstrations.

Beside what every LeRobotDataset has, such a folder says how the numbers are ordered (meta/modality.json), and how the environment and
each episode begin (extras/dataset_meta.json, extras/episode_000000/ep_meta.json).

Source: robocasa/utils/lerobot_utils.py and robocasa/scripts/dataset_scripts/convert_hdf5_lerobot.py of github.com/robocasa/robocasa.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError
from tracekit.format.json_file import read_json_object
from tracekit.interop.lerobot_import import Recording
from tracekit.interop.lerobot_layout import LerobotEpisode, LerobotFolder, open_lerobot
from tracekit.interop.robocasa import ACTION_PARTS, ACTION_SIZE, STATE_PARTS, STATE_SIZE, environment_from_dataset
from tracekit.report import Report

ACTION_ORDERS = {"dataset": lambda actions: actions, "environment": environment_from_dataset}
"""Orders in which actions (..., 12) may be written: that of the folder, which `tracekit rollout` and the authors' policies have too, and
that of the simulator and of RoboCasa's raw HDF5 files."""
AGENTVIEW, GRIPPER = "robot0_agentview_left", "robot0_eye_in_hand"
STATE = "observation.state"
_ROBOSUITE = 1
"""robomimic's number of this type of environment."""
_MOST_ABOUT_BYTES = 60_000
"""Of an attribute of an HDF5 file."""


def open_robocasa(path: Path) -> LerobotFolder:
    """Open a folder of RoboCasa, or the folder `lerobot` in it. Raises BadDataError when its numbers are in another order than
    `tracekit.interop.robocasa` knows."""
    if not (path / "meta").is_dir() and (path / "lerobot" / "meta").is_dir():
        path = path / "lerobot"
    folder = open_lerobot(path)
    for key, size in (("action", ACTION_SIZE), (STATE, STATE_SIZE)):
        shape = folder.features.get(key, {}).get("shape")
        if shape != [size]:
            raise BadDataError(
                f"{path}: {key} has shape {shape}, but RoboCasa's has [{size}]", hint="`tracekit import lerobot` takes any other robot"
            )
    modality = path / "meta" / "modality.json"
    if modality.exists():
        content = read_json_object(modality)
        lengths = {part: length for part, (_, length) in STATE_PARTS.items()}
        for key, parts in (("action", ACTION_PARTS), ("state", lengths)):
            if _order(content.get(key)) != _slices(parts):
                raise BadDataError(f"{modality}: the parts of `{key}` are not in RoboCasa's order", hint="see tracekit.interop.robocasa")
    return folder


def recording_of(folder: LerobotFolder, action_order: str, report: Report) -> Recording:
    """What RoboCasa keeps beside the rows. What is not there is left out, with a note. `action_order` is one of ACTION_ORDERS."""
    meta = folder.path / "extras" / "dataset_meta.json"
    env_args: dict[str, Any] = {"env_name": "robocasa", "type": _ROBOSUITE, "env_kwargs": {}}
    if meta.exists():
        found = read_json_object(meta).get("env_args")
        if not isinstance(found, dict):
            raise BadDataError(f"{meta} holds no env_args")
        env_args = found
    else:
        report.note(f"{meta} is not there: the file will not say how to make its environment")

    def about(episode: LerobotEpisode) -> dict[str, Any] | None:
        path = folder.path / "extras" / f"episode_{episode.index:06d}" / "ep_meta.json"
        if not path.exists():
            report.count("episodes without extras/episode_*/ep_meta.json")
            return None
        content = read_json_object(path)
        if len(json.dumps(content)) > _MOST_ABOUT_BYTES:
            raise BadDataError(f"{path} is longer than {_MOST_ABOUT_BYTES} bytes")
        return content

    def ordered(actions: np.ndarray) -> np.ndarray:
        if actions.shape[1] != ACTION_SIZE:
            raise BadDataError(f"actions of {folder.path} have {actions.shape[1]} numbers, but RoboCasa's have {ACTION_SIZE}")
        return ACTION_ORDERS[action_order](actions)

    return Recording("import robocasa", env_args, ordered, about)


def _order(parts: Any) -> dict[str, tuple[Any, Any]]:
    """Begin and end of each part as modality.json has them; nothing for anything else."""
    if not isinstance(parts, dict):
        return {}
    return {name: (part.get("start"), part.get("end")) for name, part in parts.items() if isinstance(part, dict)}


def _slices(lengths: dict[str, int]) -> dict[str, tuple[int, int]]:
    stops = np.cumsum(list(lengths.values())).tolist()
    return {name: (stop - length, stop) for (name, length), stop in zip(lengths.items(), stops, strict=True)}
