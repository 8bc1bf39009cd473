"""robosuite (Zhu et al. 2020; pip install '.[robosuite]' in the clone): 19 manipulation tasks of one or two arms in MuJoCo. Written against version 1.5.

Panda arms under robosuite's default controller; cameras `agentview` and `robot0_eye_in_hand`; the state is each arm's hand position (3),
its rotation as a quaternion (x, y, z, w) and the joints of its gripper, as in robomimic's datasets.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import warnings
from typing import Any

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs.live import EnvRequest, StepOutcome
from tracekit.errors import UnavailableError, UsageError

# What each task is about, in our words: robosuite has no sentences.
TASKS = {
    "Door": "open the door",
    "Lift": "lift the cube",
    "NutAssembly": "put both nuts on their pegs",
    "NutAssemblyRound": "put the round nut on its peg",
    "NutAssemblySingle": "put the nut on its peg",
    "NutAssemblySquare": "put the square nut on its peg",
    "PickPlace": "put every object into its bin",
    "PickPlaceBread": "put the bread into its bin",
    "PickPlaceCan": "put the can into its bin",
    "PickPlaceCereal": "put the cereal into its bin",
    "PickPlaceMilk": "put the milk into its bin",
    "PickPlaceSingle": "put the object into its bin",
    "Stack": "put the red cube on the green cube",
    "ToolHang": "put the frame together and hang the tool on it",
    "TwoArmHandover": "hand the hammer from one arm to the other",
    "TwoArmLift": "lift the pot with both arms",
    "TwoArmPegInHole": "put the peg into the hole",
    "TwoArmTransport": "carry the hammer to the other bin and the trash out of it",
    "Wipe": "wipe the table",
}
CAMERA, HAND_CAMERA = "agentview", "robot0_eye_in_hand"
STATE = ("eef_pos", "eef_quat", "gripper_qpos")
MAX_STEPS = 500
CONTROL_HERTZ = 20
_MOST_STEPS = 1_000_000


def known_task(task: str) -> str:
    """The name of a task. Raises UsageError for unknown ones, UnavailableError without robosuite."""
    if task not in TASKS:
        near = difflib.get_close_matches(task, TASKS, 1)
        raise UsageError(
            f"there is no task {task!r} in robosuite" + (f"; did you mean {near[0]}?" if near else ""), hint=f"known: {', '.join(TASKS)}"
        )
    _versions()
    return task


def _versions() -> dict[str, str]:
    try:
        return {package: importlib.metadata.version(package) for package in ("robosuite", "mujoco")}
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            f"the package {error.name} is not installed", hint="pip install '.[robosuite]' in the clone of tracekit"
        ) from None


class LiveRobosuite:
    """One task. robosuite keeps randomness in many places, so every start has a new environment."""

    fps, has_expert, max_steps = float(CONTROL_HERTZ), False, MAX_STEPS

    def __init__(self, request: EnvRequest) -> None:
        self.versions = _versions()
        self._request = request
        self._task = known_task(request.name.partition("/")[2])
        self._camera, self._hand_camera = request.camera or CAMERA, request.gripper_camera or HAND_CAMERA
        self._env: Any = self._made(0)
        low, high = self._env.action_spec
        self.action_size = len(low)
        self.action_low, self.action_high = low.astype(np.float32), high.astype(np.float32)
        self.state_size = len(self._state())
        cameras = self._env.sim.model.camera_names
        for camera in (self._camera, self._hand_camera):
            if camera not in cameras:
                raise UsageError(f"{request.name} has no camera {camera}", hint=f"it has: {', '.join(cameras)}")
        self.has_gripper_camera = True

    def reset(self, seed: int) -> None:
        self.close()
        self._env = self._made(seed)

    def _made(self, seed: int) -> Any:
        """A new environment at the start of an episode."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it recommends packages at every start
            import robosuite

            env = robosuite.make(
                self._task,
                robots=["Panda"] * (2 if self._task.startswith("TwoArm") else 1),
                has_renderer=False,
                has_offscreen_renderer=True,
                use_camera_obs=False,  # pictures are drawn when they are asked for, not at every step
                control_freq=CONTROL_HERTZ,
                horizon=_MOST_STEPS,
                hard_reset=False,
                seed=seed,
            )
        self._seen = env.reset()
        return env

    def observe(self) -> Observation:
        return Observation(
            agentview_image=self._picture(self._camera),
            gripper_image=self._picture(self._hand_camera),
            state=self._state(),
            language=TASKS[self._task] if self._request.language is None else self._request.language,
        )

    def step(self, action: np.ndarray) -> StepOutcome:
        self._seen, reward, _, _ = self._env.step(action)
        return StepOutcome(float(reward), bool(self._env._check_success()), ended=False)

    def expert_action(self) -> None:
        return None

    def close(self) -> None:
        self._env.close()

    def _picture(self, camera: str) -> np.ndarray:
        # As robosuite's own observations: OpenGL's first row is the lowest.
        drawn = self._env.sim.render(camera_name=camera, width=self._request.width, height=self._request.height)
        return np.ascontiguousarray(drawn[::-1])

    def _state(self) -> np.ndarray:
        """Of every arm; a tool that cannot grip has no joints."""
        names = [f"robot{arm}_{part}" for arm in range(len(self._env.robots)) for part in STATE]
        return np.concatenate([np.atleast_1d(self._seen[name]) for name in names if name in self._seen]).astype(np.float32)
