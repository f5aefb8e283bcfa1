"""A training set with all images of a group: what a network sees that is trained on flipped images."""

from dataclasses import replace

import torch

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.errors import InputError
from theory.symmetry import check_group


def augmented(data: ImageSet, group: str) -> ImageSet:
    """Every image in every position of a group, with its weight divided among these.

    Args:
        data: The training set.
        group: ``"flip"`` (left and right), ``"flips"``, ``"rotations"`` or ``"d4"``.

    The rule of the data stays only if all images obey it in all positions.

    Raises:
        InputError: If there is no such group, it changes the shape of the images, or these are on disk.
    """
    maps = check_group(group, tuple(data.images.shape[-2:]), "images")
    if data.on_disk:
        raise InputError(f"augment={group} with data set {data.name!r} on disk", "images in memory", "write the flipped images to the file")
    images = torch.cat([g(data.images) for g in maps])
    labels = None if data.labels is None else data.labels.repeat(len(maps))
    weights = data.weights.repeat(len(maps)) / len(maps)
    rule = data.rule if data.rule is not None and bool(data.rule.consistent(images).all()) else None
    name = f"{data.name}{',' if ':' in data.name else ':'}augment={group}"
    return replace(data, images=images, name=name, weights=weights, labels=labels, rule=rule, range=SIGNED)
