"""HDF5 through pipes. HDF5 needs to seek, so both ends go through a temporary file.

HDF5 wants a name to open a file, so the temporary has one until HDF5 has it open, and then no longer: it vanishes with the
process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import BinaryIO

from tracekit.errors import MissingInputError, StorageError, UsageError
from tracekit.format.atomic import storage_error

_BLOCK = 1 << 20


class Spool:
    """A temporary file in TMPDIR, with a name until `forget_name`."""

    def __init__(self) -> None:
        try:
            descriptor, self.path = tempfile.mkstemp(prefix="tracekit-", suffix=".h5")
        except OSError as error:
            raise temporary_folder_error(error) from None
        self.stream: BinaryIO = open(descriptor, "w+b")  # noqa: SIM115 (closed by __exit__)

    def forget_name(self) -> None:
        """Remove the directory entry; the bytes stay until the stream is closed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget_name()
        with contextlib.suppress(OSError):  # a full disk has been reported by then
            self.stream.close()


def redirected_file() -> str | None:
    """The path of standard input when it is a whole regular file (`< in.h5`): it needs no copy."""
    path = os.path.realpath("/dev/fd/0")
    is_whole_file = stat.S_ISREG(os.fstat(0).st_mode) and os.lseek(0, 0, os.SEEK_CUR) == 0
    return path if is_whole_file and os.path.isfile(path) and os.path.getsize(path) > 0 else None


def fill_from_stdin(spool: Spool) -> None:
    """Take all of standard input.

    Raises UsageError on a terminal, MissingInputError when nothing arrives, StorageError when the temporary folder is full.
    """
    if os.isatty(0):
        raise UsageError("no source: name a file, or pipe one in", hint="tracekit COMMAND --help shows an example")
    try:
        with open(0, "rb", closefd=False) as source:
            shutil.copyfileobj(source, spool.stream, _BLOCK)
        spool.stream.flush()
    except OSError as error:
        raise temporary_folder_error(error) from None
    if spool.stream.tell() == 0:
        if stat.S_ISCHR(os.fstat(0).st_mode):  # /dev/null, as under cron and sbatch
            raise MissingInputError("standard input is empty", hint="name a source")
        raise MissingInputError("upstream produced nothing", hint="the command before this one in the pipe failed: see its message")


def emit(spool: Spool) -> None:
    """Copy a finished spool to standard output."""
    spool.stream.seek(0)
    # Not sys.stdout.buffer: under PYTHONUNBUFFERED=1 that is the raw file, and one write of more than 2 GiB is cut short.
    with open(1, "wb", closefd=False) as target:
        try:
            shutil.copyfileobj(spool.stream, target, _BLOCK)
            target.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise storage_error(error, "writing to standard output") from None


def check_stdout_is_no_terminal() -> None:
    """Raise UsageError when the result would land on a terminal."""
    if os.isatty(1):
        raise UsageError("the result is an HDF5 file and standard output is a terminal", hint="use -o FILE, or a pipe")


def temporary_folder_error(error: OSError) -> StorageError:
    """What the operating system refused in TMPDIR."""
    return storage_error(error, f"the temporary folder {tempfile.gettempdir()} (TMPDIR)")
