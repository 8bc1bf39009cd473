"""Results in order whatever the pace, and nothing begun after an error."""

import threading
import time
from functools import partial

import pytest

from tracekit.extract.several_at_once import in_order


def test_results_come_in_order_and_as_many_run_as_may() -> None:
    running, most, lock, meeting = 0, 0, threading.Lock(), threading.Barrier(4)

    def piece(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number < 4:
            meeting.wait(timeout=60)
        time.sleep(0.03 if number % 3 == 0 else 0.005)
        with lock:
            running -= 1
        return number

    assert list(in_order([partial(piece, number) for number in range(20)], 4)) == list(range(20))
    assert most == 4


def test_one_at_once_runs_in_the_thread_of_the_caller() -> None:
    assert list(in_order([threading.get_ident] * 3, 1)) == [threading.get_ident()] * 3
    assert list(in_order([], 4)) == []


def test_an_error_is_raised_in_its_turn_and_ends_all() -> None:
    begun = []

    def piece(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        if number == 3:
            raise KeyError("three")
        return number

    results = []
    with pytest.raises(KeyError, match="three"):
        for result in in_order([partial(piece, number) for number in range(100)], 2):
            results.append(result)
    assert results == [0, 1, 2]
    time.sleep(0.1)
    assert len(begun) < 10


def test_nothing_is_begun_after_an_error_though_its_turn_has_not_come() -> None:
    begun = []

    def piece(number: int) -> int:
        begun.append(number)
        if number == 0:
            while 1 not in begun:
                time.sleep(0.01)
            time.sleep(0.3)
        if number == 1:
            raise KeyError("one")
        return number

    results = in_order([partial(piece, number) for number in range(50)], 2)
    assert next(results) == 0
    with pytest.raises(KeyError, match="one"):
        next(results)
    assert begun == [0, 1]
