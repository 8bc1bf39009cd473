import numpy as np
import pytest

from tracekit.extract.quota import share_budget


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
