"""Sums over sets of the numbers of sixteen images side by side, and the posteriors they make, in one pass; compiled.

Members of a set are added one by one, or `GROUP` at a time: all sums of the numbers of a group are in a table, which stays in the cache
while all sets look up theirs. A set is left as soon as all sixteen sums are certain to be beyond its limit.
"""

from collections import namedtuple

import numpy as np

from theory.engines.compiled import compiled
from theory.engines.exponential import exp2
from theory.engines.lanes import LANES, any_below, fma, load, number, pointer, put, single, splat, store

GROUP = 6  # numbers in a group: 63 sums
GROUPS = 6  # groups in a chunk, whose tables fill 24 KB in float32
CHUNK = GROUP * GROUPS
TILE = 64  # numbers of an image that are read at a time
WORDS = GROUPS  # bytes of a set in a chunk: a pattern for every group
SIZE = 2**GROUP
EVERY = 4  # chunks after which sums are compared with their limit
CHECK = 16  # members that are added before sums are compared with their limit
FIELDS = 3  # sums of weights, of their squares, and of weighted numbers
_U = np.uintp
_L, _ONE, _TWO = _U(LANES), _U(1), _U(2)
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)

# Sets one by one: their members, and where those of each begin.
Members = namedtuple("Members", "rows ends")
# Sets in chunks, all of them (dense) or those that have members there: which, with which patterns, and how many members they have beyond.
# Where the entries of each chunk begin and end; chunks; what numbers are multiplied by: -1 where they are taken from the whole.
Lookups = namedtuple("Lookups", "sets patterns left begin end chunks sign dense")
# Logits are factor * sum + log-weight, in bits. Sums are at least -low for each member left; weights of 2^-cut are left out.
Level = namedtuple("Level", "factor low heaviest cut")
# Of each set: the sum, whether it is still needed, those that are, the largest logit, the limit of its sum, and lanes of `FIELDS` sums.
Room = namedtuple("Room", "sums wanted list best limits fields table scratch")


@_plain
def lay(keys, squares, whole, images, order, query, alpha, low, first, last):
    """Blocks ``first`` to ``last`` of sixteen images side by side, as ordered: their numbers, ``(q - alpha k)^2 - low``, and the sum
    of all of these."""
    size = _U(len(query))
    k, q, v, w = pointer(keys), pointer(query), pointer(squares), pointer(whole)
    factor, shift, stride = splat(-alpha), splat(-low), _U(squares.shape[1])
    for b in range(first, last):
        base = b * size
        for start in range(_U(0), size, _U(TILE)):
            stop = min(start + _U(TILE), size)
            for lane in range(_L):
                image = images[order[b * _L + lane]]
                for j in range(start, stop):
                    keys[(base + j) * _L + lane] = image[j]
        all_of_them = part = splat(single(0.0, v))
        for j in range(size):
            away = fma(load(k, (base + j) * _L), factor, splat(number(q, j)))
            total = fma(away, away, shift)
            store(v, b * stride + j * _L, total)
            part = part + total
            if j % _U(TILE) == _U(TILE - 1):  # sums of sums round less
                all_of_them, part = all_of_them + part, splat(single(0.0, v))
        store(w, b * _L, all_of_them + part)


@_plain
def _one_by_one(values, members, room, low, first, last):
    """Sums of the sets from ``first`` on, member by member."""
    v, limit, out = pointer(values), pointer(room.limits), pointer(room.sums)
    ends, rows = members.ends, members.rows
    for m in range(first, last):
        a, b = splat(single(0.0, v)), splat(single(0.0, v))
        i, end, wanted = ends[m], ends[m + _ONE], True
        while i < end:
            stop = min(i + _U(CHECK), end)
            while i + _ONE < stop:
                a, b = a + load(v, _U(rows[i]) * _L), b + load(v, _U(rows[i + _ONE]) * _L)
                i += _TWO
            if i < stop:
                a = a + load(v, _U(rows[i]) * _L)
                i += _ONE
            left = single(np.float64(end - i), v) * low
            wanted = any_below(a + b, splat(number(limit, m) + left))
            if not wanted:
                i = end
        store(out, (m - first) * _L, a + b)
        room.wanted[m - first] = wanted


@_plain
def _tabulate(values, table, chunk, sign):
    """All sums of the numbers of every group of a chunk."""
    v, t = pointer(values), pointer(table)
    factor = splat(single(sign, v))
    for g in range(_U(GROUPS)):
        for bit in range(_U(GROUP)):
            x = load(v, (chunk * _U(CHUNK) + g * _U(GROUP) + bit) * _L) * factor
            base, one = g * _U(SIZE), _ONE << bit
            for p in range(one):
                store(t, (base + one + p) * _L, load(t, (base + p) * _L) + x)


@_plain
def _looked_up(values, lookups, room, low, first, last):
    """The same, group by group."""
    v, limit, out, t, q = pointer(values), pointer(room.limits), pointer(room.sums), pointer(room.table), pointer(lookups.patterns)
    kept, count = last - first, _U(len(room.best))
    for i in range(kept):
        room.list[i] = first + i
        room.wanted[i] = False
    for c in range(lookups.chunks):
        _tabulate(values, room.table, c, lookups.sign)
        some = lookups.dense
        for n in range(_U(0) if some else lookups.begin[c], kept if some else lookups.end[c]):
            m = _U(room.list[n]) if some else _U(lookups.sets[n])
            i, place = (c * count + m if some else n) * _U(WORDS), (m - first) * _L
            x = load(t, _U(number(q, i)) * _L) + load(t, (_U(SIZE) + _U(number(q, i + _ONE))) * _L)
            y = load(t, (_U(2 * SIZE) + _U(number(q, i + _TWO))) * _L) + load(t, (_U(3 * SIZE) + _U(number(q, i + _U(3)))) * _L)
            z = load(t, (_U(4 * SIZE) + _U(number(q, i + _U(4)))) * _L) + load(t, (_U(5 * SIZE) + _U(number(q, i + _U(5)))) * _L)
            store(out, place, load(out, place) + ((x + y) + z))
        if some and c % _U(EVERY) == _U(EVERY - 1):
            before, kept = kept, _U(0)
            for n in range(before):
                m = _U(room.list[n])
                left = single(np.float64(lookups.left[c * count + m]), v) * low
                room.list[kept] = m
                kept += _U(any_below(load(out, (m - first) * _L), splat(number(limit, m) + left)))
    for i in range(kept):
        room.wanted[_U(room.list[i]) - first] = True


@_plain
def _fold(room, m, first, keys, base, logs, level, carried):
    """Add the weights of sixteen images to the sums of a set."""
    a, w, f = pointer(room.sums), pointer(logs), pointer(room.fields)
    logit = fma(load(a, (m - first) * _L), splat(single(level.factor, a)), load(w, base))
    best, old, place = pointer(room.best), room.best[m], m * _U(FIELDS) * _L
    if any_below(splat(old), logit):
        scratch = pointer(room.scratch)
        store(scratch, _U(0), logit)
        new = old
        for lane in range(_L):
            new = max(new, number(scratch, lane))
        put(best, m, new)
        put(pointer(room.limits), m, single((np.float64(new) - level.heaviest - level.cut) / level.factor, a))
        by = exp2(splat(old - new))
        store(f, place, load(f, place) * by)
        store(f, place + _L, load(f, place + _L) * (by * by))
        store(f, place + _TWO * _L, load(f, place + _TWO * _L) * by)
    weight = exp2(logit - splat(room.best[m]))
    store(f, place, load(f, place) + weight)
    store(f, place + _L, fma(weight, weight, load(f, place + _L)))
    if carried:
        k = pointer(keys)
        store(f, place + _TWO * _L, fma(weight, load(k, (base // _L * _U(len(room.best)) + m) * _L), load(f, place + _TWO * _L)))


@_plain
def meet(keys, squares, whole, logs, members, lookups, level, room, carried, first, last):
    """Sets ``first`` to ``last`` meet all blocks of images, in their order."""
    v, s = pointer(whole), pointer(room.sums)
    low = single(level.low, v)
    for b in range(_U(squares.shape[0])):
        if lookups.chunks:
            start = splat(single(0.0, v)) if lookups.sign > 0 else load(v, b * _L)
            for m in range(last - first):
                store(s, m * _L, start)
            _looked_up(squares[b], lookups, room, low, first, last)
        else:
            _one_by_one(squares[b], members, room, low, first, last)
        for m in range(first, last):
            place = (m - first) * _L
            if room.wanted[m - first] and any_below(load(s, place), splat(room.limits[m])):
                _fold(room, m, first, keys, b * _L, logs, level, carried)
