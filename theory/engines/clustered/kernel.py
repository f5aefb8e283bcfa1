r"""The compiled loops: four queries meet blocks of `BLOCK` keys, and what they weigh goes to sums of values.

A cost is a logit in bits, with the other sign, up to a number of its query. It comes from a product of the expanded form,

.. math:: c_j = a \|k_j\|^2 + b_j - \langle q', k_j \rangle ,

or, where that would lose too many digits, from differences, :math:`\sum_i (q'_i - f k_{ji})^2 + b_j`. Where all keys
of a block cost ``cut`` bits more than the cheapest one known, its values are left out.
"""

import numpy as np

from theory.engines.compiled import compiled
from theory.engines.exponential import exp2
from theory.engines.lanes import LANES, after, any_below, fma, load, number, pointer, put, single, smaller, splat, store

BLOCK = 2 * LANES  # keys of a block
TILE = 4  # queries that meet a block together
EMPTY = 1e30  # the cost of no key at all
FAR = 60.0  # bits below the reference from which sums are rescaled
_U = np.uintp
_L, _B, _ONE, _TWO, _THREE = _U(LANES), _U(BLOCK), _U(1), _U(2), _U(3)
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_inline = compiled(nogil=True, error_model="numpy", _nrt=False, forceinline=True)


@_inline
def _keep(out, a0, a1, b0, b1, c0, c1, d0, d1):
    """The costs of four queries, one after another."""
    store(out, _U(0), a0)
    store(out, _L, a1)
    store(out, _B, b0)
    store(out, _B + _L, b1)
    store(out, _TWO * _B, c0)
    store(out, _TWO * _B + _L, c1)
    store(out, _THREE * _B, d0)
    store(out, _THREE * _B + _L, d1)


@_inline
def _four(numbers, stride):
    """Four numbers, each in all lanes."""
    return (
        splat(number(numbers, _U(0))),
        splat(number(numbers, stride)),
        splat(number(numbers, _TWO * stride)),
        splat(number(numbers, _THREE * stride)),
    )


@_inline
def _products(out, keys, squares, costs, query, factors, dims):
    """Costs of a block for four queries by the expanded form; ``query`` is minus the scaled one."""
    s, t, u, v = load(squares, _U(0)), load(squares, _L), load(costs, _U(0)), load(costs, _L)
    fa, fb, fc, fd = _four(factors, _ONE)
    a0, a1, b0, b1, c0, c1, d0, d1 = (
        fma(fa, s, u),
        fma(fa, t, v),
        fma(fb, s, u),
        fma(fb, t, v),
        fma(fc, s, u),
        fma(fc, t, v),
        fma(fd, s, u),
        fma(fd, t, v),
    )
    for i in range(dims):
        x, y = load(keys, i * _B), load(keys, i * _B + _L)
        a, b, c, d = _four(after(query, i), dims)
        a0, a1, b0, b1 = fma(a, x, a0), fma(a, y, a1), fma(b, x, b0), fma(b, y, b1)
        c0, c1, d0, d1 = fma(c, x, c0), fma(c, y, c1), fma(d, x, d0), fma(d, y, d1)
    _keep(out, a0, a1, b0, b1, c0, c1, d0, d1)


@_inline
def _differences(out, keys, costs, query, factors, dims):
    """Costs of a block for four queries by differences; keys are multiplied with the factor of each."""
    u, v = load(costs, _U(0)), load(costs, _L)
    fa, fb, fc, fd = _four(factors, _ONE)
    a0, a1, b0, b1, c0, c1, d0, d1 = u, v, u, v, u, v, u, v
    for i in range(dims):
        x, y = load(keys, i * _B), load(keys, i * _B + _L)
        a, b, c, d = _four(after(query, i), dims)
        p, q = fma(fa, x, a), fma(fa, y, a)
        a0, a1 = fma(p, p, a0), fma(q, q, a1)
        p, q = fma(fb, x, b), fma(fb, y, b)
        b0, b1 = fma(p, p, b0), fma(q, q, b1)
        p, q = fma(fc, x, c), fma(fc, y, c)
        c0, c1 = fma(p, p, c0), fma(q, q, c1)
        p, q = fma(fd, x, d), fma(fd, y, d)
        d0, d1 = fma(p, p, d0), fma(q, q, d1)
    _keep(out, a0, a1, b0, b1, c0, c1, d0, d1)


@_inline
def _add(sums, weights, values, width):
    """Weighted values of a block, added to the sums of four queries; ``width`` is a multiple of `LANES`."""
    first = _U(0)
    while first < width:
        a, b = after(sums, first), after(sums, width + first)
        c, d = after(sums, _TWO * width + first), after(sums, _THREE * width + first)
        if first + _B <= width:
            a0, a1, b0, b1 = load(a, _U(0)), load(a, _L), load(b, _U(0)), load(b, _L)
            c0, c1, d0, d1 = load(c, _U(0)), load(c, _L), load(d, _U(0)), load(d, _L)
            for k in range(_B):
                x, y = load(values, k * width + first), load(values, k * width + first + _L)
                wa, wb = splat(number(weights, k)), splat(number(weights, _B + k))
                wc, wd = splat(number(weights, _TWO * _B + k)), splat(number(weights, _THREE * _B + k))
                a0, a1, b0, b1 = fma(wa, x, a0), fma(wa, y, a1), fma(wb, x, b0), fma(wb, y, b1)
                c0, c1, d0, d1 = fma(wc, x, c0), fma(wc, y, c1), fma(wd, x, d0), fma(wd, y, d1)
            store(a, _U(0), a0)
            store(a, _L, a1)
            store(b, _U(0), b0)
            store(b, _L, b1)
            store(c, _U(0), c0)
            store(c, _L, c1)
            store(d, _U(0), d0)
            store(d, _L, d1)
            first += _B
        else:
            a0, b0, c0, d0 = load(a, _U(0)), load(b, _U(0)), load(c, _U(0)), load(d, _U(0))
            for k in range(_B):
                x = load(values, k * width + first)
                wa, wb = splat(number(weights, k)), splat(number(weights, _B + k))
                wc, wd = splat(number(weights, _TWO * _B + k)), splat(number(weights, _THREE * _B + k))
                a0, b0, c0, d0 = fma(wa, x, a0), fma(wb, x, b0), fma(wc, x, c0), fma(wd, x, d0)
            store(a, _U(0), a0)
            store(b, _U(0), b0)
            store(c, _U(0), c0)
            store(d, _U(0), d0)
            first += _L


@_inline
def _least(costs):
    """The smallest of the costs of a block."""
    low = number(costs, _U(0))
    for k in range(_ONE, _B):
        low = min(low, number(costs, k))
    return low


@_plain
def _weigh(costs, values, best, reference, sums, total, count, width, cut):
    """Weights of a block in the place of its costs, and what they add to the sums of four queries."""
    some = False
    for r in range(_U(TILE)):
        row = after(costs, r * _B)
        x, y = load(row, _U(0)), load(row, _L)
        known = number(best, r)
        if any_below(smaller(x, y), splat(known + cut)):
            some = True
            if any_below(smaller(x, y), splat(known)):
                known = _least(row)
                put(best, r, known)
                if known < number(reference, r) - single(FAR, best):
                    factor = exp2(known - number(reference, r))
                    put(reference, r, known)
                    for v in range(width):
                        put(sums, r * width + v, number(sums, r * width + v) * factor)
                    for v in range(count):
                        put(total, r * count + v, number(total, r * count + v) * np.float64(factor))
            base = splat(number(reference, r))
            store(row, _U(0), exp2(base - x))
            store(row, _L, exp2(base - y))
        else:
            store(row, _U(0), x - x)
            store(row, _L, x - x)
    if some:
        _add(sums, costs, values, width)


@_plain
def sum_clusters(products, scaled, squared, factors, direct, keys, squares, costs, values, firsts, cut, best, sums, total, room):
    """Sums of values, and of weights in each cluster, of some queries over all keys.

    Args:
        products: Minus queries as the expanded form takes them, ``(Q, d)``; ``Q`` is a multiple of `TILE`.
        scaled: Queries as differences take them, ``(Q, d)``.
        squared: Factor of the squared norms of keys, ``(Q,)``.
        factors: Minus the factor of keys that makes them comparable with ``scaled``, ``(Q,)``.
        direct: Whether each four take differences, ``(Q / TILE,)``.
        keys, squares, costs: Of keys in blocks, ``(n, d, BLOCK)``, ``(n, BLOCK)`` and ``(n, BLOCK)``.
        values: Their values, padded, ``(n, BLOCK, V)``, ``V`` a multiple of `LANES`; the last number is 1.
        firsts: First block of each cluster, and the end, ``(K + 1,)``.
        cut: Bits above the cheapest from which keys are left out.
        best: Cost of the cheapest key of each query, and the reference of its sums, ``(2, Q)``; overwritten.
        sums: Room for ``(Q, V)``.
        total: Sums of weights by cluster and of values, ``(Q, K + V)``, float64; overwritten.
        room: Room for ``(TILE * BLOCK,)``.
    """
    count, dims, width, columns = len(scaled), _U(scaled.shape[1]), _U(values.shape[2]), _U(total.shape[1])
    clusters, out = len(firsts) - 1, pointer(room)
    total[:] = 0.0
    best[:] = np.float32(EMPTY)
    for cluster in range(clusters):
        sums[:] = np.float32(0.0)
        for first in range(0, count, TILE):
            f, straight = _U(first), direct[first // TILE]
            query = after(pointer(scaled), f * dims) if straight else after(pointer(products), f * dims)
            factor = after(pointer(factors), f) if straight else after(pointer(squared), f)
            known, reference = after(pointer(best), f), after(pointer(best), _U(count) + f)
            for k in range(_U(firsts[cluster]), _U(firsts[cluster + 1])):
                key, cost = after(pointer(keys), k * dims * _B), after(pointer(costs), k * _B)
                if straight:
                    _differences(out, key, cost, query, factor, dims)
                else:
                    _products(out, key, after(pointer(squares), k * _B), cost, query, factor, dims)
                _weigh(
                    out, after(pointer(values), k * _B * width), known, reference, after(pointer(sums), f * width),
                    after(pointer(total), f * columns), columns, width, cut,
                )  # fmt: skip
        for q in range(count):
            total[q, cluster] = sums[q, width - _ONE]
            for v in range(sums.shape[1]):
                total[q, clusters + v] += np.float64(sums[q, v])
