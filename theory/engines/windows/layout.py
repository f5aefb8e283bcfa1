"""What meets, for windows: shifts between a noisy image and a training image, as tables for the kernel.

A pixel ``p`` of the noisy image is compared with the pixels ``p + s`` of a training image, for some
shifts ``s``; for one shift the pixels that have a partner fill a rectangle. That holds for every
border: with zeros, a shift along the image brings only pixels with full windows onto each other, and
no shift at all brings every pixel onto one of its own border class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.meetings import Meetings, Run
from theory.patches import Size
from theory.types import Images


@dataclass(frozen=True)
class Layout:
    """The windows of a noisy image and those of a training image that they are compared with.

    Attributes:
        window: Height and width of the window.
        query_rows, query_cols: Which row (column) of the noisy image is at each place of the image with its
            border; -1 is outside, where every image is zero.
        rows, cols: Shifts ``(shift, first, last, begin, end)``: positions that have a partner, and what their windows reach, as
            `theory.engines.windows.kernel.sum_windows` takes them.
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


def layout(meetings: Meetings) -> Layout | None:
    """The layout of what meets; None where that is no rectangle of pixels for each shift."""
    if meetings.whole or meetings.wraps == (False, True):
        return None
    axes = list(zip(meetings.shape, meetings.window, (meetings.rows, meetings.cols), strict=True))
    tables = [_shifts(length, size, runs, meetings.wraps[1]) for length, size, runs in axes]
    if None in tables:
        return None
    queries = [border(length, size, meetings.wraps[0]) for length, size, _ in axes]
    return Layout(meetings.window, *queries, *(np.array(table, dtype=np.int64) for table in tables), meetings.wraps[1])


def _shifts(length: int, size: int, axis: tuple[Run, ...], wrapped: bool) -> list[tuple[int, ...]] | None:
    """The shifts along one axis; None where these are not all there is to say."""
    if wrapped:
        if axis[0].queries == axis[0].keys == (0, length):
            return [(shift, 0, length, 0, length) for shift in range(length)]
        return [(0, 0, length, 0, length)] if all(run.alone for run in axis) else None
    found: dict[int, list[Run]] = {}
    for run in axis:
        (a, b), (c, d) = run.queries, run.keys
        for shift in range(c + 1 - b, d - a):
            met = max(a, c - shift), min(b, d - shift)
            found.setdefault(shift, []).append(run._replace(queries=met))
    table = [_reach(shift, found[shift], size // 2) for shift in sorted(found)]
    return None if None in table else table


def _reach(shift: int, met: list[Run], radius: int) -> tuple[int, ...] | None:
    """One range of positions, and one of all that their windows see; None where one range does not say the same."""
    first, last = met[0].queries[0], met[-1].queries[1]
    begin, end = min(run.queries[0] - run.before for run in met), max(run.queries[1] + run.after for run in met)
    if any(one.queries[1] != other.queries[0] for one, other in pairwise(met)):
        return None
    for run in met:
        for p in {run.queries[0], run.queries[1] - 1}:  # windows are cut off where the range ends, and nowhere else
            if (max(begin, p - radius), min(end, p + radius + 1)) != (p - run.before, p + run.after + 1):
                return None
    return shift, first, last, begin, end


def border(length: int, size: int, wrapped: bool) -> Int[np.ndarray, " n"]:
    """Which position of the noisy image is at each place of the image with its border; -1 is outside."""
    index = np.arange(-(size // 2), length + size // 2)
    return index % length if wrapped else np.where((index >= 0) & (index < length), index, -1)


def _count(length: int, table: Int[np.ndarray, "shifts 5"]) -> Float[Tensor, " n"]:
    count = torch.zeros(length, dtype=torch.float64)
    for _, first, last, *_ in table.tolist():
        count[first:last] += 1
    return count


def bordered(x: Images, rows: np.ndarray, cols: np.ndarray) -> Float[Tensor, "B C Y X"]:
    """Images with their border, zero outside."""
    rows, cols = (torch.from_numpy(places).to(x.device) for places in (rows, cols))
    inside = (rows >= 0)[:, None] & (cols >= 0)
    return x[:, :, rows.clamp(min=0)[:, None], cols.clamp(min=0)] * inside
