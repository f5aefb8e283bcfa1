r"""Exact posterior sums over any number of keys, within a memory budget, on CPU and CUDA.

Queries meet the keys in tiles. In a tile, logits come from one matrix product of the expanded form

.. math:: \ell_j + \frac{\|q\|^2}{2\sigma_t^2}
          = \Big\langle \big(\tfrac{\alpha_t}{\sigma_t^2} q,\ -\tfrac{\alpha_t^2}{2\sigma_t^2},\ 1\big),\
                        \big(k_j,\ \|k_j\|^2,\ \log w_j\big) \Big\rangle ,

which is the fastest way to get them and, in float32, a dangerous one: at low noise it is a small
difference of large numbers. Its error is estimated from above first (`_rounding`). Where the bound exceeds
`TOLERANCE`, float32 logits only *screen*: pairs that could matter, given the bound, are computed
again in float64, by direct differences when they are few and by a float64 product when they are
many. Float64 inputs never need this.

What is left out, and its size: pairs with a weight below ``eps / (4 K)`` of the largest, ``K`` the
number of keys and ``eps`` the precision of the keys' dtype; together less than a quarter of a
rounding error. The exponent is floored at `FLOOR`, which adds less than ``K e^FLOOR`` (1e-19 for
ten million keys) and keeps denormal numbers, ten times slower to multiply, out of the products.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from theory.captured import answer
from theory.engines.listed import thin
from theory.engines.listed.source import KeySource, items_within, squared_norms
from theory.engines.state import State
from theory.types import Coefficients, Float, PerQuery, Queries

TOLERANCE = 4e-4  # bound on the error of a float32 logit that is used as it is; the typical error is ten times smaller
SAFETY = 4.0  # above the largest error found, 3.6 units of `_rounding`, on photographs with patches of 3 to 31 pixels
FLOOR = -60.0  # smallest exponent relative to the maximum
CROWDED = 1 / 64  # share of candidate pairs above which a float64 product beats direct differences
FEW = 16  # values of a key that are laid out anew for a product
WIDE = 512  # numbers of a key from which on queries are not met in tiles, where keys are kept anyway
DOUBLED = 2**22  # numbers of keys copied to float64 at a time
FEWEST = 2**12  # keys that queries meet at a time, at least, where keys take no room
RETRY = 8  # key chunks between two attempts to screen a crowded tile
FAR = ("cuda",)  # devices whose answers to the host take longer than the pairs that they would save
TILE = {"cpu": 2**21, "cuda": 2**26}  # pairs in flight: what a CPU's caches hold, what fills a GPU


@torch.no_grad()
def stream_sum(queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
    """The state of all queries after all keys.

    Args:
        queries: What the model sees, with shape ``(G, Q, d)``, float64.
        alpha, sigma: Coefficients of each query, with shape ``(Q,)``, float64.
        source: The keys; their dtype is the precision of the work.
        memory: Bytes that may be used beyond queries and state.
    """
    groups, count, _ = queries.shape
    state = State.empty(groups, count, source.value_dim, queries.device)
    screens: dict[int, _Screen] = {}
    for number, (start, stop, width) in enumerate(_chunks(source, count, memory, queries.device)):
        chunk = _Chunk(source, start, stop)
        for first in range(0, count, width):
            tile = slice(first, min(first + width, count))
            part = State(*(x[:, tile] for x in (state.max, state.sum, state.square, state.weighted)))
            screen = screens.setdefault(first, _Screen())
            _Tile(queries[:, tile], alpha[tile], sigma[tile], chunk, part, screen, number, source).add()
    return State(state.max - _offset(queries, sigma), state.sum, state.square, state.weighted)


def _chunks(source: KeySource, count: int, memory: int, device: torch.device) -> Iterator[tuple[int, int, int]]:
    """Pieces of the keys (start, stop) and the number of queries that meet them at a time."""
    numbers = memory / 8  # in float64, to leave room for a float64 product
    pairs = min(TILE.get(device.type, TILE["cuda"]), numbers / 8)  # a tile, its copies and its mask
    if source.kept and source.dim >= WIDE:  # each reading of such keys costs more than the pairs: let all queries meet them at once
        room = numbers / 8 / (source.groups * source.rows * count)
        wanted = source.items if device.type in FAR else max(FEWEST, source.items / RETRY)
        items = int(max(1, min(source.items, wanted, room)))
        for start in range(0, source.items, items):
            yield start, min(start + items, source.items), count
        return
    keys = max(2048, pairs / (source.groups * count)) * source.groups  # few queries meet more keys at a time
    wanted = keys * (source.dim + source.value_dim + 1)
    items = items_within(source, min(wanted, numbers / 6))  # keys, their copies and the patches they come from
    width = max(1, min(count, int(pairs / (items * source.rows * source.groups))))
    for start in range(0, source.items, items):
        yield start, min(start + items, source.items), width


def _offset(queries: Queries, sigma: Coefficients) -> PerQuery:
    return queries.square().sum(-1) / (2 * sigma**2)


class _Chunk:
    """Some keys, with their squared norms and log-weights."""

    def __init__(self, source: KeySource, start: int, stop: int) -> None:
        self.keys, self.values, self.log_weights, self.concentration = source.read(start, stop)
        kept = None if source.squares is None else source.squares[:, start * source.rows : stop * source.rows]
        self.squares = squared_norms(self.keys) if kept is None else kept
        self.radius = self.squares.max().sqrt()

    @cached_property
    def exact(self) -> Float[Tensor, "G K d"] | None:
        """All keys in float64, where these are few enough to be kept."""
        return self.keys.double() if self.keys.numel() <= DOUBLED else None

    def doubles(self) -> Iterator[tuple[slice, Float[Tensor, "G k d"]]]:
        """All keys in float64, in pieces."""
        step = max(1, DOUBLED // self.keys[:, :1].numel()) if self.exact is None else self.keys.shape[1]
        for start in range(0, self.keys.shape[1], step):
            piece = slice(start, start + step)
            yield piece, self.keys[:, piece].double() if self.exact is None else self.exact

    @cached_property
    def columns(self) -> Float[Tensor, "G v K"]:
        """Values laid out for a product with rows of weights; for the few values of a pixel three times faster if copied."""
        return self.values.mT.contiguous() if self.values.shape[-1] <= FEW else self.values.mT

    @cached_property
    def offsets(self) -> Float[Tensor, "G K 2"]:
        """What each key adds to a logit, times `_Tile.offsets`."""
        return torch.stack([self.squares, self.log_weights.double()], -1)


class _Screen:
    """Whether the last float32 screening of a tile of queries left too many candidates."""

    crowded = False


class _Tile:
    """Some queries meeting some keys; `add` merges the outcome into the state of the queries."""

    def __init__(self, queries, alpha, sigma, chunk, state, screen, number, source) -> None:
        self.queries, self.alpha, self.sigma, self.state = queries, alpha, sigma, state
        self.chunk, self.screen, self.number = chunk, screen, number
        self.cut = math.log(source.items * source.rows) - math.log(torch.finfo(chunk.keys.dtype).eps / 4)

    def add(self) -> None:
        slack = self._rounding()
        if answer((slack <= TOLERANCE).all(), True):
            logits = self._logits(self.chunk.keys)
            far = logits.device.type in FAR
            rows = None if far else self._rows(logits.amax(-1).double() > self.state.max - self.cut)
            self._accumulate(rows, logits if rows is None else logits[:, rows])
        elif self.screen.crowded and self.number % RETRY:
            self._accumulate(None, self._exact(None))
        else:
            self._screened(slack)

    def _screened(self, slack: PerQuery) -> None:
        approximate = self._logits(self.chunk.keys)
        largest = approximate.amax(-1).double()
        threshold = torch.maximum(self.state.max, largest - slack) - self.cut - slack
        rows = self._rows(largest > threshold, always=True)
        if len(rows) == 0:
            self.screen.crowded = False
            return
        near = approximate[:, rows] > threshold[:, rows, None].to(approximate)
        self.screen.crowded = int(near.sum()) > CROWDED * near.numel()
        if self.screen.crowded:
            self._accumulate(rows, self._exact(rows))
        else:
            keys = near.any(1).any(0).nonzero()[:, 0]
            self._accumulate(rows, self._direct(rows, keys, near[:, :, keys]), keys)

    def _accumulate(self, rows: Tensor | None, logits: Tensor, keys: Tensor | None = None) -> None:
        """Add exact logits of some queries against some keys (all where None); overwrites them."""
        state = self.state if rows is None else self.state.rows(rows)
        top = torch.maximum(state.max, logits.amax(-1).double())
        shift = torch.where(top == -torch.inf, 0.0, top)
        weights = logits.sub_(shift[..., None].to(logits)).to(self.chunk.values).clamp_(min=FLOOR).exp_()
        columns = self.chunk.columns if keys is None else self.chunk.values[:, keys].mT
        part = State(top, weights.sum(-1).double(), self._squares(weights, keys), _product(weights, columns).double())
        self.state.put(slice(None) if rows is None else rows, state.merge(part))

    def _squares(self, weights: Tensor, keys: Tensor | None) -> PerQuery:
        """Sum of the squared weights of all candidates, those of merged keys by how concentrated they are."""
        if (concentration := self.chunk.concentration) is None:
            return torch.linalg.vector_norm(weights, dim=-1).double().square()
        concentration = concentration if keys is None else concentration[:, keys]
        squares = weights.square().clamp_(min=torch.finfo(weights.dtype).tiny)  # no denormal numbers
        return (squares @ concentration.to(weights)[..., None])[..., 0].double()

    def _exact(self, rows: Tensor | None) -> Tensor:
        """Float64 logits of some queries against all keys, by a float64 product."""
        parts = [self._logits(keys, rows, piece) for piece, keys in self.chunk.doubles()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _logits(self, keys: Tensor, rows: Tensor | None = None, piece: slice = slice(None)) -> Tensor:
        """Logits of a piece of the chunk by a product, in the precision of the keys."""
        queries, offsets = (x if rows is None else x[:, rows] for x in (self.scaled, self.offsets))
        logits = _inner(queries.to(keys), keys)
        with _full_precision():
            return logits.baddbmm_(offsets.to(keys), self.chunk.offsets[:, piece].to(keys).mT)

    def _direct(self, rows: Tensor, keys: Tensor, near: Tensor) -> Tensor:
        """Float64 logits of candidate pairs of some queries and keys by direct differences; ``-inf`` elsewhere."""
        logits = torch.full(near.shape, -torch.inf, dtype=torch.float64, device=near.device)
        offset = _offset(self.queries[:, rows], self.sigma[rows])
        pairs = near.nonzero()
        for g, r, k in (piece.unbind(1) for piece in pairs.split(max(1, 2**21 // self.queries.shape[-1]))):
            q = rows[r]
            difference = self.queries[g, q] - self.alpha[q, None] * self.chunk.keys[g, keys[k]]
            distance = difference.square_().sum(-1)
            logits[g, r, k] = offset[g, r] - distance / (2 * self.sigma[q] ** 2) + self.chunk.log_weights[g, keys[k]]
        return logits

    @cached_property
    def scaled(self) -> Queries:
        """Queries scaled so that their products with keys are parts of logits, in float64."""
        return self.queries * (self.alpha / self.sigma**2)[:, None]

    @cached_property
    def offsets(self) -> Float[Tensor, "G Q 2"]:
        """What the squared norm and the log-weight of a key count in a logit."""
        square = -0.5 * (self.alpha / self.sigma) ** 2
        return torch.stack([square, torch.ones_like(square)], -1).expand(len(self.queries), -1, -1)

    def _rounding(self) -> PerQuery:
        """Bound on the rounding error of a logit from a product in the precision of the keys.

        ``SAFETY u (2 |a q| |k| + |a k|^2) / sigma^2``, with ``u`` the unit roundoff. A strict bound grows
        with the length of the sum; errors of single terms are independent and products are summed in
        blocks, so that a constant holds in practice. It is measured, not proven.
        """
        unit = SAFETY * torch.finfo(self.chunk.keys.dtype).eps / 2
        reach = self.alpha * self.chunk.radius
        return unit * reach * (2 * self.queries.square().sum(-1).sqrt() + reach) / self.sigma**2

    def _rows(self, active: Tensor, always: bool = False) -> Tensor | None:
        """Queries with an active pair in any group; None (all) when that is nearly all of them."""
        active = active.any(0)
        rows = active.nonzero()[:, 0]
        return None if not always and len(rows) > 0.75 * len(active) else rows


def _inner(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products of all queries with all keys of their group."""
    if len(keys) == 1 and thin.suits(queries.shape[1], keys[0]):
        return thin.inner(queries[0], keys[0])[None]
    return _product(queries, keys)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a b^T`` of each group, at full precision whatever the process-wide settings allow."""
    with _full_precision():
        return (a[0] @ b[0].T)[None] if len(a) == 1 else torch.bmm(a, b.mT)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 or bfloat16 products: they are off by 1e-3, and a posterior exponentiates that."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
