"""CIFAR-10 as https://www.cs.toronto.edu/~kriz/cifar.html gives it, in its binary version or the one for Python.

Binary: files of records, each a byte with the class and 3072 bytes with the pixels: 1024 red, 1024 green, 1024 blue, row by row.
Python: pickled dictionaries with ``data``, an array ``(10000, 3072)`` of the same bytes, and ``labels``, a list. They are read by
`theory.data.arrays`, which runs nothing.
"""

from pathlib import Path

import numpy as np

from theory.data.arrays import plain
from theory.data.choose import coloured, image_set, sized, specification, taken
from theory.data.imageset import ImageSet
from theory.errors import InputError, choices

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
FOLDERS = (".", "cifar-10-batches-bin", "cifar-10-batches-py")
RECORD = 1 + 3 * 32 * 32


def cifar10(
    path: str, split: str = "train", count: int | None = None, classes: str | None = None, size: int | None = None, grey: bool = False
) -> ImageSet:
    """The images, 3 x 32 x 32, scaled from 0..255 to [-1, 1], with their labels.

    Args:
        path: The folder with ``data_batch_1.bin`` (binary) or ``data_batch_1`` (Python), or the one above it.
        split: ``train`` (50,000) or ``test`` (10,000).
        count: Only the first so many.
        classes: Only these, by number or name: ``classes=3+5`` or ``classes=cat+dog``.
        size: Resize to that many pixels.
        grey: Convert to one channel.

    Raises:
        InputError: If a file is missing, damaged, or holds anything but the arrays of that format.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r} of cifar10", choices(SPLITS), "choose one of these")
    files = _files(Path(path), SPLITS[split])
    parts = [_binary(file) if file.suffix == ".bin" else _pickled(file) for file in files]
    labels, pixels = (np.concatenate(part) for part in zip(*parts, strict=True))
    name = specification("cifar10", path, split=split if split != "train" else "", count=count, classes=classes, size=size, grey=grey)
    keep = taken(len(labels), labels, count, classes, name, NAMES)
    if len(keep) < len(labels):
        labels, pixels = labels[keep], pixels[keep]
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return image_set(sized(coloured(images, grey), size, name), labels, name)


def _files(root: Path, names: list[str]) -> list[Path]:
    """The files of a split in one folder, all in one version."""
    for folder in FOLDERS:
        for ending in (".bin", ""):
            found = [root / folder / (name + ending) for name in names]
            there = [file for file in found if file.is_file()]
            if len(there) == len(found):
                return found
            if there:
                missing = next(file for file in found if file not in there)
                raise InputError(f"{there[0].parent} without {missing.name}", f"all of {', '.join(f.name for f in found)}", "add the file")
    raise InputError(
        f"folder {root} without CIFAR-10",
        f"{names[0]}.bin (binary version) or {names[0]} (Python version), there or in {FOLDERS[1]} or {FOLDERS[2]}",
        "extract the archive, as in tar -xf cifar-10-python.tar.gz, and name its folder",
    )


def _binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and pixels ``(N, 3072)`` of the binary version."""
    content = _content(file)
    if not content or len(content) % RECORD:
        raise _damaged(file, f"{len(content)} bytes", f"records of {RECORD} bytes: a class and 3072 pixels")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    return _classes(records[:, 0], file), records[:, 1:]


def _pickled(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and pixels of the version for Python."""
    try:
        held = plain(_content(file))
    except Exception as error:  # damaged pickles raise whatever comes up; none of them runs
        told = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise _damaged(file, told, "a dictionary of arrays and lists; nothing else in a pickle is ever run") from error
    found = held if isinstance(held, dict) else {}
    pixels, labels = (found.get(key, found.get(key.encode())) for key in ("data", "labels"))
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != RECORD - 1 or not len(pixels):
        what = f"shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise _damaged(file, f"data of {what}", "an array (N, 3072) of bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(isinstance(n, int) for n in labels):
        raise _damaged(file, "labels that are not", f"a list of {len(pixels)} integers")
    return _classes(np.array(labels), file), pixels


def _classes(labels: np.ndarray, file: Path) -> np.ndarray:
    if labels.min() < 0 or labels.max() > 9:
        raise _damaged(file, f"class {int(labels.max() if labels.max() > 9 else labels.min())}", "classes from 0 to 9")
    return labels.astype(np.int64)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"file {file} ({error.strerror})", "a readable file", "check its permissions") from error


def _damaged(file: Path, given: str, expected: str) -> InputError:
    return InputError(f"{file} with {given}", expected, "download CIFAR-10 again, or correct the path")
