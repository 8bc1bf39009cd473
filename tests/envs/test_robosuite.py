"""robosuite's tasks, where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from simulator import simulator  # noqa: F401

from tracekit.envs.live import EnvRequest
from tracekit.envs.robosuite import TASKS, LiveRobosuite
from tracekit.envs.suites import make_env, parse_envs
from tracekit.errors import UnavailableError, UsageError

is_installed = importlib.util.find_spec("robosuite") is not None


def test_names() -> None:
    with pytest.raises(UsageError, match="did you mean Lift"):
        parse_envs("robosuite/Lif")
    if not is_installed:
        with pytest.raises(UnavailableError, match="robosuite is not installed"):
            parse_envs("robosuite/Lift")


@pytest.mark.skipif(not is_installed, reason="robosuite is not installed")
@pytest.mark.usefixtures("simulator")
@pytest.mark.filterwarnings("ignore")
class TestInstalled:
    def test_it_has_these_tasks(self) -> None:
        import robosuite

        assert set(TASKS) == set(robosuite.ALL_ENVIRONMENTS)

    def test_pictures_and_states_are_those_of_its_own_observations(self) -> None:
        import robosuite

        env = make_env(EnvRequest("robosuite/Lift", 64, 48))
        assert isinstance(env, LiveRobosuite) and (env.action_size, env.state_size) == (7, 9)
        env.reset(5)
        for _ in range(3):
            env.step(np.full(7, 0.3, np.float32))
        peer = robosuite.make(
            "Lift",
            robots="Panda",
            camera_names=["agentview", "robot0_eye_in_hand"],
            camera_widths=64,
            camera_heights=48,
            control_freq=20,
            hard_reset=False,
            seed=5,
        )
        peer.reset()
        for _ in range(3):
            theirs, _, _, _ = peer.step(np.full(7, 0.3))
        seen = env.observe()
        assert np.array_equal(seen.agentview_image, theirs["agentview_image"][::-1]) and np.ptp(seen.agentview_image) > 50
        assert seen.gripper_image is not None and np.array_equal(seen.gripper_image, theirs["robot0_eye_in_hand_image"][::-1])
        state = [theirs[f"robot0_{part}"] for part in ("eef_pos", "eef_quat", "gripper_qpos")]
        np.testing.assert_allclose(seen.state, np.concatenate(state), atol=1e-6)
        peer.close()
        env.close()

    def test_the_seed_decides_the_start(self) -> None:
        env = make_env(EnvRequest("robosuite/Lift", 32, 32))
        cubes = []
        for seed in (1, 2, 1):
            env.reset(seed)
            cubes.append(env._env.sim.data.body_xpos[env._env.cube_body_id].copy())  # type: ignore[attr-defined]
        assert np.array_equal(cubes[0], cubes[2]) and np.abs(cubes[0] - cubes[1]).max() > 1e-3
        env.close()

    def test_a_cube_that_is_lifted_is_a_success(self) -> None:
        """A hand-made controller: above the cube, down, close, up."""
        env = make_env(EnvRequest("robosuite/Lift", 32, 32))
        env.reset(0)
        done = False
        for step in range(120):
            cube, hand = env._env.sim.data.body_xpos[env._env.cube_body_id], env.observe().state[:3]  # type: ignore[attr-defined]
            height = 0.1 if step < 25 else 0.0 if step < 70 else 0.3
            target = cube + np.array([0, 0, height]) if step < 70 else hand + np.array([0, 0, 0.1])
            action = np.zeros(7, np.float32)
            action[:3], action[6] = np.clip(10 * (target - hand), -1, 1), 1.0 if step >= 50 else -1.0
            done |= env.step(action).success
        assert done
        env.close()

    def test_a_camera_that_is_not_there(self) -> None:
        with pytest.raises(UsageError, match="no camera front") as error:
            make_env(EnvRequest("robosuite/Lift", 32, 32, camera="front"))
        assert "frontview" in error.value.hint

    @pytest.mark.slow
    @pytest.mark.parametrize("task", TASKS)
    def test_every_task(self, task: str) -> None:
        env = make_env(EnvRequest(f"robosuite/{task}", 32, 32))
        env.reset(0)
        outcome = env.step(np.zeros(env.action_size, np.float32))
        seen = env.observe()
        assert not outcome.success and seen.state.shape == (env.state_size,) and np.ptp(seen.agentview_image) > 20
        env.close()
