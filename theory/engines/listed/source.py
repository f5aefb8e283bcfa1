"""Where keys come from: read in pieces, or merged once and kept.

Keys are made from images on the fly, because all patches of a data set rarely fit in memory.
Where they do, and so can be sorted, equal rows are merged into one whose weight is the sum: an
exact saving that is large on discrete data (the toy has a few dozen distinct patches among 120,000).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from theory.types import KeyRows, LogWeights, PerQuery, ValueRows

PIECE = 2**14  # rows hashed or compared at a time


class Keys(NamedTuple):
    """Some candidates: keys ``(G, K, d)``, the values they carry ``(G, K, v)``, log-weights ``(G, K)``.

    A key merged of several with weights ``w_i`` also knows ``sum w_i^2 / (sum w_i)^2``, its ``concentration``, so that the
    effective number of candidates counts all of them; None where no key is merged.
    """

    keys: KeyRows
    values: ValueRows
    log_weights: LogWeights
    concentration: LogWeights | None = None


@dataclass(frozen=True)
class KeySource:
    """Candidates that can be read item by item.

    Attributes:
        read: ``read(start, stop)`` gives the keys of items ``start`` to ``stop``.
        items: Number of items (training images, or single rows once stored).
        groups: Number of groups G.
        rows: Keys per item and group.
        dim: Numbers in a key, d.
        value_dim: Numbers in a value, v.
        squares: Squared norms of all keys ``(G, K)``, float64, where they are kept.
        reading: Numbers that are read for each item besides its keys: those of an image on disk.
        kept: Whether keys and values that are read are views of what is kept anyway, and take no room.
    """

    read: Callable[[int, int], Keys]
    items: int
    groups: int
    rows: int
    dim: int
    value_dim: int
    squares: PerQuery | None = None
    reading: int = 0
    kept: bool = False

    @property
    def numbers(self) -> int:
        """Numbers held when all keys are read at once."""
        return self.items * self.groups * self.rows * (self.dim + self.value_dim + 1)


def stored(source: KeySource) -> KeySource:
    """All keys read at once, equal rows merged and their weights added, ready to be read again.

    Groups may end up with different numbers of distinct rows; they are filled up with keys of
    weight zero (log-weight ``-inf``).
    """
    everything = source.read(0, source.items)
    merged = [_merge(*group) for group in zip(*everything[:3], strict=True)]
    count = max(len(keys) for keys, *_ in merged)
    padded = Keys(
        *(
            torch.stack([_pad(x, count, fill) for x in part])
            for part, fill in zip(zip(*merged, strict=True), (0.0, 0.0, -torch.inf, 1.0), strict=True)
        )
    )
    read = lambda start, stop: Keys(*(x[:, start:stop] for x in padded))  # noqa: E731
    return KeySource(read, count, source.groups, 1, source.dim, source.value_dim, squared_norms(padded.keys), kept=True)


def squared_norms(keys: KeyRows) -> PerQuery:
    """Squared norms of keys, in float64, piece by piece to keep the float64 copies small."""
    pieces = keys.split(max(1, PIECE * 2**6 // max(1, keys[:, :1].numel())), 1)
    return torch.cat([torch.linalg.vector_norm(piece, dim=-1, dtype=torch.float64).square() for piece in pieces], 1)


def distinct_share(keys: Keys) -> float:
    """The share of keys that stay when equal ones are merged."""
    merged = [_merge(*group) for group in zip(*keys[:3], strict=True)]
    return sum(len(rows) for rows, *_ in merged) / keys.log_weights.numel()


def _pad(rows: Tensor, count: int, fill: float) -> Tensor:
    missing = rows.new_full((count - len(rows), *rows.shape[1:]), fill)
    return torch.cat([rows, missing])


def _merge(keys: Tensor, values: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merge rows equal in key and value. Rows are found by a hash and then compared in full."""
    unmerged = keys, values, log_weights, torch.ones_like(log_weights)
    _, inverse = torch.unique(_digest(keys) * 3 + _digest(values), return_inverse=True)
    count = int(inverse.max()) + 1
    if count == len(keys):
        return unmerged
    order = torch.arange(len(keys), device=keys.device)
    first = torch.full((count,), len(keys), device=keys.device).scatter_reduce(0, inverse, order, "amin")
    if not all(_equal_rows(rows, first[inverse]) for rows in (keys, values)):
        return unmerged  # two different rows share a hash: keep all, nothing is lost
    top = log_weights.max()
    each = torch.exp(log_weights.double() - top)
    weights, squares = (torch.zeros(count, dtype=torch.float64, device=keys.device).index_add_(0, inverse, w) for w in (each, each**2))
    concentration = torch.where(squares > 0, squares / weights.clamp(min=torch.finfo(torch.float64).tiny) ** 2, 1.0)
    return keys[first], values[first], (torch.log(weights) + top).to(log_weights), concentration.to(log_weights)


def _digest(rows: Tensor) -> Tensor:
    """A 64-bit hash of each row's bits, piece by piece to keep the integers few."""
    kind = torch.int32 if rows.dtype == torch.float32 else torch.int64
    odd = torch.randint(2**62, (rows.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    odd = odd.to(rows.device)
    return torch.cat([(part.contiguous().view(kind).to(torch.int64) * odd).sum(1) for part in rows.split(PIECE)])


def _equal_rows(rows: Tensor, others: Tensor) -> bool:
    return all(torch.equal(part, rows[index]) for part, index in zip(rows.split(PIECE), others.split(PIECE), strict=True))


def items_within(source: KeySource, numbers: float) -> int:
    """How many items can be read at once within that many numbers; at least one."""
    per_item = source.groups * source.rows * (source.dim + source.value_dim + 1) + source.reading
    return max(1, min(source.items, math.floor(numbers / per_item)))
