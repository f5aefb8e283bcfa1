"""Images that stay on disk: a NumPy file mapped into memory, for data sets larger than it."""

import numpy as np
import torch

from theory.data.imageset import ImageSet
from theory.errors import InputError


def npy(path: str, labels: str | None = None, range: str | None = None) -> ImageSet:
    """Images of an ``.npy`` file, read when they are needed and never as a whole.

    Args:
        path: The file: an array ``(N, C, H, W)`` or ``(N, H, W)`` of float32 in [-1, 1], used as it is. Written piece by piece
            with ``np.lib.format.open_memmap``, it may be larger than the memory.
        labels: Another ``.npy`` file, of N integers. Images of a class must lie side by side if a label is asked for.
        range: Of the pixels, as in `ImageSet`: ``signed`` for [-1, 1], or ``unit`` for [0, 1], scaled whenever they are read.

    Raises:
        InputError: If a file can't be read or an array is not as described.
    """
    images = _mapped(path)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or (images.shape[1] > 4 and images.shape[3] <= 4):
        raise InputError(f"{path}: images of shape {images.shape}", "(N, C, H, W) or (N, H, W)", "write the channels first")
    if images.dtype != np.float32 or not images.flags.c_contiguous:
        raise InputError(
            f"{path}: {'' if images.flags.c_contiguous else 'Fortran-ordered '}images of dtype {images.dtype}",
            "float32 in [-1, 1], row by row: the file is used as it is",
            "write it anew, as in (x / 127.5 - 1).astype(np.float32), or use npz:FILE, which is read and converted",
        )
    classes = None if labels is None else _mapped(labels)
    if classes is not None and not np.issubdtype(classes.dtype, np.integer):
        raise InputError(f"{labels}: labels of dtype {classes.dtype}", "integers", "number the classes")
    return ImageSet(
        torch.from_numpy(images),
        f"npy:{path}" + (f",range={range}" if range else ""),
        labels=None if classes is None else torch.from_numpy(classes.astype(np.int64)),
        on_disk=True,
        range=range,
    )


def _mapped(path: str) -> np.ndarray:
    """The array of a file, copied on write: nothing that is done to it changes the file."""
    try:
        return np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"file {path}: {error}", "a readable .npy file of plain numbers", "write it with np.save(FILE, x)") from error
