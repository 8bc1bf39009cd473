"""What is kept of an episode: a demonstration that can be learnt from, and a video. Everything is drawn only if it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs.live import LiveEnv, StepOutcome

if TYPE_CHECKING:  # this imports h5py
    from tracekit.format.provenance import Step


@dataclass(frozen=True)
class RecordingPlan:
    """Folders that files of each episode go to; None: no such files."""

    demos: Path | None = None
    videos: Path | None = None
    step: Step | None = None
    """How they come about; needed for demonstrations."""

    @property
    def keeps_pictures(self) -> bool:
        """Then every step is drawn."""
        return self.demos is not None or self.videos is not None


class Recording:
    """Of one episode, as it goes on."""

    def __init__(self, plan: RecordingPlan) -> None:
        self._plan = plan
        self._latest: tuple[int, Observation] | None = None
        self._observations: list[Observation] = []
        self._actions: list[np.ndarray] = []
        self._outcomes: list[StepOutcome] = []
        self._traces: list[np.ndarray | None] = []
        """Of each step, those of the decision that it is part of."""

    def observed(self, step: int, env: LiveEnv) -> Observation:
        """What is seen now, drawn once a step."""
        if self._latest is None or self._latest[0] != step:
            self._latest = step, env.observe()
        return self._latest[1]

    def before(self, step: int, env: LiveEnv, action: np.ndarray, traces: np.ndarray | None) -> None:
        """`action` is about to be carried out."""
        if self._plan.keeps_pictures:
            self._observations.append(self.observed(step, env))
            self._actions.append(action)
            self._traces.append(traces)

    def after(self, outcome: StepOutcome) -> None:
        if self._plan.keeps_pictures:
            self._outcomes.append(outcome)

    def write(self, step: int, env: LiveEnv, name: str, parameters: dict[str, Any], alive: Callable[[], None]) -> None:
        """The episode is over. Raises StorageError when the disk fails, CannotCreateError when a file is in the way."""
        if self._plan.demos is not None:
            from tracekit.rollouts.episode_file import write_episode_file

            assert self._plan.step is not None
            path = self._plan.demos / f"{name}.h5"
            write_episode_file(path, name, parameters, self._observations, self._actions, self._outcomes, self._plan.step)
        if self._plan.videos is not None:
            from tracekit.rollouts.episode_video import write_episode_video

            pictures = [seen.agentview_image for seen in (*self._observations, self.observed(step, env))]
            sentence, done = self._observations[0].language, self._outcomes[-1].success
            write_episode_video(self._plan.videos / f"{name}.mp4", pictures, self._traces, sentence, done, env.fps, alive)
