"""A small Gymnasium environment for tests of rollouts, as a stranger's would be: a point to be moved to a goal. Some of its kinds go wrong."""

from __future__ import annotations

import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces

SIDE = 32
REACH = 0.1
BAD_SHARE = 0.4
"""Of the episodes of a kind that goes wrong, decided by the start."""


class PointWorld(gymnasium.Env):
    """Observations: a picture with goal and point, a picture from the point, and where both are. Actions move the point by at most 0.1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 Gymnasium's own way

    def __init__(self, render_mode: str | None = None, fault: str = "") -> None:
        if fault == "broken":
            raise RuntimeError("its meshes are not there")
        if fault == "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        self.render_mode, self._fault = render_mode, fault
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {
                "eyes": spaces.Dict({"scene": self._pictures(), "hand": self._pictures()}),
                "place": spaces.Box(-1.0, 1.0, (2,), np.float64),
                "goal": spaces.Box(-1.0, 1.0, (2,), np.float64),
                "time": spaces.Box(0.0, np.inf, (), np.float64),
            }
        )

    @staticmethod
    def _pictures() -> spaces.Box:
        return spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self._place, self._goal = self.np_random.uniform(-0.9, 0.9, (2, 2))
        self.goes_wrong = self.np_random.random() < BAD_SHARE
        self._time = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self._time += 1
        if self.goes_wrong and self._time == 3:
            self._go_wrong()
        self._place = np.clip(self._place + 0.1 * action.astype(float), -1, 1)
        distance = float(np.linalg.norm(self._place - self._goal))
        info = {} if self._fault == "silent" else {"is_success": distance < REACH}
        return self._observation(), -distance, False, False, info

    def _go_wrong(self) -> None:
        if self._fault == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hang":
            time.sleep(3600)
        if self._fault == "raise":
            raise ValueError("the simulation is unstable")

    def render(self) -> np.ndarray:
        return self._observation()["eyes"]["scene"]

    def _observation(self) -> dict:
        scene, hand = np.zeros((2, SIDE, SIDE, 3), np.uint8)
        for place, channel in ((self._goal, 1), (self._place, 0)):
            column, row = ((place + 1) / 2 * (SIDE - 1)).round().astype(int)
            scene[row, column, channel] = 255
        hand[..., 2] = int(255 * np.linalg.norm(self._place - self._goal) / 3)
        return {"eyes": {"scene": scene, "hand": hand}, "place": self._place, "goal": self._goal, "time": np.float64(self._time)}


class BlindWorld(PointWorld):
    """Cannot be drawn from outside."""

    def __init__(self) -> None:
        super().__init__()


gymnasium.register("BlindWorld-v0", BlindWorld)
for name, fault in (("Broken", "broken"), ("Lost", "lost")):
    gymnasium.register(f"{name}World-v0", PointWorld, kwargs={"fault": fault})
for name, fault in (("Point", ""), ("Crash", "crash"), ("Hang", "hang"), ("Raise", "raise"), ("Silent", "silent")):
    gymnasium.register(f"{name}World-v0", PointWorld, kwargs={"fault": fault}, max_episode_steps=40)
