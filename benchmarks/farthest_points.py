"""Exact farthest-point sampling: ours against the rows-and-sums numpy loop that users write."""

from __future__ import annotations

import statistics
import time

import numpy as np

from tracekit.extract.farthest_points import farthest_points

NUM_POINTS, COUNT = 100_000, 256


def by_rows(points: np.ndarray, count: int, start: int) -> np.ndarray:
    """What users write: distances of (n, d) rows summed over the short axis."""
    chosen = [start]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def main() -> list[dict]:
    """Rows with keys work, ours, peer, ratio, goal; times are medians of seven runs, ours and the peer's by turns."""
    points = np.random.default_rng(0).uniform(0, 1000, (NUM_POINTS, 2)).astype(np.float32)
    ours_seconds, peer_seconds = [], []
    for turn in range(8):
        start = time.perf_counter()
        ours = farthest_points(points, COUNT, start=turn)
        between = time.perf_counter()
        peer = by_rows(points, COUNT, turn)
        ours_seconds.append(between - start)
        peer_seconds.append(time.perf_counter() - between)
        assert np.array_equal(ours, peer), "the two must choose the same points"
    ours_median, peer_median = statistics.median(ours_seconds[1:]), statistics.median(peer_seconds[1:])
    return [
        {
            "work": f"farthest points, {COUNT} of {NUM_POINTS} in 2-D, exact, start given",
            "ours": f"{ours_median * 1e3:.1f} ms",
            "peer": f"numpy rows {peer_median * 1e3:.0f} ms",
            "ratio": f"{peer_median / ours_median:.1f}x",
            "goal": "<= 20 ms",
        }
    ]


if __name__ == "__main__":
    from table import print_table

    print_table(main())
