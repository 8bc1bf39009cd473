"""Statistics of features as LeRobotDataset keeps them: of all numbers and of all pixels, not of a sample.

Source: src/lerobot/datasets/compute_stats.py of lerobot 0.4.4, which estimates quantiles from histograms, and those of pictures from some
of their pixels; the values here are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, Any]
"""min, max, mean, std, count and the quantiles, as nested lists."""


def stats_of(values: np.ndarray) -> Stats:
    """Of each number of a feature over its rows: (T,) or (T, k)."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    found |= {name: np.quantile(rows, fraction, axis=0) for name, fraction in QUANTILES.items()}
    return {**{name: column.tolist() for name, column in found.items()}, "count": [len(rows)]}


class PictureStats:
    """Of the three colours of pictures, from 0 to 1. All pixels are counted by value, so that nothing is estimated."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._num_pictures = 0

    def add(self, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 RGB."""
        for colour in range(3):
            self._counts[colour] += np.bincount(picture[:, :, colour].ravel(), minlength=256)
        self._num_pictures += 1

    def merge(self, other: PictureStats) -> None:
        """Add the pictures of another."""
        self._counts += other._counts
        self._num_pictures += other._num_pictures

    def result(self) -> Stats:
        """Each statistic of shape (3, 1, 1); `count` is the number of pictures."""
        values = np.arange(256)
        total = self._counts.sum(axis=1)
        mean = self._counts @ values / total
        variance = np.maximum(self._counts @ values**2 / total - mean**2, 0)
        seen = self._counts > 0
        found = {"min": seen.argmax(axis=1), "max": 255 - seen[:, ::-1].argmax(axis=1), "mean": mean, "std": np.sqrt(variance)}
        found |= {name: self._quantile(fraction) for name, fraction in QUANTILES.items()}
        result: Stats = {name: (column / 255.0).reshape(3, 1, 1).tolist() for name, column in found.items()}
        return {**result, "count": [self._num_pictures]}

    def _quantile(self, fraction: float) -> np.ndarray:
        """(3,), interpolated between neighbours in rank as numpy does."""
        up_to = np.cumsum(self._counts, axis=1)
        ranks = fraction * (up_to[:, -1] - 1)
        low, high = (
            np.array([np.searchsorted(column, rank, side="right") for column, rank in zip(up_to, edge, strict=True)])
            for edge in (np.floor(ranks), np.ceil(ranks))
        )
        return low + (ranks - np.floor(ranks)) * (high - low)
