"""Images from a folder of picture files."""

from pathlib import Path

import numpy as np

from theory.data import cache
from theory.data.choose import check_size, image_set, specification, taken
from theory.data.decode import alike, decoded
from theory.data.imageset import ImageSet
from theory.data.search import pictures
from theory.data.wait import MANY
from theory.errors import InputError


def folder(path: str, size: int | None = None, grey: bool = False, count: int | None = None, classes: str | None = None) -> ImageSet:
    """All pictures of a folder, sorted by name; subfolders are classes, numbered in that order.

    Hidden files and folders (such as the ``._photo.png`` that macOS leaves beside ``photo.png``) are no pictures. They are decoded
    in parallel; a thousand and more are kept, decoded, for the next time (`theory.data.cache`).

    Args:
        path: The folder, with pictures in it or in subfolders.
        size: Resize to squares of that many pixels (cropped to the central square first); pictures
            must have one common size if it is not given.
        grey: Convert to one channel; three otherwise.
        count: Only the first so many, in the order of their names.
        classes: Only these subfolders, by name or number, as in ``classes=cats+dogs``.

    Raises:
        InputError: If there is no picture, one can't be read, has transparency or more than 8 bits,
            or sizes differ.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"folder {path}", "an existing folder", "check the path")
    check_size(size)
    files = pictures(root)
    names, labels = _labels(root, files)
    name = specification("folder", path, count=count, classes=classes)  # size and grey show in the images
    keep = taken(len(files), labels, count, classes, name, names)
    files, labels = [files[i] for i in keep], None if labels is None else labels[keep]
    options = {"size": size, "grey": grey}
    if len(files) < MANY:
        pixels = _alike(root, files, size, grey)
    else:
        source = {"folder": str(root.resolve()), "pictures": len(files), **options}
        pixels = cache.kept(cache.fingerprint(root, files, options), source, lambda: _alike(root, files, size, grey))
    return image_set(pixels, labels, name, patch_size=(3, 3))


def _alike(root: Path, files: list[Path], size: int | None, grey: bool) -> np.ndarray:
    """Pictures of one common size, ``(N, H, W, C)``."""
    return alike(
        len(files),
        lambda i: decoded(files[i], str(files[i]), size, grey),
        lambda i: str(files[i]) if i else files[0].name,
        str(root),
        "ask for a common size, as in folder:DIR,size=32",
    )


def _labels(root: Path, files: list[Path]) -> tuple[list[str], np.ndarray | None]:
    """The subfolders directly below the root, and their numbers file by file, or None when no picture is in one."""
    names = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
    classes = sorted(set(names))
    if classes == [""]:
        return [], None
    numbers = {name: i for i, name in enumerate(classes)}
    return classes, np.array([numbers[name] for name in names])
