"""Picture files of a folder and its subfolders."""

import errno
import os
import warnings
from collections import Counter
from pathlib import Path

from theory.data.wait import console, waiting
from theory.errors import InputError, InputWarning

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
OUTSIDE_REASON = 10_000  # files of any kind from which on it is said what they are
KINDS = 5  # that are named


def pictures(root: Path) -> list[Path]:
    """All pictures, sorted by name; hidden files and folders (those with a name that begins with a dot) have none.

    Where there are very many files, says how many of which kinds.

    Raises:
        InputError: If there is no picture.
    """
    found, kinds, closed = [], Counter(), []
    with waiting(f"files found in {root}") as told:
        for folder, subfolders, names in os.walk(root, onerror=closed.append):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            shown = [name for name in names if not name.startswith(".")]
            endings = [os.path.splitext(name)[1].lower() for name in shown]
            kinds.update(endings)
            found += [Path(folder, name) for name, ending in zip(shown, endings, strict=True) if ending in EXTENSIONS]
            told(kinds.total())
    if kinds.total() >= OUTSIDE_REASON:
        console().print(f"folder {root}: {_described(kinds)}", markup=False, soft_wrap=True)
    _warn(root, closed)
    if not found:
        raise InputError(f"folder {root} without pictures", f"files of type {', '.join(sorted(EXTENSIONS))}", "check the path")
    return sorted(found)


def _described(kinds: Counter) -> str:
    """How many files there are, of which kinds: ``12,000 files, 11,000 of them pictures (11,000 .png); others: 1,000 .txt``."""
    seen = Counter({kind: count for kind, count in kinds.items() if kind in EXTENSIONS})
    text = f"{kinds.total():,} files, {seen.total():,} of them pictures" + (f" ({_most(seen)})" if seen else "")
    others = kinds - seen
    return text + (f"; others: {_most(others)}" if others else "")


def _most(kinds: Counter) -> str:
    named = [f"{count:,} {kind or 'without an ending'}" for kind, count in kinds.most_common(KINDS)]
    return ", ".join(named + (["..."] if len(kinds) > KINDS else []))


def _warn(root: Path, errors: list[OSError]) -> None:
    """Of subfolders that can't be read; those that are gone by now hold nothing."""
    closed = [error for error in errors if error.errno != errno.ENOENT]
    if closed:
        what = f"{closed[0].filename}" + (f" and {len(closed) - 1} more" if len(closed) > 1 else "")
        told = f"folder {root}: {what} can't be read ({closed[0].strerror}), and what is in there is left out; change its permissions"
        warnings.warn(told, InputWarning, stacklevel=4)
