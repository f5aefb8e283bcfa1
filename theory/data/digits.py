"""Scikit-learn's 1,797 handwritten digits, 8 x 8, ten classes: real images without a download."""

import torch
from sklearn.datasets import load_digits

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED


def digits() -> ImageSet:
    """The digits, 1 x 8 x 8, scaled from 0..16 to [-1, 1], with their labels."""
    source = load_digits()
    images = torch.from_numpy(source.images).float()[:, None] / 8 - 1
    return ImageSet(images, "digits", labels=torch.from_numpy(source.target).long(), range=SIGNED)
