r"""Exact posterior sums by a fused kernel. Importing this needs triton.

A tile of queries meets the keys of a chunk in as many splits as fill a GPU (`kernel`); partial states of splits and chunks are merged
in float64. Distances are sums of squared differences, in the precision of the keys, without matrix products: TF32 does not occur.

In float32 the error of a logit is estimated from above once the largest is known (`_rounding`); queries where it exceeds `TOLERANCE`
are summed again by `stream_sum`, which works in float64 where it has to.

What is left out, and its size: pairs with a weight below two to the `FLOOR` of the largest that their program has met; together less than
``K 2^FLOOR`` of the sum, 1e-11 for ten million keys in float32.
"""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from theory.engines.listed.fused.kernel import sum_keys
from theory.engines.listed.source import Keys, KeySource, items_within
from theory.engines.listed.stream import stream_sum
from theory.engines.state import State
from theory.errors import InputError
from theory.types import Coefficients, Float, PerQuery, Queries

TOLERANCE = 4e-4  # bound on the error of a float32 logit that is used as it is
SUMS, WITHIN = 6.0, 16.0  # see `_rounding`
VALUES = 16  # numbers in a value, at most, that are kept in registers
TILE = {torch.float32: (16, 128), torch.float64: (8, 128)}  # queries and keys of a tile: a thread has all queries and one key
DIMS = 8  # coordinates added up without compensation
FLOOR = {torch.float32: -60.0, torch.float64: -500.0}  # smallest exponent, in bits: squares stay above the smallest normal number
PROGRAMS = 1024  # that keep a GPU busy
WARPS = 4


@torch.no_grad()
def sum_fused(queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
    """The state of all queries after all keys. Values of more than `VALUES` numbers (whole images) are left to `stream_sum`.

    Args:
        queries: What the model sees, with shape ``(G, Q, d)``, float64.
        alpha, sigma: Coefficients of each query, with shape ``(Q,)``, float64.
        source: The keys; their dtype is the precision of the work.
        memory: Bytes that may be used beyond queries and state.

    Raises:
        InputError: If the queries are on a device that the kernel can't run on.
    """
    _check(queries.device)
    if source.value_dim > VALUES:
        return stream_sum(queries, alpha, sigma, source, memory)
    state, error = _summed(queries, alpha, sigma, source, memory)
    rough = (~(error <= TOLERANCE)).any(0).nonzero()[:, 0]
    if len(rough):
        state.put(rough, stream_sum(queries[:, rough], alpha[rough], sigma[rough], source, memory))
    return state


def _check(device: torch.device) -> None:
    if device.type != "cuda" and isinstance(sum_keys, JITFunction):
        raise InputError(
            f"engine='triton' on device {device}",
            "noisy images on a GPU",
            "move them with x_t.cuda(), use engine='auto', or set TRITON_INTERPRET=1 before starting Python to try it slowly on the CPU",
        )


def _summed(queries: Queries, alpha: Tensor, sigma: Tensor, source: KeySource, memory: int) -> tuple[State, PerQuery]:
    """The state by the kernel alone, and a bound on the error of its logits."""
    groups, count, dim = queries.shape
    state = State.empty(groups, count, source.value_dim, queries.device)
    error = torch.zeros_like(state.sum)
    heaviest = state.sum.new_full((groups, 1), -torch.inf)
    numbers = memory / 8  # in float64
    items = items_within(source, numbers / 6)  # keys, their copies and the images they come from
    width = max(1, int(numbers / 8 / (groups * (dim + DIMS))))  # queries and their copies
    for start in range(0, source.items, items):
        chunk = _Chunk.of(source.read(start, min(start + items, source.items)))
        heaviest = torch.maximum(heaviest, chunk.heaviest)
        for first in range(0, count, width):
            rows = slice(first, min(first + width, count))
            part = _meet(queries[:, rows], alpha[rows], sigma[rows], chunk)
            state.put(rows, state.rows(rows).merge(part))
        if chunk.keys.dtype == torch.float32:
            error = _rounding(heaviest - state.max)
    return state, error.where(heaviest > -torch.inf, 0.0)


@dataclass(frozen=True)
class _Chunk:
    """Some keys as the kernel reads them, padded to ``K`` and ``d`` of whole tiles.

    Attributes:
        keys, values: With shapes ``(G, d, K)`` and ``(G, v, K)``.
        costs: Minus the binary logarithms of the weights, ``(G, K)``.
        concentration: Of merged keys ``(G, K)``, or None.
        heaviest: Largest log-weight of each group, ``(G, 1)``.
    """

    keys: Tensor
    values: Tensor
    costs: Tensor
    concentration: Tensor | None
    heaviest: Tensor

    @classmethod
    def of(cls, read: Keys) -> "_Chunk":
        keys, values, log_weights, concentration = read
        kind, count = keys.dtype, _whole(keys.shape[1], TILE[keys.dtype][1])
        costs = keys.new_full((len(keys), count), torch.inf)
        costs[:, : keys.shape[1]] = log_weights.double() / -math.log(2)
        merged = None if concentration is None else _laid_out(concentration[..., None], 1, count, kind)
        return cls(
            _laid_out(keys, _whole(keys.shape[2], DIMS), count, kind),
            _laid_out(values, values.shape[2], count, kind),
            costs,
            merged,
            log_weights.double().amax(1, keepdim=True),
        )


def _whole(count: int, tile: int) -> int:
    return -(-count // tile) * tile


def _laid_out(rows: Float[Tensor, "G n d"], dims: int, count: int, dtype: torch.dtype) -> Float[Tensor, "G dims count"]:
    """Rows as columns, padded with zeros."""
    columns = rows.new_zeros((len(rows), dims, count), dtype=dtype)
    columns[:, : rows.shape[2], : rows.shape[1]] = rows.mT
    return columns


def _meet(queries: Queries, alpha: Tensor, sigma: Tensor, chunk: _Chunk) -> State:
    """The state of some queries after a chunk of keys."""
    (groups, dims, keys), kind, device = chunk.keys.shape, chunk.keys.dtype, queries.device
    (high, wide), channels = TILE[kind], chunk.values.shape[1]
    scale, factor, stretch = _scales(alpha, sigma, kind)
    high = min(high, triton.next_power_of_2(queries.shape[1]))
    count = _whole(queries.shape[1], high)
    scaled = queries * scale[:, None]
    rest = scaled - scaled.to(kind)  # zero in float64
    scaled, rest = (_laid_out(x, dims, count, kind) for x in (scaled, rest))
    factors = torch.zeros(count, dtype=kind, device=device)
    factors[: len(factor)] = -factor
    blocks, tiles = groups * count // high, keys // wide
    splits = max(1, min(tiles, PROGRAMS // blocks))
    tiles = -(-tiles // splits)
    splits = -(-(keys // wide) // tiles)
    best = torch.empty(splits, groups, count, dtype=torch.float64, device=device)
    sums = torch.empty(splits, groups, 2 + channels, count, dtype=torch.float64, device=device)
    merged = chunk.concentration is not None
    with torch.cuda.device_of(queries):
        sum_keys[(blocks, splits)](
            scaled, rest, factors, chunk.keys, chunk.costs, chunk.values, chunk.concentration if merged else chunk.costs,
            best, sums, count, keys, dims // DIMS, tiles,
            QUERIES=high, KEYS=wide, DIMS=DIMS, VALUES=channels, WIDTH=triton.next_power_of_2(channels),
            SPLIT=kind != torch.float64, MERGED=merged, FLOOR=FLOOR[kind], num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    cut = slice(queries.shape[1])
    return _merged(best[..., cut], sums[..., cut], stretch)


def _scales(alpha: Tensor, sigma: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The scale of queries, that of keys, and by how much costs come out too small.

    The scale of the keys has the precision of the work, and the other follows from it in float64: no rounding, but a slightly
    different sigma. What that does to a cost is relative to the cost.
    """
    scale = math.sqrt(math.log2(math.e) / 2) / sigma
    factor = (alpha * scale).to(kind)
    fitted = torch.where(factor.abs() >= torch.finfo(kind).tiny, factor.double() / alpha, scale)
    return fitted, factor, (scale / fitted).square()


def _merged(best: Float[Tensor, "S G Q"], sums: Float[Tensor, "S G n Q"], stretch: Tensor) -> State:
    """One state of those of all splits."""
    top = best.amin(0)
    shrink = torch.where(best == torch.inf, 0.0, torch.exp2(top - best))
    total = (sums * shrink[:, :, None]).sum(0)
    square = (sums[:, :, 1] * shrink.square()).sum(0)
    return State(-math.log(2) * stretch * top, total[:, 0], square, total[:, 2:].mT.contiguous())


def _rounding(distance: PerQuery) -> PerQuery:
    """Bound on the rounding error of the float32 logits that matter, from the distance of the nearest key as a logit without its sign.

    Those that matter are within `WITHIN` of the largest. Differences are rounded relative to themselves (`kernel._distances`), `DIMS` of
    their squares are added up at a time, and the sums of these with compensation: ``SUMS u l`` at most, with ``l`` a logit without its
    sign and ``u`` the unit roundoff, whatever the noise level and the number of coordinates. The
    largest error found is 5.3 of these units, of images of one colour without noise, where all errors have one sign; of photographs,
    digits and noise 3.2, for patches of 3 to 25 pixels and sigma from .005 to 3, and the less the more coordinates. Measured, not proven.
    """
    return SUMS * torch.finfo(torch.float32).eps / 2 * (distance.clamp(min=0) + WITHIN)
