"""HTTP by urllib, with a time-out that bounds a request as a whole.

That of the standard library bounds the wait for the next byte: a server that sends a byte now and then is waited for without end.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from functools import partial
from typing import Any

_RECORD = 1 << 14
"""Bytes that are sent at a time: what TLS sends as one piece."""


class BoundedHTTP(urllib.request.HTTPHandler):
    """A handler for `urllib.request.build_opener`. A request that is not answered in time raises TimeoutError, which a URLError may hold.

    Looking up the server's name is left to the system's own patience, and each of its addresses may take the time to be reached.
    """

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class BoundedHTTPS(urllib.request.HTTPSHandler):
    """The same, encrypted; the server must prove who it is."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_EncryptedConnection, req)


class _Connection(http.client.HTTPConnection):
    """A connection for one request, made when that begins. Its time-out is counted from there."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._until = time.monotonic() + float(self.timeout or 0.0)
        self.response_class: Any = partial(_Response, until=self._until)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        for start in range(0, len(data), _RECORD):
            self.sock.settimeout(_left(self._until))
            try:
                super().send(data[start : start + _RECORD])
            except (BrokenPipeError, ConnectionResetError):
                # Who refuses a request by its head reads no more, and may have answered: reading shows it.
                return


class _EncryptedConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, until: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp: Any = io.BufferedReader(_Reader(self.fp.detach(), sock, until))


class _Reader(io.RawIOBase):
    """What comes from a socket until a moment of `time.monotonic()`; after it, TimeoutError."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, until: float) -> None:
        self._raw, self._sock, self._until = raw, sock, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._until))
        return self._raw.readinto(buffer)  # type: ignore[attr-defined,no-any-return]

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
