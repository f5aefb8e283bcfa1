"""What meets what: the one statement that a machine makes, from which every engine derives its own.

Along each axis of an image, runs of pixels of the noisy image see windows of one shape and are compared with runs of pixels of every
training image; the rectangles of pixels that meet are the products of a run of rows and a run of columns. That says all: which pixels,
which windows, how they are cut off or wrapped, and what a candidate carries.

- `images`: the image with each training image (IS);
- `shifts`: the image with all shifts of each training image (ES);
- `in_place`: a pixel with the same pixel (LS);
- `same_class`: a pixel with all pixels of its border class (ELS, zeros);
- `everywhere`: a pixel with all pixels (ELS, circular);
- `inside`: a pixel with the pixels whose window lies inside (ELS, interior).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from theory.patches import Block, Size, interior_block, runs
from theory.types import Float

Places = tuple[int, int]  # a half-open range of positions along one axis


class Run(NamedTuple):
    """Positions along one axis whose windows have one shape.

    Attributes:
        queries: Those of the noisy image.
        keys: Those of a training image that each of them is compared with.
        before, after: How far the window reaches from its centre, in pixels.
    """

    queries: Places
    keys: Places
    before: int
    after: int

    @property
    def alone(self) -> bool:
        """Whether it is one position, compared with the same position."""
        return self.queries == self.keys and self.queries[1] - self.queries[0] == 1


@dataclass(frozen=True)
class Meetings:
    """Which windows of a noisy image and of each training image meet.

    A posterior over whole images is that of one pixel whose window is the image.

    Attributes:
        shape: Height and width of an image.
        window: Height and width of the whole window.
        rows, cols: Runs of rows and of columns; all products of two of them meet.
        wraps: Whether the windows of noisy images wrap around, and those of training images.
        whole: Whether a candidate carries its whole window as its value, rather than the pixel in the middle.
    """

    shape: Size
    window: Size
    rows: tuple[Run, ...]
    cols: tuple[Run, ...]
    wraps: tuple[bool, bool] = (False, False)
    whole: bool = False

    @cached_property
    def blocks(self) -> tuple[tuple[Block, Block], ...]:
        """Pixels of a noisy image, and the pixels of a training image they are compared with: class by class, row by row."""
        return tuple(
            (Block(y.queries, x.queries, *reach), Block(y.keys, x.keys, *reach))
            for y in self.rows
            for x in self.cols
            for reach in [(y.before, y.after, x.before, x.after)]
        )

    @property
    def in_place(self) -> bool:
        """Whether every pixel is compared with the same pixel alone."""
        return not self.whole and all(run.alone for run in (*self.rows, *self.cols))

    @property
    def border(self) -> Size:
        """By how many rows and columns images are wrapped on each side, so that windows lie inside."""
        return (self.window[0] // 2, self.window[1] // 2) if self.wraps[0] else (0, 0)

    @cached_property
    def partners(self) -> Float[Tensor, "H W"]:
        """Candidates of each query in one training image."""
        return self._table(lambda key: math.prod(key.shape))

    @cached_property
    def area(self) -> Float[Tensor, "H W"]:
        """Pixels of each query's window that lie inside the image."""
        return self._table(lambda key: math.prod(key.window))

    @property
    def pairs(self) -> int:
        """Pairs of a query and a candidate, of one noisy and one training image."""
        return int(self.partners.sum())

    def _table(self, number: Callable[[Block], int]) -> Float[Tensor, "H W"]:
        """A number of the training block that each query is compared with."""
        height, width = (max(run.queries[1] for run in axis) for axis in (self.rows, self.cols))
        table = torch.empty(height, width, dtype=torch.float64)
        for query, key in self.blocks:
            table[slice(*query.rows), slice(*query.cols)] = number(key)
        return table


def images(shape: Size) -> Meetings:
    """The whole noisy image with each training image."""
    return Meetings(shape, shape, *((Run((0, 1), (0, 1), 0, n - 1),) for n in shape), whole=True)


def shifts(shape: Size) -> Meetings:
    """The whole noisy image with each training image, shifted circularly by any number of pixels."""
    return Meetings(shape, shape, *((Run((0, 1), (0, n), 0, n - 1),) for n in shape), wraps=(False, True), whole=True)


def in_place(shape: Size, window: Size, border: str) -> Meetings:
    """Every pixel with the same pixel of each training image."""

    def axis(length: int, size: int) -> tuple[Run, ...]:
        r, last = size // 2, length - 1
        cut = (lambda p: (r, r)) if border == "circular" else (lambda p: (min(r, p), min(r, last - p)))
        return tuple(Run((p, p + 1), (p, p + 1), *cut(p)) for p in range(length))

    return along(shape, window, axis, (border == "circular",) * 2)


def same_class(shape: Size, window: Size) -> Meetings:
    """Every pixel with all pixels of its border class; windows are cut off."""
    return along(shape, window, lambda n, k: tuple(Run(places, places, before, after) for places, before, after in runs(n, k)))


def everywhere(shape: Size, window: Size) -> Meetings:
    """Every pixel with all pixels; windows wrap."""
    return along(shape, window, lambda n, k: (Run((0, n), (0, n), k // 2, k // 2),), (True, True))


def inside(shape: Size, window: Size) -> Meetings:
    """Every pixel, its window wrapped, with the pixels whose window lies inside the training image.

    Raises:
        InputError: If no window does.
    """
    interior_block(*shape, window)
    return along(shape, window, lambda n, k: (Run((0, n), (k // 2, n - k // 2), k // 2, k // 2),), (True, False))


def along(shape: Size, window: Size, axis: Callable[[int, int], tuple[Run, ...]], wraps: tuple[bool, bool] = (False, False)) -> Meetings:
    """What meets where rows and columns follow one rule.

    Args:
        shape: Height and width of an image.
        window: Height and width of the whole window.
        axis: The runs along one axis, from its length and the size of the window.
        wraps: Whether the windows of noisy images wrap around, and those of training images.
    """
    return Meetings(shape, window, *(axis(n, k) for n, k in zip(shape, window, strict=True)), wraps)
