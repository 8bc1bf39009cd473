"""Parts of a task from contact and gripper."""

from __future__ import annotations

import numpy as np

from tracekit.simulation.sub_tasks import SHORTEST, sub_task_bounds

OPEN, CLOSED = 0.1, 0.04


def bounds(*runs: tuple[int, bool, float]) -> list[tuple[int, int]]:
    """Parts of runs of (frames, touching, opening)."""
    touching = np.concatenate([np.full(length, touches) for length, touches, _ in runs])
    opening = np.concatenate([np.full(length, wide) for length, _, wide in runs])
    start, stop = sub_task_bounds(touching, opening)
    assert start.dtype == stop.dtype == np.int32
    return list(zip(start.tolist(), stop.tolist(), strict=True))


def test_reach_push_grasp_and_release_follow_each_other() -> None:
    runs = [(30, False, OPEN), (20, True, OPEN), (25, True, CLOSED), (15, False, OPEN)]
    assert bounds(*runs) == [(0, 30), (30, 50), (50, 75), (75, 90)]


def test_a_grasp_right_after_the_touch_belongs_to_it() -> None:
    assert bounds((30, False, OPEN), (SHORTEST - 1, True, OPEN), (30, True, CLOSED)) == [(0, 30), (30, 60 + SHORTEST - 1)]


def test_closing_in_the_air_is_no_part() -> None:
    assert bounds((20, False, OPEN), (30, False, CLOSED), (20, True, CLOSED)) == [(0, 50), (50, 70)]


def test_contacts_that_bounce_are_one() -> None:
    bouncing = [(1, True, OPEN), (SHORTEST - 1, False, OPEN)] * 4 + [(5, True, OPEN), (SHORTEST - 1, False, OPEN)]
    total = sum(length for length, _, _ in bouncing)
    assert bounds((20, False, OPEN), *bouncing) == [(0, 20), (20, 20 + total)]
    assert bounds((20, False, OPEN), (5, True, OPEN), (SHORTEST, False, OPEN)) == [(0, 25 + SHORTEST)], "a short touch alone is none"


def test_a_gripper_that_hardly_moves_holds_nothing() -> None:
    assert bounds((20, False, 0.1), (20, True, 0.1), (20, True, 0.09)) == [(0, 20), (20, 60)]


def test_short_clips_and_none() -> None:
    assert bounds((3, True, OPEN)) == [(0, 3)]
    assert bounds((SHORTEST - 1, False, OPEN), (40, True, OPEN)) == [(0, 40 + SHORTEST - 1)], "too short a beginning"
    start, stop = sub_task_bounds(np.zeros(0, bool), np.zeros(0))
    assert len(start) == len(stop) == 0
