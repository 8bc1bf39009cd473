"""Processes of environments serve many episodes without growing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from simulator import simulator  # noqa: F401

from tracekit.action.observation import Observation
from tracekit.action.policy import Moment
from tracekit.envs.live import EnvRequest
from tracekit.report import Report
from tracekit.rollouts.engine import Decider, run_episodes
from tracekit.rollouts.episode import Episode, EpisodePlan
from tracekit.rollouts.recording import RecordingPlan


class Wander:
    """Looks, and moves at random."""

    execute = 8

    def plan(self, observations: Sequence[Observation], moments: Sequence[Moment]) -> np.ndarray:
        return np.stack([np.random.default_rng([moment.seed, moment.step]).uniform(-1, 1, (8, 4)) for moment in moments])

    def foresee(self, observation: Observation, moment: Moment) -> None:
        return None


class Watch(Report):
    """Resident memory of every process, after each episode."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[int, list[int]] = {}

    def progress(self, done: int, total: int, unit: str = "frames") -> None:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            self.pages.setdefault(child.pid, []).append(int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]))


@pytest.mark.slow
@pytest.mark.usefixtures("simulator")
def test_memory_stays_flat() -> None:
    """Within 5 % from the first episodes to the last, with a picture drawn at every decision; no process is replaced."""
    watch = Watch()
    episodes = [Episode(EnvRequest("metaworld/drawer-open-v3", 96, 72), 0, number) for number in range(20)]
    decider = Decider(Wander(), 8, False, lambda facts: None)
    outcome = run_episodes(episodes, EpisodePlan("", 40, RecordingPlan()), decider, num_envs=2, stall_timeout=300, report=watch)
    assert not any(result.error for result in outcome.results) and len(watch.pages) == 2
    for pages in watch.pages.values():
        settled = pages[len(pages) // 4 :]  # by then every process has drawn its first pictures
        assert len(settled) > 8 and max(settled) < 1.05 * settled[0]
