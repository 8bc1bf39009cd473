"""RoboCasa's order of actions, by vectors written by hand."""

from __future__ import annotations

import numpy as np

from tracekit.interop.robocasa import ACTION_SIZE, action_parts, environment_from_dataset

# In the folder: base motion and torso (4), mode, position of the hand (3), its rotation (3), gripper.
IN_THE_FOLDER = [0.11, 0.12, 0.13, 0.14, -1, 0.21, 0.22, 0.23, 0.31, 0.32, 0.33, 1]
IN_THE_ENVIRONMENT = [0.21, 0.22, 0.23, 0.31, 0.32, 0.33, 1, 0.11, 0.12, 0.13, 0.14, -1]


def test_actions_in_the_order_of_the_environment() -> None:
    assert environment_from_dataset(np.array(IN_THE_FOLDER)).tolist() == IN_THE_ENVIRONMENT
    several = np.random.default_rng(0).normal(size=(2, 5, ACTION_SIZE)).astype(np.float32)
    assert environment_from_dataset(several).dtype == np.float32
    for row, action in zip(environment_from_dataset(several).reshape(10, -1), several.reshape(10, -1), strict=True):
        np.testing.assert_array_equal(row, environment_from_dataset(action))


def test_parts_of_an_action_by_name() -> None:
    parts = action_parts(np.array(IN_THE_FOLDER))
    assert {name: part.tolist() for name, part in parts.items()} == {
        "base_motion": [0.11, 0.12, 0.13, 0.14],
        "control_mode": [-1],
        "end_effector_position": [0.21, 0.22, 0.23],
        "end_effector_rotation": [0.31, 0.32, 0.33],
        "gripper_close": [1],
    }
