"""An episode whose camera turns and travels, in a world that is not the first camera's, with points known in some frames only."""

from __future__ import annotations

import dataclasses

import numpy as np
from conftest import H, N, T, W, small_episode
from scipy.spatial.transform import Rotation

from tracekit.geometry import cameras
from tracekit.records import Episode


def moving_camera_episode() -> Episode:
    """`small_episode` with other cameras and tracks: a wall at x_world = 3, seen along the x axis of the world, z up."""
    poses = np.tile(np.eye(4), (T, 1, 1))
    forwards = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # columns: x right = -y world, y down = -z world, z forward = x world
    for t in range(T):
        poses[t, :3, :3] = Rotation.from_euler("zyx", [2.0 * t - 3, 1.5 * t, 4.0 - t], degrees=True).as_matrix() @ forwards
        poses[t, :3, 3] = [0.1 * t, 0.2 - 0.05 * t, 1.0 + 0.03 * t]
    intrinsics = np.array([[60.0, 0, 30.0], [0, 62.0, 24.5], [0, 0, 1]])
    xyz = np.stack([np.full(N, 3.0), np.linspace(0.8, -0.6, N), np.linspace(1.4, 0.7, N)], axis=1)[None].repeat(T, axis=0)
    xyz[:, :2, 1] -= 0.1 * np.arange(T)[:, None]
    valid = np.ones((T, N), np.uint8)
    valid[:2, 4] = 0
    valid[3, 1] = valid[5, 2] = 0
    valid[:, 3] = 0
    visible = valid.copy()
    visible[4, 0] = 0
    xyz[valid == 0] = np.nan
    uv, _ = cameras.project(xyz, intrinsics, poses)
    episode = small_episode()
    assert episode.geometry is not None and episode.tracks is not None
    return dataclasses.replace(
        episode,
        geometry=dataclasses.replace(
            episode.geometry, intrinsics=intrinsics, world_from_camera=poses, depth=wall_depth(intrinsics, poses, (W // 2, H // 2))
        ),
        tracks=dataclasses.replace(
            episode.tracks, xyz_world=xyz.astype(np.float32), uv=uv.astype(np.float32), valid=valid, visible=visible
        ),
    )


def wall_depth(intrinsics: np.ndarray, poses: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth (T, h, w) of the wall on a grid of `size`; 0 in its first column."""
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = cameras.resize_pixels(np.stack([u, v], axis=-1).reshape(-1, 2).astype(float), size, (W, H))
    rays = cameras.unproject(pixels, np.ones(len(pixels)), intrinsics, poses) - poses[:, None, :3, 3]
    depth = (3.0 - poses[:, None, 0, 3]) / rays[..., 0]
    depth = depth.reshape(len(poses), size[1], size[0]).astype(np.float32)
    depth[:, :, 0] = 0
    return depth


class Watched:
    """Frames of which the longest run that was read at once is remembered."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames, self.most = frames, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._frames.shape

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: slice) -> np.ndarray:
        block = self._frames[index]
        self.most = max(self.most, len(block))
        return block


def long_episode(num_frames: int) -> tuple[Episode, Watched, Watched]:
    """An episode of `num_frames` frames that shows the same all the time, its pictures and its depth."""
    episode = moving_camera_episode()
    geometry, tracks, video = episode.geometry, episode.tracks, episode.video
    assert geometry is not None and tracks is not None and video.frames is not None
    again = np.arange(num_frames) % T
    frames, depth = Watched(np.asarray(video.frames)[again]), Watched(np.asarray(geometry.depth)[again])
    fields = ("xyz_world", "uv", "visible", "valid")
    return (
        dataclasses.replace(
            episode,
            video=dataclasses.replace(video, pts=np.arange(num_frames) / 10, source_frame=np.arange(num_frames), frames=frames),
            geometry=dataclasses.replace(geometry, depth=depth, world_from_camera=geometry.world_from_camera[again]),
            tracks=dataclasses.replace(tracks, **{field: getattr(tracks, field)[again] for field in fields}),
        ),
        frames,
        depth,
    )
