"""Direct alignment on a scene whose motion is known: two textureless boxes before a faintly textured wall and floor."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracekit.geometry import cameras, se3
from tracekit.geometry.dense_alignment import LEAST_TRUST, View, agreement, align, learn_trust, surface_of, view_of

WIDTH, HEIGHT = 240, 180
INTRINSICS = np.array([[200.0, 0.0, 119.5], [0.0, 200.0, 89.5], [0.0, 0.0, 1.0]])


def motion(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    return se3.from_rotation_translation(cv2.Rodrigues(np.radians(turn))[0], np.array(shift))


def look(world_from_camera: np.ndarray, box: float = 0.0, contrast: float = 40.0, noise: float = 0.0, seed: int = 0) -> View:
    """A wall (z = 2), a floor (y = 0.6) and a plain box at (`box`, 0.2, 1), 0.5 m wide, from a camera near the origin."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ (world_from_camera[:3, :3] @ np.linalg.inv(INTRINSICS)).T
    origin = world_from_camera[:3, 3]
    wall, floor = (
        (2.0 - origin[2]) / rays[..., 2],
        np.where(rays[..., 1] > 1e-6, (0.6 - origin[1]) / np.maximum(rays[..., 1], 1e-6), np.inf),
    )
    front = (1.0 - origin[2]) / rays[..., 2]
    at_front = origin + rays * front[..., None]
    on_box = (np.abs(at_front[..., 0] - box) < 0.25) & (np.abs(at_front[..., 1] - 0.2) < 0.25)
    depth = np.where(on_box, front, np.minimum(wall, floor))
    x, y, z = np.moveaxis(origin + rays * depth[..., None], -1, 0)
    pattern = np.sin(23 * x) * np.cos(19 * (y + z)) + 0.5 * np.sin(41 * x + 3) * np.sin(37 * (y + z))
    grey = np.where(on_box, 128.0, 128 + contrast * pattern)
    rng = np.random.default_rng(seed)
    grey = grey + noise * 1000 * rng.standard_normal(grey.shape)
    depth = depth + noise * rng.standard_normal(depth.shape)
    return view_of(grey.clip(0, 255).astype(np.uint8), depth.astype(np.float32), INTRINSICS)


def error(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Metres and degrees between two motions."""
    off = found @ se3.inverse(true)
    return float(np.linalg.norm(off[:3, 3])), float(np.degrees(se3.rotation_angle(off[:3, :3])))


def test_points_and_normals_are_those_of_the_surface() -> None:
    surface = surface_of(look(np.eye(4)))
    distance = np.minimum(np.abs(surface.points[:, 2] - 2), np.abs(surface.points[:, 1] - 0.6))
    distance = np.minimum(distance, np.abs(surface.points[:, 2] - 1))
    assert len(surface.points) > 1500 and distance.max() < 1e-5
    on_wall = np.abs(surface.points[:, 2] - 2) < 1e-5
    assert np.abs(np.abs(surface.normals[on_wall, 2]) - 1).max() < 1e-3


@pytest.mark.parametrize(("noise", "metres", "degrees"), [(0.0, 0.0005, 0.02), (0.002, 0.002, 0.06)])
def test_a_motion_of_centimetres_and_degrees_is_found_from_no_motion(noise: float, metres: float, degrees: float) -> None:
    true = motion((0.6, -0.8, 0.5), (0.012, -0.008, 0.015))
    surface, view = surface_of(look(np.eye(4), noise=noise)), look(se3.inverse(true), noise=noise, seed=1)
    found, share = align(surface, view, np.eye(4))
    off = error(found, true)
    assert off[0] < metres and off[1] < degrees
    assert share > 0.8 and share > agreement(surface, view, np.eye(4)) + 0.2


def test_a_box_that_moves_by_itself_does_not_take_the_camera_along() -> None:
    true = motion((0.0, 0.4, 0.0), (0.006, 0.0, 0.0))
    found, _ = align(surface_of(look(np.eye(4))), look(se3.inverse(true), box=0.03), np.eye(4))
    off = error(found, true)
    assert off[0] < 0.001 and off[1] < 0.03


def test_what_the_scene_does_not_tell_stays_as_it_was_guessed() -> None:
    """A plain wall: nothing says how far the camera went along it, but its distance and tilt show."""
    flat = np.full((HEIGHT, WIDTH), 1.5, np.float32)
    surface = surface_of(view_of(np.full((HEIGHT, WIDTH), 90, np.uint8), flat, INTRINSICS))
    nearer = view_of(np.full((HEIGHT, WIDTH), 90, np.uint8), flat - 0.01, INTRINSICS)
    found, _ = align(surface, nearer, motion((0, 0, 0), (0.004, -0.003, 0)))
    np.testing.assert_allclose(found[:3, 3], [0.004, -0.003, -0.01], atol=5e-4)


def test_too_little_in_common_returns_the_guess() -> None:
    guess = motion((0, 170.0, 0), (0, 0, 0))
    found, share = align(surface_of(look(np.eye(4))), look(np.eye(4)), guess)
    assert (found == guess).all() and share == 0.0


def test_what_moves_loses_trust_and_the_next_frame_inherits_it() -> None:
    surface = surface_of(look(np.eye(4)))
    inherited = np.zeros(0)
    for step in range(12):
        inherited, share = learn_trust(surface, look(np.eye(4), box=0.02 * (step + 1)), np.eye(4))
        assert 0 < share <= 1
    on_box = np.abs(surface.points[:, 2] - 1) < 1e-3
    # Of a plain box only what its edges uncovered can be seen to have moved; the wall around it is trusted fully.
    assert surface.trust[~on_box].mean() > 0.8 and np.percentile(surface.trust[on_box], 20) < 0.3
    uv, _ = cameras.project(np.array([[0.24 + 0.2, 0.2, 1.0], [-0.7, -0.3, 2.0]]), INTRINSICS, np.eye(4))
    (box_column, box_row), (wall_column, wall_row) = (uv * inherited.shape[1] / WIDTH).astype(int)
    assert inherited[box_row, box_column] < 0.3 < 0.8 < inherited[wall_row, wall_column]
    assert inherited.min() >= LEAST_TRUST
    again = surface_of(look(np.eye(4), box=0.24), inherited)
    assert again.trust.min() >= LEAST_TRUST and again.trust.max() <= 1


def test_depth_on_a_smaller_grid_is_taken_as_it_is() -> None:
    true = motion((0.3, -0.4, 0.2), (0.006, -0.004, 0.008))
    grey = np.full((2 * HEIGHT, 2 * WIDTH), 100, np.uint8)
    small = look(np.eye(4))
    view = view_of(grey, small.depth, cameras.scale_intrinsics(INTRINSICS, (WIDTH, HEIGHT), (2 * WIDTH, 2 * HEIGHT)))
    assert view.depth.shape == grey.shape
    known = view.depth[view.depth > 0]
    assert np.isin(np.round(known, 5), np.round(small.depth, 5)).all()
    assert agreement(surface_of(small), small, true) < agreement(surface_of(small), small, np.eye(4)) == 1.0
