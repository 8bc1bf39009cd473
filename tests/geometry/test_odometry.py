"""Camera motion from images, on scenes that are ray-cast here: poses, depth and what moves are known exactly."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from tracekit.geometry import cameras, se3
from tracekit.geometry.odometry import Odometry, find_corners, refine_motion, sample_depth, sample_rotation

WIDTH, HEIGHT = 320, 240
INTRINSICS = np.array([[270.0, 0.0, 161.3], [0.0, 272.0, 118.2], [0.0, 0.0, 1.0]])


@cache
def texture(seed: int) -> np.ndarray:
    """Noise at many scales (512, 512, 3), so that there is something to follow near and far."""
    rng = np.random.default_rng(seed)
    total = np.zeros((512, 512, 3), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        total += cv2.resize(rng.random((cells, cells, 3)).astype(np.float32) - 0.5, (512, 512), interpolation=cv2.INTER_CUBIC)
    return 255 * (total - total.min()) / np.ptp(total)


def render(world_from_camera: np.ndarray, boxes: list[tuple[np.ndarray, float, int]] = ()) -> tuple[np.ndarray, np.ndarray]:
    """RGB (H, W, 3) and depth (H, W) of the inside of a room of 4 x 3 x 4 m, with solid textured cubes (centre, side, seed)."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    rays = np.tensordot(world_from_camera[:3, :3] @ np.linalg.inv(INTRINSICS), np.stack([u, v, np.ones_like(u)]), 1)
    origin = world_from_camera[:3, 3]
    solids = [(np.zeros(3), np.array([2.0, 1.5, 2.0]), 0, True)] + [(c, np.full(3, s / 2), k, False) for c, s, k in boxes]
    depth = np.full((HEIGHT, WIDTH), np.inf)
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for centre, half, seed, inside in solids:
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = ((centre + sign * half - origin)[:, None, None] / rays for sign in (-1, 1))
        near, far = np.minimum(one, other), np.maximum(one, other)
        enter, leave = near.max(axis=0), far.min(axis=0)
        distance = leave if inside else enter
        face = far.argmin(axis=0) if inside else near.argmax(axis=0)
        closer = (distance > 0) & (enter < leave) & (distance < depth)
        depth[closer] = distance[closer]
        x, y, z = (origin - centre)[:, None, None] + rays * np.where(closer, distance, 0.0)
        # The two coordinates that lie in the face that was hit; 256 texels a metre, and another part of the texture for each axis.
        across = np.mod(256 * np.where(face == 0, y, x) + 97 * face, 511).astype(np.float32)
        down = np.mod(256 * np.where(face == 2, y, z), 511).astype(np.float32)
        image[closer] = cv2.remap(texture(seed), across, down, cv2.INTER_LINEAR)[closer]
    return image.clip(0, 255).astype(np.uint8), depth.astype(np.float32)


def pose(yaw: float, pitch: float, position: tuple[float, float, float]) -> np.ndarray:
    rotation = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0] @ cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))[0]
    return se3.from_rotation_translation(rotation, np.array(position))


def orbit(num_frames: int) -> np.ndarray:
    """A quarter circle about the middle of the room, looking across it."""
    angles = np.linspace(0, np.pi / 2, num_frames)
    return np.stack([pose(a, 0.05 * np.sin(5 * a), (-0.8 * np.sin(a), 0.1 * np.sin(3 * a), -0.8 * np.cos(a))) for a in angles])


def handheld(num_frames: int) -> np.ndarray:
    """Sways about one place by a hand's breadth and several degrees."""
    sway = [
        (0.2 * np.sin(t), 0.1 * np.sin(1.7 * t), (0.12 * np.sin(1.3 * t), 0.05 * np.sin(2.1 * t), 0.1 * np.sin(0.9 * t) - 1))
        for t in np.linspace(0, 6, num_frames)
    ]
    return np.stack([pose(*where) for where in sway])


def follow(
    world_from_camera: np.ndarray, boxes=lambda index: [], noise: float = 0.0, rotation_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    odometry = Odometry(INTRINSICS, (WIDTH, HEIGHT), rotation_only=rotation_only)
    estimates = []
    for index, true_pose in enumerate(world_from_camera):
        frame, depth = render(true_pose, boxes(index))
        depth = depth * (1 + noise * rng.standard_normal(depth.shape)).astype(np.float32)
        estimates.append(odometry.track(frame, None if rotation_only else depth))
    return np.stack([e.world_from_camera for e in estimates]), np.array([e.confidence for e in estimates])


def trajectory_error(estimated: np.ndarray, true: np.ndarray) -> float:
    """ATE RMSE with the first frame as the common world: no alignment that could hide a drift."""
    relative = se3.inverse(true[0]) @ true
    return float(np.sqrt(np.mean(np.sum((estimated[:, :3, 3] - relative[:, :3, 3]) ** 2, axis=1))))


def test_renderer_agrees_with_the_camera_model():
    camera = pose(0.3, 0.1, (0.2, 0.1, -0.5))
    _, depth = render(camera)
    uv = np.array([[10.0, 20.0], [200.0, 100.0], [310.0, 230.0]])
    z = depth[uv[:, 1].astype(int), uv[:, 0].astype(int)].astype(float)
    on_wall = cameras.unproject(uv, z, INTRINSICS, camera)
    np.testing.assert_allclose(np.abs(np.abs(on_wall) - [2.0, 1.5, 2.0]).min(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize(("path", "limit"), [(orbit, 0.01), (handheld, 0.004)])
def test_moving_camera_is_recovered(path, limit):
    true = path(45)
    estimated, confidence = follow(true)
    assert trajectory_error(estimated, true) < limit
    assert np.degrees(se3.rotation_angle(se3.inverse(estimated)[:, :3, :3] @ (se3.inverse(true[0]) @ true)[:, :3, :3])).max() < 0.6
    assert confidence.min() > 0.5


def test_noisy_depth_and_an_object_that_moves_by_itself():
    true = orbit(36)

    def crossing(index: int) -> list:
        along = -0.7 + 1.4 * index / 35
        ahead = true[index] @ [along, 0.1, 1.3, 1.0]
        return [(ahead[:3], 0.6, 7)]

    covered = [np.mean(np.abs(render(true[i], crossing(i))[1] - render(true[i])[1]) > 0.01) for i in range(0, 36, 7)]
    assert 0.35 < max(covered) < 0.45, "the box is meant to hide much of the view"
    estimated, _ = follow(true, crossing, noise=0.01)
    assert trajectory_error(estimated, true) < 0.02


def test_static_camera_gives_one_pose_exactly_while_a_box_sweeps_past():
    still = np.repeat(pose(0.2, 0.0, (0, 0, -1))[None], 16, axis=0)
    sweeping = lambda index: [(np.array([-1.0 + 0.13 * index, 0.2, 0.3]), 0.8, 3)]  # noqa: E731
    estimated, confidence = follow(still, sweeping, noise=0.005)
    assert (estimated == np.eye(4)).all()
    assert confidence.min() > 0.4


def test_static_camera_is_not_fooled_by_an_object_that_is_closer_than_the_room():
    """The same with rotations only: a box that moves rigidly across the picture looks like a turn of the camera."""
    still = np.repeat(pose(0.2, 0.0, (0, 0, -1))[None], 14, axis=0)
    sweeping = lambda index: [(np.array([-0.8 + 0.11 * index, 0.2, 0.3]), 0.9, 3)]  # noqa: E731
    estimated, _ = follow(still, sweeping, rotation_only=True)
    assert (estimated == np.eye(4)).all()


def test_camera_that_only_turns_is_recovered_without_depth():
    true = np.stack([pose(0.6 * np.sin(a), 0.15 * np.sin(2 * a), (0.3, 0, -0.4)) for a in np.linspace(0, 3, 36)])
    estimated, confidence = follow(true, rotation_only=True)
    relative = se3.inverse(true[0]) @ true
    error_px = INTRINSICS[0, 0] * se3.rotation_angle(np.swapaxes(estimated[:, :3, :3], 1, 2) @ relative[:, :3, :3])
    assert error_px.max() < 1.0
    assert (estimated[:, :3, 3] == 0).all()
    assert confidence.min() > 0.5


def test_a_jump_is_bridged_by_descriptors():
    true = np.stack([pose(0, 0, (0, 0, -1)), pose(0.02, 0, (0, 0, -1)), pose(0.35, 0.12, (0.15, 0, -0.9))])
    estimated, _ = follow(true)
    assert trajectory_error(estimated, true) < 0.02


def test_returning_to_a_view_takes_up_its_keyframe_again():
    there = orbit(30)[:20]
    estimated, _ = follow(np.concatenate([there, there[::-1]]))
    # With new keyframes only, the drift of the way there and back is 5 mm here.
    assert np.linalg.norm(estimated[-1, :3, 3]) < 0.001


def test_frames_without_texture_hold_the_pose_with_no_confidence():
    true = handheld(12)
    odometry = Odometry(INTRINSICS, (WIDTH, HEIGHT))
    estimates = []
    for index, camera in enumerate(true):
        frame, depth = render(camera)
        estimates.append(odometry.track(np.full_like(frame, 90) if 4 <= index < 7 else frame, depth))
    assert [e.confidence == 0 for e in estimates] == [4 <= index < 7 for index in range(12)]
    np.testing.assert_array_equal(estimates[5].world_from_camera, estimates[3].world_from_camera)
    relative = se3.inverse(true[0]) @ true
    np.testing.assert_allclose(estimates[-1].world_from_camera[:3, 3], relative[-1, :3, 3], atol=0.005)


def test_a_long_darkness_does_not_break_the_chain():
    frame, depth = render(pose(0, 0, (0, 0, -1)))
    odometry = Odometry(INTRINSICS, (WIDTH, HEIGHT))
    lights = [True] * 3 + [False] * 20 + [True] * 3
    estimates = [odometry.track(frame if light else np.zeros_like(frame), depth) for light in lights]
    assert all((e.world_from_camera == np.eye(4)).all() for e in estimates)
    assert [e.confidence for e in estimates] == [float(light) for light in lights]


def test_a_clip_that_begins_in_darkness_begins_where_the_light_comes_on():
    true = handheld(8)
    odometry = Odometry(INTRINSICS, (WIDTH, HEIGHT))
    frames = [render(camera) for camera in true]
    estimates = [odometry.track(frame if index >= 3 else np.zeros_like(frame), depth) for index, (frame, depth) in enumerate(frames)]
    assert trajectory_error(np.stack([e.world_from_camera for e in estimates])[3:], true[3:]) < 0.003
    assert estimates[-1].confidence > 0.9


def test_a_clip_without_any_texture_or_depth_stays_put():
    frame, depth = render(pose(0, 0, (0, 0, -1)))
    for image, measured in ((np.zeros_like(frame), depth), (frame, np.zeros_like(depth))):
        odometry = Odometry(INTRINSICS, (WIDTH, HEIGHT))
        estimates = [odometry.track(image, measured) for _ in range(8)]
        assert all((e.world_from_camera == np.eye(4)).all() for e in estimates)
        assert [e.confidence for e in estimates[1:]] == [0.0] * 7


def test_a_cut_breaks_the_chain_and_lowers_the_confidence():
    first, depth = render(pose(0, 0, (0, 0, -1)))
    second, other_depth = render(pose(np.pi, 0, (0, 0, 0)))
    odometry = Odometry(INTRINSICS, (WIDTH, HEIGHT))
    estimates = [odometry.track(first, depth) for _ in range(3)] + [odometry.track(second, other_depth) for _ in range(12)]
    assert estimates[3].confidence == 0
    assert 0 < estimates[-1].confidence <= 0.5


def test_the_same_clip_gives_the_same_poses():
    true = handheld(8)
    np.testing.assert_array_equal(follow(true)[0], follow(true)[0])


@pytest.mark.parametrize("rotation_only", [False, True])
def test_refined_motion_is_exact_without_noise_and_with_many_outliers(rotation_only):
    rng = np.random.default_rng(1)
    uv = rng.uniform([0, 0], [WIDTH, HEIGHT], (200, 2))
    points = cameras.unproject(uv, rng.uniform(1, 3, 200), INTRINSICS, np.eye(4))
    translation = np.zeros(3) if rotation_only else np.array([0.03, -0.02, 0.05])
    motion = se3.from_rotation_translation(cv2.Rodrigues(np.array([0.02, -0.03, 0.04]))[0], translation)
    seen, z = cameras.project(points, INTRINSICS, se3.inverse(motion))
    seen[:80] += [25.0, 10.0]
    found, error = refine_motion(points, seen, z, INTRINSICS, np.eye(4), rotation_only=rotation_only)
    np.testing.assert_allclose(found, motion, atol=1e-4)
    np.testing.assert_array_equal(error < 0.1, np.arange(200) >= 80)


def test_sampled_rotation_survives_a_majority_of_outliers():
    rng = np.random.default_rng(2)
    uv = rng.uniform([0, 0], [WIDTH, HEIGHT], (150, 2))
    points = cameras.unproject(uv, np.ones(150), INTRINSICS, np.eye(4))
    rotation = cv2.Rodrigues(np.array([0.1, 0.3, -0.2]))[0]
    seen, _ = cameras.project(points @ rotation.T, INTRINSICS, np.eye(4))
    seen[:90] = rng.uniform([0, 0], [WIDTH, HEIGHT], (90, 2))
    np.testing.assert_allclose(sample_rotation(points, seen, INTRINSICS, 0), rotation, atol=1e-9)


def test_corners_are_spread_over_the_picture_and_absent_where_it_is_flat():
    frame, _ = render(pose(0, 0, (0, 0, -1)))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    grey[:, :160] = 128
    corners = find_corners(grey, per_cell=5)
    assert (corners[:, 0] > 150).all()
    cells = np.unique(corners // 64, axis=0, return_counts=True)[1]
    assert cells.max() <= 5 and len(cells) >= 8
    assert len(find_corners(np.full((100, 100), 7, np.uint8))) == 0


def test_depth_is_not_read_at_edges_or_gaps_and_grids_may_differ():
    depth = np.full((60, 80), 2.0, np.float32)
    depth[:, 40:] = 1.0
    depth[10, 10] = 0  # one pixel without a return, and then a hole
    depth[20:23, 8:12] = 0
    uv = np.array([[40.0, 40.0], [40.0, 84.0], [160.0, 100.0], [280.0, 200.0], [100.0, 100.0], [-5.0, 3.0], [319.0, 239.0]])
    np.testing.assert_array_equal(sample_depth(depth, uv, (320, 240)), [2, 0, 0, 1, 2, 0, 0])
