"""Time of several works that take turns, so that what else the machine does meets them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def in_turns(*works: Callable, rounds: int) -> list[float]:
    """Median seconds of each, one after the other in every round."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, measured in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured) for measured in seconds]
