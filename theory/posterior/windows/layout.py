"""Which windows meet: shifts between a noisy image and a training image, as tables for the kernel.

A pixel ``p`` of the noisy image is compared with the pixels ``p + s`` of a training image, for some
shifts ``s``; for one shift the pixels that have a partner fill a rectangle. That holds for every
border: with zeros, a shift along the image brings only pixels with full windows onto each other, and
no shift at all brings every pixel onto one of its own border class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.patches import Size, runs


@dataclass(frozen=True)
class Layout:
    """The windows of a noisy image and those of a training image that they are compared with.

    Attributes:
        window: Height and width of the window.
        query_rows, query_cols: Which row (column) of the noisy image is at each place of the image with its
            border; -1 is outside, where every image is zero.
        rows, cols: Shifts ``(shift, first, last, begin, end)``, as `theory.posterior.windows.kernel.sum_windows` takes them.
        wrapped: Whether windows and shifts of both images wrap around.
    """

    window: Size
    query_rows: Int[np.ndarray, " Y"]
    query_cols: Int[np.ndarray, " X"]
    rows: Int[np.ndarray, "rows 5"]
    cols: Int[np.ndarray, "cols 5"]
    wrapped: bool

    @property
    def partners(self) -> Float[Tensor, "H W"]:
        """Number of pixels of a training image that each pixel is compared with."""
        places = zip((self.query_rows, self.query_cols), self.window, (self.rows, self.cols), strict=True)
        return torch.outer(*(_count(len(i) - k + 1, table) for i, k, table in places))

    @property
    def shape(self) -> Size:
        """Height and width of a noisy image."""
        return tuple(len(i) - k + 1 for i, k in zip((self.query_rows, self.query_cols), self.window, strict=True))

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
        """Nanoseconds that a noisy image needs for a training image with three channels, measured on one core: .25 for each difference of
        pixels, .33 for each pair, 1.5 for each row of differences and 5 for each pixel. Compared with the cost of other ways."""
        rows, cols = (int((table[:, 4] - table[:, 3]).sum()) for table in (self.rows, self.cols))
        return 0.25 * rows * cols + 0.33 * self.pairs + 1.5 * rows * len(self.cols) + 5 * math.prod(self.shape)


def together(tables: Sequence[Int[np.ndarray, "_ 5"]]) -> Int[np.ndarray, "sizes _ 5"]:
    """The shifts of several sizes along one axis, in the same order; where a size has none, its range is empty."""
    shifts = sorted({int(row[0]) for table in tables for row in table})
    out = np.zeros((len(tables), len(shifts), 5), np.int64)
    out[:, :, 0] = shifts
    for found, table in zip(out, tables, strict=True):
        found[[shifts.index(row[0]) for row in table]] = table
    return out


def zeros(height: int, width: int, window: Size) -> Layout:
    """Every pixel against all pixels of its border class; windows are cut off."""
    return _layout((height, width), window, _cut, _classes)


def circular(height: int, width: int, window: Size) -> Layout:
    """Every pixel against all pixels; windows of both wrap."""
    return _layout((height, width), window, _wrap, lambda n, k: [(shift, 0, n, 0, n) for shift in range(n)], wrapped=True)


def interior(height: int, width: int, window: Size) -> Layout:
    """Every pixel, its window wrapped, against the pixels whose window lies inside the training image."""
    return _layout((height, width), window, _wrap, _inside)


def in_place(height: int, width: int, window: Size, border: str) -> Layout:
    """Every pixel against the same pixel of each training image."""
    wrapped = border == "circular"
    return _layout((height, width), window, _wrap if wrapped else _cut, lambda n, k: [(0, 0, n, 0, n)], wrapped)


def _layout(shape: Size, window: Size, border, shifts, wrapped: bool = False) -> Layout:
    """From the border of a noisy image and the shifts along one axis, as functions of its length and the window."""
    queries = [border(n, k) for n, k in zip(shape, window, strict=True)]
    rows, cols = (np.array(shifts(n, k), dtype=np.int64) for n, k in zip(shape, window, strict=True))
    return Layout(window, *queries, rows, cols, wrapped)


def _classes(length: int, size: int) -> list[tuple[int, ...]]:
    """Shifts that bring positions onto others of their border class: only those with a whole window have any beside themselves."""
    found = [(0, 0, length, 0, length)]
    radius = size // 2
    for first, last in (block for block, before, behind in runs(length, size) if before == behind == radius):
        found += [(s, *_within(first, last, s), *_reach(first, last, s, radius)) for s in range(first + 1 - last, last - first) if s != 0]
    return sorted(found)


def _inside(length: int, size: int) -> list[tuple[int, ...]]:
    """Shifts that bring positions onto those whose window lies inside."""
    radius, found = size // 2, []
    for shift in range(radius + 1 - length, length - radius):
        first, last = max(0, radius - shift), min(length, length - radius - shift)
        found.append((shift, first, last, first - radius, last + radius))
    return found


def _within(first: int, last: int, shift: int) -> Size:
    """Positions of a range that a shift leaves in it."""
    return max(first, first - shift), min(last, last - shift)


def _reach(first: int, last: int, shift: int, radius: int) -> Size:
    a, b = _within(first, last, shift)
    return a - radius, b + radius


def _cut(length: int, size: int) -> Int[np.ndarray, " n"]:
    index = np.arange(-(size // 2), length + size // 2)
    return np.where((index >= 0) & (index < length), index, -1)


def _wrap(length: int, size: int) -> Int[np.ndarray, " n"]:
    return np.arange(-(size // 2), length + size // 2) % length


def _count(length: int, table: Int[np.ndarray, "shifts 5"]) -> Float[Tensor, " n"]:
    count = torch.zeros(length, dtype=torch.float64)
    for _, first, last, *_ in table.tolist():
        count[first:last] += 1
    return count
