"""Work that waits for others, a server mostly, several pieces at the same time, with its results in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def in_order(pieces: Sequence[Callable[[], Result]], at_once: int) -> Iterator[Result]:
    """What each piece returns, in their order, with up to `at_once` of them under way. One at once: in the caller's own thread.

    What a piece raises is raised here when its turn comes. Once one has raised, or the caller stops early, no piece is begun any more; those
    under way then are not waited for (their threads end with the program), so that Ctrl-C does not wait for a server.
    """
    if at_once <= 1 or len(pieces) <= 1:
        for piece in pieces:
            yield piece()
        return
    ended: list[queue.SimpleQueue[tuple[Result | None, BaseException | None]]] = [queue.SimpleQueue() for _ in pieces]
    stopped, numbers, taking = threading.Event(), iter(range(len(pieces))), threading.Lock()

    def work() -> None:
        while not stopped.is_set():
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            try:
                ended[number].put((pieces[number](), None))
            except BaseException as error:
                stopped.set()  # all before it are begun: numbers are taken in order
                ended[number].put((None, error))

    for _ in range(min(at_once, len(pieces))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for outcome in ended:
            result, error = outcome.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        stopped.set()
