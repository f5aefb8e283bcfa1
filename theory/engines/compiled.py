"""Compiled functions that are kept between runs, wherever there is a place for them.

Numba keeps them in the directory ``NUMBA_CACHE_DIR`` names, beside the source or in the user's cache, and refuses to compile where none can
be written, as in a container or on a node of a cluster. Then they are kept in a directory of the user's among the temporary files.
"""

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numba
from numba import njit

NOWHERE = "no locator available"  # what numba says where it can't write


def compiled(**options) -> Callable[[Callable], Callable]:
    """``numba.njit(cache=True, **options)``, also where numba finds no place for its cache."""

    def decorate(function: Callable) -> Callable:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as error:
            if NOWHERE not in str(error):
                raise
        place = _temporary()
        if place is None:
            return njit(**options)(function)
        with _cached_in(place):
            return njit(cache=True, **options)(function)

    return decorate


@cache
def _temporary() -> Path | None:
    """A directory of this user's alone for compiled functions, or None where no temporary file can be written; tells which, once."""
    try:
        place = _own(Path(tempfile.gettempdir()) / f"score-machines-{os.getuid() if hasattr(os, 'getuid') else 'numba'}")
    except OSError:
        place = None
    if os.environ.get("RANK", "0") == "0":  # processes started together need say it once
        kept = f"kept in {place}" if place else "not kept, and every run compiles anew"
        logging.getLogger(__name__).warning(
            "compiled functions are %s: neither the package nor the home directory can be written to; set NUMBA_CACHE_DIR to choose", kept
        )
    return place


def _own(path: Path) -> Path:
    """That directory, made if missing; another one where somebody else could have put files into it, which numba would run."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    mine = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    if not (stat.S_ISDIR(found.st_mode) and mine and os.access(path, os.W_OK)):
        return Path(tempfile.mkdtemp(prefix="score-machines-"))
    return path


@contextmanager
def _cached_in(place: Path) -> Iterator[None]:
    """Numba's cache in a directory, for what is compiled inside; functions of others keep theirs."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(place)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
