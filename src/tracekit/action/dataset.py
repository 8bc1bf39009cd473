"""Samples of demonstrations to learn from (paper 3.4, B.4).

Training has no order but one: position p = 0, 1, 2, ... without end. Which frame stands at p, and everything random about it, follows
from (seed, p) alone. So neither the number of workers or processes nor an interruption changes what is learnt from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from tracekit.action.augmentation import augmented
from tracekit.action.config import ActionConfig
from tracekit.action.demo_index import DemoIndex
from tracekit.action.feature_cache import FeatureCache
from tracekit.action.feature_part import FrameFeatures
from tracekit.action.flow import draw_flow_times
from tracekit.action.normalisation import Normalisation
from tracekit.format.demo_file import DemoFile, DemoHead, DemoLayout
from tracekit.mu0.config import Mu0Config
from tracekit.pictures import to_square
from tracekit.training.sample_order import EpochOrder, generator


@dataclass(frozen=True)
class ActionSample:
    """One frame. Letters as in `tracekit.action.batch`."""

    position: int
    """Number in the order of training."""
    image: np.ndarray | None
    """(3, S, S) uint8 RGB; None where `features` stand for it."""
    gripper: np.ndarray | None
    """(3, s, s) uint8 RGB; None where `features` stand for it, or it is not looked at."""
    language: str
    state: np.ndarray
    """(P,) float32, normalised."""
    actions: np.ndarray
    """(T, A) float32, normalised; 0 where not valid."""
    action_valid: np.ndarray
    """(T,) bool."""
    noise: np.ndarray
    """(R, T, A) float32."""
    tau: np.ndarray
    """(R,) float32."""
    features: FrameFeatures | None


class DemoDataset(Dataset[ActionSample]):
    """Samples by position. `len` is one epoch; positions go on beyond it, every epoch in an order of its own."""

    def __init__(
        self,
        demos: DemoIndex | Sequence[str | os.PathLike],
        layout: DemoLayout | None,
        config: ActionConfig,
        world: Mu0Config | int,
        normalisation: Normalisation,
        *,
        seed: int = 0,
        split: str = "train",
        draws: int = 1,
        features: FeatureCache | None = None,
        augment: bool = False,
        language: str = "",
    ) -> None:
        """`demos` are files, or an index that was made of them, which knows its own layout and language. `world` is the world model, or the
        side of the pictures in pixels. `draws` is R. With `features` the picture of the scene is not read.

        Raises BadDataError as DemoIndex does, and when actions or states are not those of `config`.
        """
        self.index = demos if isinstance(demos, DemoIndex) else DemoIndex(demos, layout, language=language)
        self.index.check_against(config)
        self.config = config
        self.seed = seed
        self._image_size = world if isinstance(world, int) else world.image_size
        self._frames = self.index.frames(split)
        self._order = EpochOrder(len(self._frames), seed)
        self._states = [normalisation.normalise_state(file.all_states) for file in self.index.files]
        self._actions = [normalisation.normalise_actions(file.all_actions) for file in self.index.files]
        self._draws = draws
        self._features = features
        self._augment = augment

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, position: int) -> ActionSample:
        """The sample at a position, which may be any number from 0."""
        config = self.config
        frame = int(self._frames[self._order.place(position)])
        number = self.index.demos[self.index.demo[frame]][0]
        file, head, step = self.index.step(frame)
        rows = file.rows(head.key)
        random = generator(self.seed, position)
        noise = random.standard_normal((self._draws, config.horizon, config.action_size), dtype=np.float32)
        tau = draw_tau(random, self._draws, config.method)
        actions = np.zeros((config.horizon, config.action_size), np.float32)
        chunk = self._actions[number][rows.start + step : min(rows.start + step + config.horizon, rows.stop)]
        actions[: len(chunk)] = chunk
        image, gripper = self._pictures(file, head, step, random)
        return ActionSample(
            position=position,
            image=image,
            gripper=gripper,
            language=self.index.language[self.index.demo[frame]],
            state=self._states[number][rows.start + step],
            actions=actions,
            action_valid=np.arange(config.horizon) < len(chunk),
            noise=noise,
            tau=tau,
            features=None if self._features is None else self._features.frame(frame),
        )

    def origin(self, position: int) -> tuple[str, int]:
        """Demonstration and step of the sample at a position, without reading it."""
        file, head, step = self.index.step(int(self._frames[self._order.place(position)]))
        return f"{head.key} of {file.path}", step

    def _pictures(
        self, file: DemoFile, head: DemoHead, step: int, random: np.random.Generator
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        kind, cached = self.config.gripper_features, self._features is not None
        image = None if cached else self._square(file.agentview(head.key, step), self._image_size, random)
        if kind == "none" or (kind == "dinov2" and cached):
            return image, None
        size = self._image_size if kind == "dinov2" else self.config.gripper_size
        return image, self._square(file.gripper(head.key, step), size, random)

    def _square(self, picture: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
        square = to_square(picture, size)
        if self._augment:
            square = augmented(square, random)
        return np.ascontiguousarray(square.transpose(2, 0, 1))


def draw_tau(random: np.random.Generator, number: int, method: str) -> np.ndarray:
    """Flow times (number,) float32; for diffusion, uniform in [0, 1), of which the head makes its own steps."""
    return draw_flow_times(random, number) if method == "flow" else random.random(number, dtype=np.float32)
