"""Patches, borders and border classes.

A model with a receptive field of ``(kh, kw)`` pixels sees, at pixel ``(y, x)``, the window of that
size centred there. What it sees at the border depends on the padding:

- ``circular``: the window wraps around; every pixel sees a full window.
- ``zeros``: the window is cut off at the border, and *how* it is cut is visible to the model.
  Pixels whose windows overlap the outside in the same way form a **border class**
  (arXiv 2412.20292, sec. 3.4): only they can be compared. Pixels outside count nothing.

A border class is a rectangle of pixels with one common window, so it is stored as a `Block`.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import groupby
from numbers import Integral

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from theory.errors import InputError, choices
from theory.types import Images

Size = tuple[int, int]
BORDERS = ("circular", "zeros")


@dataclass(frozen=True)
class PatchSchedule:
    """Patch size as a function of time: ``sizes[i]`` holds for ``i / n <= t < (i + 1) / n``.

    The last size also holds at t = 1. One size is a constant patch.

    Attributes:
        sizes: Patch sizes ``(height, width)`` in pixels, odd, lowest noise first.
    """

    sizes: tuple[Size, ...]

    def __call__(self, t: float) -> Size:
        """The patch size at time ``t`` in [0, 1]."""
        edges = [(i + 1) / len(self.sizes) for i in range(len(self.sizes) - 1)]  # as a user writes them: t * n may round down
        return self.sizes[bisect_right(edges, t)]

    @classmethod
    def of(cls, patch_size: "PatchSize") -> "PatchSchedule":
        """From a number, a pair ``(height, width)``, a list of sizes over equal intervals of t, or itself.

        Raises:
            InputError: If a size is not an odd positive number of pixels.
        """
        if isinstance(patch_size, PatchSchedule):
            return patch_size
        sizes = patch_size if isinstance(patch_size, list) else [patch_size]
        if not sizes:
            raise InputError("an empty list of patch sizes", "at least one size", "give a number, a pair or a list of these")
        return cls(tuple(_size(s) for s in sizes))


PatchSize = Integral | Size | list[Integral | Size] | PatchSchedule


def _size(size) -> Size:
    pair = size if isinstance(size, tuple) else (size, size)
    if len(pair) != 2 or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 or k % 2 == 0 for k in pair):
        raise InputError(
            f"patch size {size!r}",
            "odd positive numbers of pixels, such as 5 or (3, 1)",
            "a window needs a central pixel: use an odd whole number",
        )
    return int(pair[0]), int(pair[1])


def check_border(border: str) -> str:
    """``border`` itself, if it is one of `BORDERS`."""
    if border not in BORDERS:
        raise InputError(f"border {border!r}", choices(BORDERS), "choose how the model pads its images")
    return border


@dataclass(frozen=True)
class Block:
    """A rectangle of pixels that share one window shape.

    Attributes:
        rows, cols: Half-open range of the pixels in the rectangle.
        above, below, left, right: How far the common window reaches from its centre, in pixels.
    """

    rows: Size
    cols: Size
    above: int
    below: int
    left: int
    right: int

    @property
    def shape(self) -> Size:
        """Height and width of the rectangle of pixels."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    @property
    def window(self) -> Size:
        """Height and width of the window."""
        return self.above + 1 + self.below, self.left + 1 + self.right

    def moved(self, size: Size) -> "Block":
        """The same pixels in an image that is wrapped for windows of this size (`wrap`)."""
        rows, cols = ((a + k // 2, b + k // 2) for (a, b), k in zip((self.rows, self.cols), size, strict=True))
        return replace(self, rows=rows, cols=cols)


def runs(length: int, size: int) -> list[tuple[Size, int, int]]:
    """Runs of positions along one axis whose clipped windows reach equally far to both sides."""
    radius = size // 2
    reach = [(min(radius, p), min(radius, length - 1 - p)) for p in range(length)]
    runs = [(key, [p for p, _ in run]) for key, run in groupby(enumerate(reach), key=lambda item: item[1])]
    return [((run[0], run[-1] + 1), before, after) for (before, after), run in runs]


def border_blocks(height: int, width: int, size: Size) -> list[Block]:
    """The border classes of a zero-padded image, as disjoint rectangles that cover it."""
    return [
        Block(rows, cols, above, below, left, right)
        for rows, above, below in runs(height, size[0])
        for cols, left, right in runs(width, size[1])
    ]


def border_classes(height: int, width: int, size: Size) -> Int[Tensor, "H W"]:
    """The number of each pixel's border class, counted row by row from 0."""
    classes = torch.empty(height, width, dtype=torch.int64)
    for number, block in enumerate(border_blocks(height, width, size)):
        classes[slice(*block.rows), slice(*block.cols)] = number
    return classes


def interior_block(height: int, width: int, size: Size) -> Block:
    """The pixels whose whole window lies inside the image.

    Raises:
        InputError: If the window is larger than the image.
    """
    rh, rw = size[0] // 2, size[1] // 2
    if size[0] > height or size[1] > width:
        raise InputError(
            f"patch size {size[0]}x{size[1]} with patches='interior' on {height}x{width} images",
            "a patch that fits inside the image",
            "use a smaller patch, or patches='all'",
        )
    return Block((rh, height - rh), (rw, width - rw), rh, rh, rw, rw)


def wrap(images: Images, size: Size) -> Float[Tensor, "B C h w"]:
    """Images padded by wrapping around, so that every pixel's window lies inside (any patch size)."""
    index = [torch.arange(-(k // 2), n + k // 2, device=images.device) % n for k, n in zip(size, images.shape[-2:], strict=True)]
    return images[:, :, index[0][:, None], index[1]]


def windows(images: Images, block: Block) -> Float[Tensor, "B C y x i j"]:
    """The window ``(i, j)`` of each pixel ``(y, x)`` of a block, as a view."""
    area = images[
        :,
        :,
        block.rows[0] - block.above : block.rows[1] + block.below,
        block.cols[0] - block.left : block.cols[1] + block.right,
    ]
    return area.unfold(2, block.window[0], 1).unfold(3, block.window[1], 1)


def centres(images: Images, block: Block) -> Float[Tensor, "B C y x"]:
    """The pixels of a block themselves, as a view."""
    return images[:, :, slice(*block.rows), slice(*block.cols)]


def patch_rows(images: Images, block: Block) -> Float[Tensor, "patches d"]:
    """All windows of a block as rows, image by image and pixel by pixel."""
    return rearrange(windows(images, block), "b c y x i j -> (b y x) (c i j)")
