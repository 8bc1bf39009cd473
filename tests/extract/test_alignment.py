"""Eq. 1 against brute force and closed forms, and what happens to anchors that lie."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from tracekit.extract.alignment import align_chunk, align_poses, scale_of_chunk, scale_poses
from tracekit.geometry import se3


def random_poses(rng: np.random.Generator, *shape: int, extent: float = 1.0) -> np.ndarray:
    count = int(np.prod(shape))
    rotations = Rotation.random(count, rng=rng).as_matrix().reshape(*shape, 3, 3)
    return se3.from_rotation_translation(rotations, extent * rng.standard_normal((*shape, 3)))


def disturbed(rng: np.random.Generator, poses: np.ndarray, angle: float, distance: float) -> np.ndarray:
    rotations = Rotation.from_rotvec(angle * rng.standard_normal((len(poses), 3))).as_matrix()
    return poses @ se3.from_rotation_translation(rotations, distance * rng.standard_normal((len(poses), 3)))


def cost(transform: np.ndarray, chunk: np.ndarray, world: np.ndarray) -> float:
    return float(np.sum((transform @ chunk - world) ** 2))


def numerical_optimum(chunk: np.ndarray, world: np.ndarray) -> tuple[np.ndarray, float]:
    def transform(x: np.ndarray) -> np.ndarray:
        return se3.from_rotation_translation(Rotation.from_rotvec(x[:3]).as_matrix(), x[3:])

    starts = [np.zeros(6), *np.random.default_rng(0).standard_normal((6, 6)) * [2, 2, 2, 1, 1, 1]]
    found = [minimize(lambda x: cost(transform(x), chunk, world), start, method="BFGS", options={"gtol": 1e-9}) for start in starts]
    best = min(found, key=lambda result: result.fun)
    return transform(best.x), float(best.fun)


@pytest.mark.parametrize("seed", range(6))
def test_no_numerical_search_does_better(seed):
    """Poses that fit badly, so that rotations and centres pull in different directions and must be weighed as Eq. 1 says."""
    rng = np.random.default_rng(seed)
    chunk = random_poses(rng, 2 + seed, extent=[0.1, 1.0, 10.0][seed % 3])
    world = disturbed(rng, random_poses(rng, 1) @ chunk, angle=0.5, distance=0.7)
    best, least = numerical_optimum(chunk, world)
    ours = align_poses(chunk, world)
    assert se3.is_pose(ours, 1e-12)
    assert cost(ours, chunk, world) <= least * (1 + 1e-9)
    np.testing.assert_allclose(ours, best, atol=2e-4)


@pytest.mark.parametrize("num_anchors", [1, 2, 3, 4, 9])
def test_exact_poses_are_recovered_exactly(num_anchors):
    rng = np.random.default_rng(num_anchors)
    truth, chunk = random_poses(rng, 1)[0], random_poses(rng, num_anchors)
    alignment = align_chunk(chunk, truth @ chunk)
    np.testing.assert_allclose(alignment.world_from_chunk, truth, atol=1e-12)
    assert alignment.kept.all() and alignment.residual < 1e-12


def test_orientations_decide_when_all_centres_coincide():
    rng = np.random.default_rng(3)
    truth, chunk = random_poses(rng, 1)[0], random_poses(rng, 5)
    chunk[:, :3, 3] = [1.0, 2.0, 3.0]
    np.testing.assert_allclose(align_chunk(chunk, truth @ chunk).world_from_chunk, truth, atol=1e-12)


def test_noise_averages_out_and_outliers_have_no_say():
    """Nine good anchors of twelve: the rotation is as good as the mean of nine, the centroid too; four deviations are never exceeded."""
    angle, distance, kept, extent = 0.01, 0.01, 9, 0.3
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth, chunk = random_poses(rng, 1)[0], random_poses(rng, 12, extent=extent)
        world = disturbed(rng, truth @ chunk, angle, distance)
        bad = rng.choice(12, 3, replace=False)
        # They agree with each other, which is the worst they can do.
        lie = se3.from_rotation_translation(Rotation.from_rotvec([0.5, 0.3, 0.0]).as_matrix(), np.array([1.0, -1.0, 0.5]))
        world[bad] = lie @ world[bad]
        alignment = align_chunk(chunk, world)
        assert not alignment.kept[bad].any()
        assert alignment.kept.sum() >= 6
        # Rejection may drop good anchors too: half of all are always left.
        spread = 4 * np.sqrt(3 / min(kept, alignment.kept.sum()))
        off = se3.inverse(truth) @ alignment.world_from_chunk
        assert se3.rotation_angle(off[:3, :3]) < spread * angle
        centroid = np.append(chunk[alignment.kept, :3, 3].mean(axis=0), 1.0)
        lever = np.linalg.norm(centroid[:3] - chunk[:, :3, 3].mean(axis=0)) + extent
        assert np.linalg.norm((alignment.world_from_chunk @ centroid - truth @ centroid)[:3]) < spread * (distance + lever * angle)


def test_a_single_outlier_among_four_is_rejected_and_among_three_is_not():
    rng = np.random.default_rng(5)
    truth, chunk = random_poses(rng, 1)[0], random_poses(rng, 4)
    world = disturbed(rng, truth @ chunk, 1e-3, 1e-3)
    world[2, :3, 3] += 2.0
    np.testing.assert_array_equal(align_chunk(chunk, world).kept, [True, True, False, True])
    assert align_chunk(chunk[1:], world[1:]).kept.all()


def test_residual_is_the_rms_distance_of_the_centres():
    """Two anchors whose distance differs by d: each ends d/2 away."""
    chunk = np.tile(np.eye(4), (2, 1, 1))
    world = chunk.copy()
    chunk[1, 0, 3], world[1, 0, 3] = 1.0, 1.2
    assert align_chunk(chunk, world).residual == pytest.approx(0.1)


def test_a_batch_with_padding_equals_one_by_one():
    rng = np.random.default_rng(6)
    chunk, world = random_poses(rng, 5, 8), random_poses(rng, 5, 8)
    lengths = np.array([8, 1, 3, 5, 8])
    weights = (np.arange(8) < lengths[:, None]).astype(float)
    together = align_poses(chunk, world, weights)
    for index, length in enumerate(lengths):
        np.testing.assert_allclose(together[index], align_poses(chunk[index, :length], world[index, :length]), atol=1e-12)


def test_scale_is_the_median_over_anchors_of_the_median_ratio():
    rng = np.random.default_rng(7)
    depth = rng.uniform(1, 3, (5, 6, 8))
    reference = 2.5 * depth
    reference[0] *= 10  # one anchor is wrong altogether
    reference[:, :2] = 0  # unknown in the global pass
    depth[:, 4:] = 0  # unknown in the chunk
    depth[1, 2, :3] *= 7  # and some pixels are wrong
    assert scale_of_chunk(reference, depth) == pytest.approx(2.5)
    assert scale_of_chunk(reference[:, :2], depth[:, :2]) is None


def test_scaling_moves_centres_only():
    poses = random_poses(np.random.default_rng(8), 3)
    scaled = scale_poses(poses, 3.0)
    np.testing.assert_array_equal(scaled[:, :3, :3], poses[:, :3, :3])
    np.testing.assert_array_equal(scaled[:, :3, 3], 3 * poses[:, :3, 3])
