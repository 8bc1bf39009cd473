"""RoboCasa365 (Nasiriany et al. 2026; https://robocasa.ai): kitchens in MuJoCo, by its Gymnasium ids, for a Panda arm on an Omron base.

Spaces are those of robocasa/wrappers/gym_wrapper.py of github.com/robocasa/robocasa: dictionaries of `state.*`, `video.*` and `action.*`. States and
actions come and go in the order of its LeRobot datasets (see `tracekit.interop.robocasa`). The package and its assets are installed as
its site says; tests use a double with the same spaces.
"""

from __future__ import annotations

import difflib
import importlib.util
from typing import Any

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs.live import EnvRequest, StepOutcome
from tracekit.errors import BadDataError, UnavailableError, UsageError
from tracekit.interop.robocasa import ACTION_SIZE, STATE_PARTS, STATE_SIZE, action_parts

CAMERA, HAND_CAMERA = "robot0_agentview_left", "robot0_eye_in_hand"
TASK_SENTENCE = "annotation.human.task_description"
MAX_STEPS = 1000
FPS = 20.0
"""Its control rate."""


def known_task(task: str) -> str:
    """The name of a task; which there are shows when RoboCasa starts. Raises UnavailableError where it is not installed."""
    if importlib.util.find_spec("robocasa") is None:
        raise UnavailableError(
            "the package robocasa is not installed", hint="see https://robocasa.ai: it comes from source, with assets of its own"
        )
    return task


class LiveRoboCasa:
    """One task in kitchens that follow from the seed."""

    action_size, state_size = ACTION_SIZE, STATE_SIZE
    action_low, action_high = np.full(ACTION_SIZE, -1.0, np.float32), np.full(ACTION_SIZE, 1.0, np.float32)
    max_steps, fps, has_expert, has_gripper_camera = MAX_STEPS, FPS, False, True

    def __init__(self, request: EnvRequest) -> None:
        known_task(request.name)
        import gymnasium
        import robocasa

        if request.name not in gymnasium.registry:
            importlib.import_module("robocasa.wrappers.gym_wrapper")  # registers the environments where the package alone does not
        if request.name not in gymnasium.registry:
            there = [name for name in gymnasium.registry if name.startswith("robocasa/")]
            near = difflib.get_close_matches(request.name, there, 3)
            raise UsageError(
                f"there is no environment {request.name!r}",
                hint=f"did you mean {' or '.join(near)}?" if near else f"RoboCasa has {len(there)}, {', '.join(there[:3])} and so on",
            )
        self._request = request
        self._camera, self._hand_camera = f"video.{request.camera or CAMERA}", f"video.{request.gripper_camera or HAND_CAMERA}"
        self._env: Any = gymnasium.make(request.name, disable_env_checker=True, camera_widths=request.width, camera_heights=request.height)
        self.versions = {"robocasa": str(getattr(robocasa, "__version__", "unknown"))}

    def reset(self, seed: int) -> None:
        self._seen, _ = self._env.reset(seed=seed)

    def observe(self) -> Observation:
        language = self._request.language
        return Observation(
            agentview_image=self._part(self._camera),
            gripper_image=self._part(self._hand_camera),
            state=np.concatenate([np.atleast_1d(self._part(f"state.{part}")) for part in STATE_PARTS]).astype(np.float32),
            language=str(self._part(TASK_SENTENCE)) if language is None else language,
        )

    def step(self, action: np.ndarray) -> StepOutcome:
        parts = action_parts(action)
        self._seen, reward, terminated, truncated, info = self._env.step({f"action.{name}": part for name, part in parts.items()})
        return StepOutcome(float(reward), bool(info["success"]), bool(terminated or truncated))

    def expert_action(self) -> None:
        return None

    def close(self) -> None:
        self._env.close()

    def _part(self, key: str) -> Any:
        try:
            return self._seen[key]
        except KeyError:
            raise BadDataError(f"observations of {self._request.name} have no {key}", hint=f"they have: {', '.join(self._seen)}") from None
