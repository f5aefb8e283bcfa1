"""MNIST and whatever comes in its format (Fashion-MNIST, KMNIST, QMNIST's images): idx files, as they are or gzipped.

An idx file begins with two zero bytes, a byte for the type (8: unsigned bytes), a byte for the number of dimensions, and each dimension
as four bytes, the highest first; then the numbers, the last dimension running fastest (http://yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from theory.data.choose import image_set, sized, specification, taken
from theory.data.imageset import ImageSet
from theory.errors import InputError, choices

SPLITS = {"train": "train", "test": "t10k"}
FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")  # the last three as torchvision lays them
BYTES = 8  # the code of unsigned bytes


def mnist(path: str, split: str = "train", count: int | None = None, classes: str | None = None, size: int | None = None) -> ImageSet:
    """The images, 1 x 28 x 28, scaled from 0..255 to [-1, 1], with their labels.

    Args:
        path: The folder with ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, or these with ``.gz``; or a folder that
            torchvision made.
        split: ``train`` (60,000) or ``test`` (10,000).
        count: Only the first so many.
        classes: Only these, as in ``classes=3+5``.
        size: Resize to that many pixels.

    Raises:
        InputError: If a file is missing or damaged.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r} of mnist", choices(SPLITS), "choose one of these")
    images, labels = _pair(Path(path), SPLITS[split])
    pixels, classes_of = _idx(images, 3), _idx(labels, 1)
    if len(pixels) != len(classes_of) or not len(pixels):
        given = f"{images} with {len(pixels)} images and {labels.name} with {len(classes_of)} labels"
        raise InputError(given, "a label for each image, and at least one", "take both files from one download")
    name = specification("mnist", path, split=split if split != "train" else "", count=count, classes=classes, size=size)
    keep = taken(len(pixels), classes_of, count, classes, name)
    if len(keep) < len(pixels):
        pixels, classes_of = pixels[keep], classes_of[keep]
    return image_set(sized(pixels[..., None], size, name), classes_of, name)


def _pair(root: Path, split: str) -> tuple[Path, Path]:
    """Files of images and labels, of the only folder that has them."""
    found = [pair for folder in FOLDERS if (pair := _in(root / folder, split))]
    if len(found) == 1:
        return found[0]
    if found:
        told = " and ".join(str(images.parent.relative_to(root)) for images, _ in found)
        raise InputError(f"folder {root} with images in {told}", "one data set", f"name one, as in mnist:{found[0][0].parent}")
    raise InputError(
        f"folder {root} without {split} images",
        f"{split}-images-idx3-ubyte and {split}-labels-idx1-ubyte, as they are or with .gz",
        "correct the path",
    )


def _in(folder: Path, split: str) -> tuple[Path, Path] | None:
    files = []
    for what, dimensions in (("images", 3), ("labels", 1)):
        names = [f"{split}-{what}{dot}idx{dimensions}-ubyte{ending}" for ending in ("", ".gz") for dot in "-."]
        files.append(next((folder / name for name in names if (folder / name).is_file()), None))
    return None if None in files else tuple(files)


def _idx(file: Path, dimensions: int) -> np.ndarray:
    """The bytes of an idx file in their shape."""
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(file, f"({type(error).__name__}: {error})", "a readable file") from error
    head = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, BYTES, dimensions)) or len(content) < head:
        raise _damaged(file, f"that begins with {content[:4].hex(' ') or 'nothing'}", f"00 00 08 0{dimensions}, the head of an idx file")
    shape = tuple(int(n) for n in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4))
    if math.prod(shape) != len(content) - head:
        raise _damaged(file, f"of shape {shape} with {len(content) - head} bytes", f"{math.prod(shape)} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _damaged(file: Path, given: str, expected: str) -> InputError:
    return InputError(f"{file} {given}", expected, "download it again, or correct the path")
