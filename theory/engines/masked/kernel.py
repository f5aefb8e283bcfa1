"""Sums of rows over sets, for `WIDTH` columns at a time, which stay in registers; compiled."""

import numpy as np

from theory.engines.compiled import compiled
from theory.engines.lanes import LANES, any_below, load, number, pointer, single, smaller, splat, store

WIDTH = 4 * LANES  # columns side by side
CHECK = 16  # members that are added before sums are compared with their limit
_U = np.uintp
_L, _TWO, _THREE, _W = _U(LANES), _U(2 * LANES), _U(3 * LANES), _U(WIDTH)
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)


@_plain
def add_members(out, values, members, ends, limits, low, first, last):
    """``out[m] = sum_j values[j]`` over the members ``j`` of sets ``first`` to ``last``; ``ends[m]`` is where those of set ``m`` begin.

    Values are at least ``-low``: once all columns are certain to exceed ``limits[m]``, what is left of the set is left out. Returns how
    many members were added.
    """
    o, v, limit = pointer(out), pointer(values), pointer(limits)
    lowest = single(low, o)
    zero, done = splat(single(0.0, o)), _U(0)
    for m in range(first, last):
        a = b = c = d = zero
        i, end = ends[m], ends[m + _U(1)]
        while i < end:
            stop = min(i + _U(CHECK), end)
            done += stop - i
            for k in range(i, stop):
                row = members[k] * _W
                a, b, c, d = a + load(v, row), b + load(v, row + _L), c + load(v, row + _TWO), d + load(v, row + _THREE)
            i = stop
            left = single(np.float64(end - i), o) * lowest
            if not any_below(smaller(smaller(a, b), smaller(c, d)), splat(number(limit, m) + left)):
                i = end
        place = m * _W
        store(o, place, a)
        store(o, place + _L, b)
        store(o, place + _TWO, c)
        store(o, place + _THREE, d)
    return done


@_plain
def add_spans(out, sums, starts, stops, ends, first, last):
    """The same from running sums: ``out[m] = sum_i sums[stops[i]] - sums[starts[i]]`` over the spans of a set."""
    o, v = pointer(out), pointer(sums)
    zero = splat(single(0.0, o))
    for m in range(first, last):
        a = b = c = d = zero
        for i in range(ends[m], ends[m + _U(1)]):
            p, q = stops[i] * _W, starts[i] * _W
            a, b = a + (load(v, p) - load(v, q)), b + (load(v, p + _L) - load(v, q + _L))
            c, d = c + (load(v, p + _TWO) - load(v, q + _TWO)), d + (load(v, p + _THREE) - load(v, q + _THREE))
        place = m * _W
        store(o, place, a)
        store(o, place + _L, b)
        store(o, place + _TWO, c)
        store(o, place + _THREE, d)


@_plain
def run(sums, values, lines, length):
    """Running sums along lines of ``length`` rows, each of which begins with a row of zeros."""
    o, v = pointer(sums), pointer(values)
    zero = splat(single(0.0, o))
    for line in range(lines):
        a = b = c = d = zero
        for i in range(length + _U(1)):
            place = (line * (length + _U(1)) + i) * _W
            store(o, place, a)
            store(o, place + _L, b)
            store(o, place + _TWO, c)
            store(o, place + _THREE, d)
            if i < length:
                row = (line * length + i) * _W
                a, b, c, d = a + load(v, row), b + load(v, row + _L), c + load(v, row + _TWO), d + load(v, row + _THREE)
