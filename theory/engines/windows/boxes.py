"""Distances between windows by box sums: differences of pixels, sums of four neighbours, and boxes put together from these."""

import numpy as np

from theory.engines.compiled import compiled
from theory.engines.lanes import LANES, after, fma, load, number, splat, store

_U = np.uintp
_L, _ONE, _TWO, _THREE, _FOUR = _U(LANES), _U(1), _U(2), _U(3), _U(4)
# Arrays are made in Python: without numba's counting of references, functions are quicker to call.
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_inline = compiled(nogil=True, error_model="numpy", _nrt=False, forceinline=True)


@_inline
def fill(out, value, n):
    for x in range(n):
        store(out, x * _L, value)


@_inline
def _copy(out, a, n):
    for x in range(n):
        store(out, x * _L, load(a, x * _L))


@_inline
def _difference(query, query_plane, keys, key_plane, factor, channels, x):
    """Squared difference of pixel ``x`` of a row and of one of the training images times ``factor``, summed over channels."""
    a = fma(load(keys, x * _L), factor, splat(number(query, x)))
    total = a * a
    for c in range(_ONE, _U(len(channels))):
        a = fma(load(keys, c * key_plane + x * _L), factor, splat(number(query, c * query_plane + x)))
        total = fma(a, a, total)
    return total


@_plain
def _differences(out, fours, query, query_plane, keys, key_plane, factor, channels, n):
    """Differences of ``n`` pixels of a row, and the sums of four neighbours, ``n - 3``."""
    if n < _FOUR:
        for x in range(n):
            store(out, x * _L, _difference(query, query_plane, keys, key_plane, factor, channels, x))
        return
    last = _difference(query, query_plane, keys, key_plane, factor, channels, _U(0))
    store(out, _U(0), last)
    older = pair = last  # of no use before the fourth
    for x in range(_ONE, _THREE):
        new = _difference(query, query_plane, keys, key_plane, factor, channels, x)
        store(out, x * _L, new)
        older, pair, last = pair, last + new, new
    for x in range(_THREE, n):
        new = _difference(query, query_plane, keys, key_plane, factor, channels, x)
        store(out, x * _L, new)
        latest = last + new
        store(fours, (x - _THREE) * _L, older + latest)
        older, pair, last = pair, latest, new


@_plain
def _fours(out, a, step, n):
    """``out[x] = a[x] + ... + a[x + 3 step]``, in vectors."""
    for x in range(n):
        i = x * _L
        store(out, i, (load(a, i) + load(a, i + step)) + (load(a, i + _TWO * step) + load(a, i + _THREE * step)))


@_plain
def _combine(out, a, b, c, ones, fours, step, count, n):
    """``ones`` (one or three) of the rows ``a``, ``b``, ``c``, and ``count`` rows of sums of four, ``step`` apart."""
    if ones == _ONE:
        if count == _ONE:
            for x in range(n):
                store(out, x * _L, load(a, x * _L) + load(fours, x * _L))
        elif count == _TWO:
            for x in range(n):
                store(out, x * _L, load(a, x * _L) + (load(fours, x * _L) + load(fours, x * _L + step)))
        elif count == _FOUR:
            for x in range(n):
                i = x * _L
                first, second = load(fours, i) + load(fours, i + step), load(fours, i + _TWO * step) + load(fours, i + _THREE * step)
                store(out, i, load(a, i) + (first + second))
        else:
            for x in range(n):
                total = load(a, x * _L)
                for i in range(count):
                    total = total + load(fours, x * _L + i * step)
                store(out, x * _L, total)
    elif count == _U(0):
        for x in range(n):
            store(out, x * _L, (load(a, x * _L) + load(b, x * _L)) + load(c, x * _L))
    else:
        for x in range(n):
            total = (load(a, x * _L) + load(b, x * _L)) + load(c, x * _L)
            for i in range(count):
                total = total + load(fours, x * _L + i * step)
            store(out, x * _L, total)


@_inline
def _along(out, row, fours, k, n):
    """Sums of ``k`` neighbours in a row of ``n + k - 1`` vectors, of which the sums of four are known."""
    count = k // _FOUR
    rest = after(row, count * _FOUR * _L)
    _combine(out, rest, after(rest, _L), after(rest, _TWO * _L), k % _FOUR, fours, _FOUR * _L, count, n)


@_inline
def _down(out, rows, fours, r, k, n):
    """Sums over the rows ``r - k + 1`` to ``r``, from a ring of the last four rows and one of their sums of four.

    Row ``i`` lies at place ``i mod 4``, and the sum of the four rows from ``i`` on at ``i mod 4 a``: the ``a`` sums that are needed are all
    those at places of one remainder.
    """
    pitch = n * _L
    count = k // _FOUR
    if count > _U(0) and r >= _THREE:
        _fours(after(fours, (r - _THREE) % (count * _FOUR) * pitch), rows, pitch, n)
    if r + _ONE >= k:
        newest = after(rows, r % _FOUR * pitch)
        second, third = after(rows, (r + _THREE) % _FOUR * pitch), after(rows, (r + _TWO) % _FOUR * pitch)
        first = after(fours, (r + _ONE - k) % _FOUR * pitch)
        _combine(out, newest, second, third, k % _FOUR, first, _FOUR * pitch, count, n)


@_inline
def _row_of_differences(row, fours, query, keys, factor, channels, y, cols, before, total, shift, wrapped, zero):
    """Squared differences of ``total`` pixels of row ``y``, and their sums of four neighbours.

    ``before`` of them lie before the first inside the image. Beyond the image they are those of its other side (``wrapped``), or zero.
    """
    inner = _U(cols.end - cols.begin)
    q = after(query.pixels, _U(y + query.above) * query.stride + _U(cols.begin + query.before))
    key = after(keys.pixels, (_U((y + shift) % keys.height) * keys.stride + _U(cols.begin + cols.shift)) * _L)
    _differences(after(row, before * _L), after(fours, before * _L), q, query.plane, key, keys.plane, factor, channels, inner)
    if inner == total:
        return
    for i in range(before):
        x = before - _ONE - i
        store(row, x * _L, load(row, (x + inner) * _L) if wrapped else zero)
    for x in range(before + inner, total):
        store(row, x * _L, load(row, (x - inner) * _L) if wrapped else zero)
    if total > _THREE:
        known = before + max(inner, _THREE) - _THREE
        _fours(fours, row, _L, min(before, total - _THREE))
        _fours(after(fours, known * _L), after(row, known * _L), _L, max(total - _THREE, known) - known)


@_plain
def box_distances(out, query, keys, factor, channels, rows, cols, window, zero, room):
    """Costs of one shift, without weights, of all pixels in ``rows`` and ``cols``."""
    n, kh, wrapped = _U(cols.last - cols.first), window.height, window.wrapped
    pitch = n * _L
    for r in range(_U(rows.last - rows.first) + kh - _ONE):
        y = rows.first - np.int64(kh // _TWO) + np.int64(r)
        place = after(room.ring, r % _FOUR * pitch)
        if wrapped and r >= _U(query.height):
            _copy(place, after(room.kept, r % _U(query.height) * pitch), n)
        elif not wrapped and (y < rows.begin or y >= rows.end):
            fill(place, zero, n)
        else:
            before, total = _U(cols.begin - cols.first) + window.width // _TWO, n + window.width - _ONE
            _row_of_differences(room.row, room.sums, query, keys, factor, channels, y, cols, before, total, rows.shift, wrapped, zero)
            _along(place, room.row, room.sums, window.width, n)
            if wrapped and r + _ONE < kh:
                _copy(after(room.kept, r * pitch), place, n)
        _down(after(out, (r + _ONE - kh) * pitch), room.ring, room.fours, r, kh, n)


@_inline
def union(table, first, last, field):
    """The range from fields ``field`` to ``field + 1`` of some shifts, over all sizes that have them."""
    low, high = np.int64(2**31), np.int64(-(2**31))
    for s in range(table.shape[0]):
        for i in range(first, last):
            if table[s, i, 1] < table[s, i, 2]:
                low, high = min(low, table[s, i, field]), max(high, table[s, i, field + 1])
    return low, high


@_plain
def keep(planes, slot, query, keys, factor, channels, rows, i, cols, wrapped, zero):
    """Take the differences that windows of any size need in row shift ``i``; ``cols`` are all that they reach, and those inside."""
    begin, end = union(rows, i, i + 1, 3)
    for y in range(begin, end):
        place = _U(slot) * planes.apart + _U(y + query.above) * planes.pitch + _U(cols.first + query.before) * _L
        _row_of_differences(
            after(planes.rows, place), after(planes.fours, place), query, keys, factor, channels, y, cols, _U(cols.begin - cols.first),
            _U(cols.last - cols.first), rows[0, i, 0], wrapped, zero,
        )  # fmt: skip


@_plain
def kept_distances(out, planes, slot, query, rows, cols, window, zero, room):
    """`box_distances` from differences that were taken before."""
    n, kh = _U(cols.last - cols.first), window.height
    pitch = n * _L
    start = _U(slot) * planes.apart + (_U(cols.first + query.before) - window.width // _TWO) * _L
    for r in range(_U(rows.last - rows.first) + kh - _ONE):
        y = rows.first - np.int64(kh // _TWO) + np.int64(r)
        place = after(room.ring, r % _FOUR * pitch)
        if window.wrapped or rows.begin <= y < rows.end:
            i = start + _U((y % query.height if window.wrapped else y) + query.above) * planes.pitch
            _along(place, after(planes.rows, i), after(planes.fours, i), window.width, n)
        else:
            fill(place, zero, n)
        _down(after(out, (r + _ONE - kh) * pitch), room.ring, room.fours, r, kh, n)
