import cv2
import numpy as np
import pytest

from tracekit.extract.motion_pass import MotionPass, smooth
from tracekit.records import CameraSensor

HEIGHT, WIDTH, GRID, FOCAL = 240, 320, (30, 40), 300.0
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
WALL, BOX = 3.0, 2.0
"""Depths in metres."""
SIDE = 0.4
"""Half the side of the square, metres."""


def texture(seed, contrast):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(400, 400)).astype(np.float32), (0, 0), 2.0)
    return np.clip(120 + contrast * noise / noise.std(), 0, 255)


def scene(num_frames=5, box_step=0.12, camera_step=0.0, contrast=40):
    """A wall and a square before it that moves to the right, seen by a camera that moves to the right: pictures, depth, poses, mask."""
    wall, box = texture(0, 40), texture(1, contrast)
    pictures, depths, masks, poses = [], [], [], []
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    for t in range(num_frames):
        camera, left = t * camera_step, -0.5 + t * box_step
        x, y = (u - INTRINSICS[0, 2]) / FOCAL, (v - INTRINSICS[1, 2]) / FOCAL
        on_box = (np.abs(x * BOX + camera - left) < SIDE) & (np.abs(y * BOX) < SIDE)
        grey = np.where(on_box, sample(box, x * BOX + camera - left, y * BOX), sample(wall, x * WALL + camera, y * WALL))
        pictures.append(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))
        depths.append(np.where(on_box, BOX, WALL).astype(np.float32))
        masks.append(cv2.resize(on_box.astype(np.float32), GRID[::-1], interpolation=cv2.INTER_AREA))
        pose = np.eye(4)
        pose[0, 3] = camera
        poses.append(pose)
    return np.stack(pictures), np.stack(depths), np.stack(poses), np.stack(masks)


def sample(image, x, y):
    """100 pixels of texture a metre."""
    return cv2.remap(image, (200 + 100 * x).astype(np.float32), (200 + 100 * y).astype(np.float32), cv2.INTER_LINEAR)


def look(pictures, depth=None, camera=None, grid=GRID, every=1):
    """What moves between every `every`-th of the pictures."""
    indices = list(range(0, len(pictures), every))
    seen = None if depth is None else depth[indices]
    return MotionPass(pictures, depth, camera, seed=0).moving_share(pictures[indices], seen, indices, grid)


def shares(moving, mask):
    return moving[mask == 1].mean(), moving[smooth(mask) == 0].mean()


@pytest.mark.parametrize("contrast", [40, 0])
@pytest.mark.parametrize("camera_step", [0.0, 0.15])
def test_with_depth_and_poses_only_what_moves_moves_even_where_it_is_plain(contrast, camera_step):
    pictures, depth, poses, mask = scene(box_step=0.25, contrast=contrast, camera_step=camera_step)
    moving = look(pictures, depth, CameraSensor(INTRINSICS, poses))
    assert moving.shape == (5, *GRID)
    assert moving.dtype == np.float32
    assert 0 <= moving.min() <= moving.max() <= 1
    on, off = shares(moving, mask)
    assert on > 0.3
    assert off < 0.002


def test_without_poses_odometry_stands_in_for_them():
    pictures, depth, _, mask = scene(camera_step=0.15)
    on, off = shares(look(pictures, depth, CameraSensor(INTRINSICS)), mask)
    assert on > 0.3
    assert off < 0.02


def test_odometry_follows_a_camera_that_travels_far_between_the_representative_frames():
    pictures, depth, poses, mask = scene(num_frames=61, box_step=0.02, camera_step=0.03)
    mask = mask[::15]
    on, off = shares(look(pictures, depth, CameraSensor(INTRINSICS), every=15), mask)
    exact = shares(look(pictures, depth, CameraSensor(INTRINSICS, poses), every=15), mask)
    assert on > 0.9 * exact[0]
    assert off < 0.02


@pytest.mark.parametrize("camera_step", [0.0, 0.1])
def test_without_depth_flow_tells_what_departs_from_the_dominant_motion(camera_step):
    pictures, _, _, mask = scene(camera_step=camera_step)
    on, off = shares(look(pictures), mask)
    assert on > 0.3
    assert off < 0.02


@pytest.mark.parametrize("measured", [True, False])
def test_what_moves_farther_weighs_more(measured):
    means = []
    for step in (0.0, 0.06, 0.2):
        pictures, depth, poses, mask = scene(box_step=step, camera_step=0.1)
        camera = CameraSensor(INTRINSICS, poses) if measured else None
        moving = look(pictures, depth if measured else None, camera)
        means.append(moving[mask == 1].mean())
    if measured:
        assert means[0] < 0.002, "the camera alone moved"
        assert means[0] + 0.05 < means[1] < means[2] - 0.05


def test_one_frame_and_plain_frames_show_no_motion():
    assert (look(np.zeros((1, 48, 64, 3), np.uint8), grid=(6, 8)) == 0).all()
    assert (look(np.full((3, 48, 64, 3), 99, np.uint8), grid=(6, 8)) == 0).all()
    holes = np.zeros((2, 48, 64), np.float32)
    camera = CameraSensor(INTRINSICS, np.repeat(np.eye(4)[None], 2, axis=0))
    assert (look(np.zeros((2, 48, 64, 3), np.uint8), holes, camera, grid=(6, 8)) == 0).all()
