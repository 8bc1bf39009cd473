"""Messages between tracekit and a network that runs in a process of its own: a JSON header and arrays, each with its length before it.

Only the standard library and numpy, because the process may run under another Python that has no tracekit. Nothing is ever
unpickled: an array travels as its type, its shape and its bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MAGIC = b"TKW1"
MOST_HEADER = 1 << 20
"""Bytes of a header at most: it holds names and numbers."""
MOST_ARRAY = 1 << 36
"""Bytes of one array at most: more than any machine's memory would be a broken stream."""
KINDS = "biuf"
"""Kinds of numbers that travel: truth values, whole numbers and floating-point numbers."""
_START = struct.Struct(">4sI")


class BrokenWireError(Exception):
    """The stream ends in a message, or holds something else than messages."""


def send(write: Callable[[Any], None], message: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one message. `write` takes bytes-like objects and writes them whole.

    Raises TypeError or ValueError, before anything is written, for what cannot be sent.
    """
    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in packed.items():
        if array.dtype.kind not in KINDS or array.nbytes > MOST_ARRAY:
            raise ValueError(f"array {name!r} of type {array.dtype} and shape {array.shape} cannot be sent")
    listed = [{"name": name, "dtype": array.dtype.str, "shape": list(array.shape)} for name, array in packed.items()]
    header = json.dumps({"message": dict(message), "arrays": listed}).encode()
    if len(header) > MOST_HEADER:
        raise ValueError(f"a header of {len(header)} bytes is too long")
    write(_START.pack(MAGIC, len(header)) + header)
    for array in packed.values():
        if array.size:
            write(_bytes_of(array))


def receive(read_into: Callable[[memoryview], None]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read one message. `read_into` fills a buffer whole, and raises EOFError where the stream ends before its first byte.

    Raises BrokenWireError for what is no message.
    """
    start = bytearray(_START.size)
    read_into(memoryview(start))
    magic, length = _START.unpack(start)
    if magic != MAGIC or length > MOST_HEADER:
        raise BrokenWireError("the stream holds something else than messages")
    try:
        text = bytearray(length)
        read_into(memoryview(text))
        header = json.loads(text)
        arrays = {}
        for entry in header["arrays"]:
            dtype, shape = np.dtype(entry["dtype"]), tuple(int(side) for side in entry["shape"])
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind not in KINDS or min(shape, default=0) < 0 or size > MOST_ARRAY:
                raise BrokenWireError(f"an array of type {dtype} and shape {shape} cannot be")
            array = np.empty(shape, dtype)
            if size:
                read_into(_bytes_of(array))
            arrays[entry["name"]] = array
        return dict(header["message"]), arrays
    except EOFError as error:
        raise BrokenWireError("the stream ends in the middle of a message") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenWireError(f"the stream holds something else than messages: {error}") from error


def _bytes_of(array: np.ndarray) -> memoryview:
    """The memory of an array in C order. By way of numpy, because memoryview.cast knows no foreign byte order."""
    return array.reshape(-1).view(np.uint8).data
