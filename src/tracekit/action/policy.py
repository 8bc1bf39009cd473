"""What drives a robot: observations in, chunks of actions out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from tracekit.action.batch import ActionBatch, Observation
from tracekit.action.checkpoint import LoadedPolicy, load_policy
from tracekit.action.frozen import question_about
from tracekit.action.queries import query_points
from tracekit.errors import BadDataError, UsageError
from tracekit.mu0.decode import decode
from tracekit.pictures import to_square

_SHOWN_GRID = 24
"""Points a side of which traces are foreseen."""


@dataclass(frozen=True)
class Moment:
    """Which decision is made: all that is random in it follows from this, whatever else is decided at the same time."""

    seed: int
    """Of the episode."""
    step: int
    """Actions that were carried out before."""


class Policy(Protocol):
    """Plans for several robots at a time; what it plans for one does not depend on the others."""

    execute: int
    """Actions of a chunk that are carried out before the next observation."""

    def plan(self, observations: Sequence[Observation], moments: Sequence[Moment]) -> np.ndarray:
        """(B, T, A) float32 actions in the robot's own units, T >= execute."""
        ...

    def foresee(self, observation: Observation, moment: Moment) -> np.ndarray | None:
        """(N, H + 1, 3) the traces that the world model predicts for its queries, u and v in [-1, 1], the first point of each where it is now;
        None for a policy without a world model."""
        ...


class LearntPolicy:
    """An action expert on its frozen μ0, or a head without one.

    One robot is planned for at a time: in a batch the last digits of a plan would depend on who else is in it, and a simulated episode
    could then end otherwise.
    """

    def __init__(self, parts: LoadedPolicy, execute: int | None = None) -> None:
        """`execute` in place of what the policy was trained for. Raises UsageError when a chunk does not have so many actions."""
        self.config = parts.config
        self.execute = execute or self.config.execute
        if self.execute > self.config.horizon:
            raise UsageError(f"--execute is {self.execute}, but a chunk of this policy has {self.config.horizon} actions")
        self._parts = parts

    @classmethod
    def load(
        cls, path: str | os.PathLike, device: torch.device | str = "cpu", *, world_model: str = "", execute: int | None = None
    ) -> LearntPolicy:
        """From the folder of a run or of a checkpoint. Raises as `load_policy`, and as the class."""
        return cls(load_policy(os.fspath(path), device, world_model=world_model), execute)

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Width and height of the pictures that it was trained on."""
        return self._parts.description.trained_on.picture_size

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was done in the demonstrations that it was trained on, a hundred different sentences at most."""
        return self._parts.description.trained_on.sentences

    def plan(self, observations: Sequence[Observation], moments: Sequence[Moment]) -> np.ndarray:
        """(B, T, A) float32. Raises BadDataError when an observation is not what the policy was trained on."""
        return np.stack([self._plan(observation, moment) for observation, moment in zip(observations, moments, strict=True)])

    @torch.inference_mode()
    def foresee(self, observation: Observation, moment: Moment) -> np.ndarray | None:
        """The traces of a grid of points, or of entities, from the noise that the policy's features are read at (paper B.3)."""
        frozen, statistics = self._parts.frozen, self._parts.statistics
        if frozen is None or statistics is None:
            return None
        batch = self._batch(observation, moment)
        assert batch.image is not None
        # Finer than what the policy reads: this is for people to look at, and a thing should have more than one point.
        uv, present = query_points(batch.image, dataclasses.replace(self.config, grid=_SHOWN_GRID, grid_pool=1))
        question = question_about(batch.image, batch.text, batch.text_present, uv, present, frozen.model.config)
        drawn = frozen.model.sample(question, frozen.noise_at(uv))
        traces = decode(frozen.model.config, drawn.points, question.current, np.array(statistics.delta_scale, np.float32), drawn.validity)
        whole = torch.cat([question.current[:, None, :, None], traces], dim=3)
        return whole[0, 0, present[0]].cpu().numpy()

    @torch.inference_mode()
    def _plan(self, observation: Observation, moment: Moment) -> np.ndarray:
        batch = self._batch(observation, moment)
        if self._parts.frozen is not None:
            batch = dataclasses.replace(batch, features=self._parts.frozen.complete(batch))
        actions = self._parts.expert.sample(batch)[0, 0].float().cpu().numpy()
        return self._parts.normalisation.unnormalise_actions(actions)

    def _batch(self, observation: Observation, moment: Moment) -> ActionBatch:
        """One frame. What is random follows from the moment."""
        parts, config = self._parts, self.config
        if observation.state.shape != (config.state_size,):
            raise BadDataError(f"the state has shape {observation.state.shape}, but the policy was trained on {config.state_size} numbers")
        if config.gripper_features != "none" and observation.gripper_image is None:
            raise BadDataError("there is no picture of a gripper camera, but the policy was trained on one")
        key = np.array([moment.seed, moment.step], np.uint64)
        noise = np.random.Generator(np.random.Philox(key=key)).standard_normal((1, 1, config.horizon, config.action_size), np.float32)
        text, text_present = parts.tokenizer([observation.language])
        device = next(parts.expert.parameters()).device
        nothing = np.zeros((1, config.horizon, config.action_size), np.float32)
        return ActionBatch(
            position=torch.zeros(1, dtype=torch.int64),
            image=_picture(observation.agentview_image, parts.image_size),
            gripper=_picture(observation.gripper_image, self._gripper_size) if config.gripper_features != "none" else None,
            text=torch.from_numpy(text),
            text_present=torch.from_numpy(text_present),
            state=torch.from_numpy(parts.normalisation.normalise_state(observation.state)[None]),
            actions=torch.from_numpy(nothing),
            action_valid=torch.ones(1, config.horizon, dtype=torch.bool),
            noise=torch.from_numpy(noise),
            tau=torch.zeros(1, 1),
        ).to(device)

    @property
    def _gripper_size(self) -> int:
        return self._parts.image_size if self.config.gripper_features == "dinov2" else self.config.gripper_size


def _picture(picture: np.ndarray | None, size: int) -> torch.Tensor:
    """(1, 3, size, size) uint8, as in training."""
    assert picture is not None
    return torch.from_numpy(np.ascontiguousarray(to_square(picture, size).transpose(2, 0, 1)))[None]
