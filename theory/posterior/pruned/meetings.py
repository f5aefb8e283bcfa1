"""Which candidates each pixel is compared with, class by class.

Pixels of one border class see windows of one shape and share their candidates; each class gets a tree
of its own. A machine states its classes once, as pairs of blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.patches import Block, Size, border_blocks, interior_block


@dataclass(frozen=True)
class Meetings:
    """Which windows meet.

    Attributes:
        blocks: Pixels of a noisy image, and the pixels of a training image they are compared with; both blocks have one
            window. A posterior over whole images is that of a block of one pixel whose window is the image.
        border: By how many rows and columns images are wrapped on each side, so that windows lie inside.
        whole: Whether a candidate carries its whole window as its value, rather than the pixel in the middle.
    """

    blocks: tuple[tuple[Block, Block], ...]
    border: Size = (0, 0)
    whole: bool = False

    def table(self, number: Callable[[Block], int]) -> Float[Tensor, "H W"]:
        """A number of the training block that each query is compared with."""
        height, width = (max(getattr(query, side)[1] for query, _ in self.blocks) for side in ("rows", "cols"))
        table = torch.empty(height, width, dtype=torch.float64)
        for query, key in self.blocks:
            table[slice(*query.rows), slice(*query.cols)] = number(key)
        return table

    @property
    def partners(self) -> Float[Tensor, "H W"]:
        """Candidates of each query in one training image."""
        return self.table(lambda key: math.prod(key.shape))

    @property
    def area(self) -> Float[Tensor, "H W"]:
        """Pixels of each query's window."""
        return self.table(lambda key: math.prod(key.window))


def zeros(height: int, width: int, window: Size) -> Meetings:
    """Every pixel with all pixels of its border class; windows are cut off."""
    return Meetings(tuple((block, block) for block in border_blocks(height, width, window)))


def circular(height: int, width: int, window: Size) -> Meetings:
    """Every pixel with all pixels; windows wrap."""
    everywhere = _full((0, height), (0, width), window)
    return Meetings(((everywhere, everywhere),), _radius(window))


def interior(height: int, width: int, window: Size) -> Meetings:
    """Every pixel, its window wrapped, with the pixels whose window lies inside the training image."""
    return Meetings(((_full((0, height), (0, width), window), interior_block(height, width, window)),), _radius(window))


def in_place(height: int, width: int, window: Size, border: str) -> Meetings:
    """Every pixel with the same pixel of each training image."""
    spots = [(y, x) for y in range(height) for x in range(width)]
    if border == "circular":
        blocks = [_full((y, y + 1), (x, x + 1), window) for y, x in spots]
        return Meetings(tuple(zip(blocks, blocks, strict=True)), _radius(window))
    (rh, rw), last = _radius(window), (height - 1, width - 1)
    blocks = [Block((y, y + 1), (x, x + 1), min(rh, y), min(rh, last[0] - y), min(rw, x), min(rw, last[1] - x)) for y, x in spots]
    return Meetings(tuple(zip(blocks, blocks, strict=True)))


def images(height: int, width: int) -> Meetings:
    """The whole noisy image with each training image."""
    block = Block((0, 1), (0, 1), 0, height - 1, 0, width - 1)
    return Meetings(((block, block),), whole=True)


def _radius(window: Size) -> Size:
    return window[0] // 2, window[1] // 2


def _full(rows: Size, cols: Size, window: Size) -> Block:
    rh, rw = _radius(window)
    return Block(rows, cols, rh, rh, rw, rw)
