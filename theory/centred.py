"""Training images on disk, centred as they are read."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PIECE = 2**18  # numbers centred at a time, in float64


@dataclass(frozen=True)
class Centred:
    """Stands where a tensor of centred training images stands, and gives slices and rows of it.

    Attributes:
        stored: The images ``(N, C, H, W)``, mapped into memory.
        centre: What is subtracted from each, float64.
        dtype, device: Of what is given.
    """

    stored: Tensor
    centre: Tensor
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> torch.Size:
        return self.stored.shape

    @property
    def reach(self) -> float:
        """At most so large is a number: known without reading, because pixels lie in [-1, 1]."""
        return 1.0 + float(self.centre.abs().max())

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return centred(self.stored[index], self.centre, self.dtype, self.device)


def centred(images: Tensor, centre: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Images minus their centre, in float64 before they are rounded."""
    out = torch.empty(images.shape, dtype=dtype, device=device)
    step = max(1, PIECE // max(1, images[:1].numel()))
    for part, target in zip(images.split(step), out.split(step), strict=True):
        target.copy_(part.double() - centre)
    return out


def reading(images: Tensor | Centred) -> int:
    """Numbers that are read anew for each image."""
    return math.prod(images.shape[1:]) if isinstance(images, Centred) else 0


def mean_image(images: Tensor) -> Tensor:
    """The mean of all images ``(1, C, H, W)``, float64, read in pieces."""
    step = max(1, PIECE // images[:1].numel())
    total = torch.zeros(1, *images.shape[1:], dtype=torch.float64, device=images.device)
    for part in images.split(step):
        total += part.double().sum(0, keepdim=True)
    return total / len(images)
