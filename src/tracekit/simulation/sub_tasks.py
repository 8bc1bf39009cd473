"""Where one part of a task ends and the next begins: when the gripper comes to a thing, takes hold of it, lets it go, leaves it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SHORTEST = 12
"""Frames that a part of a task lasts at least. What is pushed or pulled bounces: a touch that is broken for less goes on."""
LEAST_TRAVEL = 0.02
"""Metres by which the opening of a gripper must vary to count as opening and closing."""


def sub_task_bounds(touching: np.ndarray, opening: np.ndarray, shortest: int = SHORTEST) -> tuple[np.ndarray, np.ndarray]:
    """First frames and ends (E,) of the parts of a task: reach, act with the open gripper or holding, release.

    `touching` (T,) bool: the gripper is in contact with a thing; `opening` (T,) metres between its fingers. The gripper holds
    what it touches while it is closed: below the middle between its widest and its narrowest, if these differ by more than
    LEAST_TRAVEL. Opening and closing in the air is no part of its own, and neither is what lasts less than `shortest` frames.
    """
    if len(touching) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    touches = _without_short(_without_short(touching, False, shortest), True, shortest)
    closed = (opening < (opening.min() + opening.max()) / 2) & (np.ptp(opening) > LEAST_TRAVEL)
    state = touches.astype(int) + (touches & closed)
    starts = [0]
    for change in np.flatnonzero(np.diff(state)) + 1:
        if change - starts[-1] >= shortest and len(state) - change >= shortest:
            starts.append(int(change))
    return np.array(starts, np.int32), np.array([*starts[1:], len(state)], np.int32)


def _without_short(flags: np.ndarray, value: bool, shortest: int) -> np.ndarray:
    """`flags` (T,) bool, with runs of `value` that are shorter than `shortest` turned over; the first run stays as it is."""
    result = flags.copy()
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1), len(flags)]
    for start, stop in pairwise(edges):
        if start > 0 and flags[start] == value and stop - start < shortest:
            result[start:stop] = not value
    return result
