"""Is this file a whole, harmless HDF5 file? Asked before anything in it is believed.

HDF5 accepts more than it should from a stranger: a truncated copy, two files concatenated, links and storage that point
out of the file, sizes that no machine can hold. All of them are refused here, by reading headers only.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tracekit.errors import BadDataError, MissingInputError, ResumableError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Where the superblock holds the end-of-file address, by superblock version (HDF5 File Format Specification, II.A).
_END_OF_FILE_OFFSET = {0: 40, 1: 44, 2: 28, 3: 28}
_SUPERBLOCK_BYTES = 64
# zlib cannot expand by more than 1032; a chunked dataset that claims more than that is lying about its size.
_MAX_EXPANSION = 1100
_MAX_OBJECTS = 20_000
_MAX_DEPTH = 32
_MAX_TEXT_EXPANSION = 16
_KNOWN_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf", 32001: "blosc", 32026: "blosc2"}


def is_hdf5(path: str) -> bool:
    """Whether a file begins as HDF5 does; False for a folder. Raises MissingInputError when the file cannot be read."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(len(SIGNATURE)) == SIGNATURE
    except OSError as error:
        raise MissingInputError(f"{path} cannot be read: {error.strerror}") from None


def check_is_whole(head: bytes, num_bytes: int, name: str) -> None:
    """Raise BadDataError unless `num_bytes` is exactly what the superblock in `head` (the first 64 bytes) promises."""
    if num_bytes == 0:
        raise BadDataError(f"{name} is empty", hint="the command that should have written it failed, or has not run")
    if not head.startswith(SIGNATURE):
        raise BadDataError(
            f"{name} is not an HDF5 file", hint="a file that a tracekit command wrote is expected; a video begins with `tracekit keypoints`"
        )
    version = head[8] if len(head) > 8 else 255
    offset = _END_OF_FILE_OFFSET.get(version)
    if offset is None or len(head) < offset + 8:
        raise BadDataError(f"{name} is cut off or damaged within its first {_SUPERBLOCK_BYTES} bytes")
    (expected,) = struct.unpack_from("<Q", head, offset)
    if num_bytes < expected:
        raise BadDataError(f"{name} is cut off: got {num_bytes} of {expected} bytes", hint="run the command that writes it again")
    if num_bytes > expected:
        raise BadDataError(
            f"{name} has {num_bytes} bytes, {num_bytes - expected} more than the {expected} of the HDF5 file in it",
            hint="were two files concatenated? give them as separate sources",
        )


def open_checked(path: str, name: str) -> h5py.File:
    """Open the HDF5 file at `path` for reading after the checks of this module. `name` is what messages call it."""
    file = open_whole(path, name)
    try:
        _check_objects(file, name, file.id.get_filesize())
        file.visit(lambda _: None)  # reads what is left of the headers, checksums included
    except (RuntimeError, OSError, KeyError, ValueError, OverflowError, UnicodeDecodeError) as error:
        file.close()
        raise BadDataError(f"{name} is damaged: {_first_line(error)}") from None
    except BaseException:
        file.close()
        raise
    return file


def open_whole(path: str, name: str) -> h5py.File:
    """As `open_checked`, but of the objects in the file none has been looked at: for files of very many, of which few are wanted
    (`member`, `attribute`)."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(_SUPERBLOCK_BYTES)
            num_bytes = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        raise MissingInputError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise BadDataError(f"{name} is a folder, not an HDF5 file") from None
    except OSError as error:
        raise MissingInputError(f"{name} cannot be read: {error.strerror}") from None
    check_is_whole(head, num_bytes, name)
    try:
        return h5py.File(path, "r")
    except BlockingIOError:
        raise _locked(name) from None
    except OSError as error:
        if "unable to lock file" in str(error):
            raise _locked(name) from None
        raise BadDataError(f"{name} is damaged: HDF5 cannot open it ({_first_line(error)})") from None


def member(group: h5py.Group, key: str, path: str, name: str) -> h5py.Group | h5py.Dataset | None:
    """What is called `key`, or lies at "key/in/groups", in a group of a file from `open_whole`, after the checks of this module; None where
    there is nothing.

    `path` is what messages call it. Its attributes have not been looked at: see `attribute`.
    """
    before, slash, key = key.rpartition("/")
    if slash:  # one after the other: HDF5 itself would follow links on the way
        inner = member(group, before, path, name)
        if not isinstance(inner, h5py.Group):
            return None
        group = inner
    if not key:
        return None
    link = key.encode()
    try:
        if link not in group.id:
            return None
        if group.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            raise BadDataError(f"{path} in {name} is a soft or external link", hint="tracekit follows no links: store the data itself")
        opened = h5py.h5o.open(group.id, link)
        if isinstance(opened, h5py.h5g.GroupID):
            return h5py.Group(opened)
        if not isinstance(opened, h5py.h5d.DatasetID):
            raise BadDataError(f"{path} in {name} is neither a group nor a dataset")
        _check_dataset(opened, path, name, h5py.h5i.get_file_id(opened).get_filesize())
        return h5py.Dataset(opened)
    except (RuntimeError, OSError, KeyError, ValueError, OverflowError) as error:
        raise BadDataError(f"{path} in {name} is damaged: {_first_line(error)}") from None


def attribute(obj: h5py.Group | h5py.Dataset, key: str, path: str, name: str) -> Any:
    """The value of an attribute of an object from `member`, after the checks of this module; None where there is no such attribute."""
    try:
        if not h5py.h5a.exists(obj.id, key.encode()):
            return None
        _check_attribute(h5py.h5a.open(obj.id, key.encode()), path, name)
        return obj.attrs[key]
    except (RuntimeError, OSError, KeyError, ValueError, OverflowError) as error:
        raise BadDataError(f"attribute {key} of {path} in {name} is damaged: {_first_line(error)}") from None


def check_version(file: h5py.File, kind: str, newest: int, name: str) -> None:
    """Raises BadDataError for a file of format `kind` without a format_version, or of one after `newest`, the last that we read."""
    version = attribute(file, "format_version", "/", name)
    if not isinstance(version, np.integer):
        raise BadDataError(f"{name} has no format_version")
    if version > newest:
        raise BadDataError(
            f"{name} has format_version {int(version)}, but this tracekit reads {kind} up to version {newest}",
            hint="pip install --upgrade tracekit",
        )


def read_dataset(dataset: h5py.Dataset, selection: object = ()) -> np.ndarray:
    """`dataset[selection]`, with damage reported under the dataset's name."""
    try:
        return dataset[selection]
    except OSError as error:
        path = (dataset.name or "").lstrip("/")
        is_filter = "filter returned failure" in str(error)  # the checksum, or a stream that does not unpack
        reason = "its checksum is wrong: bits have flipped since it was written" if is_filter else _first_line(error)
        raise BadDataError(f"{path} in {Path(dataset.file.filename).name} cannot be read: {reason}") from None


def read_text(dataset: h5py.Dataset) -> np.ndarray:
    """A dataset of texts as an array of bytes objects.

    Texts of variable length lie in a heap where many entries, or a fill value, may name the same one: they are read by parts,
    and refused when they grow out of all proportion to the file.
    """
    if not dataset.id.get_type().is_variable_str():
        return read_dataset(dataset)
    limit = _MAX_TEXT_EXPANSION * dataset.file.id.get_filesize() + (1 << 20)
    result = np.empty(dataset.shape, dtype=object)
    total = 0
    for index in np.ndindex(dataset.shape):
        result[index] = read_dataset(dataset, index)
        total += len(result[index])
        if total > limit:
            raise BadDataError(f"{(dataset.name or '').lstrip('/')} unpacks to more than {limit:,} bytes of text: refused")
    return result


def _check_objects(file: h5py.File, name: str, num_bytes: int) -> None:
    """Walk every link without following any that leaves the file, and look at every dataset's header."""
    seen: set[object] = {h5py.h5g.get_objinfo(file["/"].id).objno}
    todo: list[tuple[str, h5py.h5g.GroupID]] = [("", file["/"].id)]
    while todo:
        prefix, group = todo.pop()
        _check_attributes(group, prefix or "/", name)
        for link in group:
            path = f"{prefix}/{link.decode('utf-8', 'replace')}".lstrip("/")
            if group.links.get_info(link).type != h5py.h5l.TYPE_HARD:
                raise BadDataError(f"{path} in {name} is a soft or external link", hint="tracekit follows no links: store the data itself")
            info = h5py.h5g.get_objinfo(group, link)
            address = info.objno
            if address in seen:
                raise BadDataError(f"{path} in {name} is another name of an object that has one already (a hard link)")
            seen.add(address)
            if path.count("/") > _MAX_DEPTH:
                raise BadDataError(f"{name} nests groups more than {_MAX_DEPTH} deep")
            if len(seen) > _MAX_OBJECTS:
                raise BadDataError(f"{name} holds more than {_MAX_OBJECTS} objects")
            obj = h5py.h5o.open(group, link)
            if isinstance(obj, h5py.h5g.GroupID):
                todo.append((path, obj))
            elif isinstance(obj, h5py.h5d.DatasetID):
                _check_attributes(obj, path, name)
                _check_dataset(obj, path, name, num_bytes)
            else:
                raise BadDataError(f"{path} in {name} is neither a group nor a dataset")


def _check_dataset(dataset: h5py.h5d.DatasetID, path: str, name: str, num_bytes: int) -> None:
    plist = dataset.get_create_plist()
    if plist.get_external_count() > 0:
        raise BadDataError(f"{path} in {name} keeps its values in another file (external storage)", hint="store the data itself")
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        raise BadDataError(f"{path} in {name} is a virtual dataset", hint="store the data itself")
    for index in range(plist.get_nfilters()):
        code = plist.get_filter(index)[0]
        if code not in _KNOWN_FILTERS:
            raise BadDataError(f"{path} in {name} uses the HDF5 filter {code}, which tracekit does not know")
    kind, shape = dataset.get_type(), dataset.shape
    _check_type(kind, path, name)
    declared = math.prod(shape) * kind.get_size() if shape else 0
    limit = num_bytes if plist.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) else _MAX_EXPANSION * num_bytes + (1 << 20)
    if declared > limit:
        raise BadDataError(
            f"{path} in {name} declares shape {tuple(shape)}, {declared:,} bytes, in a file of {num_bytes:,}: refused before reading"
        )


def _check_attributes(obj: object, path: str, name: str) -> None:
    for index in range(h5py.h5a.get_num_attrs(obj)):
        _check_attribute(h5py.h5a.open(obj, index=index), path, name)


def _check_attribute(attribute: h5py.h5a.AttrID, path: str, name: str) -> None:
    label = f"attribute {attribute.name.decode('utf-8', 'replace')} of {path}"
    if attribute.get_storage_size() > (1 << 20):
        raise BadDataError(f"{label} in {name} is larger than 1 MiB")
    _check_type(attribute.get_type(), label, name)


def _check_type(kind: h5py.h5t.TypeID, path: str, name: str) -> None:
    known = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID, h5py.h5t.TypeEnumID)
    if not isinstance(kind, known):
        raise BadDataError(f"{path} in {name} holds neither numbers nor text")
    if not isinstance(kind, h5py.h5t.TypeStringID) and kind.get_size() not in (1, 2, 4, 8):
        raise BadDataError(f"{path} in {name} holds numbers of {kind.get_size()} bytes")


def _locked(name: str) -> ResumableError:
    return ResumableError(
        f"{name} is locked: another process has it open for writing", hint="wait for that process and run the same command again"
    )


def _first_line(error: BaseException) -> str:
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__
