"""Images of any dataset in Python that has a length and items: those of torch, torchvision and Hugging Face among them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from theory.data.choose import check_size, coloured, sized, taken
from theory.data.decode import pixels
from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.data.wait import waiting
from theory.errors import InputError

IMAGE, LABEL = ("image", "img", "x"), ("label", "labels", "y")  # keys of items that are dictionaries
FORMS = "a picture, a tensor (C, H, W) or an array (H, W, C), alone or as (image, label)"


def from_dataset(
    dataset: Any,
    name: str = "dataset",
    *,
    count: int | None = None,
    classes: str | None = None,
    size: int | None = None,
    grey: bool = False,
    range: str | None = None,
) -> ImageSet:
    """The images of a dataset, item by item; see `ImageSet.of`."""
    check_size(size)
    try:
        total = len(dataset)
    except TypeError:
        raise InputError(f"a {type(dataset).__name__} without a length", "a dataset with len() and items", "make a list of it") from None
    if total == 0:
        raise InputError(f"{name} without items", "at least one image", "check where it reads from")
    _require_fixed(dataset, name)
    wanted = total if classes is not None or count is None else min(count, total)  # classes are known only once items are read
    images, labels = _read(dataset, wanted, name, size, grey)
    keep = taken(total if classes is None else len(labels or images), None if labels is None else np.array(labels), count, classes, name)
    array = np.stack(images)[keep]
    chosen = None if labels is None else torch.tensor(labels)[torch.from_numpy(keep)]
    if array.dtype == np.uint8:
        if range is not None:
            raise InputError(f"range={range} with {name} of uint8", "no range: pixels are from 0 to 255", "leave it out")
        return ImageSet(_first(array).float() / 127.5 - 1, name, labels=chosen, range=SIGNED)
    return ImageSet(_first(array), name, labels=chosen, range=range)


def _first(array: np.ndarray) -> Tensor:
    """Channels first."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _read(dataset: Any, total: int, name: str, size: int | None, grey: bool) -> tuple[list[np.ndarray], list[int] | None]:
    """Images ``(H, W, C)`` and labels of the first items."""
    images, labels = [], []
    with waiting(f"images of {name}", total) as told:
        for i in np.arange(total):
            image, label = split(dataset[int(i)], f"{name}: item {i}")
            images.append(as_array(image, f"{name}: item {i}", size, grey))
            if (images[-1].shape, images[-1].dtype) != (images[0].shape, images[0].dtype):
                given = f"{name}: item {i} of shape {images[-1].shape} and {images[-1].dtype}"
                raise InputError(given, f"{images[0].shape} and {images[0].dtype}, as the first", "resize all to one size, as with size=32")
            labels.append(label)
            told(int(i) + 1)
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        raise InputError(f"{name}: {len(known)} of {len(labels)} items with a label", "a label for each, or for none", "complete them")
    return images, known or None


def _require_fixed(dataset: Any, name: str) -> None:
    """Refuse items that are random: a theory needs the training images themselves."""
    first, again = (as_array(split(dataset[0], f"{name}: item 0")[0], f"{name}: item 0", None, False) for _ in "ab")
    if first.shape != again.shape or not np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
        raise InputError(
            f"{name}: item 0 differs from one reading to the next",
            "the same image each time",
            "leave out random transforms such as crops and flips",
        )


def split(item: Any, what: str) -> tuple[Any, int | None]:
    """Image and label of an item; labels that are no single integers (attributes, boxes) are no classes, and left out."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE if key in item), None)
        label = next((item[key] for key in LABEL if key in item), None)
        if image is None:
            raise InputError(f"{what} with {', '.join(map(str, item))}", f"an entry {' or '.join(IMAGE)}", "rename it")
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes):
        image, label = item[0], item[1] if len(item) > 1 else None
    else:
        image, label = item, None
    if isinstance(label, Tensor | np.ndarray | np.generic) and np.ndim(label) == 0:
        label = label.item()
    return image, label if isinstance(label, int) and not isinstance(label, bool) else None


def as_array(image: Any, what: str, size: int | None, grey: bool) -> np.ndarray:
    """An image ``(H, W, C)``: uint8, or float32 as it is."""
    if isinstance(image, Image.Image):
        return pixels(image, what, size, grey or None)
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = array[..., None] if array.ndim == 2 else np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
            array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] > 4 or array.dtype.kind not in "uf" or (array.dtype.kind == "u" and array.dtype != np.uint8):
        given = f"{what}: {type(image).__name__}" + (f" of shape {array.shape} and {array.dtype}" if array.dtype != object else "")
        raise InputError(given, f"{FORMS}, uint8 or floating point", "convert it in the dataset's transform")
    if array.dtype == np.uint8:
        return sized(coloured(array[None], grey), size, what)[0]
    if (grey and array.shape[-1] != 1) or (size is not None and array.shape[:2] != (size, size)):
        raise InputError(f"size= or grey= with {what} of {array.dtype}", "pictures or uint8", "resize in the dataset's transform")
    return array.astype(np.float32)
