"""Messages between tracekit and a network in a process of its own."""

import io
import json
import struct

import numpy as np
import pytest

from tracekit.backends.foreign import wire


def sent(message, arrays) -> bytes:
    stream = io.BytesIO()
    wire.send(stream.write, message, arrays)
    return stream.getvalue()


def received(data: bytes):
    stream = io.BytesIO(data)

    def read_into(view: memoryview) -> None:
        if stream.readinto(view) < len(view):
            raise EOFError

    return wire.receive(read_into)


def header(entry) -> bytes:
    text = json.dumps({"message": {}, "arrays": [entry]}).encode()
    return struct.pack(">4sI", wire.MAGIC, len(text)) + text


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f2", "<f4", ">f4", "f8", ">f8"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 4)])
def test_arrays_come_back_as_they_went(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    _, arrays = received(sent({}, {"one": array, "two": np.arange(3)}))
    assert list(arrays) == ["one", "two"]
    assert arrays["one"].dtype == np.dtype(dtype) and arrays["one"].shape == shape
    np.testing.assert_array_equal(arrays["one"], array)
    np.testing.assert_array_equal(arrays["two"], np.arange(3))


def test_bits_that_are_no_number_are_kept():
    array = np.array([np.nan, np.inf, -0.0, 5e-324])
    _, arrays = received(sent({}, {"a": array}))
    assert arrays["a"].tobytes() == array.tobytes()


def test_arrays_that_are_not_in_c_order_keep_their_places():
    array = np.arange(24).reshape(4, 6)
    _, arrays = received(sent({}, {"turned": array.T, "thinned": array[::2, ::-3]}))
    np.testing.assert_array_equal(arrays["turned"], array.T)
    np.testing.assert_array_equal(arrays["thinned"], array[::2, ::-3])


def test_messages_follow_each_other():
    message = {"size": [518, 392], "text": "µ0\n", "none": None, "nested": {"x": 0.1}}
    stream = io.BytesIO(sent(message, {}) + sent({"n": 2}, {"a": np.zeros(5)}))

    def read_into(view: memoryview) -> None:
        if stream.readinto(view) < len(view):
            raise EOFError

    assert wire.receive(read_into) == (message, {})
    assert wire.receive(read_into)[0] == {"n": 2}
    with pytest.raises(EOFError):
        wire.receive(read_into)


@pytest.mark.parametrize(
    "array", [np.array([{}, None]), np.array(["text"]), np.zeros(2, complex), np.zeros(2, "f4,i4"), np.zeros(1, "M8[s]")]
)
def test_what_is_no_array_of_numbers_is_refused_before_anything_is_written(array):
    stream = io.BytesIO()
    with pytest.raises(ValueError, match="'odd' of type"):
        wire.send(stream.write, {}, {"fine": np.zeros(3), "odd": array})
    assert stream.getvalue() == b""


def test_a_message_that_json_cannot_hold_is_refused_before_anything_is_written():
    stream = io.BytesIO()
    with pytest.raises(TypeError):
        wire.send(stream.write, {"x": np.float32(1)}, {})
    with pytest.raises(ValueError, match="too long"):
        wire.send(stream.write, {"x": "y" * wire.MOST_HEADER}, {})
    assert stream.getvalue() == b""


def test_a_stream_that_ends_early_is_broken_wherever_it_ends():
    whole = sent({"n": 1}, {"a": np.arange(10.0)})
    for length in range(8, len(whole)):
        with pytest.raises(wire.BrokenWireError, match="ends in the middle"):
            received(whole[:length])
    with pytest.raises(EOFError):
        received(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"Loading checkpoint shards: 100%\n",
        struct.pack(">4sI", wire.MAGIC, wire.MOST_HEADER + 1),
        struct.pack(">4sI", wire.MAGIC, 4) + b"\xff{}}",
        struct.pack(">4sI", wire.MAGIC, 2) + b"[]",
        struct.pack(">4sI", wire.MAGIC, 28) + b'{"message": 3, "arrays": []}',
        header({"name": "a", "dtype": "O", "shape": [1]}),
        header({"name": "a", "dtype": "nonsense", "shape": [1]}),
        header({"name": "a", "dtype": "f8", "shape": [-1, -1]}),
        header({"name": "a", "dtype": "f8", "shape": [1 << 40]}),
        header({"name": "a", "dtype": "f8", "shape": [1 << 40, 1 << 40]}),
        header({"name": "a", "dtype": "f8"}),
    ],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(wire.BrokenWireError):
        received(data)
