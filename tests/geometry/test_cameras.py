"""Projection against OpenCV, and the half pixels of resizing against closed forms."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from tracekit.geometry import cameras, se3

K = np.array([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
WORLD_FROM_CAMERA = se3.from_rotation_translation(Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix(), np.array([0.5, -0.2, -3.0]))
POINTS = np.random.default_rng(0).uniform(-1, 1, size=(20, 3))


def test_projection_is_opencvs():
    camera_from_world = np.linalg.inv(WORLD_FROM_CAMERA)
    expected, _ = cv2.projectPoints(POINTS, cv2.Rodrigues(camera_from_world[:3, :3])[0], camera_from_world[:3, 3], K, None)
    uv, z = cameras.project(POINTS, K, WORLD_FROM_CAMERA)
    np.testing.assert_allclose(uv, expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(z, POINTS @ camera_from_world[2, :3] + camera_from_world[2, 3])


def test_the_optical_axis_meets_the_principal_point_and_axes_are_opencvs():
    ahead_right_below = np.array([[0, 0, 2.0], [1, 0, 2], [0, 1, 2]])
    uv, z = cameras.project(ahead_right_below, K, np.eye(4))
    np.testing.assert_allclose(uv, [[319.5, 239.5], [319.5 + 250, 239.5], [319.5, 239.5 + 255]])
    np.testing.assert_allclose(z, 2.0)


def test_a_camera_that_moves_right_sees_points_move_left():
    moved = se3.from_rotation_translation(np.eye(3), np.array([0.1, 0, 0]))
    still, _ = cameras.project(np.array([[0, 0, 1.0]]), K, np.eye(4))
    uv, _ = cameras.project(np.array([[0, 0, 1.0]]), K, moved)
    np.testing.assert_allclose(uv - still, [[-50, 0]], atol=1e-9)


def test_unprojection_undoes_projection_for_many_cameras_and_a_skewed_k():
    skewed = K + np.array([[0, 3.0, 0], [0, 0, 0], [0, 0, 0]])
    poses = np.stack([WORLD_FROM_CAMERA, se3.from_rotation_translation(np.eye(3), np.array([0, 0, -5.0]))])
    uv, z = cameras.project(POINTS, skewed, poses)
    assert uv.shape == (2, 20, 2)
    np.testing.assert_allclose(cameras.unproject(uv, z, skewed, poses), np.stack([POINTS, POINTS]), atol=1e-12)


def test_points_on_or_behind_the_camera_plane_have_no_image():
    uv, z = cameras.project(np.array([[0, 0, 1.0], [0.1, 0, 0], [0, 0, -1]]), K, np.eye(4))
    assert np.isfinite(uv[0]).all() and np.isnan(uv[1:]).all()
    np.testing.assert_allclose(z, [1, 0, -1])


def test_resizing_keeps_the_image_edges():
    corners = np.array([[-0.5, -0.5], [639.5, 479.5]])
    np.testing.assert_allclose(cameras.resize_pixels(corners, (640, 480), (320, 160)), [[-0.5, -0.5], [319.5, 159.5]])


def test_scaled_intrinsics_project_to_resized_pixels():
    small = cameras.scale_intrinsics(K, (640, 480), (224, 168))
    uv, _ = cameras.project(POINTS, K, WORLD_FROM_CAMERA)
    uv_small, _ = cameras.project(POINTS, small, WORLD_FROM_CAMERA)
    np.testing.assert_allclose(uv_small, cameras.resize_pixels(uv, (640, 480), (224, 168)), atol=1e-9)
