"""All posteriors of one noisy image in a pass over the training images, compiled (`tables`); for the CPU."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from theory.engines.lanes import LANES, aligned
from theory.engines.masked import tables
from theory.engines.masked.sets import Sets
from theory.engines.state import State
from theory.types import Float

BLOCKS = 16  # blocks of images in a task
TASK = 256  # sets for one thread at a time, at least
NEVER = -1e30  # log-weight of what fills a block
Pieces = Iterator[tuple[Tensor, Tensor, Tensor]]


def met(
    sets: Sets, pieces: Pieces, query: Float[Tensor, " D"], level: tuple[float, float], heaviest: float, cut: float, carried: bool
) -> State:
    """The state of all sets, one group, after all training images; logits are too large by half the numbers of their sets.

    Args:
        sets: Of numbers.
        pieces: Training images ``(N, D)``, numbers of some of them and their log-weights, at most `BLOCKS` blocks at a time, nearest first.
        query: A noisy image.
        level: ``alpha`` and ``sigma``.
        heaviest: The largest log-weight.
        cut: Exponent below the largest that does not count.
        carried: Whether what is averaged are the numbers themselves, one for each set.
    """
    work = _Work(sets, query, level, heaviest, cut, carried)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:

        def run(task: Callable[[int, int], None], count: int, least: int) -> None:
            step = max(least, -(-count // threads))
            firsts = range(0, count, step)
            each = map if len(firsts) == 1 else pool.map
            list(each(lambda first: task(first, min(first + step, count)), firsts))

        for piece in pieces:
            work.add(*piece, run)
    total, square, weighted = torch.from_numpy(work.sums)[:, None]
    return State(torch.from_numpy(work.best)[None] * math.log(2), total, square, weighted[..., None])


class _Work:
    """Room for blocks of images and for sums, and what is known so far: of each set the largest logit, in bits, and sums in float64."""

    def __init__(self, sets: Sets, query: Tensor, level: tuple[float, float], heaviest: float, cut: float, carried: bool) -> None:
        self.sets, self.query, self.kind = sets, query.contiguous().numpy(), query.numpy().dtype
        self.alpha, sigma = level
        self.carried = carried
        factor = -1 / (2 * sigma**2 * math.log(2))
        self.level = tables.Level(factor, sigma**2, heaviest / math.log(2), cut / math.log(2))
        rows = -(-sets.matrix.shape[1] // tables.CHUNK) * tables.CHUNK
        self.squares = aligned(BLOCKS * rows * LANES, self.kind).reshape(BLOCKS, -1)
        self.squares[:] = 0
        self.keys = aligned(BLOCKS * len(self.query) * LANES, self.kind)
        self.whole, self.logs = aligned(BLOCKS * LANES, self.kind), aligned(BLOCKS * LANES, self.kind)
        self.best, self.sums = np.full(sets.count, -np.inf), np.zeros((tables.FIELDS, sets.count))
        self.tops, self.limits = (np.full(sets.count, x, self.kind) for x in (-np.inf, np.inf))
        self.fields = aligned(sets.count * tables.FIELDS * LANES, self.kind)

    def add(self, images: Tensor, order: Tensor, log_weights: Tensor, run: Callable) -> None:
        """Some more images."""
        count, blocks = len(order), -(-len(order) // LANES)
        self.logs[:] = NEVER
        self.logs[:count] = (log_weights / math.log(2)).clamp(min=NEVER).numpy()
        self.fields[:] = 0
        rows = np.resize(order.numpy(), blocks * LANES).astype(np.uintp)
        numbers = self.query, self.kind.type(self.alpha), self.kind.type(self.level.low)
        given = self.keys, self.squares, self.whole, images.numpy(), rows, *numbers
        run(lambda first, last: tables.lay(*given, np.uintp(first), np.uintp(last)), blocks, 1)
        run(lambda first, last: self._meet(first, last, blocks), self.sets.count, TASK)
        best = self.tops.astype(np.float64)
        self.sums *= np.exp2(self.best - best, where=np.isfinite(self.best), out=np.zeros_like(best)) ** np.array([[1], [2], [1]])
        self.sums += self.fields.reshape(-1, tables.FIELDS, LANES).sum(2, dtype=np.float64).T
        self.best = best

    def _meet(self, first: int, last: int, blocks: int) -> None:
        members, lookups = self.sets.ways.given(first, last)
        sums, table, scratch = (aligned(n * LANES, self.kind) for n in (last - first, tables.GROUPS * tables.SIZE, 1))
        wanted, kept = (np.empty(last - first, kind) for kind in (bool, np.uint32))
        room = tables.Room(sums, wanted, kept, self.tops, self.limits, self.fields, table, scratch)
        room.table[:] = 0
        ends = np.uintp(first), np.uintp(last)
        tables.meet(self.keys, self.squares[:blocks], self.whole, self.logs, members, lookups, self.level, room, self.carried, *ends)
