"""The nodes of a rigid scene: points on all surfaces, each with what flow and depth said about it in the last steps."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tracekit.backends.tracking.scene_view import PATCH, SceneView
from tracekit.geometry import se3

STEPS = 10
"""Steps from frame to frame that decide what a node belongs to."""

FADE = 0.88
"""Weight of a step against the one after it."""

STATIC = 0
"""The body that never moves: the world."""

FREE = -1
"""In place of a body: no body explains the node."""

NO_KEY = 99
"""Age of a key patch that is none."""

LOOKS_NOISE = 2.0
"""Standard deviation of grey levels that means nothing."""

KEY_TEXTURE = 100.0
"""Squared gradient, (grey levels / px)^2, at which a key patch is believed by half."""

KEY_SIGMA = 0.2
"""How well a key patch tells the place of a node, pixels."""


@dataclass
class Nodes:
    """n nodes, oldest first. Of each step, the newest comes first, and weights are 0 where nothing was measured."""

    serial: np.ndarray
    """(n,) their numbers, ascending, never used twice."""
    body: np.ndarray
    """(n,) column of the body that each belongs to, or FREE."""
    local: np.ndarray
    """(n, 3) place in the body."""
    position: np.ndarray
    """(n, 3) place in the world."""
    past: np.ndarray
    """(n, STEPS + 1, 3) places in the world, this frame's first; NaN before birth."""
    start: np.ndarray
    """(n, STEPS, 3) point of the surface before each step."""
    end: np.ndarray
    """(n, STEPS, 3) where the flow took it."""
    normal: np.ndarray
    """(n, STEPS, 3) of the surface there."""
    image_by_world: np.ndarray
    """(n, STEPS, 2, 3) derivative of the pixel there."""
    image_weight: np.ndarray
    """(n, STEPS, 2, 2) information of the flow, 1/px^2."""
    fit_weight: np.ndarray
    """(n, 2, 2) information of the flow of the last step for fitting motions, where only firm texture counts, 1/px^2."""
    depth_weight: np.ndarray
    """(n, STEPS) information of the depth along the normal, 1/m^2."""
    still: np.ndarray
    """(n, STEPS) bool, depth and looks allow that nothing moved."""
    key: np.ndarray
    """(n, P) grey levels around the node when its key was taken."""
    key_slope: np.ndarray
    """(n, P, 2) their gradient."""
    key_age: np.ndarray
    """(n,) frames since then."""
    shown: np.ndarray
    """(n,) bool, the measured surface is where the node is."""
    unseen: np.ndarray
    """(n,) frames since it was shown."""
    astray: np.ndarray
    """(n,) frames in a row in which the image looked through the node."""

    def __len__(self) -> int:
        return len(self.serial)

    @staticmethod
    def new(serial: np.ndarray, position: np.ndarray) -> Nodes:
        """Static nodes at `position` (n, 3)."""
        n = len(position)
        past = np.full((n, STEPS + 1, 3), np.nan)
        past[:, 0] = position
        return Nodes(
            serial=serial,
            body=np.full(n, STATIC),
            local=position.copy(),
            position=position.copy(),
            past=past,
            start=np.zeros((n, STEPS, 3)),
            end=np.zeros((n, STEPS, 3)),
            normal=np.zeros((n, STEPS, 3)),
            image_by_world=np.zeros((n, STEPS, 2, 3)),
            image_weight=np.zeros((n, STEPS, 2, 2)),
            fit_weight=np.zeros((n, 2, 2)),
            depth_weight=np.zeros((n, STEPS)),
            still=np.zeros((n, STEPS), dtype=bool),
            key=np.zeros((n, len(PATCH))),
            key_slope=np.zeros((n, len(PATCH), 2)),
            key_age=np.full(n, NO_KEY),
            shown=np.ones(n, dtype=bool),
            unseen=np.zeros(n, dtype=np.int64),
            astray=np.zeros(n, dtype=np.int64),
        )

    def rows(self, chosen: np.ndarray) -> Nodes:
        return Nodes(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def joined(self, other: Nodes) -> Nodes:
        return Nodes(**{field.name: np.concatenate([getattr(self, field.name), getattr(other, field.name)]) for field in fields(self)})

    def measured(self, steps: int = 1) -> np.ndarray:
        """(n,) bool: the last `steps` steps were all measured."""
        return np.asarray((self.depth_weight[:, :steps] > 0).all(axis=1))

    def next_step(self) -> None:
        """Make room for the measurements of a new step."""
        for name in ("start", "end", "normal", "image_by_world", "image_weight", "depth_weight", "still"):
            steps = getattr(self, name)
            setattr(self, name, np.concatenate([np.zeros_like(steps[:, :1]), steps[:, :-1]], axis=1))
        self.fit_weight = np.zeros_like(self.fit_weight)

    def see(self, view: SceneView) -> None:
        beyond = view.beyond(self.position)
        with np.errstate(invalid="ignore"):
            self.shown = np.abs(beyond) <= 1
            self.astray = np.where(self.shown, 0, self.astray + (beyond > 1))
        self.unseen = np.where(self.shown, 0, self.unseen + 1)

    def cost(self, chosen: np.ndarray, steps: np.ndarray, trust_still: bool = True) -> np.ndarray:
        """How badly motions (STEPS, B, 4, 4) explain the last steps of the chosen nodes: (n, B) chi square of the mean residual.

        A mean tells a slow body from the world where no single step does. What may be still (`trust_still`) fits the static world.
        """
        fade = FADE ** np.arange(STEPS)
        image_weight, depth_weight = fade[:, None, None] * self.image_weight[chosen], fade * self.depth_weight[chosen]
        # Weighted residuals, two in the image and one in depth, are linear in the motion: one product of matrices gives all sums.
        by_world = np.concatenate(
            [image_weight @ self.image_by_world[chosen], (depth_weight[..., None] * self.normal[chosen])[:, :, None]], axis=2
        )
        start, end = self.start[chosen], self.end[chosen]
        start_1 = np.concatenate([start, np.ones((*start.shape[:2], 1))], axis=2)
        features = np.moveaxis(by_world[..., None] * start_1[:, :, None, None], 1, 2).reshape(3 * len(start), -1)
        motions = np.moveaxis(steps[:, :, :3], 1, -1).reshape(-1, steps.shape[1])
        found = (by_world @ end[..., None])[..., 0].sum(axis=1)
        sums = np.swapaxes(found[..., None] - (features @ motions).reshape(len(start), 3, -1), 1, 2)
        if trust_still:
            moved = (by_world @ (end - start)[..., None])[..., 0]
            sums[:, STATIC] = (moved * ~self.still[chosen][..., None]).sum(axis=1)
        spread = np.linalg.inv(image_weight.sum(axis=1) + 1e-6 * np.eye(2))
        image, depth = sums[..., :2], sums[..., 2]
        return ((image @ spread) * image).sum(axis=-1) + depth**2 / np.maximum(depth_weight.sum(axis=1), 1e-6)[:, None]

    def take_keys(self, view: SceneView, chosen: np.ndarray) -> None:
        uv = view.see(self.position[chosen])[0]
        self.key[chosen] = view.patches(uv)
        for axis, one in enumerate(np.eye(2)):
            self.key_slope[chosen, :, axis] = 0.5 * (view.patches(uv + one) - view.patches(uv - one))
        self.key_age[chosen] = 0

    def shift_to_key(self, view: SceneView, chosen: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One Lucas-Kanade step (n, 2) from pixels `uv` to where the key patches fit better, and its information (n, 2, 2)."""
        now, key, slope = view.patches(uv), self.key[chosen], self.key_slope[chosen]
        difference = (key - key.mean(axis=1, keepdims=True)) - (now - now.mean(axis=1, keepdims=True))
        slope = slope - slope.mean(axis=1, keepdims=True)
        tensor = np.swapaxes(slope, 1, 2) @ slope / len(PATCH)
        shift = np.linalg.solve(tensor + 2.0 * np.eye(2), np.swapaxes(slope, 1, 2) @ difference[..., None] / len(PATCH))[..., 0]
        alike = np.mean(difference**2, axis=1) < 0.5 * (key.var(axis=1) + now.var(axis=1)) + 4 * LOOKS_NOISE**2
        good = alike & (self.key_age[chosen] < NO_KEY) & (np.abs(shift).max(axis=1) < 2.5)
        return shift, where_textured(tensor, KEY_TEXTURE) * (good / KEY_SIGMA**2)[:, None, None]


def where_textured(tensor: np.ndarray, half: float) -> np.ndarray:
    """S (S + half)^-1 of structure tensors (n, 2, 2): 1 along directions with texture, 0 along those without."""
    weight = tensor @ np.linalg.inv(tensor + half * np.eye(2))
    return 0.5 * (weight + np.swapaxes(weight, 1, 2))


def replayed(steps: np.ndarray, column: np.ndarray, position: np.ndarray, ago: np.ndarray) -> np.ndarray:
    """Points (n, 3) of `ago` (n,) steps back, had they moved with the bodies `column` (n,) of `steps` (STEPS, B, 4, 4) since."""
    position = position.copy()
    for step in range(STEPS - 1, -1, -1):
        on = ago > step
        position[on] = se3.transform_points(steps[step, column[on]], position[on][:, None])[:, 0]
    return position
