import cv2
import numpy as np
import pytest

from tracekit.geometry import rigid_motion, se3


def random_motion(rng: np.random.Generator, *batch: int) -> np.ndarray:
    vectors = rng.normal(size=(int(np.prod(batch)), 3))
    rotation = np.array([cv2.Rodrigues(vector)[0] for vector in vectors]).reshape(*batch, 3, 3)
    return se3.from_rotation_translation(rotation, rng.normal(size=(*batch, 3)))


def test_a_rigid_motion_is_recovered_exactly_whatever_the_weights():
    rng = np.random.default_rng(0)
    motion, source = random_motion(rng, 4, 3), rng.normal(size=(4, 3, 7, 3))
    found = rigid_motion.fit_rigid(source, se3.transform_points(motion, source), rng.uniform(0.1, 5, size=(4, 3, 7)))
    np.testing.assert_allclose(found, motion, atol=1e-12)


def test_no_other_motion_fits_noisy_points_better_and_points_without_weight_have_no_say():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(9, 3))
    target = se3.transform_points(random_motion(rng, 1)[0], source) + rng.normal(0, 0.1, size=(9, 3))
    weight = rng.uniform(0.5, 2, size=9)
    weight[:2] = 0
    target[:2] += 100

    def cost(motion: np.ndarray) -> float:
        return float((weight * ((se3.transform_points(motion, source) - target) ** 2).sum(axis=1)).sum())

    best = rigid_motion.fit_rigid(source, target, weight)
    assert se3.is_pose(best)
    for _ in range(200):
        twist = rng.normal(0, 1e-3, size=6)
        assert cost(best) <= cost(rigid_motion.twist_to_motion(twist) @ best)


def test_a_mirror_image_never_gives_a_reflection():
    rng = np.random.default_rng(2)
    source = rng.normal(size=(6, 3))
    assert se3.is_pose(rigid_motion.fit_rigid(source, source * [1, 1, -1], np.ones(6)))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 1.0, 3.0])
def test_a_twist_turns_like_rodrigues(size):
    vector = size * np.array([0.48, -0.6, 0.64])
    motion = rigid_motion.twist_to_motion(np.concatenate([vector, [1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(motion[:3, :3], cv2.Rodrigues(vector)[0], atol=1e-12)
    np.testing.assert_array_equal(motion[:3, 3], [1, 2, 3])


def test_turning_about_a_centre_leaves_it_but_for_the_shift():
    centre, twist = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -0.7, 0.01, 0.02, 0.03])
    motion = rigid_motion.motion_about(centre, twist)
    np.testing.assert_allclose(se3.transform_points(motion, centre[None])[0], centre + twist[3:], atol=1e-12)


def test_the_derivative_by_a_twist_is_the_numerical_one():
    rng = np.random.default_rng(3)
    centre, point, direction = rng.normal(size=(3, 3))
    step = 1e-6
    numerical = [
        (se3.transform_points(rigid_motion.motion_about(centre, step * one), point[None])[0] - point) @ direction / step
        for one in np.eye(6)
    ]
    np.testing.assert_allclose(rigid_motion.derivative_by_twist(direction, point - centre), numerical, atol=1e-5)
