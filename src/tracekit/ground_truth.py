"""The true path of any pixel of a simulated clip: the surface that it shows, carried by the body that the surface belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracekit.geometry import cameras, se3
from tracekit.records import Frames, Truth

DEPTH_TOLERANCE = 0.004
"""Metres by which a point may lie off the rendered surface and still be that surface: depth is kept in millimetres, and a
pixel of a steep surface spans more than one depth (that, its neighbours tell)."""

STEEP = 0.03
"""Depths of four neighbouring pixels of a body may differ by this fraction and still be one surface; beyond it the body hides a
part of itself there."""

ROUNDING = 1e-5
"""Pixels: a point that rests on the centre of a pixel has the same four around it in every frame."""

REMEMBERED_BYTES = 1 << 28
"""Frames of a part of a scene that are kept in memory; the rest of a long clip is read anew each time."""


@dataclass(frozen=True)
class Scene:
    """What is needed to follow surfaces through a clip: truth, depth and cameras of the same T frames on one H x W grid."""

    truth: Truth
    depth: Frames
    """(T, H, W) metres along the optical axis, 0 where there is no surface."""
    intrinsics: np.ndarray
    """(3, 3) px."""
    world_from_camera: np.ndarray
    """(T, 4, 4)."""

    def at(self, frames: np.ndarray) -> Scene:
        """The same scene in some of its frames (t,) only, in that order. Their pictures are read once, while memory allows."""
        truth = replace(
            self.truth,
            body_at_pixel=_FramesAt(self.truth.body_at_pixel, frames),
            world_from_body=self.truth.world_from_body[frames],
        )
        return Scene(truth, _FramesAt(self.depth, frames), self.intrinsics, self.world_from_camera[frames])


class _FramesAt:
    """Some frames of others, and a memory for the first of them."""

    def __init__(self, source: Frames, frames: np.ndarray) -> None:
        self._source, self._frames = source, np.asarray(frames, int)
        self._remembered: dict[int, np.ndarray] = {}
        self._room = REMEMBERED_BYTES
        self.shape = (len(self._frames), *source.shape[1:])

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self._frames[index]
        if np.ndim(chosen) == 0:
            return self._one(int(chosen))
        return np.stack([self._one(int(frame)) for frame in chosen]) if len(chosen) else np.asarray(self._source[:0])

    def _one(self, frame: int) -> np.ndarray:
        if frame in self._remembered:
            return self._remembered[frame]
        picture = np.asarray(self._source[frame])
        if picture.nbytes <= self._room:
            self._room -= picture.nbytes
            self._remembered[frame] = picture
        return picture


@dataclass(frozen=True)
class SurfacePoints:
    """Points fixed to the bodies of a scene."""

    body: np.ndarray
    """(n,) int32 body of each point; -1 where the pixel showed none."""
    local: np.ndarray
    """(n, 3) position in the frame of the body, metres; NaN where there is no body."""


@dataclass(frozen=True)
class TruePaths:
    """Where surface points really are."""

    xyz_world: np.ndarray
    """(T, n, 3) float64 metres; NaN for points of no body."""
    uv: np.ndarray
    """(T, n, 2) float64 px; NaN behind the camera."""
    visible: np.ndarray
    """(T, n) bool: in the image, and nothing in front."""


def surface_points(scene: Scene, uv: np.ndarray, frame: np.ndarray) -> SurfacePoints:
    """What the pixels `uv` (n, 2) show in the frames `frame` (n,), fixed to the body that the nearest pixel shows.

    Between pixels of one surface depth is interpolated (linearly in 1/z, so that planes come out exact); at edges it is that of
    the nearest pixel.
    """
    uv, frame = np.asarray(uv, np.float64), np.asarray(frame)
    body = np.full(len(uv), -1, np.int32)
    local = np.full((len(uv), 3), np.nan)
    for index in np.unique(frame):
        here = np.flatnonzero(frame == index)
        shown, depth = scene.truth.body_at_pixel[index], scene.depth[index]
        found, z = _surface(shown, depth, uv[here])
        known = here[found >= 0]
        body[here] = found
        world = cameras.unproject(uv[known], z[found >= 0], scene.intrinsics, scene.world_from_camera[index])
        body_from_world = se3.inverse(scene.truth.world_from_body[index, body[known]])
        local[known] = se3.transform_points(body_from_world, world[:, None])[:, 0]
    return SurfacePoints(body, local)


def follow(scene: Scene, points: SurfacePoints) -> TruePaths:
    """The paths of surface points through all frames, and where they are seen. Depth and bodies are read frame by frame."""
    num_frames, num_points = len(scene.world_from_camera), len(points.body)
    xyz = np.full((num_frames, num_points, 3), np.nan)
    uv = np.full((num_frames, num_points, 2), np.nan)
    visible = np.zeros((num_frames, num_points), bool)
    known = np.flatnonzero(points.body >= 0)
    if len(known) == 0:
        return TruePaths(xyz, uv, visible)
    for frame in range(num_frames):
        pose = scene.truth.world_from_body[frame, points.body[known]]
        xyz[frame, known] = se3.transform_points(pose, points.local[known][:, None])[:, 0]
        uv[frame, known], z = cameras.project(xyz[frame, known], scene.intrinsics, scene.world_from_camera[frame])
        visible[frame, known] = is_seen(scene.truth.body_at_pixel[frame], scene.depth[frame], points.body[known], uv[frame, known], z)
    return TruePaths(xyz, uv, visible)


def is_seen(body_at_pixel: np.ndarray, depth: np.ndarray, body: np.ndarray, uv: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Whether points (n,) of bodies `body` at pixels `uv` (n, 2) and depths `z` (n,) are what the image shows there.

    Of the four pixels around each point, those of its own body must span its depth, give or take DEPTH_TOLERANCE.
    """
    height, width = depth.shape
    inside = np.all((uv >= -0.5) & (uv < [width - 0.5, height - 0.5]), axis=1) & (z > 0)  # False for NaN
    corner = np.floor(np.where(inside[:, None], uv, 0) + ROUNDING).astype(int)
    column = np.clip(corner[:, :1] + [0, 1, 0, 1], 0, width - 1)
    row = np.clip(corner[:, 1:] + [0, 0, 1, 1], 0, height - 1)
    own = (body_at_pixel[row, column] == body[:, None]) & (depth[row, column] > 0)
    nearest = np.where(own, depth[row, column], np.inf).min(axis=1)
    farthest = np.where(own, depth[row, column], -np.inf).max(axis=1)
    return inside & own.any(axis=1) & (nearest - DEPTH_TOLERANCE <= z) & (z <= farthest + DEPTH_TOLERANCE)


def _surface(shown: np.ndarray, depth: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bodies (n,), -1 for none, and depths (n,) at pixels `uv` (n, 2) of one frame."""
    column, row, inside = _nearest(uv, shown.shape)
    z = depth[row, column].astype(np.float64)
    body = np.where(inside & (z > 0), shown[row, column], -1)
    corner = np.floor(np.where(inside[:, None], uv, 0)).astype(int)
    right, down = (np.where(inside[:, None], uv, 0) - corner).T
    weight = np.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=1)
    columns = np.clip(corner[:, :1] + [0, 1, 0, 1], 0, shown.shape[1] - 1)
    rows = np.clip(corner[:, 1:] + [0, 0, 1, 1], 0, shown.shape[0] - 1)
    around = np.where(weight > 0, depth[rows, columns], z[:, None])  # a pixel without weight has no say
    same = (weight == 0) | (shown[rows, columns] == body[:, None])
    smooth = (body >= 0) & same.all(axis=1) & (around.min(axis=1) > 0) & (np.ptp(around, axis=1) <= STEEP * z)
    z[smooth] = 1.0 / (weight[smooth] / around[smooth]).sum(axis=1)
    return body, z


def _nearest(uv: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and rows of the nearest pixels, and which of `uv` (n, 2) lie in the image."""
    whole = np.rint(np.where(np.isfinite(uv), uv, -1)).astype(int)
    inside = np.all((whole >= 0) & (whole < [size[1], size[0]]), axis=1)
    whole = np.where(inside[:, None], whole, 0)
    return whole[:, 0], whole[:, 1], inside
