"""Decoded pictures kept on disk beside a fingerprint of the files they come from, so that a second start reads them at once.

They lie where indexes of candidates do: in the directory that the environment variable ``SCORE_MACHINES_CACHE`` names, or in
``score-machines`` of the user's cache, as ``pictures/<hash>.npy`` and ``.json``. The hash is of names, sizes and times of change of all
files, and of what is done with them: any change makes another. Nothing is lost by deleting them.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL

from theory.errors import InputWarning

VARIABLE = "SCORE_MACHINES_CACHE"
VERSION = 1  # to be raised whenever the same files give other pixels


def directory() -> Path:
    """Where they are kept."""
    root = os.environ.get(VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "score-machines"
    return Path(root) / "pictures"


def fingerprint(root: Path, files: Sequence[Path], options: dict) -> str:
    """A hash of names, sizes and times of change, and of what is made of the pictures."""
    digest = hashlib.sha256(json.dumps([VERSION, PIL.__version__, str(root.resolve()), options]).encode())
    for file in files:
        found = file.stat()
        digest.update(f"{file.relative_to(root)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def kept(key: str, source: dict, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """Pixels of uint8 from the cache, or decoded and put there; a damaged file is decoded anew, an unwritable place left alone.

    Args:
        key: The `fingerprint`.
        source: What to write beside them, for whoever wonders what a file is.
        decode: Gives the pixels.
    """
    path = directory() / f"{key}.npy"
    try:
        told = json.loads(path.with_suffix(".json").read_text())
        pixels = np.load(path, allow_pickle=False)
        if told["shape"] == list(pixels.shape) and pixels.dtype == np.uint8 and told["sha256"] == _digest(pixels):
            return pixels
    except (OSError, ValueError, KeyError, TypeError):
        pass
    pixels = decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with open(partial, "wb") as file:
            np.save(file, pixels)
        os.replace(partial, path)
        path.with_suffix(".json").write_text(json.dumps({**source, "shape": list(pixels.shape), "sha256": _digest(pixels)}, indent=1))
    except OSError as error:
        told = f"decoded pictures can't be kept in {path.parent} ({error.strerror}), and are decoded again next time"
        warnings.warn(f"{told}; free space there, or set {VARIABLE}", InputWarning, stacklevel=3)
    return pixels


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
