"""Episodes in processes: what comes out follows from their seeds, and what goes wrong costs its episode and nothing else."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from rollouts.point_world import SIDE, PointWorld
from torch import nn

from tracekit.action.observation import Observation
from tracekit.action.policy import Moment
from tracekit.envs.live import EnvRequest
from tracekit.errors import BadDataError, CannotCreateError, UnavailableError, UsageError
from tracekit.format.provenance import Step
from tracekit.report import Report
from tracekit.rollouts.engine import Decider, Outcome, run_episodes
from tracekit.rollouts.episode import RANDOM, SCRIPTED, Episode, EpisodePlan
from tracekit.rollouts.outputs import Outputs
from tracekit.rollouts.recording import RecordingPlan

HORIZON, EXECUTE = 6, 4


class TowardsGoal:
    """A network with random weights pushes a little, and what the picture shows pushes more. Keeps what it was asked."""

    execute = EXECUTE

    def __init__(self, delay: float = 0.0, bad_value: float = 0.0) -> None:
        torch.manual_seed(0)
        self._network = nn.Linear(SIDE * SIDE * 3 + 2, HORIZON * 2)
        self._delay, self._bad_value = delay, bad_value
        self.moments: list[Moment] = []
        self.batch_sizes: list[int] = []

    @torch.no_grad()
    def plan(self, observations: Sequence[Observation], moments: Sequence[Moment]) -> np.ndarray:
        time.sleep(self._delay)
        self.moments += moments
        self.batch_sizes.append(len(observations))
        return np.stack([self.plan_one(*pair) for pair in zip(observations, moments, strict=True)])

    @torch.no_grad()
    def plan_one(self, seen: Observation, moment: Moment) -> np.ndarray:
        place, goal = (np.argwhere(seen.agentview_image[..., channel] > 0)[:, ::-1].mean(axis=0) for channel in (0, 1))
        towards = np.clip((goal - place) / (SIDE - 1) * 2 / 0.1 / HORIZON, -1, 1)
        pushed = self._network(torch.cat([torch.from_numpy(seen.agentview_image).flatten() / 255.0, torch.from_numpy(seen.state)]))
        noise = np.random.default_rng([moment.seed, moment.step]).normal(size=(HORIZON, 2))
        actions = towards + 0.1 * pushed.reshape(HORIZON, 2).numpy() + 0.3 * noise + self._bad_value
        return actions.astype(np.float32)

    def foresee(self, observation: Observation, moment: Moment) -> np.ndarray:
        steps = np.linspace(0, 0.5, 9)[None, :, None]
        return np.broadcast_to(steps, (4, 9, 3)) + np.linspace(-0.5, 0.3, 4)[:, None, None]


def episodes(kind: str, number: int, **changes: object) -> list[Episode]:
    request = EnvRequest(
        f"rollouts.point_world:{kind}World-v0", 64, 48, "move", camera="eyes/scene", gripper_camera="eyes/hand", state=("place",)
    )
    return [Episode(request, 0, place) for place in range(number)]


def run(
    kind: str,
    number: int,
    policy: TowardsGoal | None = None,
    num_envs: int = 1,
    at_once: int = 1,
    baseline: str = "",
    recording: RecordingPlan = RecordingPlan(),
    stall_timeout: float = 60.0,
) -> Outcome:
    decider = Decider(policy, EXECUTE, recording.videos is not None, lambda facts: None, at_once=at_once) if policy else None
    plan = EpisodePlan(baseline, None, recording)
    return run_episodes(episodes(kind, number), plan, decider, num_envs=num_envs, stall_timeout=stall_timeout, report=Report())


def going_wrong(kind: str, number: int) -> list[int]:
    """Episodes that the environment will not survive: some, but not all."""
    world = PointWorld()
    wrong = []
    for episode in episodes(kind, number):
        world.reset(seed=episode.seed)
        wrong += [episode.number] * world.goes_wrong
    assert 0 < len(wrong) < number
    return wrong


@pytest.fixture(autouse=True)
def nothing_is_left() -> object:
    yield
    assert not multiprocessing.active_children()


def test_the_number_of_processes_has_no_influence() -> None:
    alone = run("Point", 8, TowardsGoal())
    policy = TowardsGoal(delay=0.05)
    together = run("Point", 8, policy, num_envs=3, at_once=3)
    assert together.results == alone.results == run("Point", 8, TowardsGoal(), num_envs=2).results
    assert 2 <= sum(result.success for result in alone.results) <= 8 and len({result.steps for result in alone.results}) > 2
    assert max(policy.batch_sizes) > 1, "environments that wait are decided for together"
    assert together.num_plans == alone.num_plans == len(policy.moments) and together.seconds_planning > 0.05
    assert alone.versions.keys() == {"gymnasium"}


def test_random_actions_follow_from_the_seed() -> None:
    one, other = (run("Point", 4, baseline=RANDOM, num_envs=number) for number in (1, 2))
    assert one.results == other.results and len({result.total_reward for result in one.results}) == 4
    assert [result.seed for result in one.results] == [episode.seed for episode in episodes("Point", 4)]


def test_a_chunk_is_carried_out_as_promised(tmp_path: Path) -> None:
    """Receding horizon: plan 6, do 4, look again. The file holds what was seen before every action, and the actions."""
    policy = TowardsGoal()
    outputs = Outputs(tmp_path / "all.h5", None, force=False)
    step = Step("rollout", [], "", {}, [])
    outputs.check(episodes("Point", 2))
    outcome = run("Point", 2, policy, recording=outputs.recording(step))
    outputs.finish(episodes("Point", 2), outcome.results, step)
    outputs.clean_up()
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]
    moments = iter(policy.moments)
    with h5py.File(tmp_path / "all.h5") as file:
        assert sorted(file["data"]) == ["demo_0", "demo_1"] and file["data"].attrs["total"] == sum(
            result.steps for result in outcome.results
        )
        for result, demo in zip(outcome.results, (file["data/demo_0"], file["data/demo_1"]), strict=True):
            assert demo.attrs["num_samples"] == result.steps and bool(demo.attrs["success"]) == result.success
            assert demo.attrs["language"] == "move" and demo["dones"][:].tolist() == [0] * (result.steps - 1) + [1]
            assert demo["rewards"][:].sum() == pytest.approx(result.total_reward, rel=1e-5)
            actions, scenes, places = demo["actions"][:], demo["obs/agentview_image"][:], demo["obs/proprio"][:]
            assert demo["obs/eye_in_hand_image"].shape == scenes.shape == (result.steps, SIDE, SIDE, 3)
            for start in range(0, result.steps, EXECUTE):
                moment = next(moments)
                assert moment == Moment(result.seed, start)
                planned = policy.plan_one(Observation(scenes[start], None, places[start], ""), moment)[:EXECUTE]
                executed = actions[start : start + EXECUTE]
                assert np.array_equal(executed, np.clip(planned, -1, 1)[: len(executed)])
            np.testing.assert_allclose(np.diff(places, axis=0), 0.1 * actions[:-1], atol=1e-6)
    assert next(moments, None) is None


def test_two_that_write_one_file_have_parts_of_their_own(tmp_path: Path) -> None:
    """The first to end does not take the episodes of the other; what a killed one left goes, what others keep there stays."""
    (tmp_path / ".all.h5.parts").mkdir()  # of `simulate --demos`, stopped before its end
    (tmp_path / ".all.h5.1-0.tracekit-part").mkdir()
    step = Step("rollout", [], "", {}, [])
    one, other = (Outputs(tmp_path / "all.h5", None, force=False) for _ in range(2))
    for outputs in (one, other):
        outputs.check(episodes("Point", 1))
    one.clean_up()
    outcome = run("Point", 1, baseline=RANDOM, recording=other.recording(step))
    other.finish(episodes("Point", 1), outcome.results, step)
    other.clean_up()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".all.h5.parts", "all.h5"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_appeared_while_it_ran_stays(tmp_path: Path, force: bool) -> None:
    step = Step("rollout", [], "", {}, [])
    outputs = Outputs(tmp_path / "all.h5", None, force=force)
    outputs.check(episodes("Point", 1))
    outcome = run("Point", 1, baseline=RANDOM, recording=outputs.recording(step))
    (tmp_path / "all.h5").write_text("somebody else's")
    with nullcontext() if force else pytest.raises(CannotCreateError, match=r"all\.h5 exists"):
        outputs.finish(episodes("Point", 1), outcome.results, step)
    outputs.clean_up()
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]
    assert ((tmp_path / "all.h5").read_bytes() == b"somebody else's") is not force


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_process_that_is_killed_costs_its_episode(num_envs: int) -> None:
    """SIGKILL in the third step of some episodes."""
    outcome = run("Crash", 7, TowardsGoal(), num_envs=num_envs)
    failed = [result.number for result in outcome.results if result.error]
    assert failed == going_wrong("Crash", 7) and all("by signal SIGKILL" in outcome.results[number].error for number in failed)
    assert all(result.steps > 0 for result in outcome.results if not result.error)
    assert not any(outcome.results[number].success for number in failed)


def test_a_simulator_that_raises_costs_its_episode(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run("Raise", 6, baseline=RANDOM, num_envs=2)
    wrong = going_wrong("Raise", 6)
    errors = ["ValueError: the simulation is unstable" if number in wrong else "" for number in range(6)]
    assert [result.error for result in outcome.results] == errors
    assert "the simulation is unstable" in capfd.readouterr().err, "with a traceback for whoever wrote it"


@pytest.mark.slow
def test_a_process_that_hangs_is_ended() -> None:
    outcome = run("Hang", 6, TowardsGoal(), num_envs=2, stall_timeout=15.0)
    failed = [result for result in outcome.results if result.error]
    assert [result.number for result in failed] == going_wrong("Hang", 6)
    assert all("no progress for 15 s" in result.error for result in failed)


def test_mistakes_that_all_episodes_share_are_raised() -> None:
    with pytest.raises(UsageError, match="has no scripted expert"):
        run("Point", 2, baseline=SCRIPTED, num_envs=2)
    with pytest.raises(UsageError, match="does not say whether its task is done"):
        run("Silent", 2, baseline=RANDOM)
    with pytest.raises(BadDataError, match=r"PointWorld-v0_0_0, step 0, are not finite"):
        run("Point", 2, TowardsGoal(bad_value=np.nan))


def test_what_a_policy_cannot_do_is_checked_before_it_is_asked() -> None:
    def refuse(facts: object) -> None:
        raise UsageError(str(facts))

    policy = TowardsGoal()
    with pytest.raises(UsageError, match=r"action_size=2, state_size=2, has_gripper_camera=True"):
        run_episodes(
            episodes("Point", 1),
            EpisodePlan("", None, RecordingPlan()),
            Decider(policy, EXECUTE, False, refuse),
            num_envs=1,
            stall_timeout=60,
            report=Report(),
        )
    assert not policy.moments


@pytest.mark.parametrize(
    ("kind", "why"), [("Broken", "RuntimeError: its meshes are not there"), ("Lost", "process ended by signal SIGKILL")]
)
def test_an_environment_that_cannot_be_made_ends_the_run(kind: str, why: str) -> None:
    report = Report()
    with pytest.raises(UnavailableError, match=rf"{kind}World-v0 cannot be made: .*{why}"):
        run_episodes(episodes(kind, 1000), EpisodePlan(RANDOM, None, RecordingPlan()), None, num_envs=2, stall_timeout=60, report=report)
    assert report.notes == []


def test_what_could_be_run_stays_when_another_environment_cannot_be_made() -> None:
    report = Report()
    both = [*episodes("Point", 2), *episodes("Broken", 1000)]
    outcome = run_episodes(both, EpisodePlan(RANDOM, 3, RecordingPlan()), None, num_envs=1, stall_timeout=60, report=report)
    assert [result.steps for result in outcome.results] == [3, 3] + [0] * 1000
    assert [result.error for result in outcome.results[:2]] == ["", ""] and "meshes" in outcome.results[2].error
    assert {result.error for result in outcome.results[3:]} == {"not tried after episode 0: RuntimeError: its meshes are not there"}
    assert [result.number for result in outcome.results[2:]] == list(range(1000))
    assert len(report.notes) == 1


def test_every_question_says_what_is_to_be_done() -> None:
    heard: list[str] = []
    decider = Decider(TowardsGoal(), EXECUTE, False, lambda facts: None, heard.append)
    outcome = run_episodes(
        episodes("Point", 1), EpisodePlan("", 8, RecordingPlan()), decider, num_envs=1, stall_timeout=60, report=Report()
    )
    assert heard == ["move"] * outcome.num_plans and outcome.num_plans == 2
