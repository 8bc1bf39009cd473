"""From distances of single traces to the figures of a table: which draws count, how traces are averaged, how sure the average is.

Letters: R scored traces, S draws, T horizons, C clips. A slot is a sample of the predictions file: a frame and a sentence. Values are
NaN for traces that have none at a horizon; those are left out of averages, and an average over none is NaN.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

PROTOCOLS = ("mu0", "paper")


@dataclass(frozen=True)
class Grouping:
    """Where each of R scored traces belongs."""

    slot: np.ndarray
    """(R,) int: number of its slot."""
    clip: np.ndarray
    """(R,) int: number of its clip, 0 to C - 1. A slot lies in one clip."""
    num_clips: int


def least(values: np.ndarray, top: int) -> np.ndarray:
    """(R, T): for each trace the least of its first `top` draws, of values (R, S, T). The draw may differ between keypoints of a slot."""
    return values[:, :top].min(axis=1)


def joint_least(values: np.ndarray, top: int, grouping: Grouping) -> np.ndarray:
    """(R, T): one draw for all keypoints of a slot, the one of the first `top` whose mean over them is least; its mean, for each of them.

    Never less than the mean of `least` over the slot.
    """
    place, num_slots = _numbered(grouping.slot)
    draws = values[:, :top]
    known = ~np.isnan(draws)
    mean = _ratio(_sums(np.where(known, draws, 0.0), place, num_slots), _sums(known, place, num_slots))
    joint = mean.min(axis=1)[place]
    return np.where(known[:, 0], joint, np.nan)


def clip_sums(values: np.ndarray, protocol: str, grouping: Grouping) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator (C, T) of the average of values (R, T), clip by clip.

    "mu0" averages over all traces; "paper" over the keypoints of a slot, then over slots (D.1).
    """
    known = ~np.isnan(values)
    filled, clip = np.where(known, values, 0.0), grouping.clip
    if protocol == "paper":
        place, num_slots = _numbered(grouping.slot)
        count = _sums(known, place, num_slots)
        mean = _ratio(_sums(filled, place, num_slots), count)
        known = count > 0
        filled = np.where(known, mean, 0.0)
        first = np.unique(place, return_index=True)[1]
        clip = clip[first]
    return _sums(filled, clip, grouping.num_clips), _sums(known, clip, grouping.num_clips)


class ClipBootstrap:
    """Percentile intervals of averages, by drawing clips with replacement: traces of one clip are no independent trials.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. The same draws serve all figures of a file, so that they can be
    compared with each other.
    """

    def __init__(self, num_clips: int, num_resamples: int, seed: int, coverage: float = 0.95) -> None:
        rng = np.random.default_rng(seed)
        enough = num_clips > 1 and num_resamples > 0
        self._times = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=num_resamples) if enough else None
        self._quantiles = [(1 - coverage) / 2, (1 + coverage) / 2]

    def interval(self, numerator: np.ndarray, denominator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound (T,) of sum(numerator) / sum(denominator), both (C, T); NaN for fewer than two clips."""
        low, high = np.full((2, numerator.shape[1]), np.nan)
        if self._times is None:
            return low, high
        means = _ratio(self._times @ numerator, self._times @ denominator)
        for horizon, column in enumerate(means.T):
            drawn = column[~np.isnan(column)]
            if len(drawn) and np.count_nonzero(denominator[:, horizon]) > 1:
                low[horizon], high[horizon] = np.quantile(drawn, self._quantiles)
        return low, high


def average(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """(T,) of the sums over clips (C, T)."""
    return _ratio(numerator.sum(axis=0), denominator.sum(axis=0))


def choose_keypoints(slot: np.ndarray, slot_name: list[str], order: np.ndarray, number: int, seed: int) -> np.ndarray:
    """(R,) bool: at most `number` traces of each slot, chosen at random (D.1 queries 16 keypoints); all for 0.

    The choice follows from the seed, the names of the slots and the values of `order` (R, K), not from where traces lie in a file:
    two predictors that were asked about the same keypoints are scored on the same ones.
    """
    chosen = np.ones(len(slot), dtype=bool)
    if number == 0 or len(slot) == 0:
        return chosen
    by_slot = np.lexsort([*order.T[::-1], slot])
    for members in np.split(by_slot, np.flatnonzero(np.diff(slot[by_slot])) + 1):
        if len(members) > number:
            rng = np.random.default_rng([seed, zlib.crc32(slot_name[slot[members[0]]].encode())])
            chosen[members] = False
            chosen[rng.choice(members, number, replace=False)] = True
    return chosen


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels as 0 to n - 1, and n."""
    names, place = np.unique(labels, return_inverse=True)
    return place, len(names)


def _sums(values: np.ndarray, place: np.ndarray, number: int) -> np.ndarray:
    """Sums (number, ...) in float64 of the values (R, ...) at each place."""
    result = np.zeros((number, *values.shape[1:]))
    np.add.at(result, place, values)
    return result


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
