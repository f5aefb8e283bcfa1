"""One run at a time in an output directory.

A run holds an exclusive lock (``flock``) on the file `NAME` in its directory, in which it says who it is. The system drops the lock when the
process ends, however it ends; a file left behind by a killed run holds nothing. Network file systems pass such locks on to their server, and
some have none. There, the file alone is the lock: that of a process of this machine counts while the process lives, and that of
another machine until somebody removes it.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from theory.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: as where a file system has no locks
    fcntl = None

NAME = ".score-machines-lock"
LACKING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Be the only run that writes to a directory, made if missing, and gone again if nothing was written.

    Raises:
        InputError: If another run writes there, which is then left alone, or the directory can't be written.
    """
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = _locked(path / NAME)
    except OSError as error:
        _remove_empty(missing)
        raise InputError(
            f"output directory {path} ({error.strerror})", "a directory that can be written", "choose another --out"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_at(file, path / NAME):
                (path / NAME).unlink()  # while it is locked: who waits for it sees that it is gone
        os.close(file)
        _remove_empty(missing)


def contents(path: Path) -> list[Path]:
    """What a directory holds beside a lock."""
    return [entry for entry in path.iterdir() if entry.name != NAME]


def _locked(path: Path) -> int:
    """The descriptor of the lock file, locked, with our name in it."""
    while True:
        file, made = _opened(path)
        try:
            if _lock(file):
                if _is_at(file, path):
                    break
            elif made or _abandoned(path):
                _warn(path)
                break
            else:
                raise _busy(path, f"or remove {path} if that run has ended: this file system has no locks, which would tell")
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its owner removed it between our opening and locking it
    os.truncate(file, 0)
    os.write(file, json.dumps(_oneself()).encode())
    return file


def _opened(path: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether it is new."""
    with suppress(FileExistsError):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False


def _lock(file: int) -> bool:
    """Lock it; False where the file system has no locks.

    Raises:
        InputError: If another process has locked it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(Path(os.readlink(f"/proc/self/fd/{file}"))) from error
    except OSError as error:
        if error.errno in LACKING:
            return False
        raise
    return True
