r"""Trees over candidates, from which posteriors leave out what provably does not matter.

A candidate ``k`` with ``d`` numbers is described by its coordinates on ``m`` orthonormal directions ``P`` and by the length of the rest,

.. math:: c = P^T k, \qquad r = \|k - P c\|, \qquad \|q - k\|^2 \ge \|P^T q - c\|^2 + (r_q - r)^2

(Pythagoras, and the triangle inequality for the rest). The bound holds for any directions; leading principal components of
the candidates make it tight. A balanced tree halves the candidates along the coordinate of largest variance and keeps the box around
the coordinates of every node; a leaf keeps those of its candidates side by side. Equal candidates are one.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from theory.engines.pruned import grow
from theory.meetings import Meetings
from theory.patches import Block
from theory.types import TrainingImages

DIRECTIONS = 32  # coordinates of a candidate
ENTIRE = 80  # a candidate of at most so many numbers has as many coordinates: they are all of it
LEAF = 128  # candidates of a leaf, at most
SAMPLE = 4096  # candidates whose principal components are taken
EMPTY = 1e15  # coordinates where a leaf is not full
ROWS = 2**22  # numbers of windows listed at a time


@dataclass(frozen=True)
class Tree:
    """The candidates of one class.

    Attributes:
        basis: Orthonormal directions ``(d, m)``, float64.
        low: Smallest coordinates of each node, ``(nodes, dims)``; ``dims`` is ``m``, and one more where there is a rest.
        high: Largest coordinates.
        mass: Sum of the weights below each node, ``(nodes,)``, float64.
        coords: Coordinates of the candidates of each leaf, ``(leaves, dims, width)``, float32.
        starts: Where the window of each candidate begins in the images, ``(leaves, width)``; 0 where a leaf is not full.
        weights: Weight of each candidate, and 0 where a leaf is not full, float64.
        squares: Sum of the squared weights of the equal ones it stands for, float64.
        reach: Largest norm of a candidate, ``()``, float64.
    """

    basis: Tensor
    low: Tensor
    high: Tensor
    mass: Tensor
    coords: Tensor
    starts: Tensor
    weights: Tensor
    squares: Tensor
    reach: Tensor

    @property
    def complete(self) -> bool:
        """Whether the coordinates are all of a candidate."""
        return self.basis.shape[0] == self.basis.shape[1]

    @property
    def bytes(self) -> int:
        return sum(getattr(self, f.name).nbytes for f in fields(self))


@dataclass(frozen=True)
class Planes:
    """Images as one flat array, channels last, wrapped where windows wrap.

    Attributes:
        flat: All numbers.
        count: Images.
        shape: Rows, columns and channels of each.
        border: Rows and columns before the first pixel of the image.
    """

    flat: np.ndarray
    count: int
    shape: tuple[int, int, int]
    border: tuple[int, int]

    @classmethod
    def of(cls, images: Tensor, border: tuple[int, int]) -> "Planes":
        rows, cols = (torch.arange(-r, n + r) % n for r, n in zip(border, images.shape[-2:], strict=True))
        planes = images[:, :, rows[:, None], cols].permute(0, 2, 3, 1).contiguous()
        return cls(planes.flatten().numpy(), len(images), tuple(planes.shape[1:]), border)

    @property
    def stride(self) -> int:
        """Numbers from one row to the next."""
        return self.shape[1] * self.shape[2]

    def starts(self, block: Block) -> np.ndarray:
        """Where the windows of a block begin, image by image and pixel by pixel."""
        _, width, channels = self.shape
        rows = np.arange(*block.rows) - block.above + self.border[0]
        cols = np.arange(*block.cols) - block.left + self.border[1]
        places = (rows[:, None] * width + cols).reshape(-1) * channels
        return (np.arange(self.count)[:, None] * math.prod(self.shape) + places).reshape(-1)

    def window(self, block: Block) -> tuple[int, int, int]:
        """Rows of a window, numbers in each, and numbers from one to the next."""
        return block.window[0], block.window[1] * self.shape[2], self.stride

    def rows(self, starts: np.ndarray, block: Block) -> np.ndarray:
        """Windows as rows ``(n, d)``, float64."""
        height, run, stride = self.window(block)
        out = np.empty((len(starts), height * run))
        grow.gather(self.flat, starts, height, run, stride, out)
        return out


def build(images: TrainingImages, weights: Tensor, meetings: Meetings) -> list[Tree]:
    """The tree of each class, built side by side.

    Args:
        images: Training images ``(N, C, H, W)``, float32.
        weights: Weight of each, positive, float64.
        meetings: Which windows meet.
    """
    planes = Planes.of(images, meetings.border)
    with pool() as threads:
        return list(threads.map(lambda meeting: _tree(planes, weights.numpy(), meeting[1]), meetings.blocks))


@contextmanager
def pool() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has."""
    threads = ThreadPoolExecutor(torch.get_num_threads())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)  # an interrupted run does not finish its queue first


def _tree(planes: Planes, image_weights: np.ndarray, block: Block) -> Tree:
    starts = planes.starts(block)
    starts, weights, squares = _distinct(planes, block, starts, np.repeat(image_weights, len(starts) // planes.count))
    basis = _directions(planes, block, starts)
    coords, reach = _coordinates(planes, block, starts, basis)
    depth = max(0, math.ceil(math.log2(len(starts) / LEAF)))
    nodes, dims = 2 ** (depth + 1) - 1, coords.shape[1]
    low, high = np.empty((nodes, dims), np.float32), np.empty((nodes, dims), np.float32)
    first, last, order = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.arange(len(starts))
    grow.halve(coords, order, depth, low, high, first, last)
    leaves = slice(2**depth - 1, None)
    place = first[leaves, None] + np.arange(math.ceil(len(starts) / 2**depth))
    full = place < last[leaves, None]
    place = order[np.minimum(place, len(starts) - 1)]
    weights, squares = np.where(full, weights[place], 0.0), np.where(full, squares[place], 0.0)
    return Tree(
        basis=basis,
        low=torch.from_numpy(low),
        high=torch.from_numpy(high),
        mass=_sums(torch.from_numpy(weights).sum(1)),
        coords=torch.from_numpy(np.where(full[..., None], coords[place], EMPTY).astype(np.float32).transpose(0, 2, 1).copy()),
        starts=torch.from_numpy(np.where(full, starts[place], 0)),
        weights=torch.from_numpy(weights),
        squares=torch.from_numpy(squares),
        reach=reach,
    )


def _sums(leaves: Tensor) -> Tensor:
    """Sums below all nodes, from those of the leaves."""
    levels = [leaves]
    while len(levels[0]) > 1:
        levels.insert(0, levels[0].unflatten(0, (-1, 2)).sum(1))
    return torch.cat(levels)


def _distinct(planes: Planes, block: Block, starts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first of each set of equal windows, the sum of their weights and the sum of the squares."""
    bits, shape = planes.flat.view(np.int32), planes.window(block)
    odd = np.random.default_rng(0).integers(2**62, size=shape[0] * shape[1]) * 2 + 1
    hashes, same = np.empty(len(starts), np.int64), np.empty(len(starts), np.bool_)
    grow.digests(bits, starts, *shape, odd, hashes)
    order = np.argsort(hashes, kind="stable")
    starts, weights = starts[order], weights[order]
    grow.same_as_previous(bits, starts, hashes[order], *shape, same)
    new = np.flatnonzero(~same)
    return starts[new], np.add.reduceat(weights, new), np.add.reduceat(weights**2, new)


def _directions(planes: Planes, block: Block, starts: np.ndarray) -> Tensor:
    """Leading principal directions of some windows, by subspace iteration."""
    height, run, _ = planes.window(block)
    sample = torch.from_numpy(planes.rows(starts[:: max(1, len(starts) // SAMPLE)], block))
    size = height * run
    count = size if size <= ENTIRE else DIRECTIONS
    basis = torch.randn(size, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(5):
        basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q  # orthonormal whatever the rank
    return basis


def _coordinates(planes: Planes, block: Block, starts: np.ndarray, basis: Tensor) -> tuple[np.ndarray, Tensor]:
    """Coordinates ``(K, dims)`` of all windows, float32, and the largest norm of a window."""
    size, count = basis.shape
    coords = np.empty((len(starts), count + (count < size)), np.float32)
    reach = 0.0
    step = max(1, ROWS // size)
    for i in range(0, len(starts), step):
        rows = planes.rows(starts[i : i + step], block)
        coords[i : i + step] = coordinates(rows, basis.numpy())
        reach = max(reach, float(np.linalg.norm(rows, axis=1).max()))
    return coords, torch.tensor(reach, dtype=torch.float64)


def coordinates(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Coordinates of rows on the directions, and the length of the rest where there is one."""
    inner = rows @ basis
    if basis.shape[0] == basis.shape[1]:
        return inner
    rest = np.sqrt(np.maximum((rows * rows).sum(1) - (inner * inner).sum(1), 0.0))
    return np.concatenate([inner, rest[:, None]], 1)
