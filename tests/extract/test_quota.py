import numpy as np
import pytest

from tracekit.extract.quota import NEARLY_ALL, share_between_frames, share_budget, share_by_motion


def test_shares_are_proportional_and_rounded_by_largest_remainder():
    assert share_budget([50, 30, 20], 10, 0).tolist() == [5, 3, 2]
    assert share_budget([1, 1, 1], 10, 0).tolist() == [4, 3, 3]
    # Hare quota, worked by hand: shares 4.7, 1.6, 1.58, 1.2, 0.61, 0.31 of 10.
    assert share_budget([47, 16, 15.8, 12, 6.1, 3.1], 10, 0).tolist() == [5, 2, 1, 1, 1, 0]


def test_small_entities_are_lifted_to_the_minimum_and_the_others_share_the_rest():
    assert share_budget([1000, 10, 10], 100, 8).tolist() == [84, 8, 8]
    # Lifting the third leaves 90 for the others, and then the second's share (9.89) is below 10 as well.
    assert share_budget([800, 100, 10], 100, 10).tolist() == [80, 10, 10]


def test_every_budget_is_spent_exactly_whatever_the_coverage():
    generator = np.random.default_rng(0)
    for _ in range(2000):
        coverage = generator.integers(0, 1000, generator.integers(1, 80)) * generator.integers(0, 2)
        budget, minimum = int(generator.integers(0, 300)), int(generator.integers(0, 20))
        quota = share_budget(coverage, budget, minimum)
        seen = coverage > 0
        assert quota.sum() == (budget if seen.any() else 0)
        assert (quota >= 0).all()
        assert (quota[~seen] == 0).all()
        if minimum * seen.sum() <= budget:
            assert (quota[seen] >= minimum).all()
        assert (np.diff(quota[np.argsort(coverage, kind="stable")]) >= -1).all(), "a larger entity got less"


def test_no_quota_is_more_than_one_away_from_its_share_when_nobody_needs_lifting():
    generator = np.random.default_rng(1)
    for _ in range(300):
        coverage = generator.uniform(1, 100, 12)
        assert (np.abs(share_budget(coverage, 200, 0) - 200 * coverage / coverage.sum()) < 1).all()


def test_a_budget_smaller_than_the_number_of_entities_goes_to_the_largest():
    assert share_budget([3, 9, 5, 7], 2, 8).tolist() == [0, 1, 0, 1]
    assert share_budget([3, 9, 5, 7], 6, 8).tolist() == [1, 2, 1, 2]


def test_nothing_seen_gets_nothing():
    assert share_budget([0, 0], 10, 3).tolist() == [0, 0]
    assert share_budget([], 10, 3).tolist() == []


def test_nonsense_is_refused():
    for coverage, budget, minimum in (([1, np.nan], 4, 1), ([-1, 2], 4, 1), ([1], -4, 1), ([1], 4, -1)):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            share_budget(coverage, budget, minimum)


def test_what_rests_keeps_a_little_and_what_moves_shares_the_rest_by_how_much_of_it_moves():
    assert share_by_motion([500, 30, 10, 0], [0, 30, 10, 0], 100, 8, 3, 0.15).tolist() == [3, 61, 36, 0]  # sqrt(30) to sqrt(10)
    assert share_by_motion([500, 30, 10], [0, 30, 1], 100, 8, 3, 0.15).tolist() == [3, 81, 16]
    # Ten things that rest would take 30 of 100; together they may have 15, the larger ones first.
    quota = share_by_motion([*range(1, 11), 50], [0] * 10 + [50], 100, 8, 3, 0.15)
    assert quota.tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 85]


def test_shares_by_motion_sum_to_the_budget():
    generator = np.random.default_rng(2)
    for _ in range(1000):
        coverage = generator.integers(0, 500, generator.integers(1, 60))
        moved = coverage * generator.integers(0, 2, len(coverage)) * generator.random(len(coverage))
        if not moved.any():
            continue
        budget = int(generator.integers(0, 300))
        quota = share_by_motion(coverage, moved, budget, 8, 3, 0.15)
        assert quota.sum() == budget
        assert (quota[coverage == 0] == 0).all()
        assert quota[moved == 0].sum() <= 0.15 * budget
        assert (quota[moved == 0] <= 3).all()


def test_most_is_placed_on_the_first_frame_that_shows_nearly_all_of_an_entity():
    visible = np.array([[0, 10, 50], [9, 10, 100], [10, 10, 90], [10, 0, 60]])
    assert share_between_frames(visible, np.array([8, 8, 8]), 8).tolist() == [[0, 8, 0], [8, 0, 8], [0, 0, 0], [0, 0, 0]]
    assert share_between_frames(visible, np.array([8, 20, 40]), 8)[:, 1:].tolist() == [[10, 5], [5, 20], [5, 9], [0, 6]]


def test_shares_between_frames_sum_to_the_quota_and_lie_where_the_entity_is_seen():
    generator = np.random.default_rng(3)
    for _ in range(500):
        visible = generator.integers(0, 40, (5, 7)) * generator.integers(0, 2, (5, 7))
        quotas = generator.integers(0, 90, 7) * visible.any(axis=0)
        shares = share_between_frames(visible, quotas, 8)
        assert (shares.sum(axis=0) == quotas).all()
        assert (shares[visible == 0] == 0).all()
        for entity in np.flatnonzero(quotas):
            seen = visible[:, entity]
            first = np.flatnonzero(seen >= NEARLY_ALL * seen.max())[0]
            assert shares[first, entity] >= min(quotas[entity], max(8, quotas[entity] / 2))
