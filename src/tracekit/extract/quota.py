"""How a budget of keypoints is shared out between entities (paper A.1)."""

from __future__ import annotations

import numpy as np


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


def _largest_remainder(share: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers next to `share`, which sums to `total` up to rounding, that sum to `total` exactly; ties go to the first."""
    whole = np.floor(share).astype(np.int64)
    by_remainder = np.argsort(whole - share, kind="stable")
    whole[by_remainder[: total - int(whole.sum())]] += 1
    return whole
