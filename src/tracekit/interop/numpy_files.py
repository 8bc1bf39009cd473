"""NumPy files from strangers, NumPy files that grow row by row, and archives of them that are written block by block.

Nothing is unpickled, nothing is loaded before its header has been held against what is wanted and against the size of the file, and
arrays are mapped, not read: what a file claims costs no memory.
"""

from __future__ import annotations

import io
import math
import mmap
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tracekit.errors import BadDataError

_MOST_HEADER_BYTES = 4096
_KINDS = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "floats"}

Shape = tuple[int | None, ...]
"""Lengths of axes; None where any will do."""


def open_npy(path: Path, kinds: str, shape: Shape) -> np.ndarray:
    """The array of a .npy file, mapped from the disk. `kinds` are the letters of `numpy.dtype.kind` that will do.

    Raises BadDataError naming the file when it is not there, is no .npy file, holds something else (Python objects above all) or
    is shorter than its header claims.
    """
    if not path.is_file():  # nor a pipe, which would block
        raise BadDataError(f"{path} {'is no regular file' if path.exists() else 'is missing'}")
    try:
        with open(path, "rb") as stream:
            found, in_columns, dtype = _read_header(stream, str(path))
            offset, num_bytes = stream.tell(), path.stat().st_size
    except OSError as error:
        raise BadDataError(f"{path} cannot be read: {error.strerror}") from None
    _check(found, dtype, kinds, shape, str(path))
    missing = offset + math.prod(found) * dtype.itemsize - num_bytes
    if missing > 0:
        raise BadDataError(f"{path} is cut off: {missing} bytes are missing of an array {found} of {dtype}")
    if 0 in found:
        return np.zeros(found, dtype)
    return np.memmap(path, dtype, "r", offset, found, "F" if in_columns else "C")


def read_npz(path: Path, wanted: Mapping[str, tuple[str, Shape]], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Small arrays of an .npz archive by name. `wanted` gives the kinds and the shape of each; no length may be None.

    Raises BadDataError as `open_npy` does, and for members that unpack to more than they should. Those in `optional` may be absent.
    """
    if not path.is_file():
        raise BadDataError(f"{path} {'is no regular file' if path.exists() else 'is missing'}")
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            found = {}
            for name, (kinds, shape) in wanted.items():
                if f"{name}.npy" in present:
                    found[name] = _read_member(archive, f"{name}.npy", kinds, shape, f"{name} of {path}")
                elif name not in optional:
                    raise BadDataError(f"{path} holds no {name}")
            return found
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadDataError(f"{path} is no archive of NumPy arrays: {error}") from None


def _read_member(archive: zipfile.ZipFile, member: str, kinds: str, shape: Shape, name: str) -> np.ndarray:
    longest = _MOST_HEADER_BYTES + 8 * math.prod(length or 0 for length in shape)
    with archive.open(member) as packed:
        content = packed.read(longest + 1)
    stream = io.BytesIO(content)
    found, in_columns, dtype = _read_header(stream, name)
    _check(found, dtype, kinds, shape, name)
    values = np.frombuffer(content, np.uint8, offset=stream.tell())
    num_bytes = math.prod(found) * dtype.itemsize
    if len(content) > longest or len(values) < num_bytes:
        raise BadDataError(f"{name} is cut off or overlong: an array {found} of {dtype} is promised")
    return values[:num_bytes].view(dtype).reshape(found, order="F" if in_columns else "C")


def _read_header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"its version is {version[0]}.{version[1]}, but 1.0 is expected")
        return np.lib.format.read_array_header_1_0(stream, max_header_size=_MOST_HEADER_BYTES)
    except OSError:
        raise
    except Exception as error:  # the header is Python source, and its parser fails in as many ways as Python's own
        raise BadDataError(f"{name} is no NumPy array: {str(error)[:200] or type(error).__name__}") from None


def _check(found: tuple[int, ...], dtype: np.dtype, kinds: str, shape: Shape, name: str) -> None:
    if dtype.kind not in kinds:
        wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
        raise BadDataError(f"{name} holds {dtype}, but {wanted} are expected")
    fits = len(found) == len(shape) and all(want is None or have == want for have, want in zip(found, shape, strict=True))
    if not fits or min(found, default=0) < 0:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise BadDataError(f"{name} has shape {found}, but ({wanted}) is expected")


class MappedFrames:
    """A mapped array as `tracekit.records.Frames`. What a slice has read is let go of, so that resident memory does not grow with the file."""

    def __init__(self, stored: np.ndarray) -> None:
        self._stored = stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self._stored.shape

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: Any) -> np.ndarray:
        block = np.array(self._stored[index])
        if isinstance(self._stored.base, mmap.mmap):
            self._stored.base.madvise(mmap.MADV_DONTNEED)
        return block


class NpyWriter:
    """A .npy file that grows along its first axis, so that no array need be held as a whole."""

    def __init__(self, path: Path, dtype: str, row_shape: tuple[int, ...]) -> None:
        self._dtype, self._row_shape, self._num_rows = np.dtype(dtype), row_shape, 0
        self._stream = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._header_end = self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Add `rows` (n, *row_shape). Floats may lose precision, whole numbers must fit."""
        if rows.shape[1:] != self._row_shape:
            raise TypeError(f"rows have shape {rows.shape[1:]}, but {self._row_shape} is expected")
        with np.errstate(over="ignore"):  # beyond float16 lies infinity
            self._stream.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._num_rows += len(rows)

    def close(self) -> None:
        """Write how many rows there are."""
        self._stream.seek(0)
        end = self._write_header()
        self._stream.close()
        if end != self._header_end:  # NumPy leaves room for a longer first axis
            raise RuntimeError("the header of a .npy file changed its length")

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.close()
        else:
            self._stream.close()

    def _write_header(self) -> int:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._num_rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._stream, header)
        return self._stream.tell()


def write_npz_member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Add the array `name` to an .npz archive; `blocks` are runs of its rows, in order, so that it need not be held as a whole."""
    num_rows = 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        for block in blocks:
            if block.shape[1:] != shape[1:]:
                raise TypeError(f"rows of {name} have shape {block.shape[1:]}, but {shape[1:]} is expected")
            stream.write(np.ascontiguousarray(block, dtype).tobytes())
            num_rows += len(block)
    if num_rows != shape[0]:
        raise RuntimeError(f"{name} has {num_rows} rows, but {shape[0]} were announced")
