"""The order in which samples are trained on, and their random numbers: both follow from a seed and a position 0, 1, 2, ... alone."""

from __future__ import annotations

import numpy as np

# Numbers of generators are (seed, position); orders of epochs have theirs beyond any position.
_ORDER_OF_EPOCH = 1 << 63


def generator(seed: int, number: int) -> np.random.Generator:
    """A generator of its own for every (seed, number), at no cost: counter-based, nothing is run forward."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))


class EpochOrder:
    """Which of a number of samples stands at a position: a permutation of its own for every epoch, without end."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def place(self, position: int) -> int:
        epoch, within = divmod(int(position), self._num_samples)
        if epoch not in self._orders:
            while len(self._orders) > 1:  # batches may straddle two epochs
                self._orders.pop(min(self._orders))
            self._orders[epoch] = generator(self._seed, _ORDER_OF_EPOCH + epoch).permutation(self._num_samples)
        return int(self._orders[epoch][within])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_orders": {}}
