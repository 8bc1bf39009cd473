"""New files appear whole or not at all: written beside the target, flushed to the disk, then renamed.

After a kill at any moment the target is either the old complete file or the new complete file. What a killed process left
behind is recognised by its lock, which died with it, and swept by the next command that writes to the same folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from tracekit.errors import CannotCreateError, StorageError

_SUFFIX = ".tracekit-part"
_SWEEP_WITHOUT_LOCKS_AFTER_SECONDS = 24 * 3600


@contextlib.contextmanager
def new_file(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield the path of an empty temporary sibling of `target`; when the block ends well it becomes `target`.

    Raises CannotCreateError before the block runs when the folder cannot be written to, or when `target` exists and `force` is
    False. The temporary is held under a lock, so writers must open it without locking of their own (h5py: locking=False).
    """
    target = Path(target)
    _check_target(target, force)
    sweep(target.parent)
    temporary, descriptor = _create_sibling(target)
    try:
        yield temporary
        os.fsync(descriptor)
        _publish(temporary, target, force)
        _sync_folder(target.parent)
    except OSError as error:
        if is_storage_failure(error):
            raise storage_error(error, f"the folder {target.parent}") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        os.close(descriptor)


def check_can_create(target: Path, *, force: bool) -> None:
    """Raise CannotCreateError if `target` must not or cannot be written. Nothing is left behind."""
    _check_target(target, force)
    temporary, descriptor = _create_sibling(target)  # permissions alone do not tell: network and read-only file systems
    temporary.unlink(missing_ok=True)
    os.close(descriptor)


def _check_target(target: Path, force: bool) -> None:
    folder = target.parent
    if target.is_dir():
        raise CannotCreateError(f"{target} is a folder", hint="name a file, or use -d for a folder of outputs")
    if target.exists() and not force:
        raise CannotCreateError(f"{target} exists", hint="use --force to replace it, or another -o")
    if not folder.is_dir():
        raise CannotCreateError(f"the folder {folder} does not exist", hint=f"mkdir -p {folder}")


_STORAGE_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}


def is_storage_failure(error: BaseException) -> bool:
    """Whether the disk failed. HDF5 reports that as OSError or RuntimeError with "errno = " in the text."""
    if not isinstance(error, (OSError, RuntimeError)):
        return False
    return (getattr(error, "errno", None) or _errno_in_message(str(error))) in _STORAGE_FAILURES


def storage_error(error: OSError, where: str) -> StorageError:
    """Name what the operating system refused, and the folder that it is about."""
    number = error.errno or _errno_in_message(str(error))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left: {where}", hint="free some space there and run the same command again")
    if number == errno.EFBIG:
        return StorageError(f"the file grew past the size limit of this process or disk: {where}", hint="see `ulimit -f`")
    reason = os.strerror(number) if number else str(error).splitlines()[0]
    return StorageError(f"{where}: {reason}")


def _errno_in_message(message: str) -> int:
    """h5py puts the error number into the text: "... errno = 28, error message = 'No space left on device' ..."."""
    _, found, rest = message.partition("errno = ")
    digits = rest.split(",")[0].strip()
    return int(digits) if found and digits.isdigit() else 0


def temporary_name(target: Path) -> Path:
    """A hidden name beside `target` that nobody else has: no other thread, and no process of the same number on another machine.

    A name is never used again: once its file has been renamed, whoever cleans up after it must not meet the next writer's.
    """
    return target.parent / f".{target.name[:180]}.{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"


def _create_sibling(target: Path) -> tuple[Path, int]:
    for _ in range(100):
        temporary = temporary_name(target)
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR):
                raise CannotCreateError(f"cannot create a file in {target.parent}: {error.strerror}") from None
            raise storage_error(error, f"cannot create a file in {target.parent}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is just sweeping it
            os.close(descriptor)
            continue
        except OSError:
            pass  # a file system without locks: the sweep then goes by age
        if not _is_still_there(temporary, descriptor):  # swept between the two calls
            os.close(descriptor)
            continue
        return temporary, descriptor
    raise CannotCreateError(f"cannot find a free temporary name beside {target}")


def _is_still_there(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    return False


def _publish(temporary: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike rename, fails when somebody else was first
    except FileExistsError:
        raise CannotCreateError(
            f"{target} appeared while this command ran", hint="another command wrote it; use --force to replace it"
        ) from None
    except OSError:  # no hard links on this file system
        os.replace(temporary, target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporaries whose writer is gone."""
    for path in folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still_there(path, descriptor):  # else its writer has just finished, and the name may be another's by now
                    path.unlink()
            except BlockingIOError:
                pass  # its writer is alive
            except OSError:
                if time.time() - path.stat().st_mtime > _SWEEP_WITHOUT_LOCKS_AFTER_SECONDS:
                    path.unlink()
            finally:
                os.close(descriptor)
