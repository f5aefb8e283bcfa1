"""Pixels that share their local functions.

A local function is a function of the patch and, at a zero border, of the border class. Where the data
set is mirror symmetric one could ask mirrored classes to have mirrored functions; that would be a
mistake: the best attention breaks the symmetry (on the toy such a tie costs a third of the gain).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from theory.patches import Block, Size, border_blocks, centres, windows, wrap
from theory.types import Float, Images, Int


@dataclass(frozen=True)
class Sites:
    """A border class, or all pixels of a circular image.

    Attributes:
        block: The rectangle of pixels, in the wrapped image where the border is circular.
        wrapped: The patch size by which images are wrapped, or None for a zero border.
    """

    block: Block
    wrapped: Size | None

    @property
    def count(self) -> int:
        """Number of pixels."""
        return self.block.shape[0] * self.block.shape[1]

    def _image(self, x: Images) -> Float[Tensor, "B C h w"]:
        return wrap(x, self.wrapped) if self.wrapped else x

    def patches(self, x: Images) -> Float[Tensor, "B p d"]:
        """The windows of the pixels, row by row."""
        return rearrange(windows(self._image(x), self.block), "b c y x i j -> b (y x) (c i j)")

    def centres(self, x: Images) -> Float[Tensor, "B p C"]:
        """The pixels themselves, in the order of `patches`."""
        return rearrange(centres(self._image(x), self.block), "b c y x -> b (y x) c")

    def numbers(self, height: int, width: int) -> Int[Tensor, " p"]:
        """Row-major numbers of the pixels in the image, in the order of `patches`."""
        index = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
        return self.centres(index).flatten().long()


def all_sites(height: int, width: int, size: Size, border: str) -> list[Sites]:
    """Classes that cover the image."""
    if border == "circular":
        rh, rw = size[0] // 2, size[1] // 2
        return [Sites(Block((rh, rh + height), (rw, rw + width), rh, rh, rw, rw), size)]
    return [Sites(block, None) for block in border_blocks(height, width, size)]
