# ruff: noqa: N803 (arguments fixed at compile time are in capitals)
r"""The loop over pairs of queries and keys, in Triton. Importing this needs triton.

Everything is counted in bits: a key costs ``|s q - f k|^2 - log2 w`` bits with ``s^2 = log2(e) / 2 sigma^2`` and ``f = alpha s``,
and weighs two to the minus that. Arrays are padded to whole tiles: coordinates with zeros, keys with an infinite cost. Coordinates
are rows, so that neighbouring threads read neighbouring keys.
"""

import triton
import triton.language as tl


@triton.jit
def _weights(exponents, floor):
    """Two to the exponents; nothing where they are below the floor, infinite or not a number. No denormal number arises."""
    return tl.where(exponents >= floor, tl.exp2(tl.maximum(exponents, floor)), 0.0)


@triton.jit
def _distances(queries, rests, keys, rows, columns, factors, start, query_count, key_count, steps, DIMS: tl.constexpr, SPLIT: tl.constexpr):
    """``start + |q + f k|^2`` for a tile of pairs, and what is to be subtracted from it.

    Direct differences, each rounded once as a whole: the error is relative to the difference, because queries come in two parts where
    `SPLIT`, and factors and keys are exact. `DIMS` coordinates are added up at a time, and their sums with
    compensation (Kahan), so that the rounding error does not grow with the number of coordinates.
    """
    total = start
    excess = tl.zeros_like(total)
    for _ in range(steps):
        part = tl.zeros_like(total)
        for _coordinate in range(DIMS):
            differences = tl.fma(factors[:, None], tl.load(keys + columns)[None, :], tl.load(queries + rows)[:, None])
            if SPLIT:
                differences += tl.load(rests + rows)[:, None]
                rests += query_count
            part = tl.fma(differences, differences, part)
            queries += query_count
            keys += key_count
        part -= excess
        grown = total + part
        excess = (grown - total) - part
        total = grown
    return total, excess


@triton.jit
def sum_keys(
    queries, rests, factors, keys, costs, values, concentration, best, sums,
    query_count, key_count, steps, tiles,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DIMS: tl.constexpr, VALUES: tl.constexpr, WIDTH: tl.constexpr,
    SPLIT: tl.constexpr, MERGED: tl.constexpr, FLOOR: tl.constexpr,
):  # fmt: skip
    """Partial states of a tile of queries of one group (first axis of the grid) after a split of the keys (second axis).

    Args:
        queries, rests: Scaled queries ``(G, d, Q)``, and what they lose by rounding, not read unless `SPLIT`.
        factors: Minus the scale of the keys of each query, ``(Q,)``.
        keys, costs, values: ``(G, d, K)``, ``(G, K)`` and ``(G, v, K)``; keys of weight zero cost ``inf``.
        concentration: Of merged keys ``(G, K)``; not read unless `MERGED`.
        best, sums: Receive the smallest cost ``(S, G, Q)``, and ``(S, G, 2 + v, Q)`` the sums of weights relative to it,
            of their squares, and of weighted values; float64.
        query_count, key_count: ``Q`` and ``K``, multiples of `QUERIES` and `KEYS`.
        steps: ``d / DIMS``.
        tiles: Tiles of `KEYS` keys in a split.
        VALUES, WIDTH: ``v``, and the next power of two.
        FLOOR: Smallest exponent that counts.
    """
    group = (tl.program_id(0) // (query_count // QUERIES)).to(tl.int64)
    rows = tl.program_id(0) % (query_count // QUERIES) * QUERIES + tl.arange(0, QUERIES)
    columns = tl.program_id(1) * tiles * KEYS + tl.arange(0, KEYS)
    channels = tl.arange(0, WIDTH)
    query = queries + group * steps * DIMS * query_count
    rest = rests + group * steps * DIMS * query_count
    key = keys + group * steps * DIMS * key_count
    factor = tl.load(factors + rows)

    lowest = tl.full((QUERIES,), float("inf"), costs.dtype.element_ty)
    weight = tl.zeros((QUERIES,), tl.float64)
    square = tl.zeros((QUERIES,), tl.float64)
    weighted = tl.zeros((QUERIES, WIDTH), tl.float64)
    for _ in range(tl.minimum(tiles, key_count // KEYS - tl.program_id(1) * tiles)):
        cost = tl.load(costs + group * key_count + columns)
        absent = cost == float("inf")
        start = tl.where(absent, 0.0, cost)[None, :] + tl.zeros((QUERIES, KEYS), costs.dtype.element_ty)
        total, excess = _distances(query, rest, key, rows, columns, factor, start, query_count, key_count, steps, DIMS, SPLIT)
        total = tl.where(absent[None, :], float("inf"), total)

        lower = tl.minimum(lowest, tl.min(total, 1))
        level = tl.where(lower == float("inf"), 0.0, lower)  # no difference of infinities
        shrink = _weights(level - lowest, FLOOR).to(tl.float64)
        weights = _weights((level[:, None] - total) + excess, FLOOR)
        squares = weights * weights
        if MERGED:
            squares *= tl.load(concentration + group * key_count + columns)[None, :]
        weight = weight * shrink + tl.sum(weights, 1)
        square = square * shrink * shrink + tl.sum(squares, 1)
        weighted *= shrink[:, None]
        for v in range(VALUES):
            value = tl.load(values + (group * VALUES + v) * key_count + columns)
            weighted += tl.where(channels[None, :] == v, tl.sum(weights * value[None, :], 1)[:, None], 0.0)
        lowest = lower
        columns += KEYS

    groups = tl.num_programs(0) // (query_count // QUERIES)
    place = tl.program_id(1).to(tl.int64) * groups + group
    tl.store(best + place * query_count + rows, lowest.to(tl.float64))
    out = sums + place * (2 + VALUES) * query_count + rows
    tl.store(out, weight)
    tl.store(out + query_count, square)
    where = out[:, None] + (2 + channels[None, :]) * query_count
    tl.store(where, weighted, mask=channels[None, :] < VALUES)
