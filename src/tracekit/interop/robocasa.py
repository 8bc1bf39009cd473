"""The orders in which RoboCasa keeps the numbers of its robot, a Panda arm on an Omron base, and the ways between them.

                        LeRobot folder    raw HDF5 and environment
    base motion           0 to  4              7 to 11           forward, sideways, turn, torso (0 in the recordings)
    control mode          4 to  5             11 to 12           -1 moves the arm, 1 the base
    end effector          5 to  8              0 to  3           change of position
                          8 to 11              3 to  6           change of rotation, an axis times an angle
    gripper              11 to 12              6 to  7           -1 opens, 1 closes

The folder's `observation.state` is the observations of STATE_PARTS in a row. Quaternions are (x, y, z, w), as everywhere in robosuite.

Sources: robocasa/utils/lerobot_utils.py, robocasa/wrappers/gym_wrapper.py and PandaOmron_modality.json of github.com/robocasa/robocasa;
src/lerobot/envs/robocasa.py of github.com/Yoonkyo/mu0, which has the same orders and always sends 0 for the torso.
"""

from __future__ import annotations

import numpy as np

ACTION_PARTS = {
    "base_motion": 4,
    "control_mode": 1,
    "end_effector_position": 3,
    "end_effector_rotation": 3,
    "gripper_close": 1,
}
"""Parts of an action in the order of the LeRobot folder, and their lengths."""
ENVIRONMENT_ACTION_PARTS = ("end_effector_position", "end_effector_rotation", "gripper_close", "base_motion", "control_mode")
STATE_PARTS = {
    "base_position": ("robot0_base_pos", 3),
    "base_rotation": ("robot0_base_quat", 4),
    "end_effector_position_relative": ("robot0_base_to_eef_pos", 3),
    "end_effector_rotation_relative": ("robot0_base_to_eef_quat", 4),
    "gripper_qpos": ("robot0_gripper_qpos", 2),
}
"""Parts of a state in the order of the LeRobot folder: the environment's name of each, and its length."""
ACTION_SIZE = sum(ACTION_PARTS.values())
STATE_SIZE = sum(length for _, length in STATE_PARTS.values())


def _places() -> np.ndarray:
    """Where each number of an action of the environment lies in an action of the folder: (12,)."""
    starts = dict(zip(ACTION_PARTS, np.cumsum([0, *ACTION_PARTS.values()]), strict=False))
    return np.concatenate([starts[part] + np.arange(ACTION_PARTS[part]) for part in ENVIRONMENT_ACTION_PARTS])


_FOLDER_PLACE = _places()


def environment_from_dataset(action: np.ndarray) -> np.ndarray:
    """Actions (..., 12) of a LeRobot folder in the order that the environment takes and the raw HDF5 files have."""
    return action[..., _FOLDER_PLACE]


def action_parts(action: np.ndarray) -> dict[str, np.ndarray]:
    """The parts by their names, of an action (..., 12) of a LeRobot folder."""
    stops = np.cumsum(list(ACTION_PARTS.values()))[:-1]
    return dict(zip(ACTION_PARTS, np.split(action, stops, axis=-1), strict=True))
