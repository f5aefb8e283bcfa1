"""Seeded crops of the two sample photographs in scikit-learn (a temple and a flower, 427 x 640)."""

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from theory.data.imageset import ImageSet, uniforms
from theory.data.pixels import SIGNED
from theory.errors import InputError

MOST = 10**7  # crops; there are not many more different ones


def photos(count: int = 500, size: int = 32, seed: int = 0) -> ImageSet:
    """Square colour crops at random places; the label is the photograph.

    Args:
        count: Number of crops; the first ones do not depend on it.
        size: Side of a crop in pixels.
        seed: Seed of the places.
    """
    sources = np.stack(load_sample_images().images)
    limit = min(sources.shape[1:3])
    if not 1 <= size <= limit:
        raise InputError(f"photos of size {size}", f"a size from 1 to {limit} pixels", "choose a smaller crop")
    if not 1 <= count <= MOST or seed < 0:
        raise InputError(f"{count} photos with seed {seed}", f"a count from 1 to {MOST} and a seed of at least 0", "correct them")
    places = uniforms(count * 3, seed).numpy().reshape(count, 3)
    which = (places[:, 0] * len(sources)).astype(int)
    top = (places[:, 1] * (sources.shape[1] - size + 1)).astype(int)
    left = (places[:, 2] * (sources.shape[2] - size + 1)).astype(int)
    crops = np.stack([sources[i, y : y + size, x : x + size] for i, y, x in zip(which, top, left, strict=True)])
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    name = f"photos:count={count},size={size},seed={seed}"
    return ImageSet(images.contiguous(), name, labels=torch.from_numpy(which).long(), patch_size=(5, 5), range=SIGNED)
