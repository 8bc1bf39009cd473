"""Rigid motions against scipy's rotations and matrix algebra."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tracekit.geometry import se3


def random_poses(rng, *shape):
    rotation = Rotation.random(int(np.prod(shape, dtype=int)), random_state=rng).as_matrix().reshape(*shape, 3, 3)
    return se3.from_rotation_translation(rotation, rng.normal(size=(*shape, 3)))


def test_inverse_is_the_matrix_inverse():
    poses = random_poses(np.random.default_rng(0), 4, 5)
    np.testing.assert_allclose(se3.inverse(poses), np.linalg.inv(poses), atol=1e-12)


def test_points_are_mapped_like_homogeneous_columns():
    rng = np.random.default_rng(1)
    poses, points = random_poses(rng, 6), rng.normal(size=(6, 10, 3))
    homogeneous = np.concatenate([points, np.ones((6, 10, 1))], axis=-1)
    expected = np.einsum("bij,bpj->bpi", poses, homogeneous)[..., :3]
    np.testing.assert_allclose(se3.transform_points(poses, points), expected, atol=1e-12)


def test_a_quarter_turn_about_z_and_a_shift():
    pose = se3.from_rotation_translation(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([10.0, 20, 30]))
    np.testing.assert_allclose(se3.transform_points(pose, np.array([[1.0, 0, 0]])), [[10, 21, 30]])


def test_nearest_rotation_is_scipys_mean_of_rotations():
    rotations = Rotation.from_rotvec(np.random.default_rng(2).normal(scale=0.3, size=(7, 3)))
    mean = se3.nearest_rotation(rotations.as_matrix().sum(axis=0))
    np.testing.assert_allclose(mean, rotations.mean().as_matrix(), atol=1e-10)


def test_nearest_rotation_is_never_a_reflection():
    matrices = np.random.default_rng(3).normal(size=(50, 3, 3))
    assert (np.linalg.det(matrices) < 0).any()
    np.testing.assert_allclose(np.linalg.det(se3.nearest_rotation(matrices)), 1.0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.5, np.pi / 2, np.pi - 1e-9, np.pi])
def test_rotation_angle_is_accurate_even_near_0_and_pi(angle):
    axis = np.array([1.0, -2, 3]) / np.sqrt(14)
    rotation = Rotation.from_rotvec(angle * axis).as_matrix()
    assert se3.rotation_angle(rotation) == pytest.approx(angle, abs=1e-12)


def test_what_is_no_pose():
    good = random_poses(np.random.default_rng(4), 1)[0]
    reflected, scaled, sheared_row, unknown = good.copy(), good.copy(), good.copy(), good.copy()
    reflected[:3, 0] *= -1
    scaled[:3, :3] *= 1.01
    sheared_row[3, 0] = 0.1
    unknown[0, 3] = np.nan
    assert se3.is_pose(np.stack([good, reflected, scaled, sheared_row, unknown])).tolist() == [True, False, False, False, False]
