"""Any environment of Gymnasium: what it must have, and what is said when it has it not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from rollouts.point_world import SIDE

from tracekit.envs.gymnasium import LiveGymnasium
from tracekit.envs.live import EnvRequest
from tracekit.envs.suites import parse_envs
from tracekit.errors import BadDataError, UsageError

POINT = EnvRequest(
    "rollouts.point_world:PointWorld-v0", 64, 48, camera="eyes/scene", gripper_camera="eyes/hand", state=("goal", "time", "place")
)


def live(**changes: object) -> LiveGymnasium:
    return LiveGymnasium(dataclasses.replace(POINT, **changes))  # type: ignore[arg-type]


def test_an_environment_with_keys() -> None:
    env = live()
    assert (env.action_size, env.state_size, env.max_steps, env.fps) == (2, 5, 40, 10.0)
    assert env.action_low.tolist() == [-1, -1] and env.action_high.tolist() == [1, 1] and not env.has_expert
    env.reset(3)
    seen = env.observe()
    assert seen.agentview_image.shape == (SIDE, SIDE, 3) and seen.gripper_image is not None and seen.gripper_image[0, 0, 2] > 0
    goal, place = seen.state[:2], seen.state[3:]
    assert seen.state[2] == 0 and seen.language == ""
    column, row = ((goal + 1) / 2 * (SIDE - 1)).round().astype(int)
    assert seen.agentview_image[row, column, 1] == 255
    outcome = env.step(np.array([1, -1], np.float32))
    np.testing.assert_allclose(env.observe().state[3:], place + np.array([0.1, -0.1]), atol=1e-6)
    assert outcome.reward == pytest.approx(-np.linalg.norm(env.observe().state[3:] - goal), abs=1e-6)
    assert [env.step(np.zeros(2, np.float32)).ended for _ in range(39)] == [False] * 38 + [True], "the limit of its registration"
    env.reset(3)
    assert np.array_equal(env.observe().state, seen.state) and np.array_equal(env.observe().agentview_image, seen.agentview_image)


def test_without_a_camera_it_is_rendered() -> None:
    env = live(camera="", gripper_camera="")
    env.reset(3)
    named = live()
    named.reset(3)
    assert np.array_equal(env.observe().agentview_image, named.observe().agentview_image) and env.observe().gripper_image is None
    assert not env.has_gripper_camera


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": "front"}, r"no front \(--camera\)"),
        ({"gripper_camera": "eyes"}, r"no eyes \(--gripper-camera\)"),
        ({"state": ("place", "joints")}, r"no joints \(--state\)"),
        ({"state": ()}, "several parts"),
    ],
)
def test_a_key_that_is_not_there(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        live(**changes)
    for there in ("eyes/scene (32, 32, 3)", "eyes/hand (32, 32, 3)", "place (2,)", "goal (2,)", "time ()"):
        assert there in error.value.hint


def test_what_is_no_picture() -> None:
    env = live(camera="goal")
    with pytest.raises(BadDataError, match=r"goal of .* is no picture: float64 \(2,\)"):
        env.observe()


def test_actions_that_are_no_vector() -> None:
    with pytest.raises(UsageError, match=r"actions of the kind Discrete\(2\)"):
        LiveGymnasium(EnvRequest("CartPole-v1", 64, 48))


def test_an_observation_that_is_a_vector() -> None:
    """MountainCarContinuous: no keys; it is rendered by pygame where that is installed, and does not say whether it is done."""
    env = LiveGymnasium(EnvRequest("MountainCarContinuous-v0", 64, 48))
    assert (env.action_size, env.state_size, env.max_steps) == (1, 2, 999)
    env.reset(0)
    with pytest.raises(UsageError, match="does not say whether its task is done"):
        env.step(np.zeros(1, np.float32))


def test_names() -> None:
    assert parse_envs("MountainCarContinuous-v0,rollouts.point_world:PointWorld-v0") == ["MountainCarContinuous-v0", POINT.name]
    with pytest.raises(UsageError, match="no environment 'Pendulum-v9'") as error:
        parse_envs("Pendulum-v9")
    assert "Pendulum-v1" in error.value.hint
    with pytest.raises(UsageError, match="no environment 'metaworl/drawer-open-v3'") as error:
        parse_envs("metaworl/drawer-open-v3")
    assert "metaworld/drawer-open-v3" in error.value.hint
