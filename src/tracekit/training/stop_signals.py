"""SIGTERM and SIGUSR1 ask a training to stop at the next step boundary."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether somebody asked."""

    def __init__(self) -> None:
        self.name = ""

    @property
    def is_made(self) -> bool:
        return bool(self.name)

    def _take(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def heed_stop_signals() -> Iterator[StopRequest]:
    """Within the block the signals are noted instead of ending the process. Handlers only set a flag, so no write is torn."""
    request = StopRequest()
    earlier = {number: signal.signal(number, request._take) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
