"""How a budget of keypoints is shared out between entities (paper A.1)."""

from __future__ import annotations

import numpy as np

NEARLY_ALL = 0.8
"""Of the most patches that an entity covers in a frame: a frame that shows as much is good to place keypoints on."""


def share_budget(coverage: np.ndarray, budget: int, minimum: int) -> np.ndarray:
    """Share `budget` keypoints between entities that cover `coverage` (M,) patches each; returns int64 (M,) that sum to `budget`.

    Every entity that is seen gets `minimum`, so that small things are not lost, and the rest is shared in proportion to
    coverage with largest remainders. An entity whose proportional share already exceeds the minimum is not paid twice.
    When the budget cannot give everyone the minimum, all get as much as is left for each, the larger ones first.
    An entity with no coverage gets nothing; if none has any, nothing can be shared and all quotas are 0.
    """
    coverage = np.asarray(coverage, np.float64)
    if budget < 0 or minimum < 0 or not np.isfinite(coverage).all() or (coverage < 0).any():
        raise ValueError("coverage, budget and minimum must be finite and not negative")
    quota = np.zeros(len(coverage), np.int64)
    seen = np.flatnonzero(coverage > 0)
    if len(seen) == 0:
        return quota
    floor = min(minimum, budget // len(seen))
    if floor < minimum:
        quota[seen] = floor
        larger_first = seen[np.argsort(-coverage[seen], kind="stable")]
        quota[larger_first[: budget - floor * len(seen)]] += 1
        return quota

    # Those whose proportional share is below the minimum are lifted to it; the others share what remains. Lifting shrinks
    # the others' share, so that more of them may need lifting: repeat until none does.
    proportional = seen
    while True:
        remaining = budget - minimum * (len(seen) - len(proportional))
        share = remaining * (coverage[proportional] / coverage[proportional].sum())
        enough = share >= minimum
        if enough.all():
            break
        proportional = proportional[enough]
    quota[seen] = minimum
    quota[proportional] = _largest_remainder(share, remaining)
    return quota


def share_by_motion(coverage: np.ndarray, moved: np.ndarray, budget: int, minimum: int, still: int, still_share: float) -> np.ndarray:
    """Share `budget` by motion (ours): every entity that is seen and does not move gets `still` at most, and those that move the rest.

    `coverage` (M,) and `moved` (M,): patches seen, and those of them that move; something must move. Those that move share as
    in `share_budget`, by the root of `moved` and with twice the `minimum`: an arm is as well known by fewer points a patch as the
    small thing that it handles. However many things rest, together they get `still_share` of the budget at most.
    Returns int64 (M,) that sum to `budget`.
    """
    coverage, moved = np.asarray(coverage, np.float64), np.asarray(moved, np.float64)
    resting = np.where(moved > 0, 0, coverage)
    for_resting = min(still * int(np.count_nonzero(resting)), int(still_share * budget))
    return share_budget(resting, for_resting, still) + share_budget(np.sqrt(moved), budget - for_resting, 2 * minimum)


def share_between_frames(visible: np.ndarray, quotas: np.ndarray, at_once: int) -> np.ndarray:
    """On which frames the keypoints of each entity are placed: visible (R, M) patches and quotas (M,) -> int64 (R, M).

    The first frame that shows nearly all of an entity gets half of its quota, and `at_once` at least, so that what moves is seen
    early and as a whole; the other frames share the rest by what they show, for a thing that turns shows other sides later.
    Every column sums to its quota.
    """
    shares = np.zeros(visible.shape, np.int64)
    for entity in np.flatnonzero(quotas):
        seen = visible[:, entity]
        first = int(np.argmax(seen >= NEARLY_ALL * seen.max()))
        shares[first, entity] = min(quotas[entity], max(at_once, -(-quotas[entity] // 2)))
        later = np.where(np.arange(len(seen)) == first, 0, seen)
        rest = int(quotas[entity] - shares[first, entity])
        if later.any():
            shares[:, entity] += share_budget(later, rest, 0)
        else:
            shares[first, entity] += rest
    return shares


def _largest_remainder(share: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers next to `share`, which sums to `total` up to rounding, that sum to `total` exactly; ties go to the first."""
    whole = np.floor(share).astype(np.int64)
    by_remainder = np.argsort(whole - share, kind="stable")
    whole[by_remainder[: total - int(whole.sum())]] += 1
    return whole
