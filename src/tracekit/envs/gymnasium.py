"""Any environment of Gymnasium (https://gymnasium.farama.org) in which actions are numbers."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tracekit.action.observation import Observation
from tracekit.envs.live import EnvRequest, StepOutcome
from tracekit.errors import BadDataError, UsageError

MAX_STEPS = 1000
"""Of an environment that has no limit of its own."""
FPS = 20.0
"""Of an environment that does not say."""
SUCCESS = ("success", "is_success")
"""Keys of `info` under which environments say whether the task is done."""


def known_id(name: str) -> str:
    """The name, if there is such an environment, as far as that is known without its module. Raises UsageError naming close ones."""
    import gymnasium

    if ":" in name:  # MODULE:ID is registered when the module is imported
        return name
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        near = difflib.get_close_matches(name, known_names(), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "metaworld/TASK, robosuite/TASK, robocasa/TASK, or an id of Gymnasium"
        raise UsageError(f"there is no environment {name!r}: {_first_line(error)}", hint=hint) from None
    return name


def known_names() -> list[str]:
    """Of all environments that can be listed without starting anything."""
    import gymnasium

    from tracekit.envs import metaworld, robosuite

    suites = [(metaworld.SUITE, metaworld.TASKS), ("robosuite", robosuite.TASKS)]
    return [*gymnasium.registry, *(f"{suite}/{task}" for suite, tasks in suites for task in tasks)]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class LiveGymnasium:
    """One environment.

    The picture is what is found under --camera in the observations, a whole observation that is a picture, or what the environment
    renders. The state is what is found under the keys of --state, one after the other; a whole observation that is a vector; or a single 0
    where the picture is all that is observed.
    """

    has_expert = False

    def __init__(self, request: EnvRequest) -> None:
        import gymnasium
        from gymnasium import spaces

        self._request = request
        how: dict[str, Any] = {} if request.camera else {"render_mode": "rgb_array"}
        try:
            self._env: Any = gymnasium.make(request.name, disable_env_checker=True, **how)
        except (gymnasium.error.Error, ImportError) as error:
            raise UsageError(f"{request.name} cannot be made: {_first_line(error)}") from None
        except TypeError as error:
            if "unexpected keyword argument 'render_mode'" not in str(error):
                raise
            raise UsageError(
                f"{request.name} cannot be made: it takes no render_mode", hint="--camera KEY: a picture in its observations instead"
            ) from None
        actions = self._env.action_space
        if not isinstance(actions, spaces.Box) or len(actions.shape) != 1:
            raise UsageError(
                f"{request.name} takes actions of the kind {actions}",
                hint="a policy acts with a vector of numbers: Box with one dimension",
            )
        (self.action_size,) = actions.shape
        self.action_low, self.action_high = actions.low.astype(np.float32), actions.high.astype(np.float32)
        self._action_type = actions.dtype
        self.max_steps = (self._env.spec and self._env.spec.max_episode_steps) or MAX_STEPS
        self.fps = float(self._env.metadata.get("render_fps") or FPS)
        self.has_gripper_camera = bool(request.gripper_camera)
        self.versions = {"gymnasium": importlib.metadata.version("gymnasium")}
        self._seen, _ = self._env.reset(seed=0)
        self._check_keys(self._seen)
        self.state_size = len(self._state(self._seen))

    def reset(self, seed: int) -> None:
        self._seen, _ = self._env.reset(seed=seed)

    def observe(self) -> Observation:
        seen, request = self._seen, self._request
        if request.camera:
            picture = _picture(dict(_leaves(seen))[request.camera], request.camera, request.name)
        elif _is_picture(seen):
            picture = np.array(seen)
        else:
            picture = _picture(self._env.render(), "what it renders", request.name)
        gripper = None
        if request.gripper_camera:
            gripper = _picture(dict(_leaves(seen))[request.gripper_camera], request.gripper_camera, request.name)
        return Observation(picture, gripper, self._state(seen), request.language or "")

    def step(self, action: np.ndarray) -> StepOutcome:
        self._seen, reward, terminated, truncated, info = self._env.step(action.astype(self._action_type))
        told = [bool(info[key]) for key in SUCCESS if key in info]
        if not told:
            has = ", ".join(map(str, info)) or "nothing"
            raise UsageError(
                f"{self._request.name} does not say whether its task is done",
                hint=f"`info` would hold {' or '.join(SUCCESS)}; it holds {has}",
            )
        return StepOutcome(float(reward), any(told), bool(terminated or truncated))

    def expert_action(self) -> None:
        return None

    def close(self) -> None:
        self._env.close()

    def _state(self, seen: Any) -> np.ndarray:
        if self._request.state:
            leaves = dict(_leaves(seen))
            parts = [np.atleast_1d(np.asarray(leaves[key], np.float32)).ravel() for key in self._request.state]
            return np.concatenate(parts)
        return np.zeros(1, np.float32) if _is_picture(seen) else np.array(seen, np.float32).ravel()

    def _check_keys(self, seen: Any) -> None:
        """Raise UsageError naming what the observations have when they lack a key that is asked for, or none is asked for."""
        request = self._request
        leaves = dict(_leaves(seen))
        has = ", ".join(f"{key} {np.shape(value)}" if key else f"one array {np.shape(value)}" for key, value in leaves.items())
        asked = {"--camera": [request.camera], "--gripper-camera": [request.gripper_camera], "--state": request.state}
        for flag, keys in asked.items():
            for key in keys:
                if key and key not in leaves:
                    raise UsageError(f"observations of {request.name} have no {key} ({flag})", hint=f"they have: {has}")
        if not request.state and "" not in leaves:
            raise UsageError(
                f"observations of {request.name} have several parts", hint=f"say which are the state: --state KEY[,KEY]; they have: {has}"
            )


def _leaves(seen: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """What an observation holds, by key; keys within keys are joined by "/". An observation without keys is under ""."""
    if isinstance(seen, Mapping):
        for key, value in seen.items():
            yield from _leaves(value, f"{before}/{key}" if before else str(key))
    else:
        yield before, seen


def _is_picture(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def _picture(value: Any, what: str, name: str) -> np.ndarray:
    if not _is_picture(value):
        kind = f"{np.asarray(value).dtype} {np.shape(value)}"
        raise BadDataError(f"{what} of {name} is no picture: {kind}", hint="height x width x 3, uint8 RGB, is one")
    return np.array(value)  # a copy: some environments draw into the same array again
