"""Picture files and encoded pictures as pixels, decoded in parallel, in order."""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from theory.data.choose import square
from theory.data.wait import waiting
from theory.errors import InputError

AHEAD = 64  # pictures decoded ahead of those that are taken over, so that few are in memory twice


def decoded(source: Path | io.BytesIO, what: str, size: int | None, grey: bool | None) -> np.ndarray:
    """One picture as ``(H, W, C)`` uint8.

    Args:
        source: A file, or the bytes of one.
        what: What it is, for errors.
        size: Side of the square to make of it; as it is if None.
        grey: One channel if true, three if false, as many as the picture has if None.

    Raises:
        InputError: If it can't be read, has transparency or more than 8 bits.
    """
    try:
        with Image.open(source) as opened:
            deep = _more_than_8_bits(opened)
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{what}, which can't be read as a picture", "an intact picture file", "remove or replace it") from error
    return pixels(picture, what, size, grey, deep)


def pixels(picture: Image.Image, what: str, size: int | None, grey: bool | None, deep: bool = False) -> np.ndarray:
    """An open picture as ``(H, W, C)`` uint8; arguments and errors as in `decoded`, ``deep`` for more than 8 bits."""
    if picture.mode not in ("L", "RGB", "P", "1") or "transparency" in picture.info or deep:
        mode = f"{picture.mode}{' with more than 8 bits' if deep else ''}"
        raise InputError(f"{what} of mode {mode}", "8-bit grey or RGB without transparency", "flatten or convert it")
    grey = picture.mode in ("L", "1") if grey is None else grey
    picture = picture.convert("L" if grey else "RGB")
    array = np.asarray(picture if size is None else square(picture, size))
    return array[..., None] if grey else array


def alike(total: int, read: Callable[[int], np.ndarray], tell: Callable[[int], str], where: str, remedy: str) -> np.ndarray:
    """Pictures of one common size, ``(N, H, W, C)``, read in parallel with progress.

    Args:
        total: How many.
        read: Gives one by its number; called from several threads.
        tell: What a picture is, for errors.
        where: Where they are read, for the display of progress.
        remedy: What to do where sizes differ.

    Raises:
        InputError: If sizes differ, or what ``read`` raises of the first that it can't read.
    """
    out = None
    with waiting(f"pictures read in {where}", total) as told, ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, picture in enumerate(_in_order(pool, total, read)):
            if out is None:
                out = np.empty((total, *picture.shape), dtype=picture.dtype)
            if picture.shape != out.shape[1:]:
                shapes = picture.shape, out.shape[1:]
                many = shapes[0][2] != shapes[1][2]
                given, expected = (f"{s[1]}x{s[0]} pixels" + (f" and {s[2]} channels" if many else "") for s in shapes)
                raise InputError(f"{tell(i)} of {given}", f"{expected}, the size of {tell(0)}", remedy)
            out[i] = picture
            told(i + 1)
    return out


def _in_order(pool: ThreadPoolExecutor, total: int, read: Callable[[int], np.ndarray]) -> Iterator[np.ndarray]:
    """Pictures in order, some decoded ahead; the first that can't be read ends it, whichever was tried first."""
    rest = iter(range(total))
    ahead = [pool.submit(read, i) for i in islice(rest, AHEAD)]
    try:
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(read, i) for i in islice(rest, 1)]
    finally:
        for task in ahead:
            task.cancel()


def _more_than_8_bits(picture: Image.Image) -> bool:
    """Pillow opens 16-bit colour as 8-bit RGB without a word; only what it tells its decoder shows it."""
    for decoder, *_, options in getattr(picture, "tile", []):
        options = options if isinstance(options, tuple) else (options,)
        if "16" in str(options[0]) or (decoder.startswith("ppm") and options[-1] > 255):
            return True
    return False
