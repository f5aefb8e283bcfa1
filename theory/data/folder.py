"""Images from a folder of picture files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.errors import InputError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


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
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and not _hidden(p.relative_to(root)))
    if not files:
        raise InputError(f"folder {path} without pictures", f"files of type {', '.join(sorted(EXTENSIONS))}", "check the path")
    pictures = [_read(file, size, grey) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise InputError(
                f"{file} of {picture.shape[1]}x{picture.shape[0]} pixels",
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]} pixels, the size of {files[0].name}",
                "ask for a common size, as in folder:DIR,size=32",
            )
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return ImageSet(images.contiguous(), f"folder:{path}", labels=_labels(root, files), range=SIGNED)


def _hidden(path: Path) -> bool:
    """Whether a file, or a folder it lies in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


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
