"""Does a file, or a record about to be written, keep what the schema promises? Messages name the dataset and both values."""

from __future__ import annotations

from collections.abc import Iterable

import h5py
import numpy as np

from tracekit.errors import BadDataError
from tracekit.format.schema import Entry, FileKind, Group
from tracekit.geometry import se3
from tracekit.records import Spec

_STORED_DEPTH = ("u2", "f2", "f4")


class Axes:
    """The value of every symbol met so far, and the dataset that fixed it."""

    def __init__(self) -> None:
        self._bound: dict[str, tuple[int, str]] = {}

    def bind(self, path: str, spec: Spec, shape: tuple[int, ...], where: str) -> None:
        """Raise BadDataError unless `shape` is what `spec` says, given the symbols bound so far."""
        assert spec.shape is not None
        wanted = " ".join(str(axis) for axis in spec.shape)
        if len(shape) != len(spec.shape):
            raise BadDataError(f"{path} has shape {shape}, but {len(spec.shape)} axes are expected ({wanted}){where}")
        for axis, length in zip(spec.shape, shape, strict=True):
            if isinstance(axis, int):
                if length != axis:
                    raise BadDataError(f"{path} has shape {shape}, but the axis of {axis} has {length} ({wanted}){where}")
                continue
            symbol, _, plus = axis.partition("+")
            value = length - int(plus or 0)
            known, source = self._bound.setdefault(symbol, (value, path))
            if value != known:
                raise BadDataError(f"{path} has shape {shape}, but {symbol} = {known} (from {source}); expected ({wanted}){where}")

    def __getitem__(self, symbol: str) -> int | None:
        return self._bound[symbol][0] if symbol in self._bound else None


def check_layout(file: h5py.File, kind: FileKind, name: str) -> Axes:
    """Names, types and shapes of everything that the schema knows and the file holds. Reads headers only."""
    axes = Axes()
    for group in kind.groups:
        if group.name and group.name not in file:
            continue
        for entry in group.entries():
            if entry.is_attribute:
                _check_attribute(file, entry, name)
            else:
                _check_dataset(file, entry, axes, name)
    return axes


def check_values(path: str, spec: Spec, value: np.ndarray, axes: Axes) -> None:
    """The rule on values that the schema declares. Raises BadDataError naming the first offending index."""
    rule, _, symbol = spec.values.partition(" ")
    if rule == "mask":
        _refuse(path, value > 1, value, "only 0 and 1 are allowed")
    elif rule == "finite":
        _refuse(path, ~np.isfinite(value), value, "every value must be finite")
    elif rule == "pose":
        _refuse(path, ~se3.is_pose(value), value, "not a rigid motion (rotation with determinant +1, last row 0 0 0 1)")
    elif rule == "range":
        limit = axes[symbol]
        if limit is not None:
            _refuse(path, (value < 0) | (value >= limit), value, f"an index must be in 0..{limit - 1} ({symbol} = {limit})")


def check_known_names(file: h5py.File, kind: FileKind) -> Iterable[str]:
    """Datasets inside our groups that the schema does not know: harmless, but worth a word."""
    known = {entry.path for group in kind.groups for entry in group.entries()}
    ours = {group.name for group in kind.groups if group.name}
    unknown: list[str] = []
    file.visit(lambda path: unknown.append(path) if path.split("/")[0] in ours and path not in known | ours else None)
    return unknown


def _check_attribute(file: h5py.File, entry: Entry, name: str) -> None:
    attributes = file[entry.path or "/"].attrs
    label = f"attribute {entry.field} of {entry.path or '/'} in {name}"
    if entry.field not in attributes:
        if entry.spec.required:
            raise BadDataError(f"{label} is missing")
        return
    value = attributes[entry.field]
    if entry.spec.dtype == "str":
        if not isinstance(value, str):
            raise BadDataError(f"{label} is {value!r}, but text is expected")
    elif np.shape(value) != () or not np.issubdtype(np.asarray(value).dtype, np.number):
        raise BadDataError(f"{label} is {value!r}, but one number is expected")


def _check_dataset(file: h5py.File, entry: Entry, axes: Axes, name: str) -> None:
    where = f" in {name}"
    if entry.path not in file:
        if entry.spec.required:
            raise BadDataError(f"{entry.path} is missing{where}")
        return
    dataset = file[entry.path]
    if not isinstance(dataset, h5py.Dataset):
        raise BadDataError(f"{entry.path}{where} is a group, but a dataset is expected")
    if dataset.shape is None:
        raise BadDataError(f"{entry.path}{where} has no shape (a null dataspace)")
    _check_dtype(entry, dataset, where)
    axes.bind(entry.path, entry.spec, dataset.shape, where)


def _check_dtype(entry: Entry, dataset: h5py.Dataset, where: str) -> None:
    if entry.spec.dtype == "str":
        if h5py.check_string_dtype(dataset.dtype) is None:
            raise BadDataError(f"{entry.path} has dtype {dataset.dtype}, but text is expected{where}")
        return
    expected = _STORED_DEPTH if entry.spec.dtype == "depth" else (entry.spec.dtype,)
    found = dataset.dtype.newbyteorder("=")
    if not any(found == np.dtype(code) for code in expected):
        wanted = " or ".join(str(np.dtype(code)) for code in expected)
        raise BadDataError(f"{entry.path} has dtype {dataset.dtype}, but {wanted} is expected{where}")


def _refuse(path: str, wrong: np.ndarray, value: np.ndarray, rule: str) -> None:
    if not wrong.any():
        return
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    label = ", ".join(str(i) for i in index)
    shown = "" if value[index].ndim else f" is {value[index]}"
    raise BadDataError(f"{path}[{label}]{shown}: {rule} ({int(wrong.sum())} such entries)")


def group_of(kind: FileKind, record: object) -> Group:
    """The group that holds records of this type."""
    return next(group for group in kind.groups if group.record is type(record))
