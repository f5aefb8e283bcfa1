"""One run at a time in an output directory.

A run holds an exclusive lock (``flock``) on the file `NAME` in its directory, in which it says who it is. The system drops the lock when
the process ends, however it ends: what a killed run leaves is a file that locks nothing. Network file systems pass such locks on to their
server, and some have none. There the file itself is the lock. One of a process on this machine counts while that process lives; one of
another machine counts until somebody removes it, because nobody here can tell whether that run has ended.
"""

import errno
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from theory.errors import InputError, InputWarning
from theory.holder import gone, named, oneself, read

try:
    import fcntl
except ImportError:  # Windows: as a file system without locks
    fcntl = None

NAME = ".score-machines-lock"
LACKING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # what file systems without locks answer


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Be the only run that writes to a directory; it is made if missing, and removed again if nothing was written.

    Raises:
        InputError: If another run writes there, which is then left alone, or the directory can't be written.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = _hold(directory / NAME)
    except OSError as error:
        _remove_empty(missing)
        given = f"output directory {directory} ({error.strerror})"
        raise InputError(given, "a directory that can be written", "choose another --out") from error
    try:
        os.truncate(file, 0)
        os.write(file, json.dumps(oneself()).encode())
        yield
    finally:
        _release(file, directory / NAME)
        _remove_empty(missing)


def contents(directory: Path) -> list[Path]:
    """What a directory holds beside a lock."""
    return [entry for entry in directory.iterdir() if entry.name != NAME]


def _hold(lock: Path) -> int:
    """The descriptor of the lock file, once it is ours."""
    while True:
        file, new = _opened(lock)
        try:
            ours = _locked(file, lock) or _claimed(lock, new)
        except BaseException:
            os.close(file)
            raise
        if ours and _is_at(file, lock):
            return file
        os.close(file)  # its holder removed it after we had opened it


def _opened(lock: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether it was made for it."""
    with suppress(FileExistsError):
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), False


def _locked(file: int, lock: Path) -> bool:
    """Lock the file; False where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(lock, "wait for it, or choose another --out") from error
    except OSError as error:
        if error.errno in LACKING:
            return False
        raise
    return True


def _claimed(lock: Path, new: bool) -> bool:
    """Take the file as the lock, where there are no others; False after removing that of a run that has ended."""
    if new:
        told = (
            f"{lock.parent} is on a file system without locks: if this run is killed, and resumed on another machine, remove {lock} first"
        )
        warnings.warn(told, InputWarning, stacklevel=2)
        return True
    if gone(read(lock)):
        lock.unlink(missing_ok=True)
        return False
    raise _busy(lock, f"wait for it, choose another --out, or remove {lock} if it has ended: this file system has no locks that would tell")


def _busy(lock: Path, remedy: str) -> InputError:
    given = f"output directory {lock.parent}, to which {named(read(lock))} is writing"
    return InputError(given, "a directory to which no other run writes", remedy)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _release(file: int, lock: Path) -> None:
    """Remove the file while it is locked, so that whoever has it open sees that it is gone, and then unlock it."""
    ours = _is_at(file, lock)
    if fcntl is None:  # Windows removes no file that is open
        os.close(file)
    with suppress(OSError):  # the results are whole: a file that can't be removed locks nothing
        if ours:
            lock.unlink()
    if fcntl is not None:
        os.close(file)


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:  # something was written
            return
