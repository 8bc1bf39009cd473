"""RoboCasa's adapter against a double with the spaces of robocasa/wrappers/gym_wrapper.py: its assets cannot be had everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from tracekit.envs.live import EnvRequest
from tracekit.envs.suites import make_env, parse_envs
from tracekit.errors import BadDataError, UnavailableError, UsageError
from tracekit.interop.robocasa import environment_from_dataset

_DOUBLE = '''
import gymnasium
import numpy as np
from gymnasium import spaces

__version__ = "1.0.1"
STATES = {"gripper_qpos": 2, "base_position": 3, "base_rotation": 4, "end_effector_position_relative": 3, "end_effector_rotation_relative": 4}
ACTIONS = {"gripper_close": 1, "end_effector_position": 3, "end_effector_rotation": 3, "base_motion": 4, "control_mode": 1}
CAMERAS = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")


class Kitchen(gymnasium.Env):
    """Numbers in the state count up; what was done is kept in the order that the simulation takes."""

    def __init__(self, camera_widths=256, camera_heights=256, enable_render=True, split="test"):
        box = lambda size: spaces.Box(-1, 1, (size,), np.float32)
        self.size = (camera_heights, camera_widths, 3)
        self.action_space = spaces.Dict({f"action.{name}": box(size) for name, size in ACTIONS.items()})
        self.observation_space = spaces.Dict(
            {f"state.{name}": box(size) for name, size in STATES.items()}
            | {f"video.{name}": spaces.Box(0, 255, self.size, np.uint8) for name in CAMERAS}
            | {"annotation.human.task_description": spaces.Text(256)}
        )
        self.done = []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.offset = self.np_random.random()
        return self._observation(), {"success": False}

    def step(self, action):
        assert self.action_space.contains(action), action
        part = lambda name: action[f"action.{name}"]
        arm = [part("end_effector_position"), part("end_effector_rotation"), part("gripper_close")]
        self.done.append(np.concatenate([*arm, part("base_motion"), part("control_mode")]))
        success = len(self.done) == 3
        return self._observation(), float(success), False, False, {"success": success}

    def _observation(self):
        start, result = 0, {}
        for name in ("base_position", "base_rotation", "end_effector_position_relative", "end_effector_rotation_relative", "gripper_qpos"):
            result[f"state.{name}"] = (np.arange(start, start + STATES[name]) + self.offset).astype(np.float32)
            start += STATES[name]
        for number, name in enumerate(CAMERAS):
            result[f"video.{name}"] = np.full(self.size, number, np.uint8)
        return result | {"annotation.human.task_description": "close the fridge"}


gymnasium.register("robocasa/CloseFridge", Kitchen)
'''


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "robocasa/wrappers").mkdir(parents=True)
    (tmp_path / "robocasa/__init__.py").write_text('__version__ = "1.0.1"\n')
    (tmp_path / "robocasa/wrappers/__init__.py").write_text("")
    (tmp_path / "robocasa/wrappers/gym_wrapper.py").write_text(_DOUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    gymnasium.registry.pop("robocasa/CloseFridge", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "robocasa"]:
        del sys.modules[name]


@pytest.mark.usefixtures("kitchen")
def test_states_and_actions_are_in_the_order_of_the_datasets() -> None:
    assert parse_envs("robocasa/CloseFridge") == ["robocasa/CloseFridge"]
    env = make_env(EnvRequest("robocasa/CloseFridge", 64, 48))
    assert (env.action_size, env.state_size, env.versions) == (12, 16, {"robocasa": "1.0.1"})
    env.reset(7)
    seen = env.observe()
    np.testing.assert_allclose(np.diff(seen.state), 1, atol=1e-6)
    assert seen.language == "close the fridge" and seen.agentview_image.shape == (48, 64, 3)
    assert (seen.agentview_image == 0).all() and seen.gripper_image is not None and (seen.gripper_image == 2).all()
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 12)).astype(np.float32)
    outcomes = [env.step(action) for action in actions]
    assert [outcome.success for outcome in outcomes] == [False, False, True]
    np.testing.assert_array_equal(env._env.unwrapped.done, environment_from_dataset(actions))  # type: ignore[attr-defined]
    env.reset(7)
    assert np.array_equal(env.observe().state, seen.state)
    env.reset(8)
    assert not np.array_equal(env.observe().state, seen.state)


@pytest.mark.usefixtures("kitchen")
def test_what_there_is_not() -> None:
    with pytest.raises(UsageError, match="'robocasa/CloseFrige'") as error:
        make_env(EnvRequest("robocasa/CloseFrige", 64, 48))
    assert "robocasa/CloseFridge" in error.value.hint
    env = make_env(EnvRequest("robocasa/CloseFridge", 64, 48, "shut it", camera="robot0_front"))
    env.reset(0)
    with pytest.raises(BadDataError, match=r"no video\.robot0_front") as missing:
        env.observe()
    assert "video.robot0_agentview_left" in missing.value.hint


def test_without_the_package() -> None:
    if "robocasa" in sys.modules:
        pytest.skip("RoboCasa is installed")
    with pytest.raises(UnavailableError, match="robocasa is not installed"):
        parse_envs("robocasa/CloseFridge")
