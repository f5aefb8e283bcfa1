"""What sources of pixels in 0..255 share: which images are taken, their size and colours, and the step to [-1, 1]."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.data.wait import waiting
from theory.errors import InputError, choices

LUMA = (19595, 38470, 7471)  # of red, green and blue in a grey pixel, in 1/65536 (ITU-R 601), as Pillow converts


def taken(
    total: int, labels: np.ndarray | None, count: int | None, classes: str | None, name: str, names: Sequence[str] = ()
) -> np.ndarray:
    """Numbers of the images that are taken: the first ``count`` of some classes, in the order of the source.

    Args:
        total: Images there are.
        labels: Their classes, with shape ``(total,)``, or None.
        count: How many; all if None. The first ones, as in ``torch.utils.data.Subset(dataset, range(count))``.
        classes: Numbers or names joined by ``+``, as in ``3+5`` or ``cat+dog``; all if None.
        name: The data set, for errors.
        names: Names of the classes by number, if there are any.

    Raises:
        InputError: If there is no such class, or there are fewer images than asked for.
    """
    keep = np.arange(total)
    if classes is not None:
        if labels is None:
            raise InputError(f"classes={classes} of {name}", "no classes: it has no labels", "leave them out")
        known = sorted({int(n) for n in np.unique(labels)})
        numbers = [_number(part.strip(), list(names), known, name) for part in classes.split("+")]
        keep = keep[np.isin(labels, numbers)]
    if count is not None:
        if not 1 <= count <= len(keep):
            raise InputError(f"count={count} of {name}", f"1 to {len(keep)}, the images there are", "ask for fewer, or leave it out")
        keep = keep[:count]
    return keep


def _number(text: str, names: list[str], known: list[int], name: str) -> int:
    """The class of a number or name."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) in known:
        return int(text)
    shown = names or known
    expected = choices(shown[:20]) + (", ..." if len(shown) > 20 else "")
    raise InputError(f"class {text!r} of {name}", expected, "choose from these, joined by +, as in classes=3+5")


def check_size(size: int | None) -> None:
    """Refuse a side of no pixel."""
    if size is not None and size < 1:
        raise InputError(f"size={size}", "a positive number of pixels", "ask for a larger size")


def coloured(pixels: np.ndarray, grey: bool) -> np.ndarray:
    """Images ``(N, H, W, C)`` of uint8 in one channel where grey is asked for, by the weights of ITU-R 601."""
    if not grey or pixels.shape[-1] == 1:
        return pixels
    sums = sum(weight * pixels[..., i].astype(np.uint32) for i, weight in enumerate(LUMA))
    return ((sums + 0x8000) >> 16).astype(np.uint8)[..., None]


def square(picture: Image.Image, size: int) -> Image.Image:
    """The central square of a picture, resized (Lanczos)."""
    side = min(picture.size)
    left, top = ((n - side) // 2 for n in picture.size)
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def sized(pixels: np.ndarray, size: int | None, name: str) -> np.ndarray:
    """Images ``(N, H, W, C)`` of uint8 as squares of that many pixels, as `square` makes them."""
    check_size(size)
    if size is None or pixels.shape[1:3] == (size, size):
        return pixels
    out = np.empty((len(pixels), size, size, pixels.shape[-1]), dtype=np.uint8)
    with waiting(f"images of {name} resized", len(pixels)) as told:
        for i, image in enumerate(pixels):
            resized = np.asarray(square(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), size))
            out[i] = resized.reshape(out.shape[1:])
            told(i + 1)
    return out


def image_set(pixels: np.ndarray, labels: np.ndarray | None, name: str, patch_size: tuple[int, int] = (5, 5)) -> ImageSet:
    """An `ImageSet` of pixels ``(N, H, W, C)`` in 0..255, scaled to [-1, 1]."""
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")).div_(127.5).sub_(1)
    classes = None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return ImageSet(images, name, labels=classes, patch_size=patch_size, range=SIGNED)


def specification(source: str, path: str, **options) -> str:
    """The name of a data set: what loads it again, options that are at their default left out."""
    told = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items() if value]
    return ",".join([f"{source}:{path}", *told])
