"""Many episodes: environments in processes of their own, and a policy here that decides for all of them.

What comes out of an episode follows from its seed alone; how many environments there are, which of them runs it and what happened before
do not matter, as long as what the policy plans for one robot does not depend on the others (see `tracekit.action.policy`).
"""

from __future__ import annotations

import multiprocessing.connection
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from tracekit.errors import BadDataError, TracekitError, UnavailableError
from tracekit.report import Report
from tracekit.rollouts.env_process import EnvFacts, EnvProcess, Question
from tracekit.rollouts.episode import Chunk, Episode, EpisodePlan, EpisodeResult

if TYPE_CHECKING:  # this imports torch, which baselines can do without
    from tracekit.action.policy import Policy


P = TypeVar("P", bound="Policy", covariant=True)


@dataclass(frozen=True)
class Decider(Generic[P]):
    """A policy, and how it is used."""

    policy: P
    execute: int
    """Actions of a chunk that are carried out before the next observation."""
    with_traces: bool
    """Also ask what its world model expects to happen."""
    check: Callable[[EnvFacts], None]
    """Raises TracekitError for an environment that the policy cannot act in."""
    heed: Callable[[str], None] = lambda sentence: None
    """Hears what is to be done, with every question."""
    at_once: int = 1
    """Robots that are planned for in one call, at most. With 1, one environment goes on while the next is planned for; more pay off where
    a batch takes hardly longer than one."""


@dataclass
class Outcome:
    """What came of all episodes."""

    results: list[EpisodeResult]
    """In the order of the episodes."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the environments' packages."""
    num_plans: int = 0
    seconds_planning: float = 0.0


def run_episodes(
    episodes: Sequence[Episode], plan: EpisodePlan, decider: Decider[Any] | None, *, num_envs: int, stall_timeout: float, report: Report
) -> Outcome:
    """Run all episodes, `num_envs` at a time; `decider` is None for a baseline.

    An episode whose process crashes, hangs for `stall_timeout` seconds or raises what is not the user's mistake counts as failed to run;
    the rest goes on in a new process. So do all episodes of an environment that cannot be made, where another one could be; of those that are
    waiting none is tried. Raises UnavailableError when none could be made, TracekitError for a mistake that every episode would share,
    BadDataError for plans that are not finite. However it ends, no process is left.
    """
    places = {(episode.env.name, episode.number): place for place, episode in enumerate(episodes)}
    results: dict[int, EpisodeResult] = {}
    outcome = Outcome([])
    queue = list(reversed(episodes))
    crew: list[EnvProcess] = []
    waiting: dict[EnvProcess, Question] = {}
    made: set[str] = set()
    """Environments that could be made once."""
    report.progress(0, len(episodes), "episodes")
    try:
        while queue or crew:
            while queue and len(crew) < num_envs:
                crew.append(EnvProcess(plan, stall_timeout))
                crew[-1].assign(queue.pop())
            heard = multiprocessing.connection.wait([process.connection for process in crew], timeout=0 if waiting else 1.0)
            for process in [process for process in crew if process not in waiting]:
                message = process.receive(process.connection in heard)
                if isinstance(message, TracekitError):
                    raise message
                if isinstance(message, EnvFacts):
                    outcome.versions |= message.versions
                    made.add(message.name)
                    if decider is not None:
                        decider.check(message)
                elif isinstance(message, Question):
                    if decider is not None:
                        decider.heed(message.observation.language)
                    waiting[process] = message
                elif isinstance(message, EpisodeResult):
                    results[places[message.env, message.number]] = message
                    if message.error and message.env not in made:
                        if not made:
                            raise UnavailableError(f"{message.env} cannot be made: {message.error}", hint="no episode was run")
                        for episode in [episode for episode in queue if episode.env.name == message.env]:
                            queue.remove(episode)
                            results[places[message.env, episode.number]] = _untried(episode, message)
                    _tell(results.values(), len(episodes), report, message)
                    if queue and not message.error:
                        process.assign(queue.pop())
                    else:
                        process.stop()
                        crew.remove(process)
            if waiting:
                assert decider is not None
                _answer(waiting, decider, outcome)
    finally:
        for process in crew:
            process.stop()
    outcome.results = [results[place] for place in range(len(episodes))]
    return outcome


def _answer(waiting: dict[EnvProcess, Question], decider: Decider[Any], outcome: Outcome) -> None:
    """Decide for those that have waited longest, in one batch."""
    from tracekit.action.policy import Moment

    processes = list(waiting)[: decider.at_once]
    questions = [waiting.pop(process) for process in processes]
    observations = [question.observation for question in questions]
    moments = [Moment(process.episode.seed, question.step) for process, question in zip(processes, questions, strict=True)]
    start = time.perf_counter()
    plans = decider.policy.plan(observations, moments)
    outcome.seconds_planning += time.perf_counter() - start
    outcome.num_plans += len(plans)
    for process, observation, moment, actions in zip(processes, observations, moments, plans, strict=True):
        if not np.isfinite(actions).all():
            raise BadDataError(f"the policy's actions for {process.episode.name}, step {moment.step}, are not finite")
        traces = decider.policy.foresee(observation, moment) if decider.with_traces else None
        process.answer(Chunk(actions[: decider.execute], traces))


def _untried(episode: Episode, first: EpisodeResult) -> EpisodeResult:
    return EpisodeResult(episode.env.name, episode.number, episode.seed, error=f"not tried after episode {first.number}: {first.error}")


def _tell(results: Collection[EpisodeResult], total: int, report: Report, latest: EpisodeResult) -> None:
    if latest.error:
        report.note(f"{latest.env}, episode {latest.number} failed to run: {latest.error}")
    report.progress(len(results), total, "episodes")
    report.describe(f"{sum(result.success for result in results)} successes")
