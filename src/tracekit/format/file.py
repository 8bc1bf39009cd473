"""Records to files and back.

    with open_records("in.h5", EPISODE) as source:
        clip = source.read("video")
    with write_records(Target(path), EPISODE, clip_id, base=source) as out:
        out.put(keypoints)
        out.append_step(step)

What a stage does not know it carries along. Arrays that have one picture a frame (depth, embedded frames) are never held as a
whole: they are read by slices and written block by block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from tracekit.errors import BadDataError
from tracekit.format import provenance, streams, validation
from tracekit.format.atomic import check_can_create, is_storage_failure, new_file, storage_error
from tracekit.format.container import check_version, open_checked, read_dataset, read_text
from tracekit.format.schema import KINDS, Entry, FileKind
from tracekit.records import Episode, Frames, Spec

STDIN_NAME = "standard input"
_LIBVER = ("v110", "v110")  # what Debian's h5dump reads
_MILLIMETRE = 0.001
_BLOCK_FRAMES = 16
_CHUNK_BYTES = 1 << 20
# What is read sample by sample, in any order, lies in smaller pieces and unpacked: floats of traces hardly shrink, JPEG not at all.
_SCATTERED_CHUNK_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Target:
    """Where a result goes: a path, or None for standard output."""

    path: Path | None
    force: bool = False

    def check(self) -> None:
        """Fail before any work when the result could not be delivered: exit 73, or 2 when it would land on a terminal."""
        if self.path is None:
            streams.check_stdout_is_no_terminal()
        else:
            check_can_create(self.path, force=self.force)


class DatasetFrames:
    """A dataset with one picture a frame, sliced from the file on demand. Depth comes as float32 metres, 0 where unknown."""

    def __init__(self, dataset: h5py.Dataset, spec: Spec) -> None:
        self._dataset = dataset
        self._is_depth = spec.dtype == "depth"
        self._scale = _metres_per_unit(dataset) if self._is_depth else 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._dataset.shape

    def __len__(self) -> int:
        return self._dataset.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        values = read_dataset(self._dataset, index)
        if not self._is_depth:
            return values
        depth = values.astype(np.float32)
        if self._scale != 1.0:
            depth *= np.float32(self._scale)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


class Column:
    """A dataset of a record that is longer than memory: read by slices along its first axis, each checked as `read` checks the whole."""

    def __init__(self, dataset: h5py.Dataset, entry: Entry, axes: validation.Axes) -> None:
        self._dataset, self._entry, self._axes = dataset, entry, axes
        self._dtype = np.dtype(entry.spec.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._dataset.shape

    def __len__(self) -> int:
        return self._dataset.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        values = read_dataset(self._dataset, rows).astype(self._dtype, copy=False)
        validation.check_values(self._entry.path, self._entry.spec, values, self._axes)
        return values

    def blocks(self) -> Iterator[np.ndarray]:
        """All of it, some mebibytes at a time."""
        row = max(1, int(np.prod(self.shape[1:], dtype=np.int64)) * self._dtype.itemsize)
        for start in range(0, len(self), max(1, _BLOCK_BYTES // row)):
            yield self[start : start + max(1, _BLOCK_BYTES // row)]


def _metres_per_unit(dataset: h5py.Dataset) -> float:
    value = dataset.attrs.get("metres_per_unit", _MILLIMETRE if dataset.dtype.kind == "u" else 1.0)
    if np.shape(value) != () or not np.issubdtype(np.asarray(value).dtype, np.number) or not 0 < float(value) < np.inf:
        raise BadDataError(
            f"attribute metres_per_unit of {(dataset.name or '').lstrip('/')} is {value!r}, but a positive number is expected"
        )
    return float(value)


class RecordFile:
    """An open file whose names, types and shapes have been checked."""

    def __init__(self, file: h5py.File, kind: FileKind, name: str, raw: BinaryIO) -> None:
        self.kind = kind
        self.name = name
        self._raw = raw
        self._file = file
        self._axes = validation.check_layout(file, kind, name)

    @property
    def clip_id(self) -> str:
        return str(self._file.attrs.get("clip_id", ""))

    @property
    def num_bytes(self) -> int:
        return os.fstat(self._raw.fileno()).st_size

    def copy_to(self, path: str) -> None:
        """Copy the file byte by byte."""
        self._raw.seek(0)
        with open(path, "wb") as target:
            shutil.copyfileobj(self._raw, target, 1 << 20)

    @property
    def format_version(self) -> int:
        return int(self._file.attrs["format_version"])

    @property
    def groups(self) -> list[str]:
        """Names of the records in the file, in order of the pipeline."""
        return [group.name for group in self.kind.groups if not group.name or group.name in self._file]

    def read(self, name: str) -> Any:
        """The record of the group `name`, which must be there (see `require`)."""
        self.require(name)
        group = self.kind.group(name)
        return group.record(**{entry.field: self._read_entry(entry) for entry in group.entries()})

    def require(self, name: str) -> None:
        """Raise BadDataError when the group is absent, naming the command that writes it."""
        if name and name not in self._file:
            commands = self.kind.group(name).written_by.split(",")[0]
            raise BadDataError(f"{self.name} has no {name}", hint=f"`tracekit {commands}` writes it")

    def read_or_none(self, name: str) -> Any:
        """Like `read`, but None when the group is absent."""
        return self.read(name) if name in self._file else None

    def column(self, name: str, field: str) -> Column | None:
        """One field of the group `name`, an array of numbers, to be read by slices; None when it is absent."""
        entry = self.kind.group(name).entry(field)
        return Column(self._file[entry.path], entry, self._axes) if entry.path in self._file else None

    def value(self, name: str, field: str) -> Any:
        """One field of the group `name`, read as a whole; None when it is absent."""
        return self._read_entry(self.kind.group(name).entry(field))

    def episode(self) -> Episode:
        """All records of an episode."""
        return Episode(self.clip_id, **{group.name: self.read_or_none(group.name) for group in self.kind.groups})

    def steps(self) -> list[provenance.Step]:
        """The file's history, oldest first."""
        return provenance.read(self._file)

    def unknown_names(self) -> list[str]:
        """Datasets in our groups that this version does not know."""
        return list(validation.check_known_names(self._file, self.kind))

    def datasets(self) -> list[tuple[str, tuple[int, ...], str, int]]:
        """(path, shape, dtype, bytes on disk) of every dataset."""
        rows: list[tuple[str, tuple[int, ...], str, int]] = []
        self._file.visititems(
            lambda path, item: (
                rows.append((path, item.shape, str(item.dtype), item.id.get_storage_size())) if isinstance(item, h5py.Dataset) else None
            )
        )
        return rows

    def summary(self, name: str) -> str:
        """One line about a group: its attributes and the shapes of its datasets."""
        parts = []
        for entry in self.kind.group(name).entries():
            if entry.is_attribute:
                value = self._read_entry(entry)
                parts.append("" if value is None else f"{entry.field}={_short(value)}")
            elif entry.path in self._file:
                shape = "x".join(str(length) for length in self._file[entry.path].shape)
                parts.append(f"{entry.path.removeprefix(name).lstrip('/')}[{shape}]")
        return "  ".join(part for part in parts if part)

    def validate_everything(self) -> None:
        """Read every value once: checksums, rules on values. Raises BadDataError at the first fault."""
        for name in self.groups:
            for entry in self.kind.group(name).entries():
                if entry.is_attribute or entry.spec.dtype == "str" or entry.path not in self._file:
                    self._read_entry(entry)
                elif entry.spec.is_frames:
                    frames = self._read_entry(entry)
                    for start in range(0, len(frames), _BLOCK_FRAMES):
                        frames[start : start + _BLOCK_FRAMES]
                else:
                    for _ in Column(self._file[entry.path], entry, self._axes).blocks():
                        pass
        self.steps()

    def _read_entry(self, entry: Entry) -> Any:
        if entry.is_attribute:
            value = self._file[entry.path or "/"].attrs.get(entry.field)
            return value if value is None or isinstance(value, str) else value.item()
        if entry.path not in self._file:
            return None
        dataset = self._file[entry.path]
        if entry.spec.is_frames:
            return DatasetFrames(dataset, entry.spec)
        if entry.spec.dtype == "str":
            return _decode_text(read_text(dataset), entry.path)
        values = read_dataset(dataset).astype(np.dtype(entry.spec.dtype), copy=False)
        validation.check_values(entry.path, entry.spec, values, self._axes)
        return values


@contextlib.contextmanager
def open_records(source: str | os.PathLike | None, kind: FileKind | None = None, *, others: Sequence[str] = ()) -> Iterator[RecordFile]:
    """Open a file, or standard input for None and "-". With `kind` None any kind is accepted. `others` are formats that the caller reads
    by other means, to be named where none fits.

    Raises MissingInputError when there is nothing to read, BadDataError when it is not a whole, harmless file of that kind
    in a version that is understood, ResumableError when another process is writing it.
    """
    with contextlib.ExitStack() as stack:
        if source is None or os.fspath(source) == "-":
            name = STDIN_NAME
            path, spool = _standard_input(stack)
        else:
            name = path = os.fspath(source)
            spool = None
        file = stack.enter_context(open_checked(path, name))
        if spool is not None:
            spool.forget_name()
        raw = spool.stream if spool is not None else stack.enter_context(open(path, "rb"))
        yield RecordFile(file, _check_kind(file, kind, name, others), name, raw)


def _standard_input(stack: contextlib.ExitStack) -> tuple[str, streams.Spool | None]:
    if path := streams.redirected_file():
        return path, None
    spool = stack.enter_context(streams.Spool())
    streams.fill_from_stdin(spool)
    return spool.path, spool


def _check_kind(file: h5py.File, wanted: FileKind | None, name: str, others: Sequence[str]) -> FileKind:
    expected = wanted.name if wanted else "one of " + ", ".join([*KINDS, *others])
    found = file.attrs.get("format")
    if not isinstance(found, str):
        raise BadDataError(f"{name} is HDF5, but not a tracekit file: it has no attribute `format`; expected {expected}")
    if found not in KINDS or (wanted and found != wanted.name):
        raise BadDataError(f"{name} is of format {found}, but {expected} is expected")
    kind = KINDS[found]
    check_version(file, found, kind.version, name)
    return kind


class RecordWriter:
    """A file being written. `append_step` comes last."""

    def __init__(self, file: h5py.File, kind: FileKind, dropped: list[str]) -> None:
        self._file = file
        self._kind = kind
        self.sinks: list[DepthSink] = []
        self.dropped = dropped
        """Groups of the base that were left behind: they were computed from what is now written anew."""

    def put(self, record: object) -> None:
        """Write a record as its group, which must have been named in `writes`."""
        group = validation.group_of(self._kind, record)
        if group.name:
            self._file.require_group(group.name)
        for entry in group.entries():
            value = getattr(record, entry.field)
            if value is not None:
                self._put_entry(entry, value)
            elif entry.spec.required:
                raise TypeError(f"{type(record).__name__}.{entry.field} is None but required")

    def put_fields(self, name: str, values: Mapping[str, Any]) -> None:
        """Write some fields of the group `name`, for records that come into being piece by piece."""
        for field, value in values.items():
            self._put_entry(self._kind.group(name).entry(field), value)

    def put_in_blocks(
        self,
        name: str,
        small_fields: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        blocks: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    ) -> None:
        """Write the group `name` without ever having it in memory: `small_fields` at once, the arrays with the given `shapes` by
        blocks (first row, {field: rows}). The file is the one that `put` would have written."""
        group = self._kind.group(name)
        self._file.require_group(name)
        self.put_fields(name, small_fields)
        datasets = {}
        for field, shape in shapes.items():
            dtype = np.dtype(group.entry(field).spec.dtype)
            datasets[field] = _create(self._file, group.entry(field), shape, dtype, _chunk_shape(shape, dtype.itemsize))
        for start, block in blocks:
            for field, rows in block.items():
                if rows.size:
                    datasets[field][start : start + len(rows)] = _as_stored(rows, datasets[field].dtype, group.entry(field).path)

    def append(self, name: str, field: str, values: np.ndarray, *, scattered: bool = False) -> None:
        """Add entries at the end of an array of the group `name`; the first call makes it, even when there are none.

        `scattered` arrays will be read in small pieces in any order.
        """
        entry = self._kind.group(name).entry(field)
        data = _as_stored(np.asarray(values), np.dtype(entry.spec.dtype), entry.path)
        if entry.path not in self._file:
            _create_growing(self._file, entry, data.shape[1:], data.dtype, scattered)
        if len(data):
            dataset = self._file[entry.path]
            dataset.resize(len(dataset) + len(data), axis=0)
            dataset[-len(data) :] = data

    def appended(self, name: str, field: str) -> Column:
        """What `append` has written so far."""
        entry = self._kind.group(name).entry(field)
        return Column(self._file[entry.path], entry, validation.Axes())

    def truncate(self, name: str, lengths: Mapping[str, int]) -> None:
        """Take back what was appended beyond these lengths."""
        for field, length in lengths.items():
            self._file[self._kind.group(name).entry(field).path].resize(length, axis=0)

    def depth_sink(self, group: str, num_frames: int, *, metric: bool) -> DepthSink:
        """Where a stage puts the depth of group/depth block by block, before or after `put`."""
        entry = self._kind.group(group).entry("depth")
        self.sinks.append(DepthSink(self._file, entry, num_frames, metric))
        return self.sinks[-1]

    @property
    def num_too_far(self) -> int:
        """Depth pixels that could not be kept, over all depth written."""
        return sum(sink.num_too_far for sink in self.sinks)

    def set_clip_id(self, clip_id: str) -> None:
        self._file.attrs["clip_id"] = clip_id

    def append_step(self, step: provenance.Step) -> None:
        """Add to the file's history."""
        provenance.append(self._file, step)

    def check(self) -> None:
        """Our own output keeps the schema; anything else is a bug of ours."""
        axes = validation.check_layout(self._file, self._kind, "the new file")
        for group in self._kind.groups:
            for entry in group.entries():
                if entry.spec.values and entry.path in self._file:
                    for _ in Column(self._file[entry.path], entry, axes).blocks():
                        pass

    def _put_entry(self, entry: Entry, value: Any) -> None:
        if entry.is_attribute:
            stored = value if isinstance(value, str) else np.dtype(entry.spec.dtype).type(value)
            self._file[entry.path or "/"].attrs[entry.field] = stored
        elif entry.spec.is_frames:
            self._put_frames(entry, value)
        else:
            self._put_array(entry, value)

    def _put_array(self, entry: Entry, value: Any) -> None:
        assert entry.spec.shape is not None
        if entry.spec.dtype == "str":
            data = _encode_text(value, len(entry.spec.shape))
        else:
            data = _as_stored(np.asarray(value), np.dtype(entry.spec.dtype), entry.path)
        dataset = _create(self._file, entry, data.shape, data.dtype, _chunk_shape(data.shape, data.dtype.itemsize))
        if data.size:
            dataset[...] = data

    def _put_frames(self, entry: Entry, frames: Frames) -> None:
        if entry.spec.dtype == "depth":
            metric = not (isinstance(frames, DatasetFrames) and frames._dataset.dtype.kind == "f")
            sink = DepthSink(self._file, entry, len(frames), metric)
            for start in range(0, len(frames), _BLOCK_FRAMES):
                sink(start, frames[start : start + _BLOCK_FRAMES])
            sink.finish(frames.shape[1:])
            self.sinks.append(sink)
            return
        shape = tuple(frames.shape)
        dataset = _create(self._file, entry, shape, np.dtype(entry.spec.dtype), (1, *shape[1:]))
        for start in range(0, len(frames), _BLOCK_FRAMES):
            dataset[start : start + _BLOCK_FRAMES] = frames[start : start + _BLOCK_FRAMES]


def in_millimetres(depth: np.ndarray) -> tuple[np.ndarray, int]:
    """Metric depth as files keep it, uint16 millimetres, and how many pixels are too far for that (beyond 65.535 m): unknown, 0."""
    millimetres = np.rint(depth / _MILLIMETRE)
    too_far = millimetres > np.iinfo(np.uint16).max
    return np.where(too_far, 0, millimetres).astype(np.uint16), int(too_far.sum())


class DepthSink:
    """Call it with (first frame, (n, h, w) float32 depth). Metric depth is kept in millimetres, relative depth as float16."""

    def __init__(self, file: h5py.File, entry: Entry, num_frames: int, metric: bool) -> None:
        self._file = file
        self._entry = entry
        self._num_frames = num_frames
        self._metric = metric
        self._dataset: h5py.Dataset | None = None
        self.num_too_far = 0
        """Pixels beyond what 16 bits hold (65.535 m; 65,504 where relative): written as unknown."""

    def __call__(self, start: int, depth: np.ndarray) -> None:
        dataset = self._open(depth.shape[1:])
        if self._metric:
            dataset[start : start + len(depth)], num_too_far = in_millimetres(depth)
            self.num_too_far += num_too_far
        else:
            too_far = depth > np.finfo(np.float16).max
            self.num_too_far += int(too_far.sum())
            dataset[start : start + len(depth)] = np.where(too_far, 0, depth).astype(np.float16)

    @property
    def was_called(self) -> bool:
        return self._dataset is not None

    def finish(self, size: tuple[int, ...]) -> None:
        """Make the dataset of a clip without frames."""
        self._open(size)

    def _open(self, size: tuple[int, ...]) -> h5py.Dataset:
        if self._dataset is None:
            shape = (self._num_frames, *size)
            self._dataset = _create(self._file, self._entry, shape, np.dtype("u2" if self._metric else "f2"), (1, *size))
            self._dataset.attrs["metres_per_unit"] = _MILLIMETRE if self._metric else 1.0
            self._dataset.attrs["unit"] = "mm" if self._metric else "relative"
        return self._dataset


@contextlib.contextmanager
def write_records(
    target: Target, kind: FileKind, clip_id: str = "", *, base: RecordFile | None = None, writes: set[str] | None = None
) -> Iterator[RecordWriter]:
    """Write a new file. With `base`, everything in it is carried along, but the groups in `writes` and what was computed from them.

    The target appears when the block ends without an error, and not at all otherwise.
    """
    written = writes or set()
    with contextlib.ExitStack() as stack:
        spool: streams.Spool | None = None
        if target.path is None:
            spool = stack.enter_context(streams.Spool())
            path, where = spool.path, f"the temporary folder {os.path.dirname(spool.path)} (TMPDIR)"
        else:
            path = os.fspath(stack.enter_context(new_file(target.path, force=target.force)))
            where = f"the folder {target.path.parent}"
        outdated = kind.outdated_by(written)
        replaced = [name for name in base.groups if name in written | outdated] if base else []
        with _storage_errors(where):
            if base is not None and not replaced:
                base.copy_to(path)
            with _hdf5_file(path, "w" if base is None or replaced else "r+") as file:
                if spool is not None:
                    spool.forget_name()
                if base is not None and replaced:
                    carry_along(base._file, file, without=set(replaced))
                file.attrs["format"], file.attrs["format_version"] = kind.name, kind.version
                if clip_id:
                    file.attrs["clip_id"] = clip_id
                writer = RecordWriter(file, kind, [name for name in replaced if name in outdated])
                yield writer
                writer.check()
        if spool is not None:
            streams.emit(spool)


@contextlib.contextmanager
def new_hdf5_file(path: Path, *, force: bool = False) -> Iterator[h5py.File]:
    """A file of a layout that is not ours, written under the same promises: whole or not at all. Raises StorageError when the disk fails."""
    with (
        new_file(path, force=force) as temporary,
        _storage_errors(f"the folder {path.parent}"),
        _hdf5_file(os.fspath(temporary), "w") as file,
    ):
        yield file


_abandoned: list[h5py.File] = []


@contextlib.contextmanager
def _hdf5_file(path: str, mode: str) -> Iterator[h5py.File]:
    """A new file that is closed at the end, unless the disk failed: closing it then would crash inside HDF5.

    The command line leaves a process in which that happened without running exit handlers (see tracekit.cli.main).
    """
    file = h5py.File(path, mode, libver=_LIBVER, locking=False)  # the temporary is under a lock of ours
    try:
        yield file
        file.close()
    except BaseException as error:
        if is_storage_failure(error):
            _abandoned.append(file)
        else:
            file.close()
        raise


@contextlib.contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_storage_failure(error):
            raise
        raise storage_error(OSError(getattr(error, "errno", None) or 0, str(error)), where) from error


def carry_along(source: h5py.Group, target: h5py.Group, *, without: set[str]) -> None:
    """Copy everything but `without` as it is, ours and strangers'. A plain copy of the file and deletions would leave holes in it.

    Compressed chunks move as they are. (H5Ocopy does that too, but crashes the process when the disk is full.)
    """
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name in source:
        if name in without:
            continue
        item = source[name]
        if isinstance(item, h5py.Group):
            carry_along(item, target.create_group(name), without=set())
        else:
            _carry_dataset(item, target, name)


def _carry_dataset(source: h5py.Dataset, target: h5py.Group, name: str) -> None:
    plist = source.id.get_create_plist()
    copy = h5py.Dataset(h5py.h5d.create(target.id, name.encode(), source.id.get_type(), source.id.get_space(), dcpl=plist))
    for key, value in source.attrs.items():
        copy.attrs[key] = value
    if plist.get_layout() != h5py.h5d.CHUNKED:
        if source.shape is not None and source.size:
            copy[...] = read_dataset(source)
        return
    for index in range(source.id.get_num_chunks()):
        offset = source.id.get_chunk_info(index).chunk_offset
        mask, packed = source.id.read_direct_chunk(offset)
        copy.id.write_direct_chunk(offset, packed, mask)


def _create(file: h5py.File, entry: Entry, shape: tuple[int, ...], dtype: np.dtype, chunks: tuple[int, ...]) -> h5py.Dataset:
    filters: dict[str, Any] = {}
    if 0 not in shape:
        filters = {"chunks": chunks, "shuffle": dtype.kind != "S", "compression": "gzip", "compression_opts": 1, "fletcher32": True}
    dataset = file.create_dataset(entry.path, shape, dtype, **filters)
    _describe(dataset, entry)
    return dataset


def _create_growing(file: h5py.File, entry: Entry, row_shape: tuple[int, ...], dtype: np.dtype, scattered: bool) -> None:
    """An array without entries yet. Chunks follow from the size of a row alone, so that however it grows it lies the same."""
    chunk = max(1, (_SCATTERED_CHUNK_BYTES // max(1, int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize)))
    packed: dict[str, Any] = {} if scattered else {"shuffle": True, "compression": "gzip", "compression_opts": 1}
    shape, longest, chunks = (0, *row_shape), (None, *row_shape), (chunk, *(max(1, length) for length in row_shape))
    _describe(file.create_dataset(entry.path, shape, dtype, maxshape=longest, chunks=chunks, fletcher32=True, **packed), entry)


def _describe(dataset: h5py.Dataset, entry: Entry) -> None:
    for key in ("unit", "frame", "meaning"):
        if text := getattr(entry.spec, key):
            dataset.attrs[key] = text
    dataset.attrs["shape"] = " ".join(str(axis) for axis in entry.spec.shape or ())


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole rows, about a mebibyte of them: few chunks, and a slice along the first axis reads no more than it must."""
    row = max(1, int(np.prod(shape[1:], dtype=np.int64)) * itemsize)
    return (max(1, min(shape[0], _CHUNK_BYTES // row)), *shape[1:]) if shape else ()


def _as_stored(value: np.ndarray, dtype: np.dtype, path: str) -> np.ndarray:
    """Floats may lose precision, whole numbers must keep their value."""
    if value.dtype.kind in "iub" and dtype.kind in "iu":
        stored = value.astype(dtype)
        if not np.array_equal(stored, value):
            raise TypeError(f"{path}: values do not fit into {dtype}")
        return stored
    return value.astype(dtype, casting="same_kind", copy=False)


def _encode_text(value: Any, ndim: int) -> np.ndarray:
    texts = np.array(value, dtype=object)
    if texts.ndim != ndim:  # an empty list has lost its inner axes
        texts = np.empty((0,) * ndim, dtype=object)
    encoded = [text.encode() for text in texts.ravel()]
    width = max([len(text) for text in encoded], default=1) or 1
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", width)).reshape(texts.shape)


def _decode_text(values: np.ndarray, path: str) -> list:
    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        try:
            return value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            raise BadDataError(f"{path} holds text that is not UTF-8") from None

    return decode(values.tolist())


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:12] + "..." + text[-24:]


def read_text_column(path: str, dataset: str) -> list[str]:
    """A list of texts from any harmless HDF5 file: a manifest, for example."""
    with open_checked(path, path) as file:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset) or h5py.check_string_dtype(found.dtype) is None or found.ndim != 1:
            raise BadDataError(f"{path} has no one-dimensional text dataset {dataset!r}", hint="name one with --column")
        return _decode_text(read_text(found), dataset)
