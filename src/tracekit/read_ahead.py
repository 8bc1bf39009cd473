"""Reading the next piece while the present one is worked on: a network need not wait for a decoder."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

Piece = TypeVar("Piece")


class ReadAhead(Generic[Piece]):
    """Calls `read` in a thread of its own, for one piece after the other, so that what it reads from need not be safe for several threads.

    Besides the present piece one more is held. Use it in a `with` block.
    """

    def __init__(self, read: Callable[[Any], Piece]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[Any, Future[Piece]] | None = None

    def get(self, which: Any, then: Any = None) -> Piece:
        """What `read(which)` returns or raises; `then`, if given, is begun to be read. Both are tuples of numbers or arrays of them."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and np.array_equal(ahead[0], which):
            piece = ahead[1].result()
        else:
            piece = self._thread.submit(self._read, which).result()  # in the thread, so that it never reads two at a time
        if then is not None:
            self._ahead = then, self._thread.submit(self._read, then)
        return piece

    def __enter__(self) -> ReadAhead[Piece]:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
