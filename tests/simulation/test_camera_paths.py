"""Cameras of simulated clips: fixed ones are fixed, moving ones move as cameras do."""

from __future__ import annotations

import numpy as np
import pytest

from tracekit.errors import UsageError
from tracekit.geometry import se3
from tracekit.simulation.camera_paths import FOV_Y, PATHS, WORKSPACE, look_at, parse_cameras

FPS, NUM_FRAMES = 20.0, 100
HAND = np.stack([np.linspace(-0.1, 0.2, NUM_FRAMES), np.full(NUM_FRAMES, 0.6), np.full(NUM_FRAMES, 0.2)], axis=1)


def poses(camera: str, seed: int) -> np.ndarray:
    return PATHS[camera](HAND, FPS, np.random.default_rng(seed))


@pytest.mark.parametrize("camera", PATHS)
@pytest.mark.parametrize("seed", range(5))
def test_cameras_are_upright_and_see_the_workspace(camera: str, seed: int) -> None:
    path = poses(camera, seed)
    assert path.shape == (NUM_FRAMES, 4, 4) and se3.is_pose(path).all()
    assert (path[:, 2, 1] < -0.5).all(), "down in the picture is down in the world"
    local = se3.transform_points(se3.inverse(path), np.broadcast_to(WORKSPACE, (NUM_FRAMES, 1, 3)))[:, 0]
    off_axis = np.degrees(np.arctan2(np.linalg.norm(local[:, :2], axis=1), local[:, 2]))
    assert (off_axis < FOV_Y / 2).all()
    assert ((local[:, 2] > 0.4) & (local[:, 2] < 1.5)).all()


def test_corner2_is_fixed() -> None:
    np.testing.assert_array_equal(poses("corner2", 0), np.tile(poses("corner2", 1)[:1], (NUM_FRAMES, 1, 1)))


@pytest.mark.parametrize("camera", ["orbit", "handheld", "egocentric"])
@pytest.mark.parametrize("seed", range(5))
def test_moving_cameras_move_without_jumps(camera: str, seed: int) -> None:
    path = poses(camera, seed)
    step = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    turn = np.degrees(se3.rotation_angle(np.swapaxes(path[:-1, :3, :3], 1, 2) @ path[1:, :3, :3]))
    assert step.sum() > 0.05, "it moves"
    assert step.max() < 0.03 and turn.max() < 2.5, "no frame is far from the last"
    assert np.abs(np.diff(path[:, :3, 3], n=2, axis=0)).max() < 0.01, "nor is its speed"
    assert not np.array_equal(path, poses(camera, seed + 1)), "chance has a say"
    np.testing.assert_array_equal(path, poses(camera, seed))


def test_the_orbit_is_a_sixth_of_a_circle() -> None:
    arm = poses("orbit", 0)[:, :2, 3] - WORKSPACE[:2]
    np.testing.assert_allclose(np.linalg.norm(arm, axis=1), np.linalg.norm(arm[0]), rtol=1e-9)
    angle = np.degrees(np.unwrap(np.arctan2(arm[:, 1], arm[:, 0])))
    assert abs(angle[-1] - angle[0]) == pytest.approx(60)
    assert (np.sign(np.diff(angle)) == np.sign(angle[-1] - angle[0])).all()


def test_look_at_puts_the_target_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    position, target = rng.normal(size=(20, 3)) + np.array([0, 0, 3]), rng.normal(size=(20, 3))
    local = se3.transform_points(se3.inverse(look_at(position, target)), target[:, None])[:, 0]
    np.testing.assert_allclose(local, np.stack([np.zeros(20), np.zeros(20), np.linalg.norm(target - position, axis=1)], axis=1), atol=1e-12)


def test_unknown_cameras_are_refused_with_the_known_ones() -> None:
    assert parse_cameras("orbit, corner2,orbit") == ["orbit", "corner2"]
    with pytest.raises(UsageError, match="'corner3'") as error:
        parse_cameras("orbit,corner3")
    assert all(name in error.value.hint for name in PATHS)
