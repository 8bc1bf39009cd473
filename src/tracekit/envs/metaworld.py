"""Meta-World (Yu et al. 2019; pip install metaworld): 50 manipulation tasks of a Sawyer arm in MuJoCo, each with a scripted expert.

The extra `sim` brings it: pip install '.[sim]' in the clone.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracekit.errors import UnavailableError, UsageError

SUITE = "metaworld"
TOUCH = 0.002
"""Metres within which the gripper touches a thing: in contact, bodies of a simulation part and meet again within milliseconds."""
CONTROL_SECONDS = 0.0125
"""Time between two steps of the controller: five MuJoCo steps of 2.5 ms."""
HAND_CAMERA = "gripperPOV"
PROPRIO = slice(0, 4)
"""Of Meta-World's observations: the position of the hand in metres, and the opening of the gripper from 0 to 1."""

# What each task is about, in our words: the name of a task says it, but not as a sentence.
TASKS = {
    "assembly-v3": "pick up the wrench and put its ring on the peg",
    "basketball-v3": "put the basketball into the hoop",
    "bin-picking-v3": "move the block from one bin to the other",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "press the button behind the wall from above",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "reach around the wall and press the button",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the wrench off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "close the faucet",
    "faucet-open-v3": "open the faucet",
    "hammer-v3": "hammer the nail into the block",
    "hand-insert-v3": "put the block into the hole with the gripper",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the hole in the side of the box",
    "peg-unplug-side-v3": "unplug the peg from the wall",
    "pick-out-of-hole-v3": "pick the block out of the hole",
    "pick-place-v3": "pick up the puck and hold it at the goal",
    "pick-place-wall-v3": "lift the puck over the wall to the goal",
    "plate-slide-back-side-v3": "pull the plate out of the goal sideways",
    "plate-slide-back-v3": "pull the plate out of the goal",
    "plate-slide-side-v3": "slide the plate into the goal sideways",
    "plate-slide-v3": "slide the plate into the goal",
    "push-back-v3": "pull the puck back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "reach the goal with the gripper",
    "reach-wall-v3": "reach over the wall to the goal with the gripper",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "push the ball into the soccer goal",
    "stick-pull-v3": "pull the thermos with the stick",
    "stick-push-v3": "push the thermos with the stick",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}
MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)


def parse_tasks(text: str) -> list[str]:
    """Task names of "metaworld/drawer-open-v3,door-open-v3", "metaworld/mt10" or "metaworld/mt50". Raises UsageError for unknown ones."""
    result: list[str] = []
    for part in text.split(","):
        suite, _, task = part.strip().rpartition("/")
        if suite not in ("", SUITE):
            raise UsageError(f"there is no suite of environments {suite!r}", hint=f"the only one that can be simulated is {SUITE}")
        names = {"mt10": list(MT10), "mt50": list(TASKS)}.get(task, [task])
        for name in names:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, 1)
                known = ", ".join(["mt10", "mt50", *TASKS])
                raise UsageError(
                    f"there is no task {name!r} in {SUITE}" + (f"; did you mean {near[0]}?" if near else ""), hint=f"known: {known}"
                )
            if name not in result:
                result.append(name)
    return result


def version() -> str:
    """Meta-World and MuJoCo with their versions, as text. Raises UnavailableError when they are not installed."""
    return ", ".join(f"{package} {number}" for package, number in versions().items())


def versions() -> dict[str, str]:
    """Those of Meta-World and MuJoCo. Raises UnavailableError when they are not installed."""
    try:
        return {package: importlib.metadata.version(package) for package in ("metaworld", "mujoco")}
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(f"the package {error.name} is not installed", hint="pip install '.[sim]' in the clone of tracekit") from None


@dataclass(frozen=True)
class Rollout:
    """What the expert did, and the state of the simulation before each of its actions. T steps."""

    states: np.ndarray
    """(T, s) MuJoCo's full physics state and what drives the arm."""
    observations: np.ndarray
    """(T, 39) what Meta-World tells: hand position, gripper opening, objects, and the same of the step before, and the goal."""
    actions: np.ndarray
    """(T, 4) hand displacement and gripper effort, each in [-1, 1]."""
    rewards: np.ndarray
    """(T,) Meta-World's reward of each action."""
    success: np.ndarray
    """(T,) bool, whether the task was done after each action."""


class MetaWorld:
    """One environment, its goal and start drawn from `seed`, and its scripted expert."""

    def __init__(self, task: str, seed: int) -> None:
        version()
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        self._mujoco = mujoco
        self._env = ALL_V3_ENVIRONMENTS[task]()
        # What `set_task` does, without its pickles: the goal can be seen, and is drawn anew from our seed. The space of observations
        # is cached by then, with a goal that is hidden: observations are clipped to it.
        self._env._partially_observable, self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, False, True
        self._env._set_task_called = True
        vars(self._env).pop("sawyer_observation_space", None)
        self._new_expert: Any = ENV_POLICY_MAP[task]
        self.seed(seed)
        self._spec = mujoco.mjtState.mjSTATE_INTEGRATION
        self._touching_pairs = self._pairs_that_can_touch()

    @property
    def model(self) -> Any:
        return self._env.model

    @property
    def data(self) -> Any:
        return self._env.data

    def roll(self, settle: int) -> Rollout:
        """Let the expert work from a new start until the task is done, and for `settle` steps more; at most Meta-World's 500."""
        observation = self.start()
        states: list[np.ndarray] = []
        observations: list[np.ndarray] = []
        actions: list[np.ndarray] = []
        rewards: list[float] = []
        success: list[bool] = []
        last = self.most_steps
        while len(actions) < last:
            states.append(self.state())
            observations.append(observation)
            actions.append(self.expert_action(observation))
            observation, reward, done = self.step(actions[-1])
            rewards.append(reward)
            success.append(done)
            if success[-1]:
                last = min(last, len(actions) + settle) if not any(success[:-1]) else last
        return Rollout(np.stack(states), np.stack(observations), np.stack(actions), np.array(rewards), np.array(success))

    @property
    def most_steps(self) -> int:
        """Actions after which an episode ends at the latest: 500."""
        return int(self._env.max_path_length)

    def seed(self, seed: int) -> None:
        """From the next start on, all is as in a new environment with this seed: nothing of what was before is left."""
        self._env.seed(seed)
        self._expert = self._new_expert()

    def start(self) -> np.ndarray:
        """Go to the start of an episode, a new one each time; the first observation (39,)."""
        observation, _ = self._env.reset()
        return np.array(observation)

    @property
    def has_ended(self) -> bool:
        """Whether no more steps can be made before the next start."""
        return int(self._env.curr_path_length) >= self.most_steps

    def new_data(self) -> Any:
        """Empty data of this model."""
        return self._mujoco.MjData(self.model)

    def expert_action(self, observation: np.ndarray) -> np.ndarray:
        """What the expert would do, (4,) float32 in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experts ask for more than the arm can do, and say so each time
            return np.clip(self._expert.get_action(observation), -1.0, 1.0).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Carry out an action (4,); the next observation (39,), the reward, and whether the task is done."""
        observation, reward, _, _, info = self._env.step(action)
        return np.array(observation), float(reward), bool(info["success"])

    def restore(self, state: np.ndarray) -> None:
        """Put bodies where they were in a state of the rollout."""
        self.restore_in(self.data, state)

    def restore_in(self, data: Any, state: np.ndarray) -> None:
        """The same in other data of this model, which leaves the simulation alone."""
        self._mujoco.mj_setState(self.model, data, state, self._spec)
        self._mujoco.mj_forward(self.model, data)

    def state(self) -> np.ndarray:
        """MuJoCo's full physics state and what drives the arm, (s,)."""
        state = np.empty(self._mujoco.mj_stateSize(self.model, self._spec))
        self._mujoco.mj_getState(self.model, self.data, state, self._spec)
        return state

    def body_names(self) -> list[str]:
        """Every body has a name of its own: those that Meta-World left without one are called after their parent."""
        names: list[str] = []
        for body in range(self.model.nbody):
            name = self.model.body(body).name or f"{names[self.model.body_parentid[body]]}_part"
            names.append(name if name not in names else f"{name}_{body}")
        return names

    def robot_bodies(self) -> np.ndarray:
        """(bodies,) bool: the arm, its pedestal and its gripper."""
        return self._branch("base")

    def _branch(self, root: str) -> np.ndarray:
        """(bodies,) bool: a body and all that hang on it."""
        member = np.zeros(self.model.nbody, bool)
        for body in range(self.model.nbody):  # parents come before their children
            member[body] = body == self.model.body(root).id or member[self.model.body_parentid[body]]
        return member

    def _pairs_that_can_touch(self) -> list[tuple[int, int]]:
        """Shapes of the gripper and of movable things that collide."""
        model = self.model
        gripper = self._branch("right_hand")[model.geom_bodyid]
        movable = ((model.body_weldid > 0) & ~self.robot_bodies())[model.geom_bodyid]
        one, other = np.nonzero(gripper[:, None] & movable[None, :])
        collide = (model.geom_contype[one] & model.geom_conaffinity[other]) | (model.geom_contype[other] & model.geom_conaffinity[one])
        return [(int(a), int(b)) for a, b in zip(one[collide > 0], other[collide > 0], strict=True)]

    def world_from_body(self) -> np.ndarray:
        """(bodies, 4, 4) where every body is now."""
        poses = np.tile(np.eye(4), (self.model.nbody, 1, 1))
        poses[:, :3, :3] = self.data.xmat.reshape(-1, 3, 3)
        poses[:, :3, 3] = self.data.xpos
        return poses

    def gripper_touches(self) -> bool:
        """Whether hand or fingers touch something that can be moved (the table and the walls cannot)."""
        distance = self._mujoco.mj_geomDistance
        return any(distance(self.model, self.data, one, other, TOUCH, None) < TOUCH for one, other in self._touching_pairs)

    def gripper_opening(self) -> float:
        """Distance between the two fingers, metres."""
        return float(np.linalg.norm(self.data.body("rightclaw").xpos - self.data.body("leftclaw").xpos))
