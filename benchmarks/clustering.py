"""k-means on patch features: ours against scikit-learn's Lloyd, from the same centres and for the same iterations."""

from __future__ import annotations

import statistics
import time

import numpy as np

from tracekit.extract.clustering import cluster

NUM_PATCHES, NUM_FEATURES, NUM_CLUSTERS, ITERATIONS = 8 * 37 * 37, 768, 16, 20


def main() -> list[dict]:
    """Rows with keys work, ours, peer, ratio, goal; times are medians of seven runs, ours and the peer's by turns."""
    from sklearn.cluster import KMeans

    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(40, NUM_FEATURES)) * 0.3
    patches = (kinds[generator.integers(40, size=NUM_PATCHES)] + generator.normal(size=(NUM_PATCHES, NUM_FEATURES))).astype(np.float32)
    initial = patches[generator.choice(NUM_PATCHES, NUM_CLUSTERS, replace=False)]
    peer = KMeans(NUM_CLUSTERS, init=initial, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd")

    ours_seconds, peer_seconds = [], []
    for _ in range(8):
        start = time.perf_counter()
        ours = cluster(patches, NUM_CLUSTERS, seed=0, iterations=ITERATIONS, initial=initial)
        between = time.perf_counter()
        peer.fit(patches)
        ours_seconds.append(between - start)
        peer_seconds.append(time.perf_counter() - between)
    ours_median, peer_median = statistics.median(ours_seconds[1:]), statistics.median(peer_seconds[1:])
    excess = ours.inertia / peer.inertia_ - 1
    return [
        {
            "work": f"k-means, {NUM_PATCHES} x {NUM_FEATURES}, k = {NUM_CLUSTERS}, {ITERATIONS} iterations (inertia off by {excess:+.0e})",
            "ours": f"{ours_median * 1e3:.0f} ms",
            "peer": f"scikit-learn {peer_median * 1e3:.0f} ms",
            "ratio": f"{peer_median / ours_median:.2f}x",
            "goal": ">= 1.5x",
        }
    ]


if __name__ == "__main__":
    from table import print_table

    print_table(main())
