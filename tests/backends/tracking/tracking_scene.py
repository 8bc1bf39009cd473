"""Points that slide over a slanted wall before a camera that moves and turns: everything is known exactly, at any size of image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tracekit.geometry import cameras, se3

FIRST_GREY = 10
NORMAL, DISTANCE = np.array([0.25, -0.15, 1.0]), 2.5
NUM_POINTS = 8


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """About x, then y, then z, in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    about_x, about_y = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]), np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x


@dataclass
class TrackingScene:
    """T frames of `width` x `height`. Whatever the size, each point is seen at the same part of the way across and down."""

    num_frames: int
    width: int
    height: int
    depth_size: tuple[int, int] | None = None
    """Width and height of the depth images; those of the frames when not given."""
    hidden: np.ndarray = field(init=False)
    """(T, P) bool, to be set before weights are made."""

    def __post_init__(self) -> None:
        times = np.arange(self.num_frames)
        self.intrinsics = np.array(
            [[0.8 * (self.width - 1), 0, 0.48 * (self.width - 1)], [0, 0.9 * (self.height - 1), 0.53 * (self.height - 1)], [0, 0, 1]]
        )
        turn = np.stack([rotation(0.05 + 0.001 * t, -0.04 + 0.002 * t, 0.3 - 0.002 * t) for t in times])
        self.poses = se3.from_rotation_translation(turn, np.stack([0.3 + 0.003 * times, -0.2 + 0.002 * times, 0.1 - 0.004 * times], axis=1))
        rng = np.random.default_rng(3)
        start = self._onto_wall(rng.uniform(0.3, 0.65, (NUM_POINTS, 2)))
        step = rng.uniform(-0.004, 0.004, (NUM_POINTS, 3))
        step[0] = 0  # one rests
        step[:, 2] = -(step[:, :2] @ NORMAL[:2]) / NORMAL[2]
        self.world = start + times[:, None, None] * step
        self.camera = se3.transform_points(se3.inverse(self.poses), self.world)
        uv = cameras.project(self.world, self.intrinsics, self.poses)[0]
        self.place = uv / [self.width - 1, self.height - 1]
        self.hidden = np.zeros(self.world.shape[:2], dtype=bool)
        self.query_frames = np.minimum(np.array([0, 0, 3, 1, 5, 2, 0, 4]), self.num_frames - 1)

    @property
    def frames(self) -> np.ndarray:
        """(T, H, W, 3) uint8, each of one grey that says its number."""
        grey = np.arange(FIRST_GREY, FIRST_GREY + self.num_frames, dtype=np.uint8)
        return np.tile(grey[:, None, None, None], (1, self.height, self.width, 3))

    @property
    def depth(self) -> np.ndarray:
        width, height = self.depth_size or (self.width, self.height)
        k = cameras.scale_intrinsics(self.intrinsics, (self.width, self.height), (width, height))
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(k).T
        towards = np.einsum("hwc,tkc,k->thw", rays, self.poses[:, :3, :3], NORMAL)
        return ((DISTANCE - self.poses[:, :3, 3] @ NORMAL)[:, None, None] / towards).astype(np.float32)

    def queries(self, points: np.ndarray) -> np.ndarray:
        return self.world[self.query_frames[points], points]

    def _onto_wall(self, part: np.ndarray) -> np.ndarray:
        """World points (P, 3) of the wall at parts (P, 2) of the first image."""
        rays = (
            np.concatenate([part * [self.width - 1, self.height - 1], np.ones((len(part), 1))], axis=1) @ np.linalg.inv(self.intrinsics).T
        )
        in_world = rays @ self.poses[0, :3, :3].T
        return self.poses[0, :3, 3] + in_world * ((DISTANCE - self.poses[0, :3, 3] @ NORMAL) / (in_world @ NORMAL))[:, None]

    def padded(self, values: np.ndarray) -> np.ndarray:
        """(64, P, ...) float32, as the doubles with a fixed shape hold it."""
        result = np.zeros((64, *values.shape[1:]), dtype=np.float32)
        result[: len(values)] = values
        return result
