"""How often a policy succeeds, and how sure a number of episodes makes one of it."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson_interval(successes: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Where the probability of success is likely to be: the score interval of Wilson (1927).

    The probabilities p of which the observed rate is less than z standard deviations sqrt(p (1 - p) / n) away: it stays within [0, 1],
    and has a width even where all or none succeed. With no episodes, nothing is known: (0, 1).
    Raises ValueError for counts that cannot be.
    """
    if not 0 <= successes <= total or not 0 < confidence < 1:
        raise ValueError(f"{successes} successes of {total}, confidence {confidence}")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / total
    spread = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    # At the ends rounding may leave a residue.
    low = 0.0 if successes == 0 else max(0.0, middle - spread)
    high = 1.0 if successes == total else min(1.0, middle + spread)
    return low, high
