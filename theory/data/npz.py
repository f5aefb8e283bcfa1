"""Images from a NumPy archive."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.errors import InputError


def npz(path: str, range: str | None = None) -> ImageSet:
    """Images from an ``.npz`` file with the arrays ``images`` and optionally ``labels`` and ``weights``.

    Args:
        path: The file. ``images`` has shape ``(N, C, H, W)`` or ``(N, H, W)``: uint8 from 0 to 255, or
            floating point in [-1, 1]. ``labels`` are integers, ``weights`` non-negative.
        range: Of floating point images, as in `ImageSet`: ``signed`` for [-1, 1] or ``unit`` for [0, 1].

    Raises:
        InputError: If the file can't be read or an array is not as described.
    """
    arrays = _read(path)
    if "images" not in arrays:
        raise InputError(f"{path} with arrays {sorted(arrays)}", "an array 'images'", "rename it, as in np.savez(FILE, images=x)")
    images = arrays["images"]
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or (images.shape[1] > 4 and images.shape[3] <= 4):
        raise InputError(
            f"{path}: images of shape {images.shape}",
            "(N, C, H, W) or (N, H, W)",
            "move the channels first, as in x.transpose(0, 3, 1, 2)",
        )
    pixels = _pixels(images, path, range)
    weights, labels = _plain(arrays, "weights", np.floating, path), _plain(arrays, "labels", np.integer, path)
    name = f"npz:{path}" + (f",range={range}" if range else "")
    return ImageSet(pixels, name, weights, labels, range=SIGNED if images.dtype == np.uint8 else range)


def _plain(arrays: dict[str, np.ndarray], name: str, kind: type, path: str) -> torch.Tensor | None:
    """An optional array, where it is of that kind of number and fits 64 bits."""
    array = arrays.get(name)
    if array is None:
        return None
    if kind is np.floating and np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float64)
    if not np.issubdtype(array.dtype, kind) or (array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any()):
        wanted = "integers" if kind is np.integer else "real numbers"
        raise InputError(f"{path}: {name} of dtype {array.dtype}", f"{wanted} of at most 64 bits", "convert them")
    return torch.from_numpy(array.astype(np.int64 if kind is np.integer else np.float64))


def _read(path: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise InputError(f"file {path}", "an existing .npz file", "check the path")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, AttributeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"file {path}", "a readable .npz archive of plain arrays", "write it with np.savez(FILE, images=x)") from error


def _pixels(images: np.ndarray, path: str, range: str | None) -> torch.Tensor:
    if images.dtype == np.uint8:
        if range is not None:
            raise InputError(f"range={range} with {path}: images of dtype uint8", "no range: they are from 0 to 255", "leave it out")
        return torch.from_numpy(images).float() / 127.5 - 1
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{path}: images of dtype {images.dtype}", "uint8 in 0..255 or floating point in [-1, 1]", "convert the pixels")
    return torch.from_numpy(images.astype(np.float64))
