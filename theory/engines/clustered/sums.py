r"""Posterior means of values and of clusters over kept keys, on the CPU in float32.

A posterior over clusters is a sum of weights for each of them, and needs no values of its own where the keys lie cluster by cluster.
Inside a cluster they lie in blocks of alike ones, so that at low noise the values of most blocks are never touched.

Left out are keys with a weight below ``eps / (4 K)`` of the largest known, ``K`` the number of keys: together less than a quarter of a
rounding error, as in `theory.engines.listed.stream`. Errors of logits are bounded as there; queries for which no way of taking distances
in float32 keeps them below `TOLERANCE` are left to the caller.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from theory.engines.clustered import kernel
from theory.engines.clustered.kernel import BLOCK, EMPTY, TILE
from theory.engines.lanes import LANES
from theory.types import Coefficients, Float

TOLERANCE = 4e-4  # bound on the error of a float32 logit that is used as it is
PRODUCTS = 1e-4  # the same where it comes from a product: errors of all keys are large together
SAFETY = 4.0  # above the largest error of a product found (`theory.engines.listed.stream`)
SUMS = 7.0  # units of roundoff that sums of squares put into a logit (`theory.engines.windows.rounding.bound`)
PIXELS = 1.2  # the same for rounded queries
QUERIES = 256  # that one thread takes at a time
BITS = math.log2(math.e)


@dataclass(frozen=True)
class Clustered:
    """Keys cluster by cluster, in blocks.

    Attributes:
        keys: Coordinates ``(n, d, BLOCK)``, float32, with ``squares``, ``costs`` (minus the log-weights in bits) and ``values``, as
            `kernel.sum_clusters` takes them.
        firsts: First block of each cluster, and the end.
        value_dim: Numbers in a value.
        count: Number of keys.
        radius: Largest norm of a key.
    """

    keys: np.ndarray
    squares: np.ndarray
    costs: np.ndarray
    values: np.ndarray
    firsts: np.ndarray
    value_dim: int
    count: int
    radius: float

    @classmethod
    def of(
        cls, keys: Float[Tensor, "n d"], values: Float[Tensor, "n v"], log_weights: Float[Tensor, " n"], members: Tensor, count: int
    ) -> "Clustered":
        """Keys with their values, log-weights and numbers of clusters, of which there are ``count``."""
        rows = [np.flatnonzero(members.numpy() == c) for c in range(count)]
        blocks = [block for r in rows for block in _halved(keys.double().numpy(), r)]
        firsts = np.cumsum([0, *(_blocks(len(r)) for r in rows)])
        table = np.stack([np.resize(b, BLOCK) for b in blocks])
        spare = np.stack([np.arange(BLOCK) >= len(b) for b in blocks])
        key, cost = keys.numpy()[table], (-BITS * log_weights.double().numpy())[table]
        cost[spare | np.isinf(cost)] = EMPTY
        width = -(-(values.shape[1] + 1) // LANES) * LANES
        value = np.zeros((len(blocks), BLOCK, width), np.float32)
        value[..., : values.shape[1]] = values.numpy()[table]
        value[..., -1] = 1.0
        square = (key.astype(np.float64) ** 2).sum(2)
        return cls(
            np.ascontiguousarray(key.transpose(0, 2, 1)), square.astype(np.float32), cost.astype(np.float32), value, firsts,
            values.shape[1], len(keys), float(square.max() ** 0.5),
        )  # fmt: skip

    def sums(
        self, queries: Float[Tensor, "Q d"], alpha: Coefficients, sigma: Coefficients
    ) -> tuple[Float[Tensor, "Q K"], Float[Tensor, "Q v"], Tensor]:
        """Posterior of the clusters, posterior mean of the values, and which queries rounding has spoilt.

        Args:
            queries: In float64.
            alpha, sigma: Coefficients of each, in float64.
        """
        direct = self._product_error(queries, alpha, sigma) > PRODUCTS
        order = torch.argsort(direct.int(), stable=True)  # queries of a kind meet blocks together
        order = torch.cat([order, order[-1:].expand(-len(order) % TILE)])
        q, a, s = queries[order], alpha[order], sigma[order]
        scale = math.sqrt(BITS / 2) / s
        numbers = ((-BITS * a / s**2)[:, None] * q, scale[:, None] * q, (scale * a) ** 2, -scale * a)
        tiles = direct[order].reshape(-1, TILE).any(1)
        pieces = zip(*(x.float().contiguous().split(QUERIES) for x in numbers), tiles.split(QUERIES // TILE), strict=True)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            done = list(threads.map(self._some, pieces))
        total, best = (torch.cat(x) for x in zip(*done, strict=True))
        error = torch.where(tiles.repeat_interleave(TILE), self._difference_error(q, a, s, best), 0.0)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))[: len(queries)]
        count = len(self.firsts) - 1
        total, weight = total[place], total[place, -1:]
        return total[:, :count] / weight, total[:, count : count + self.value_dim] / weight, ~(error[place] <= TOLERANCE)

    def _some(self, piece: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Sums of some queries, and the cost of the cheapest key of each."""
        numbers = [x.numpy() for x in piece]
        count, width = len(numbers[0]), self.values.shape[2]
        best, sums, room = (np.empty(shape, np.float32) for shape in ((2, count), (count, width), TILE * BLOCK))
        total = np.empty((count, len(self.firsts) - 1 + width))
        kernel.sum_clusters(
            *numbers, self.keys, self.squares, self.costs, self.values, self.firsts, np.float32(self._cut), best, sums, total, room
        )
        return torch.from_numpy(total), torch.from_numpy(best[0])

    @property
    def _cut(self) -> float:
        return math.log2(self.count) - math.log2(np.finfo(np.float32).eps / 4)

    def _product_error(self, queries: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Bound on the error of a logit from a product, as in `theory.engines.listed.stream`."""
        reach = alpha * self.radius
        unit = SAFETY * np.finfo(np.float32).eps / 2
        return unit * reach * (2 * queries.square().sum(-1).sqrt() + reach) / sigma**2

    def _difference_error(self, queries: Tensor, alpha: Tensor, sigma: Tensor, cost: Tensor) -> Tensor:
        """Bound on the error of a logit from differences whose cheapest costs so much, as in `theory.engines.windows.rounding.bound`."""
        reach = (queries.abs().amax(1) + alpha * self.radius) / (math.sqrt(2) * sigma)
        cost = cost.double().clamp(min=0) / BITS
        return np.finfo(np.float32).eps / 2 * (SUMS * cost + PIXELS * 2 * cost.sqrt() * reach)


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def _halved(keys: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in whole blocks of alike ones: halved along the coordinate of largest variance."""
    if len(rows) <= BLOCK:
        if len(rows):
            yield rows
        return
    axis = keys[rows].var(0).argmax()
    ordered = rows[np.argsort(keys[rows, axis], kind="stable")]
    half = _blocks(len(rows)) // 2 * BLOCK
    yield from _halved(keys, ordered[:half])
    yield from _halved(keys, ordered[half:])
