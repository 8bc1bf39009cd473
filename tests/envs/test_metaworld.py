"""Meta-World's tasks: their names, their experts, and what the gripper touches."""

from __future__ import annotations

import numpy as np
import pytest
from simulator import request, simulator, take_of  # noqa: F401

from tracekit.envs.metaworld import MT10, TASKS, MetaWorld, parse_tasks
from tracekit.envs.mujoco_views import Screen
from tracekit.errors import UsageError
from tracekit.geometry import cameras, se3
from tracekit.simulation.camera_paths import PATHS
from tracekit.simulation.sub_tasks import sub_task_bounds


def test_task_names() -> None:
    assert parse_tasks("metaworld/drawer-open-v3,door-open-v3,drawer-open-v3") == ["drawer-open-v3", "door-open-v3"]
    assert parse_tasks("metaworld/mt10") == list(MT10) and len(MT10) == 10
    assert parse_tasks("metaworld/mt50") == list(TASKS) and len(TASKS) == 50
    with pytest.raises(UsageError, match="did you mean drawer-open-v3") as error:
        parse_tasks("metaworld/drawer-opn-v3")
    assert "mt10, mt50, assembly-v3" in error.value.hint and "window-open-v3" in error.value.hint
    with pytest.raises(UsageError, match="'robosuite'"):
        parse_tasks("robosuite/Lift")


@pytest.mark.usefixtures("simulator")
def test_the_suite_has_these_tasks() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3
    from metaworld.policies import ENV_POLICY_MAP

    assert set(TASKS) == set(ALL_V3_ENVIRONMENTS) == set(ENV_POLICY_MAP)
    assert set(MT10) == set(MT10_V3)


@pytest.mark.usefixtures("simulator")
def test_the_seed_decides_goal_and_start() -> None:
    def final_observation(seed: int) -> np.ndarray:
        return MetaWorld("push-v3", seed).roll(0).observations[-1]

    one, again, other = final_observation(1), final_observation(1), final_observation(2)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one[-3:] - other[-3:]).max() > 0.005, "another goal"
    assert np.abs(one[-3:]).min() >= 0 and np.any(one[-3:]), "the goal is observed"


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize(
    ("task", "moved", "num_parts"), [("drawer-open-v3", "drawer_link", 2), ("pick-place-v3", "obj", 2), ("sweep-v3", "obj", 3)]
)
def test_parts_of_tasks(task: str, moved: str, num_parts: int) -> None:
    """The gripper reaches, acts (and lets go): the thing begins to move within a few frames of the second part, and not before."""
    take = take_of(request(task))
    body = take.env.model.body(moved).id
    position, touching, opening = [], [], []
    for state in take.rollout.states:
        take.env.restore(state)
        position.append(take.env.data.xpos[body].copy())
        touching.append(take.env.gripper_touches())
        opening.append(take.env.gripper_opening())
    start, stop = sub_task_bounds(np.array(touching), np.array(opening))
    assert len(start) == num_parts and stop[-1] == len(take.rollout.states)
    before, after = np.array(position[start[1] - 10 : start[1]]), np.array(position[start[1] : stop[1]])
    assert np.ptp(before, axis=0).max() < 0.001
    assert np.linalg.norm(after - before[-1], axis=1).max() > 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task: str) -> None:
    """The expert does it; bodies and cameras are in order; a few frames drawn show hand and table, and no handle of the controller."""
    take = take_of(request(task, size=(96, 72)))
    env = take.env
    names, robot = env.body_names(), env.robot_bodies()
    assert len(set(names)) == len(names) == env.model.nbody
    assert robot[names.index("hand")] and robot[names.index("leftpad")] and not robot[names.index("tablelink")]
    hand = take.rollout.observations[:, :3]
    for camera, path in PATHS.items():
        inside = []
        for point, pose in zip(hand, path(hand, 20.0, np.random.default_rng(0)), strict=True):
            uv, z = cameras.project(point[None], take.cameras[0].intrinsics(96, 72), pose)
            inside.append(z[0] > 0 and (np.abs(uv[0] - [47.5, 35.5]) < [48, 36]).all())
        assert np.mean(inside) > 0.95, (camera, "the hand leaves the picture")
    with Screen(env.model, env.data, 96, 72) as screen:
        for frame in (0, len(hand) // 2, len(hand) - 1):
            env.restore(take.rollout.states[frame])
            assert se3.is_pose(env.world_from_body()).all()
            depth, body = screen.surfaces(take.cameras[frame])
            shown = {names[number] for number in np.unique(body[body >= 0])}
            assert "mocap" not in shown and "tablelink" in shown and shown & {"hand", "right_hand", "right_l6"}
            assert (depth[body >= 0] > 0.05).all() and depth.max() < 20 and (depth[body < 0] == 0).all()
