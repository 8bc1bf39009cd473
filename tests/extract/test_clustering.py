import itertools
import warnings

import numpy as np
import pytest

from tracekit.extract.clustering import cluster


def blobs(num_points=600, num_kinds=5, num_features=24, noise=0.3, seed=0, offset=0.0):
    generator = np.random.default_rng(seed)
    kinds = generator.normal(size=(num_kinds, num_features)) * 3 + offset
    truth = generator.integers(num_kinds, size=num_points)
    return (kinds[truth] + generator.normal(size=(num_points, num_features)) * noise).astype(np.float32), truth


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_each_iteration_equals_scikit_learns(offset):
    KMeans = pytest.importorskip("sklearn.cluster").KMeans
    points, _ = blobs(noise=4.0, offset=offset)
    initial = points[:7]
    for iterations in (1, 2, 5, 40):
        peer = KMeans(7, init=initial, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
        with warnings.catch_warnings(action="ignore"):  # the peer warns when it is stopped before it converges
            peer.fit(points)
        ours = cluster(points, 7, seed=0, iterations=iterations, initial=initial)
        assert ours.inertia == pytest.approx(peer.inertia_, rel=1e-4)
        np.testing.assert_array_equal(ours.labels, peer.labels_)
        np.testing.assert_allclose(ours.centres, peer.cluster_centers_, atol=1e-3)


def test_labels_centres_and_inertia_agree_with_each_other():
    points, _ = blobs(noise=2.0)
    found = cluster(points, 6, seed=3, iterations=100)
    distance = ((points[:, None].astype(np.float64) - found.centres) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found.labels, distance.argmin(axis=1))
    assert found.inertia == pytest.approx(distance.min(axis=1).sum(), rel=1e-5)
    for label in range(6):
        np.testing.assert_allclose(found.centres[label], points[found.labels == label].mean(axis=0), atol=1e-4)


def test_well_separated_kinds_are_found_from_any_seed():
    points, truth = blobs()
    for seed in range(10):
        labels = cluster(points, 5, seed=seed).labels
        pairs = set(zip(labels.tolist(), truth.tolist(), strict=True))
        assert len(pairs) == 5, f"seed {seed} mixes kinds"


def test_finds_the_optimum_of_a_problem_small_enough_to_enumerate():
    points = np.random.default_rng(5).normal(size=(9, 2)).astype(np.float32)

    def inertia(labels):
        return sum(((points[labels == k] - points[labels == k].mean(axis=0)) ** 2).sum() for k in set(labels.tolist()))

    optimum = min(inertia(np.array(labels)) for labels in itertools.product(range(3), repeat=9))
    best = min(cluster(points, 3, seed=seed).inertia for seed in range(20))
    assert best == pytest.approx(optimum, rel=1e-5)


def test_the_same_seed_gives_the_same_groups_and_another_seed_may_not():
    points, _ = blobs(noise=6.0)
    first, again = cluster(points, 8, seed=1), cluster(points, 8, seed=1)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centres, again.centres)
    assert any(not np.array_equal(first.labels, cluster(points, 8, seed=seed).labels) for seed in range(2, 6))


def test_a_group_that_loses_all_its_points_starts_anew():
    points, _ = blobs(num_kinds=3)
    hopeless = np.concatenate([points[:2], np.full((1, points.shape[1]), 1e4, np.float32)])
    assert set(cluster(points, 3, seed=0, initial=hopeless, iterations=50).labels.tolist()) == {0, 1, 2}


def test_fewer_distinct_points_than_groups_are_no_error():
    found = cluster(np.ones((10, 3), np.float32), 4, seed=0)
    assert found.inertia == pytest.approx(0, abs=1e-6)
    assert cluster(np.ones((1, 3), np.float32), 1, seed=0).labels.tolist() == [0]


def test_nonsense_is_refused():
    points = np.zeros((4, 2), np.float32)
    for num_clusters in (0, 5):
        with pytest.raises(ValueError, match="cannot make"):
            cluster(points, num_clusters, seed=0)
    with pytest.raises(ValueError, match="initial is"):
        cluster(points, 2, seed=0, initial=np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        cluster(np.array([[np.nan, 0], [1, 1]], np.float32), 1, seed=0)
