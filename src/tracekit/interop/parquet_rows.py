"""Parquet files of strangers, row by row: what they claim is looked at before anything is unpacked, and nothing in them is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.errors import BadDataError, MissingInputError, UnavailableError

_ROWS_AT_A_TIME = 64
_MOST_ROWS = 1 << 31
_MOST_BYTES_OF_A_GROUP = 8 << 30
"""Unpacked, of the columns that are read."""
_MOST_NUMBERS = 1 << 16
"""In a row of one column."""


def arrow() -> Any:
    """The package pyarrow with its parquet reader. Raises UnavailableError when it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnavailableError(
            "the package pyarrow, which reads Parquet, is not installed", hint="pip install '.[lerobot]' in the clone of tracekit"
        ) from None
    return pyarrow


class ParquetRows:
    """Chosen columns of a Parquet file, read forwards by ranges of rows; a few rows are in memory at a time.

    Raises MissingInputError when there is no such file, BadDataError when it is none, is damaged, lacks a column, or claims more than fits.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._columns = list(columns)
        pyarrow = arrow()
        if not path.is_file():
            raise MissingInputError(f"{path} does not exist", hint="the dataset is not complete: was all of it downloaded?")
        with self._damage():
            self._file = pyarrow.parquet.ParquetFile(path)
        self.schema = self._file.schema_arrow
        missing = [name for name in columns if name not in self.schema.names]
        if missing:
            self.close()
            raise BadDataError(f"{path} has no column {missing[0]}", hint=f"its columns are: {', '.join(map(str, self.schema.names))}")
        self._check_sizes()
        rows = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        """First row of each group, and the number of all."""
        self._ahead: Iterator[Any] = iter(())
        self._batch: Any = None
        self._position = 0
        """Row at which `_batch` begins."""

    @property
    def num_rows(self) -> int:
        return int(self._starts[-1])

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Rows `start` to `stop` as pyarrow's RecordBatches of up to 64 rows. Going back costs a group of rows."""
        if not 0 <= start <= stop <= self.num_rows:
            raise BadDataError(f"{self.path} has {self.num_rows} rows, but rows {start} to {stop} belong to an episode")
        while start < stop:
            self._go_to(start)
            offset = start - self._position
            batch = self._batch.slice(offset, min(self._batch.num_rows - offset, stop - start))
            yield batch
            start += batch.num_rows

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ParquetRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _go_to(self, row: int) -> None:
        """Have the batch that holds a row."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._batch is None or row < self._position or self._starts[group] > self._position + self._batch.num_rows:
            groups = list(range(group, self._file.num_row_groups))
            self._ahead = self._file.iter_batches(batch_size=_ROWS_AT_A_TIME, row_groups=groups, columns=self._columns)
            self._position, self._batch = int(self._starts[group]), None
        with self._damage():
            while self._batch is None or row >= self._position + self._batch.num_rows:
                self._position += self._batch.num_rows if self._batch is not None else 0
                self._batch = next(self._ahead, None)
                if self._batch is None:
                    raise BadDataError(f"{self.path} is damaged: it ends before row {row} of {self.num_rows}")

    def _check_sizes(self) -> None:
        metadata = self._file.metadata
        if metadata.num_rows > _MOST_ROWS:
            raise BadDataError(f"{self.path} claims {metadata.num_rows} rows: refused")
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            parts = [group.column(column) for column in range(group.num_columns)]
            size = sum(part.total_uncompressed_size for part in parts if self._is_wanted(part.path_in_schema))
            if group.num_rows < 0 or not 0 <= size <= _MOST_BYTES_OF_A_GROUP:
                raise BadDataError(f"{self.path} would unpack to {size:,} bytes at once: refused")

    def _is_wanted(self, path: str) -> bool:
        """Whether a part of a column, `observation.state.list.element`, is of a column that is read."""
        return any(path == column or path.startswith(f"{column}.") for column in self._columns)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        pyarrow = arrow()
        try:
            yield
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise BadDataError(f"{self.path} is no Parquet file, or is damaged: {str(error).splitlines()[0][:200]}") from None


def numbers(batch: Any, column: str, where: str) -> np.ndarray:
    """A column of numbers or of lists of equally many numbers, (n,) or (n, k), in the type in which it is stored.

    Raises BadDataError for other types, for missing values, and for lists of different lengths.
    """
    pyarrow = arrow()
    values = batch.column(column)
    kind = values.type
    if isinstance(values, pyarrow.ExtensionArray):
        values, kind = values.storage, values.type.storage_type
    length = None
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        lengths = values.value_lengths() if not pyarrow.types.is_fixed_size_list(kind) else None
        distinct = {kind.list_size} if lengths is None else set(lengths.to_pylist())
        if values.null_count or len(distinct) > 1:
            raise BadDataError(f"{where}: `{column}` has rows of different lengths, or without a value")
        length = distinct.pop() if distinct else 0
        if not 0 < length <= _MOST_NUMBERS:
            raise BadDataError(f"{where}: `{column}` has {length} numbers a row")
        values = values.flatten()
        kind = values.type
    is_number = pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind)
    if not is_number or values.null_count:
        raise BadDataError(f"{where}: `{column}` is {batch.schema.field(column).type}, or has missing values; numbers are expected")
    flat = values.to_numpy(zero_copy_only=False)
    return flat if length is None else flat.reshape(batch.num_rows, length)
