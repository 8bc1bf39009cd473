"""One frame of an RGB-D video as the rigid scene sees it: grey levels, depth with its surfaces, and where both can be trusted."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from tracekit.geometry import cameras, se3

PATCH = np.stack(np.meshgrid(np.arange(-4, 5, 2), np.arange(-4, 5, 2)), axis=-1).reshape(-1, 2).astype(np.float32)
"""Pixels (P, 2) of a patch around its centre: 9 x 9 px, every second one."""

STEEP = 0.03
"""Fraction by which the four depths around a pixel may differ on one surface."""

ARM = 2.0
"""Pixels from a point to the four others that give its normal."""

EDGE_REACH = 17
"""Side of the square around a pixel in which the outline of something nearer spoils its flow."""

ON_SURFACE = 0.006
"""A point lies on the surface that is measured there when their depths differ by less than this, metres, and as much per metre."""


class SceneView:
    """Grey levels (H, W) and depth, brought to the same grid; 0 is unknown."""

    def __init__(self, grey: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray) -> None:
        self.grey = grey
        same_grid = depth.shape == grey.shape
        self.depth = depth if same_grid else cv2.resize(depth, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
        self.intrinsics, self.world_from_camera = intrinsics, world_from_camera
        self.camera_from_world = se3.inverse(world_from_camera)
        self.focal_length = float(np.sqrt(intrinsics[0, 0] * intrinsics[1, 1]))

    @cached_property
    def smooth(self) -> np.ndarray:
        return cv2.GaussianBlur(self.grey, (3, 3), 0)

    def see(self, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return cameras.project(world, self.intrinsics, self.world_from_camera)

    def lift(self, uv: np.ndarray, z: np.ndarray) -> np.ndarray:
        return cameras.unproject(uv, z, self.intrinsics, self.world_from_camera)

    def contains(self, uv: np.ndarray) -> np.ndarray:
        height, width = self.depth.shape
        with np.errstate(invalid="ignore"):
            return np.all((uv >= 0) & (uv <= [width - 1, height - 1]), axis=-1)

    def depth_at(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth (P,) at pixels, NaN where unknown, and whether it is smooth there: interpolated in 1/z if so, the nearest if not."""
        height, width = self.depth.shape
        inside = self.contains(uv)
        x, y = np.where(inside[:, None], uv, 0).T
        column, row = np.clip(x.astype(int), 0, max(width - 2, 0)), np.clip(y.astype(int), 0, max(height - 2, 0))
        right, down = x - column, y - row
        next_column, next_row = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
        depth = self.depth
        corners = np.stack([depth[row, column], depth[row, next_column], depth[next_row, column], depth[next_row, next_column]], axis=1)
        corners = corners.astype(np.float64)
        weights = np.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=1)
        low, high = corners.min(axis=1), corners.max(axis=1)
        smooth = inside & (low > 0) & (high - low <= STEEP * high)
        nearest = corners[np.arange(len(uv)), weights.argmax(axis=1)]
        z = np.where(smooth, 1 / (weights / np.maximum(corners, 1e-9)).sum(axis=1), nearest)
        return np.where(inside & (z > 0), z, np.nan), smooth

    def surface_at(self, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """World points (P, 3), unit normals (P, 3), depths (P,) and whether the surface is smooth around (P,), at pixels (P, 2)."""
        offsets = ARM * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
        around = (uv + offsets[:, None]).reshape(-1, 2)
        z, smooth = self.depth_at(around)
        points = self.lift(around, z).reshape(5, -1, 3)
        z, smooth = z.reshape(5, -1), smooth.reshape(5, -1)[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            smooth = smooth & (np.abs(z[1:] - z[0]) < np.maximum(0.02 * z[0], 0.004) * ARM).all(axis=0)
            normal = np.cross(points[1] - points[2], points[3] - points[4])
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        return points[0], normal, z[0], smooth

    def beyond(self, world: np.ndarray, tolerance: float = ON_SURFACE) -> np.ndarray:
        """By how much the measured surface lies behind points (P, 3), in tolerances: within -1 and 1 it is theirs, NaN is unknown."""
        uv, z = self.see(world)
        return (self.depth_at(uv)[0] - z) / (tolerance + tolerance * z)

    def image_by_world(self, world: np.ndarray) -> np.ndarray:
        """Derivatives (P, 2, 3) of pixels by positions in the world."""
        x, y, z = se3.transform_points(self.camera_from_world, world).T
        z = np.maximum(z, 0.05)
        rotation = self.camera_from_world[:3, :3]
        along_x = (self.intrinsics[0, 0] / z)[:, None] * (rotation[0] - (x / z)[:, None] * rotation[2])
        along_y = (self.intrinsics[1, 1] / z)[:, None] * (rotation[1] - (y / z)[:, None] * rotation[2])
        return np.stack([along_x, along_y], axis=1)

    def patches(self, uv: np.ndarray) -> np.ndarray:
        """Grey levels (n, P) of patches around pixels (n, 2)."""
        if len(uv) == 0:
            return np.zeros((0, len(PATCH)))
        x, y = np.nan_to_num(uv, nan=-99).astype(np.float32).T
        return cv2.remap(
            self.smooth, x[:, None] + PATCH[:, 0], y[:, None] + PATCH[:, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.float64)

    @cached_property
    def structure(self) -> np.ndarray:
        """Structure tensor (H, W, 3) as (xx, xy, yy), mean over 9 x 9 pixels, (grey levels / px)^2."""
        grey = self.smooth.astype(np.float32)
        along_x, along_y = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8)
        return cv2.boxFilter(np.dstack([along_x * along_x, along_x * along_y, along_y * along_y]), -1, (9, 9))

    @cached_property
    def behind_an_edge(self) -> np.ndarray:
        """(H, W) bool: the outline of something nearer is close by. Flow is dragged along by it."""
        known = np.where(self.depth > 0, self.depth, np.float32(1e3))
        step = cv2.morphologyEx(known, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0.03 * known + 0.01
        reach = np.ones((EDGE_REACH, EDGE_REACH), np.uint8)
        return (cv2.dilate(step.astype(np.uint8), reach) > 0) & (known > 1.03 * cv2.erode(known, reach) + 0.01)


def read_at(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Channels (n, C) of a picture (H, W, C), interpolated at pixels (n, 2)."""
    if len(uv) == 0:
        return np.zeros((0, picture.shape[2]))
    x, y = uv.astype(np.float32).T
    return cv2.remap(picture, x[:, None], y[:, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0].astype(np.float64)
