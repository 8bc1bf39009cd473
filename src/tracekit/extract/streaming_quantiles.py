"""Quantiles of more numbers than fit into memory, the same whatever order they come in."""

from __future__ import annotations

import numpy as np

# A bin holds the float32 numbers that agree in sign, exponent and the first 11 bits of the mantissa: at most 2^-11 wide, relatively.
_MANTISSA_BITS_DROPPED = 12
_NUM_BINS = 1 << (31 - _MANTISSA_BITS_DROPPED)


class StreamingQuantiles:
    """Quantiles of non-negative float32 numbers, added bit by bit.

    Exact (linear interpolation, as numpy's) up to `exact_limit` numbers. Beyond that the numbers are counted in 2^19 bins on the
    scale of the floats themselves, 4 MB in all, and a quantile is right to 0.05 %. Nothing is sampled: there is no seed, and
    neither the order of the numbers nor the way they are split into batches changes the result.
    """

    def __init__(self, exact_limit: int = 2**22) -> None:
        self.size = 0
        self._exact_limit = exact_limit
        self._exact: list[np.ndarray] = []
        self._bins: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Add `values`, of any shape. They must be finite and not negative."""
        flat = np.ascontiguousarray(values, dtype=np.float32).ravel()
        # Adding 0 turns -0, whose sign bit would be a bin far away, into 0.
        self._exact.append(flat + np.float32(0))
        self.size += flat.size
        if self._bins is None and self.size > self._exact_limit:
            self._bins = np.zeros(_NUM_BINS, dtype=np.int64)
        if self._bins is not None:
            for batch in self._exact:
                self._bins += np.bincount(batch.view(np.uint32) >> _MANTISSA_BITS_DROPPED, minlength=_NUM_BINS)
            self._exact = []

    def quantile(self, fraction: float) -> float:
        """The number below which `fraction` of all numbers lie; NaN when there are none."""
        if self.size == 0:
            return float("nan")
        if self._bins is None:
            self._exact = [np.concatenate(self._exact)]
            return float(np.quantile(self._exact[0].astype(np.float64), fraction))
        rank = fraction * (self.size - 1)
        up_to = np.cumsum(self._bins)
        bin = int(np.searchsorted(up_to, rank, side="right"))
        low, high = (np.array([bin, bin + 1], dtype=np.uint32) << _MANTISSA_BITS_DROPPED).view(np.float32).astype(np.float64)
        within = (rank - (up_to[bin] - self._bins[bin]) + 0.5) / self._bins[bin]
        return float(low + min(within, 1.0) * (high - low))
