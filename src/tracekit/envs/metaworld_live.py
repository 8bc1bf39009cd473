"""Meta-World's tasks as environments that a policy acts in. What it is shown is what `simulate --demos` films and writes."""

from __future__ import annotations

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs import metaworld
from tracekit.envs.live import EnvRequest, StepOutcome
from tracekit.envs.metaworld import HAND_CAMERA, PROPRIO, MetaWorld
from tracekit.envs.mujoco_views import Camera, Screen
from tracekit.errors import UsageError
from tracekit.simulation.camera_paths import FOV_Y, PATHS

CAMERA = "corner2"
FPS = 20.0
"""A step is 1/80 s of the simulation; at 20 the arm is as fast as real ones, and so it is in the clips of `simulate`."""


class LiveMetaWorld:
    """One task. The same simulator serves all its episodes: building one takes longer than an episode."""

    action_size, state_size = 4, PROPRIO.stop
    action_low, action_high = np.full(4, -1.0, np.float32), np.full(4, 1.0, np.float32)
    fps, has_expert, has_gripper_camera = FPS, True, True

    def __init__(self, request: EnvRequest) -> None:
        self._request = request
        (self._task,) = metaworld.parse_tasks(request.name)
        if request.camera not in ("", CAMERA) or request.gripper_camera not in ("", HAND_CAMERA):
            raise UsageError(
                f"the cameras of {metaworld.SUITE} are {CAMERA} and {HAND_CAMERA}", hint="leave --camera and --gripper-camera out"
            )
        still = PATHS[CAMERA](np.zeros((1, 3)), FPS, np.random.default_rng(0))[0]
        self._camera = Camera(still, FOV_Y)
        self._language = metaworld.TASKS[self._task] if request.language is None else request.language
        self._env = MetaWorld(self._task, seed=0)
        self.max_steps = self._env.most_steps
        self.versions = metaworld.versions()
        self._screen: Screen | None = None

    def reset(self, seed: int) -> None:
        self._env.seed(seed)
        self._observation = self._env.start()

    def observe(self) -> Observation:
        if self._screen is None:
            # In data of its own, so that looking has no influence on what happens.
            self._seen = self._env.new_data()
            self._screen = Screen(self._env.model, self._seen, self._request.width, self._request.height)
        self._env.restore_in(self._seen, self._env.state())
        return Observation(
            agentview_image=self._screen.picture(self._camera),
            gripper_image=self._screen.picture(HAND_CAMERA),
            state=self._observation[PROPRIO].astype(np.float32),
            language=self._language,
        )

    def step(self, action: np.ndarray) -> StepOutcome:
        self._observation, reward, success = self._env.step(action)
        return StepOutcome(reward, success, ended=self._env.has_ended)

    def expert_action(self) -> np.ndarray:
        return self._env.expert_action(self._observation)

    def close(self) -> None:
        if self._screen is not None:
            self._screen.close()
            self._screen = None
