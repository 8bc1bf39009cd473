"""RoboCasa's orders of actions and states, by vectors written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tracekit.interop.robocasa import (
    ACTION_SIZE,
    STATE_SIZE,
    dataset_from_environment,
    environment_from_dataset,
    observations_from_state,
    state_from_observations,
)

# In the folder: base motion and torso (4), mode, position of the hand (3), its rotation (3), gripper.
IN_THE_FOLDER = [0.11, 0.12, 0.13, 0.14, -1, 0.21, 0.22, 0.23, 0.31, 0.32, 0.33, 1]
IN_THE_ENVIRONMENT = [0.21, 0.22, 0.23, 0.31, 0.32, 0.33, 1, 0.11, 0.12, 0.13, 0.14, -1]


def test_actions_both_ways() -> None:
    folder, environment = np.array(IN_THE_FOLDER), np.array(IN_THE_ENVIRONMENT)
    assert environment_from_dataset(folder).tolist() == IN_THE_ENVIRONMENT
    assert dataset_from_environment(environment).tolist() == IN_THE_FOLDER
    several = np.random.default_rng(0).normal(size=(2, 5, ACTION_SIZE)).astype(np.float32)
    np.testing.assert_array_equal(dataset_from_environment(environment_from_dataset(several)), several)
    assert environment_from_dataset(several).dtype == np.float32


def test_states_both_ways() -> None:
    observations = {
        "robot0_gripper_qpos": np.array([0.04, -0.04]),
        "robot0_base_to_eef_quat": np.array([0.5, -0.5, 0.5, 0.5]),
        "robot0_base_quat": np.array([0, 0, 0.6, 0.8]),
        "robot0_base_to_eef_pos": np.array([0.4, 0, 0.9]),
        "robot0_base_pos": np.array([1, 2, 0.7]),
        "robot0_joint_pos": np.zeros(7),
    }
    state = state_from_observations(observations)
    assert state.tolist() == [1, 2, 0.7, 0, 0, 0.6, 0.8, 0.4, 0, 0.9, 0.5, -0.5, 0.5, 0.5, 0.04, -0.04] and len(state) == STATE_SIZE
    for name, values in observations_from_state(state).items():
        np.testing.assert_array_equal(values, observations[name])
    with pytest.raises(KeyError, match="robot0_base_pos"):
        state_from_observations({})
