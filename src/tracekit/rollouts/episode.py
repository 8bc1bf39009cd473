"""One episode of one environment, from its seed to its end. This runs in the process of the environment, which loads no torch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs.live import EnvRequest, LiveEnv
from tracekit.errors import UsageError
from tracekit.rollouts.recording import Recording, RecordingPlan

SCRIPTED, RANDOM = "scripted", "random"
BASELINES = (SCRIPTED, RANDOM)
"""Policies that need no training: the environment's own expert, and actions drawn uniformly."""


@dataclass(frozen=True)
class Episode:
    """Which episode. Everything that is random in it follows from this."""

    env: EnvRequest
    run_seed: int
    """--seed."""
    number: int
    """Of the episodes of this environment."""

    @property
    def seed(self) -> int:
        """Of its start: other starts than those of `simulate` with the same --seed, whose purpose goes by another name."""
        return int(self.chance("rollout").integers(2**31))

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{re.sub('[^A-Za-z0-9.-]', '_', self.env.name)}_{self.run_seed}_{self.number}"

    def chance(self, purpose: str) -> np.random.Generator:
        """Randomness that depends on nothing but the episode and what it is for."""
        return np.random.default_rng([self.run_seed, self.number, zlib.crc32(f"{self.env.name} {purpose}".encode())])


@dataclass(frozen=True)
class EpisodePlan:
    """What holds for all episodes of a call. It travels to the processes of the environments."""

    baseline: str
    """One of BASELINES, or "" for a policy that is asked."""
    max_steps: int | None
    """None: the environment's own number."""
    recording: RecordingPlan


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode went."""

    env: str
    number: int
    seed: int
    success: bool = False
    steps: int = 0
    total_reward: float = 0.0
    error: str = ""
    """Why it could not be run to its end: then nothing is known about the policy."""


@dataclass(frozen=True)
class Chunk:
    """What is to be carried out before the next decision."""

    actions: np.ndarray
    """(n, A)."""
    traces: np.ndarray | None = None
    """(N, H + 1, 3) what the policy's world model expects to happen (see `tracekit.action.policy`)."""


class Driver(Protocol):
    """Decides what is done."""

    def __call__(self, observe: Callable[[], Observation], step: int, /) -> Chunk:
        """The next actions, after `step` of them. Without a call of `observe`, no picture is drawn."""
        ...


def baseline_driver(baseline: str, env: LiveEnv, episode: Episode) -> Driver:
    """Raises UsageError for an expert that there is not, and for random actions without bounds."""
    if baseline == SCRIPTED:
        if not env.has_expert:
            raise UsageError(f"{episode.env.name} has no scripted expert", hint="--policy: random, or a policy that was trained")
        return lambda observe, step: Chunk(np.array([env.expert_action()]))
    low, high = env.action_low, env.action_high
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UsageError(f"actions of {episode.env.name} have no bounds, so none can be drawn at random")
    chance = episode.chance("random actions")
    return lambda observe, step: Chunk(chance.uniform(low, high).astype(np.float32)[None])


def run_episode(env: LiveEnv, episode: Episode, plan: EpisodePlan, driver: Driver, alive: Callable[[], None]) -> EpisodeResult:
    """Run an episode until the task is done, the environment ends it, or its steps are used up. `alive` is called at every step."""
    limit = env.max_steps if plan.max_steps is None else plan.max_steps
    env.reset(episode.seed)
    recording = Recording(plan.recording)
    steps, total_reward, success, ended = 0, 0.0, False, False
    while steps < limit and not ended:
        chunk = driver(lambda: recording.observed(steps, env), steps)  # noqa: B023 called before `steps` changes
        for action in chunk.actions[: limit - steps]:
            executed = np.clip(action, env.action_low, env.action_high).astype(np.float32)
            recording.before(steps, env, executed, chunk.traces)
            outcome = env.step(executed)
            recording.after(outcome)
            alive()
            steps, total_reward, success = steps + 1, total_reward + outcome.reward, outcome.success
            ended = outcome.ended or success
            if ended:
                break
    parameters = {"env": episode.env.name, "run_seed": episode.run_seed, "number": episode.number, "seed": episode.seed}
    recording.write(steps, env, episode.name, parameters, alive)
    return EpisodeResult(episode.env.name, episode.number, episode.seed, success, steps, total_reward)
