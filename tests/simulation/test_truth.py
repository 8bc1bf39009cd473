"""The truth is true: files of simulated episodes against MuJoCo's own ray caster, which knows nothing of how they were drawn."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from simulator import request, simulator, take_of  # noqa: F401

from tracekit import video
from tracekit.format.file import open_records
from tracekit.format.schema import EPISODE
from tracekit.geometry import cameras, se3
from tracekit.records import Episode
from tracekit.report import Report
from tracekit.simulation.episode import Take, write_episode

pytestmark = pytest.mark.usefixtures("simulator")

SIZE = WIDTH, HEIGHT = 480, 360
EVERY = 12
CASES = [("drawer-open-v3", "orbit"), ("hammer-v3", "egocentric"), ("pick-place-v3", "handheld")]
VISIBLE_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)
"""Groups of shapes that MuJoCo draws unless told otherwise; the others are there to collide."""
SELF = 0.005
"""Metres before a point within which a ray may end on the point's own surface."""


@dataclass(frozen=True)
class Filmed:
    """A few frames of an episode: the files, as they are read, and the simulation that they are of."""

    take: Take
    episode: Episode
    depth: np.ndarray
    body: np.ndarray
    frames: np.ndarray

    def rays(self, frame: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the rays from the camera through `targets` (n, 3) first meet something: (n, 3), NaN for nothing; and the body (n,)."""
        import mujoco

        env = self.take.env
        env.restore(self.take.rollout.states[frame])
        eye = self.episode.geometry.world_from_camera[frame, :3, 3].copy()
        hits, bodies, shape = np.full(targets.shape, np.nan), np.full(len(targets), -1), np.zeros(1, np.int32)
        for index, direction in enumerate((targets - eye) / np.linalg.norm(targets - eye, axis=1, keepdims=True)):
            distance = mujoco.mj_ray(env.model, env.data, eye, direction, VISIBLE_GROUPS, 1, -1, shape)
            if distance >= 0:
                hits[index], bodies[index] = eye + distance * direction, env.model.geom_bodyid[shape[0]]
        return hits, bodies

    def seen_by_rays(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Tracks (n,) that project into a frame, and which of them (n,) nothing hides."""
        tracks = self.episode.tracks
        uv = tracks.uv[frame]
        inside = np.flatnonzero(((uv >= 0) & (uv <= [WIDTH - 1, HEIGHT - 1])).all(axis=1))
        points = tracks.xyz_world[frame, inside].astype(np.float64)
        hits, _ = self.rays(frame, points)
        eye = self.episode.geometry.world_from_camera[frame, :3, 3]
        return inside, np.linalg.norm(hits - eye, axis=1) > np.linalg.norm(points - eye, axis=1) - SELF


@functools.cache
def filmed(task: str, camera: str) -> Filmed:
    take = take_of(request(task, camera, SIZE), EVERY)
    with tempfile.TemporaryDirectory() as folder:
        write_episode(take, Path(folder), argv=["simulate"], report=Report())
        path = Path(folder) / f"{take.request.name}.truth.h5"
        with open_records(path, EPISODE) as file:
            file.validate_everything()
            episode = file.episode()
            frames = video.open_frames(episode.video, search=[])
            return Filmed(take, episode, episode.depth_sensor.depth[:], episode.truth.body_at_pixel[:], frames[0 : len(frames)])


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def scene(request: pytest.FixtureRequest) -> Filmed:
    return filmed(*request.param)


def test_the_files_are_complete(scene: Filmed) -> None:
    episode, num_frames = scene.episode, len(scene.take.cameras)
    assert scene.frames.shape == (num_frames, HEIGHT, WIDTH, 3)
    assert episode.video.num_source_frames == len(episode.video.pts) == num_frames
    np.testing.assert_allclose(np.diff(episode.video.pts), 0.05, atol=1e-9)
    assert episode.tracks.xyz_world.shape[1] >= 256
    shown = np.unique(scene.body[0][scene.body[0] >= 0])
    assert set(episode.tracks.entity[episode.tracks.born == 0]) == set(shown), "every body in view has points"
    assert episode.events.start[0] == 0 and episode.events.stop[-1] == num_frames


def test_rays_end_where_depth_says_and_on_the_body_that_the_pixel_shows(scene: Filmed) -> None:
    """Of K, poses, depth and bodies, none could be wrong without the others. Pixels within 2 px of an outline may show either side."""
    geometry = scene.episode.geometry
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(4, WIDTH - 4, 9), np.arange(4, HEIGHT - 4, 9)))
    pixels = np.stack([column, row], axis=1).astype(np.float64)
    num_checked = 0
    for frame in range(len(scene.depth)):
        far = cameras.unproject(pixels, np.full(len(pixels), 5.0), geometry.intrinsics, geometry.world_from_camera[frame])
        hits, bodies = scene.rays(frame, far)
        z = se3.transform_points(se3.inverse(geometry.world_from_camera[frame]), hits[:, None])[:, 0, 2]
        same = np.ones((HEIGHT, WIDTH), np.uint8)
        same[1:] &= scene.body[frame][1:] == scene.body[frame][:-1]
        same[:, 1:] &= scene.body[frame][:, 1:] == scene.body[frame][:, :-1]
        inner = cv2.erode(same, np.ones((5, 5)))[row, column] == 1
        shown, depth = scene.body[frame][row, column], scene.depth[frame][row, column]
        assert (shown[inner] == bodies[inner]).mean() > 0.998
        assert ((shown[inner] < 0) == (depth[inner] == 0)).all()
        # Bodies hide parts of themselves, too, and round ones are drawn with flat sides.
        surface = np.ptp(np.stack([np.roll(scene.depth[frame], move, axis)[row, column] for move in (-1, 1) for axis in (0, 1)]), axis=0)
        flat = inner & (shown >= 0) & (surface < 0.03 * depth)
        assert np.quantile(np.abs(depth[flat] - z[flat]), 0.99) <= 0.002
        num_checked += int(flat.sum())
    assert num_checked > 800 * len(scene.depth)


def test_points_that_rays_see_project_onto_the_rendered_surface(scene: Filmed) -> None:
    geometry, tracks = scene.episode.geometry, scene.episode.tracks
    on_surface: list[np.ndarray] = []
    for frame in range(len(scene.depth)):
        inside, seen = scene.seen_by_rays(frame)
        uv, z = cameras.project(
            tracks.xyz_world[frame, inside[seen]].astype(np.float64), geometry.intrinsics, geometry.world_from_camera[frame]
        )
        np.testing.assert_allclose(uv, tracks.uv[frame, inside[seen]], atol=2e-3)
        corner = np.floor(uv).astype(int)
        columns, rows = (np.clip(corner[:, i, None] + around, 0, size - 1) for i, around, size in ((0, [0, 1, 0, 1], WIDTH), (1, [0, 0, 1, 1], HEIGHT)))  # fmt: skip
        depth = scene.depth[frame][rows, columns]
        on_surface.append((depth.min(axis=1) - 0.004 <= z) & (z <= depth.max(axis=1) + 0.004))
    share = np.concatenate(on_surface)
    assert len(share) > 1000 and share.mean() >= 0.995, share.mean()


def test_visibility_is_that_of_rays(scene: Filmed) -> None:
    agree: list[np.ndarray] = []
    for frame in range(len(scene.depth)):
        inside, seen = scene.seen_by_rays(frame)
        agree.append(scene.episode.tracks.visible[frame, inside].astype(bool) == seen)
    assert np.concatenate(agree).mean() >= 0.98, np.concatenate(agree).mean()


def test_points_of_a_rigid_group_keep_their_distances(scene: Filmed) -> None:
    tracks, truth = scene.episode.tracks, scene.episode.truth
    group = truth.body_rigid_group[tracks.entity]
    moved = 0
    for number in np.unique(group):
        xyz = tracks.xyz_world[:, group == number].astype(np.float64)
        distance = np.linalg.norm(xyz[:, :, None] - xyz[:, None], axis=-1)
        assert np.nanmax(np.abs(distance - distance[0])) < 1e-4
        moved += np.nanmax(np.linalg.norm(xyz - xyz[0], axis=-1)) > 0.05
    assert moved >= 5, "the arm's links, hand, fingers and what they act on"


def test_the_picture_is_of_these_surfaces(scene: Filmed) -> None:
    """The fingers are cyan and white, and nothing else is cyan: the video, the bodies and their outlines lie on each other."""
    truth = scene.episode.truth
    cyan = [number for number, name in enumerate(truth.body_name) if name in ("leftclaw", "leftpad")]
    assert truth.body_is_robot[cyan].all()
    for frame, picture in enumerate(scene.frames.astype(int)):
        finger = np.isin(scene.body[frame], cyan)
        coloured = (picture[..., 1] - picture[..., 0] > 60) & (picture[..., 2] - picture[..., 0] > 60)
        assert (coloured & ~cv2.dilate(finger.astype(np.uint8), np.ones((5, 5))).astype(bool)).sum() <= 3
        inner = cv2.erode(finger.astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert coloured[inner].mean() > 0.9 if inner.sum() > 20 else True


def test_no_marker_is_drawn(scene: Filmed) -> None:
    names = scene.episode.truth.body_name
    assert "mocap" in names and names.index("mocap") not in scene.body
