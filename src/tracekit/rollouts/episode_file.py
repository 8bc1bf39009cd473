"""Files of episodes, in the layout of demonstrations, so that they can be learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs.live import StepOutcome
from tracekit.format.demos_writer import DemoRecord, new_demos
from tracekit.format.provenance import Step

_GYMNASIUM = 2
"""robomimic's number of this type of environment."""


def write_episode_file(
    path: Path,
    name: str,
    parameters: dict[str, Any],
    observations: Sequence[Observation],
    actions: Sequence[np.ndarray],
    outcomes: Sequence[StepOutcome],
    step: Step,
) -> None:
    """Write one episode of T steps: what was seen before each action, the action, and what came of it. A file that is there is replaced.

    Raises StorageError when the disk fails.
    """
    dones = np.array([outcome.success or outcome.ended for outcome in outcomes])
    dones[-1] = True
    record = DemoRecord(
        name=name,
        parameters=parameters,
        language=observations[0].language,
        success=outcomes[-1].success,
        actions=np.stack(actions),
        proprio=np.stack([seen.state for seen in observations]),
        rewards=np.array([outcome.reward for outcome in outcomes]),
        dones=dones,
    )
    with new_demos(path, force=True) as writer:
        writer.add(record, ((seen.agentview_image, seen.gripper_image) for seen in observations))
        writer.finish({"env_name": parameters["env"], "type": _GYMNASIUM, "env_kwargs": {}}, step)
