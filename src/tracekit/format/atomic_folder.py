"""New folders appear whole or not at all: filled beside the target, every file flushed to the disk, then renamed.

After a kill at any moment the target is a complete folder, or is not there where there was none. What a killed process left behind is recognised by its lock,
which died with it, and swept by the next that makes a folder at the same place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tracekit.errors import CannotCreateError
from tracekit.format.atomic import is_storage_failure, storage_error, temporary_name

_SUFFIX = ".tracekit-part"
_SWEEP_WITHOUT_LOCKS_AFTER_SECONDS = 24 * 3600
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


@contextlib.contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `target`; when the block ends well it becomes `target`.

    A folder `target` that exists is refused, or with `replace` stays what it is until the new one is complete, and is then removed.
    Raises CannotCreateError when it cannot be made or another writer was first, StorageError when the disk fails; then nothing is left
    behind, and nothing has changed.
    """
    if target.exists() and not replace:
        raise CannotCreateError(f"{target} exists")
    sweep_folders(target.parent)
    temporary, descriptor = _create_sibling(target)
    try:
        yield temporary
        sync_files(temporary)
        if replace and target.is_dir():
            _swap(temporary, target)
        else:
            _publish(temporary, target)
        sync(target.parent)
    except OSError as error:
        if is_storage_failure(error):
            raise storage_error(error, f"the folder {target.parent}") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, of this process alone, for parts of it; gone when the block ends.

    What a killed process left is swept by the next. Raises CannotCreateError when it cannot be made, StorageError when the disk fails.
    """
    sweep_folders(target.parent)
    temporary, descriptor = _create_sibling(target)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


def _publish(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise CannotCreateError(
            f"{target} appeared while this command ran", hint="another command wrote it; it was left as it is"
        ) from None


def _swap(temporary: Path, target: Path) -> None:
    """Give the two folders each other's names: at once where the system can (Linux' renameat2), else with a moment without `target`."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        failed = True
    else:
        failed = renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) != 0
    if not failed:
        return
    old = temporary_name(target)
    os.rename(target, old)
    try:
        _publish(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(target: Path) -> None:
    """Take a folder away. Its name is gone at once, so that nobody meets it half removed."""
    temporary = temporary_name(target)
    with contextlib.suppress(FileNotFoundError):
        os.rename(target, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def sweep_folders(parent: Path) -> None:
    """Remove temporary folders whose writer is gone."""
    for path in parent.glob(f".*{_SUFFIX}"):
        if not path.is_dir() or path.is_symlink():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:
                pass  # its writer is alive
            except OSError:  # a file system without locks
                if time.time() - path.stat().st_mtime > _SWEEP_WITHOUT_LOCKS_AFTER_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Flush all files under a folder, and the folder itself, to the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_sibling(target: Path) -> tuple[Path, int]:
    for _ in range(100):
        temporary = temporary_name(target)
        try:
            temporary.mkdir()
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        except FileExistsError:
            continue
        except OSError as error:
            if is_storage_failure(error):
                raise storage_error(error, f"cannot create a folder in {target.parent}") from None
            raise CannotCreateError(f"cannot create a folder in {target.parent}: {error.strerror}") from None
        try:
            with contextlib.suppress(OSError):  # a file system without locks, or another process just sweeping it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(temporary).st_ino == os.fstat(descriptor).st_ino:
                return temporary, descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
    raise CannotCreateError(f"cannot find a free temporary name beside {target}")
