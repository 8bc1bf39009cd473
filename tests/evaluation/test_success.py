"""Wilson's interval against published values, SciPy, and what defines it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tracekit.evaluation.success import wilson_interval


@pytest.mark.parametrize(
    ("successes", "total", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_published_values(successes: int, total: int, interval: tuple[float, float]) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson_interval(successes, total) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_scipy(confidence: float) -> None:
    for total in (1, 2, 7, 50):
        for successes in range(total + 1):
            peer = binomtest(successes, total).proportion_ci(confidence, method="wilson")
            assert wilson_interval(successes, total, confidence) == pytest.approx((peer.low, peer.high), abs=1e-9)


def test_ends_are_where_the_rate_is_z_deviations_away() -> None:
    for end in wilson_interval(37, 50):
        assert abs(37 / 50 - end) / np.sqrt(end * (1 - end) / 50) == pytest.approx(1.959964, abs=1e-5)


def test_ends_of_the_range() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(50, 50)[1] == 1.0 and wilson_interval(50, 50)[0] == pytest.approx(1 / (1 + 1.959964**2 / 50), abs=1e-6)
    for successes, total in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(successes, total)
