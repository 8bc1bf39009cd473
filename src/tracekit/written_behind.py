"""Writing while the next thing is computed: a network need not wait for a compression or a disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class WrittenBehind:
    """Calls a function with what it is called with, in the same order, but in a thread of its own and up to one call later.

    So one call's arguments are held besides those of the caller; nobody may write into them any more. What the function raises is raised by
    the next call, or by the end of the `with` block, which waits for all that is left to do.
    """

    def __init__(self, write: Callable[..., object]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[object] | None = None

    def __call__(self, *arguments: Any) -> None:
        self.wait()
        self._pending = self._thread.submit(self._write, *arguments)

    def wait(self) -> None:
        """Until everything so far is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> WrittenBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()
