"""Which windows meet: shifts between a noisy image and a training image, as tables for the kernel.

A pixel ``p`` of the noisy image is compared with the pixels ``p + s`` of a training image, for some
shifts ``s``; for one shift the pixels that have a partner fill a rectangle. That holds for every
border: with zeros, a shift along the image brings only pixels with full windows onto each other, and
no shift at all brings every pixel onto one of its own border class.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.patches import Size, interior_block, runs


@dataclass(frozen=True)
class Layout:
    """The windows of a noisy image and those of a training image that they are compared with.

    Attributes:
        window: Height and width of the window.
        query_rows, query_cols: Which row (column) of the noisy image is at each place of the image with its
            border; -1 is outside, where every image is zero.
        key_rows, key_cols: The same of a training image.
        groups, entries: Shifts, as `theory.posterior.windows.kernel.sum_windows` takes them.
        wrapped: Whether the rows wrap around in every shift.
        partners: Number of pixels of a training image that each pixel is compared with, ``(H, W)``.
    """

    window: Size
    query_rows: Int[np.ndarray, " Y"]
    query_cols: Int[np.ndarray, " X"]
    key_rows: Int[np.ndarray, " Y2"]
    key_cols: Int[np.ndarray, " X2"]
    groups: Int[np.ndarray, "groups 5"]
    entries: Int[np.ndarray, "entries 3"]
    wrapped: bool
    partners: Float[Tensor, "H W"]

    @property
    def pairs(self) -> int:
        """Pairs of windows of a noisy and a training image."""
        return int(self.partners.sum())

    @property
    def area(self) -> Float[Tensor, "H W"]:
        """Pixels of each pixel's window that lie inside the image."""
        places = zip((self.query_rows, self.query_cols), self.window, strict=True)
        return torch.outer(*(torch.from_numpy(i >= 0).double().unfold(0, k, 1).sum(1) for i, k in places))

    @property
    def cost(self) -> float:
        """Nanoseconds that a noisy image needs for a training image, measured on one core: 3.2 for each difference of
        pixels, summed over windows, and 1.1 for each pair. Compared with the cost of other ways."""
        width = self.groups[:, 2] - self.groups[:, 1] + self.window[1] - 1
        height = self.entries[:, 2] - self.entries[:, 1] + (0 if self.wrapped else self.window[0] - 1)
        differences = sum(int(w * height[a:b].sum()) for w, (a, b) in zip(width, self.groups[:, 3:], strict=True))
        return 3.2 * differences + 1.1 * self.pairs


def zeros(height: int, width: int, window: Size) -> Layout:
    """Every pixel against all pixels of its border class; windows are cut off."""
    rows = [(dy, *r) for dy in range(1 - height, height) for r in _same_class(height, window[0], dy)]
    cols = [(dx, *c) for dx in range(1 - width, width) for c in _same_class(width, window[1], dx)]
    border = [_cut(n, k) for n, k in zip((height, width), window, strict=True)]
    return _layout((height, width), window, border, border, rows, cols)


def circular(height: int, width: int, window: Size) -> Layout:
    """Every pixel against all pixels; windows of both wrap."""
    queries = [_wrap(n, k) for n, k in zip((height, width), window, strict=True)]
    keys = [_wrap(n, k, 2 * n - 1) for n, k in zip((height, width), window, strict=True)]
    rows, cols = ([(d, 0, n) for d in range(n)] for n in (height, width))
    return _layout((height, width), window, queries, keys, rows, cols, wrapped=True)


def interior(height: int, width: int, window: Size) -> Layout:
    """Every pixel, its window wrapped, against the pixels whose window lies inside the training image."""
    queries = [_wrap(n, k) for n, k in zip((height, width), window, strict=True)]
    keys = [np.arange(n) for n in (height, width)]
    block = interior_block(height, width, window)
    rows, cols = ([(d, max(0, -d), min(n, m - d)) for d in range(1 - n, m)] for n, m in zip((height, width), block.shape, strict=True))
    return _layout((height, width), window, queries, keys, rows, cols)


def in_place(height: int, width: int, window: Size, border: str) -> Layout:
    """Every pixel against the same pixel of each training image."""
    around = [(_wrap if border == "circular" else _cut)(n, k) for n, k in zip((height, width), window, strict=True)]
    return _layout((height, width), window, around, around, [(0, 0, height)], [(0, 0, width)], wrapped=border == "circular")


def _same_class(length: int, size: int, shift: int) -> list[Size]:
    """Ranges of positions that have the border class of the position ``shift`` further."""
    if shift == 0:
        return [(0, length)]
    ranges = [(max(a, a - shift), min(b, b - shift)) for (a, b), _, _ in runs(length, size)]
    return [(a, b) for a, b in ranges if a < b]


def _cut(length: int, size: int) -> Int[np.ndarray, " n"]:
    index = np.arange(-(size // 2), length + size // 2)
    return np.where((index >= 0) & (index < length), index, -1)


def _wrap(length: int, size: int, positions: int | None = None) -> Int[np.ndarray, " n"]:
    return np.arange(-(size // 2), (positions or length) + size // 2) % length


def _layout(shape: Size, window: Size, queries, keys, rows, cols, wrapped: bool = False) -> Layout:
    """All combinations of shifts along rows and columns, each ``(offset, first, last)``."""
    entries, groups = [], []
    partners = torch.zeros(shape, dtype=torch.float64)
    for dx, x0, x1 in cols:
        groups.append((dx, x0, x1, len(entries), len(entries) + len(rows)))
        entries += rows
    along = [_count(n, table) for n, table in zip(shape, (rows, cols), strict=True)]
    partners += torch.outer(*along)
    tables = (np.array(t, dtype=np.int64) for t in (groups, entries))
    return Layout(window, *queries, *keys, *tables, wrapped=wrapped, partners=partners)


def _count(length: int, shifts) -> Float[Tensor, " n"]:
    count = torch.zeros(length, dtype=torch.float64)
    for _, first, last in shifts:
        count[first:last] += 1
    return count
