"""Takes as demonstrations for a policy: what it would see and feel before every action of the expert."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.envs import metaworld
from tracekit.envs.mujoco_views import Screen
from tracekit.format.demos import Demo
from tracekit.report import Report
from tracekit.simulation.episode import EpisodeRequest, Take


@dataclass(frozen=True)
class DemoPlan:
    """Where demonstrations go, and the size of their pictures."""

    path: Path
    width: int
    height: int

    @property
    def parts(self) -> Path:
        """A hidden folder beside the file, with a part for each episode until all are there."""
        return self.path.parent / f".{self.path.name}.parts"

    def part(self, request: EpisodeRequest) -> Path:
        return self.parts / f"{request.name}.h5"

    def parameters(self, request: EpisodeRequest) -> dict[str, Any]:
        """Everything that a demonstration follows from."""
        return {**dataclasses.asdict(request), "width": self.width, "height": self.height}


def film_demo(take: Take, plan: DemoPlan, report: Report) -> Demo:
    """The pictures of the camera of the episode and of the one on the hand, drawn in the plan's size, and the expert's actions."""
    request, env, rollout = take.request, take.env, take.rollout
    images = np.empty((2, len(rollout.actions), plan.height, plan.width, 3), np.uint8)
    with Screen(env.model, env.data, plan.width, plan.height) as screen:
        for frame in take.replay(report):
            images[0, frame] = screen.picture(take.cameras[frame])
            images[1, frame] = screen.picture(metaworld.HAND_CAMERA)
    dones = rollout.success.copy()
    dones[-1] = True
    return Demo(
        name=request.name,
        parameters=plan.parameters(request),
        language=metaworld.TASKS[request.task],
        success=bool(rollout.success.any()),
        actions=rollout.actions,
        rewards=rollout.rewards,
        dones=dones,
        agentview_image=images[0],
        eye_in_hand_image=images[1],
        proprio=rollout.observations[:, metaworld.PROPRIO],
    )
