"""Images from a folder of picture files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.data.search import pictures
from theory.data.wait import waiting
from theory.errors import InputError


def folder(path: str, size: int | None = None, grey: bool = False) -> ImageSet:
    """All pictures of a folder, sorted by name; subfolders are classes, numbered in that order.

    Hidden files and folders (such as the ``._photo.png`` that macOS leaves beside ``photo.png``) are no pictures.

    Args:
        path: The folder, with pictures in it or in subfolders.
        size: Resize to squares of that many pixels (cropped to the central square first); pictures
            must have one common size if it is not given.
        grey: Convert to one channel; three otherwise.

    Raises:
        InputError: If there is no picture, one can't be read, has transparency or more than 8 bits,
            or sizes differ.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"folder {path}", "an existing folder", "check the path")
    if size is not None and size < 1:
        raise InputError(f"size={size}", "a positive number of pixels", "ask for a larger size")
    files = pictures(root)
    images = torch.from_numpy(np.stack(_alike(root, files, size, grey))).permute(0, 3, 1, 2).float() / 127.5 - 1
    return ImageSet(images.contiguous(), f"folder:{path}", labels=_labels(root, files), range=SIGNED)


def _alike(root: Path, files: list[Path], size: int | None, grey: bool) -> list[np.ndarray]:
    """Pictures of one common size."""
    read = []
    with waiting(f"pictures read in {root}", len(files)) as told:
        for file in files:
            read.append(_read(file, size, grey))
            if read[-1].shape != read[0].shape:
                raise InputError(
                    f"{file} of {read[-1].shape[1]}x{read[-1].shape[0]} pixels",
                    f"{read[0].shape[1]}x{read[0].shape[0]} pixels, the size of {files[0].name}",
                    "ask for a common size, as in folder:DIR,size=32",
                )
            told(len(read))
    return read


def _read(file: Path, size: int | None, grey: bool) -> np.ndarray:
    """One picture as ``(H, W, C)`` uint8."""
    try:
        with Image.open(file) as opened:
            deep = _more_than_8_bits(opened)
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}, which can't be read as a picture", "an intact picture file", "remove or replace it") from error
    if picture.mode not in ("L", "RGB", "P", "1") or "transparency" in picture.info or deep:
        mode = f"{picture.mode}{' with more than 8 bits' if deep else ''}"
        raise InputError(f"{file} of mode {mode}", "8-bit grey or RGB without transparency", "flatten or convert it")
    picture = picture.convert("L" if grey else "RGB")
    if size is not None:
        side = min(picture.size)
        left, top = ((n - side) // 2 for n in picture.size)
        picture = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(picture)
    return array[..., None] if grey else array


def _more_than_8_bits(picture: Image.Image) -> bool:
    """Pillow opens 16-bit colour as 8-bit RGB without a word; only what it tells its decoder shows it."""
    for decoder, *_, options in getattr(picture, "tile", []):
        options = options if isinstance(options, tuple) else (options,)
        if "16" in str(options[0]) or (decoder.startswith("ppm") and options[-1] > 255):
            return True
    return False


def _labels(root: Path, files: list[Path]) -> torch.Tensor | None:
    """Numbers of the subfolders directly below the root, or None when no picture is in one."""
    names = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
    classes = sorted(set(names))
    return None if classes == [""] else torch.tensor([classes.index(name) for name in names])
