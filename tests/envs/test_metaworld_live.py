"""Meta-World as an environment that a policy acts in: it is what demonstrations were made in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from simulator import request, simulator  # noqa: F401

from tracekit.envs.live import EnvRequest
from tracekit.envs.metaworld import TASKS
from tracekit.envs.metaworld_live import LiveMetaWorld
from tracekit.envs.suites import make_env, parse_envs
from tracekit.errors import UsageError
from tracekit.report import Report
from tracekit.rollouts.episode import Episode
from tracekit.simulation.demos import DemoPlan, film_demo
from tracekit.simulation.episode import EpisodeRequest, perform

TASK, WIDTH, HEIGHT = "drawer-open-v3", 80, 60


def live(task: str = TASK, **changes: object) -> LiveMetaWorld:
    env = make_env(dataclasses.replace(EnvRequest(f"metaworld/{task}", WIDTH, HEIGHT), **changes))  # type: ignore[arg-type]
    assert isinstance(env, LiveMetaWorld)
    return env


def start_seed(wanted: EpisodeRequest) -> int:
    return int(wanted.chance("start", 0).integers(2**31))


@pytest.mark.usefixtures("simulator")
def test_a_demonstration_is_seen_felt_and_done_again(tmp_path: Path) -> None:
    wanted = dataclasses.replace(request(TASK), settle=0)
    demo = film_demo(perform(wanted, Report()), DemoPlan(tmp_path / "demos.h5", WIDTH, HEIGHT), Report())
    env = live()
    env.reset(start_seed(wanted))
    last = len(demo.actions) - 1
    for frame, action in enumerate(demo.actions):
        if frame in (0, 1, 40, last):
            seen = env.observe()
            assert np.array_equal(seen.agentview_image, demo.agentview_image[frame]), frame
            assert seen.gripper_image is not None and np.array_equal(seen.gripper_image, demo.eye_in_hand_image[frame]), frame
            assert np.array_equal(seen.state, demo.proprio[frame].astype(np.float32)) and seen.language == demo.language
        assert np.array_equal(env.expert_action(), action)
        outcome = env.step(action)
        assert (outcome.reward, outcome.success) == (demo.rewards[frame], frame == last) and not outcome.ended
    env.close()


@pytest.mark.usefixtures("simulator")
def test_looking_changes_nothing() -> None:
    paths = []
    env = live()
    for looks in (False, True):
        env.reset(5)
        random = np.random.default_rng(0)
        for _ in range(30):
            if looks:
                env.observe()
            env.step(random.uniform(-1, 1, 4).astype(np.float32))
        paths.append(env._env.state())
    assert np.array_equal(paths[0], paths[1])
    env.close()


def _starts_are_as_new(task: str) -> None:
    used = live(task)
    for seed in (3, 4):  # with what 3 has left behind
        new = live(task)
        new.reset(seed)
        used.reset(seed)
        for _ in range(80):
            action = new.expert_action()
            assert np.array_equal(used.expert_action(), action)
            assert new.step(action) == used.step(action)
        assert np.array_equal(new._env.state(), used._env.state())


@pytest.mark.usefixtures("simulator")
def test_nothing_of_an_episode_is_left_for_the_next() -> None:
    _starts_are_as_new("pick-place-v3")


@pytest.mark.slow
@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_left_in_any_task(task: str) -> None:
    _starts_are_as_new(task)


@pytest.mark.usefixtures("simulator")
def test_an_episode_ends_after_500_steps() -> None:
    env = live()
    env.reset(0)
    ended = [env.step(np.zeros(4, np.float32)).ended for _ in range(500)]
    assert ended == [False] * 499 + [True] and env.max_steps == 500


def test_rollouts_start_elsewhere_than_demonstrations() -> None:
    """With the same --seed, too."""
    name = f"metaworld/{TASK}"
    demos = {start_seed(dataclasses.replace(request(TASK), seed=seed, number=number)) for seed in range(10) for number in range(100)}
    rollouts = {Episode(EnvRequest(name, 1, 1), seed, number).seed for seed in range(10) for number in range(100)}
    assert len(demos) == len(rollouts) == 1000 and not demos & rollouts


@pytest.mark.usefixtures("simulator")
def test_what_is_asked_for() -> None:
    assert parse_envs("metaworld/drawer-open-v3,door-open-v3, metaworld/drawer-open-v3") == [
        "metaworld/drawer-open-v3",
        "metaworld/door-open-v3",
    ]
    assert len(parse_envs("metaworld/mt10")) == 10
    env = live(language="open the thing")
    env.reset(0)
    assert env.observe().language == "open the thing"
    with pytest.raises(UsageError, match="did you mean drawer-open-v3"):
        parse_envs("metaworld/drawer-opn-v3")
    with pytest.raises(UsageError, match="cameras of metaworld are corner2 and gripperPOV"):
        live(camera="topview")
    with pytest.raises(UsageError, match="is fixed"):
        live(state=("hand",))
    env.close()
