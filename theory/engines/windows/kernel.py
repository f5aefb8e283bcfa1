"""The compiled inner loops: distances between windows by box sums, their exponentials, and sums.

For one shift between a noisy and a training image, the squared distances of *all* pairs of windows
are box sums of one plane of squared differences of pixels, along rows and then along columns. A box of
``k = 4 a + b`` numbers is ``a`` sums of four and ``b`` numbers more: additions of positive numbers only, so that the rounding
error of a distance is relative to the distance, however it is small beside the images. (A running sum would subtract, and drift.)

Sixteen training images are met at once, side by side in the lanes of a register (`lanes`): rows of pixels are rows of such vectors,
loops have no remainders, and no number ever moves from lane to lane. Each lane has sums of its own, which are added up in the end.

Reading is cheap and writing what does not stay in the nearest cache is not. Rows are therefore taken through all stages one by one, the
last ones being kept in rings of a few rows, and `SHIFTS` shifts meet the sums at once.

Logits are kept in base 2 and with the sign turned: ``cost = log2(e) |q - alpha k|^2 / 2 sigma^2 - log2 w``.
"""

from collections import namedtuple

import numpy as np

from theory.engines.compiled import compiled
from theory.engines.exponential import exp2
from theory.engines.lanes import LANES, after, aligned, any_below, fma, load, number, pointer, put, single, smaller, splat, store
from theory.engines.windows.boxes import box_distances, fill, keep, kept_distances, union

SHIFTS = 4  # row shifts that meet the sums at once
APART = 16 * 3  # numbers between planes, whose size is often a multiple of a page: these would share lines of the cache
TERMS = 2**12  # weights of a pixel and lane that are added in the precision of the work, at most
SLACK = 8.0  # bits that a cost may lie below the best known of its pixel and lane before sums are rescaled
EMPTY = 1e30  # the cost of no candidate at all
_U = np.uintp
_L, _ONE, _TWO, _THREE, _FOUR = _U(LANES), _U(1), _U(2), _U(3), _U(4)
# Arrays are made in Python: without numba's counting of references, functions are quicker to call.
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_inline = compiled(nogil=True, error_model="numpy", _nrt=False, forceinline=True)

# Pixels of a noisy image, or of sixteen training images: rows, pixels from row to row, numbers from channel to channel, and rows and pixels
# of the border before the first.
Image = namedtuple("Image", "pixels height stride plane above before")
Keys = namedtuple("Keys", "pixels height stride plane")  # the same of all training images, as an array
Axis = namedtuple("Axis", "shift first last begin end")  # pixels with a partner, and those of their windows that lie inside
Window = namedtuple("Window", "height width wrapped")
Limits = namedtuple("Limits", "zero far cut slack")  # the same in all lanes
Sums = namedtuple("Sums", "best sums plane width")  # of all pixels and lanes; numbers from field to field; pixels of a row
Room = namedtuple("Room", "distances row sums ring fours kept")
# Differences of pixels with their border, and sums of four neighbours, of `SHIFTS` shifts: numbers from row to row and shift to shift.
Planes = namedtuple("Planes", "rows fours pitch apart")


@_plain
def _accumulate(a, b, c, d, offset, best, sums, plane, va, vb, vc, vd, value_plane, channels, cut, slack, n):
    """Costs of four shifts of sixteen images against the pixels of a row: update the best costs and the sums.

    Pixels all of whose weights are below ``2^-cut`` of the largest so far in their lane are left out.
    """
    for x in range(n):
        i = x * _L
        ca, cb, cc, cd = load(a, i), load(b, i), load(c, i), load(d, i)
        old = load(best, i)
        top = old - offset
        low = smaller(smaller(ca, cb), smaller(cc, cd))
        if any_below(low, top + cut):
            if any_below(low + slack, top):
                new = smaller(low + offset, old)
                store(best, i, new)
                top = new - offset
                factor = exp2(new - old)
                store(sums, i, load(sums, i) * factor)
                store(sums, plane + i, load(sums, plane + i) * (factor * factor))
                for v in range(_TWO, _TWO + _U(len(channels))):
                    store(sums, v * plane + i, load(sums, v * plane + i) * factor)
            wa, wb, wc, wd = exp2(top - ca), exp2(top - cb), exp2(top - cc), exp2(top - cd)
            store(sums, i, load(sums, i) + ((wa + wb) + (wc + wd)))
            store(sums, plane + i, fma(wa, wa, fma(wb, wb, fma(wc, wc, fma(wd, wd, load(sums, plane + i))))))
            for v in range(_U(len(channels))):
                s, j = (_TWO + v) * plane + i, v * value_plane + i
                upper = fma(wa, load(va, j), fma(wb, load(vb, j), load(sums, s)))
                store(sums, s, fma(wc, load(vc, j), fma(wd, load(vd, j), upper)))


def rooms(kind: np.dtype, channels: int, shape: tuple[int, int], windows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Working memory of `sum_windows`, which may serve one call at a time."""
    return tuple(aligned(size, kind) for size in _sizes(channels, shape, windows))


def room(channels: int, shape: tuple[int, int], windows: np.ndarray) -> int:
    """Numbers of the working memory."""
    return sum(_sizes(channels, shape, windows))


def _sizes(channels: int, shape: tuple[int, int], windows: np.ndarray) -> tuple[int, ...]:
    (height, width), (high, wide), sizes = shape, windows.max(0).tolist(), len(windows)
    pitch, plane = width * LANES, height * width * LANES + APART
    line = (width + wide - 1) * LANES
    kept = SHIFTS * _apart(height, high, line) if sizes > 1 else 0
    return (
        SHIFTS * plane, line, line, 4 * pitch, high // 4 * 4 * pitch, min(high, height) * pitch, sizes * plane,
        sizes * (2 + channels) * plane, kept, kept,
    )  # fmt: skip


def _apart(height: int, high: int, line: int) -> int:
    """Numbers of the differences of a shift."""
    return (height + high - 1) * (line + LANES) + APART


def side_by_side(images: np.ndarray, wrapped: bool) -> Keys:
    """Training images ``(N, C, H, W)`` in blocks of sixteen; if wrapped, the first columns of each row are repeated after the last."""
    count, channels, height, width = images.shape
    stride = 2 * width - 1 if wrapped else width
    plane = height * stride * LANES + APART
    pixels = aligned(-(-count // LANES) * channels * plane, images.dtype)
    _interleave(pixels, images, np.uintp(stride), np.uintp(plane))
    return Keys(pixels, height, np.uintp(stride), np.uintp(plane))


@_plain
def _restart(best, b, state, channels):
    """Sums of all lanes are 0, relative to the best cost of each pixel."""
    zero, fields = splat(single(0.0, state.best)), _TWO + _U(len(channels))
    for s in range(best.shape[0]):
        for y in range(best.shape[2]):
            for x in range(best.shape[3]):
                i = _U(y * best.shape[3] + x) * _L
                store(state.best, _U(s) * state.plane + i, splat(single(best[s, b, y, x], state.best)))
                for v in range(fields):
                    store(state.sums, (_U(s) * fields + v) * state.plane + i, zero)


@_plain
def _flush(best, sums, b, state, channels):
    """Add the sums of all lanes to those of their pixels, in float64 and in their order."""
    fields = _TWO + _U(len(channels))
    for s in range(best.shape[0]):
        for y in range(best.shape[2]):
            for x in range(best.shape[3]):
                i = _U(y * best.shape[3] + x) * _L
                lanes, low = after(state.best, _U(s) * state.plane + i), best[s, b, y, x]
                for lane in range(_L):
                    low = min(low, np.float64(number(lanes, lane)))
                factor = exp2(low - best[s, b, y, x])
                best[s, b, y, x] = low
                for v in range(fields):
                    sums[s, b, v, y, x] *= factor * factor if v == _ONE else factor
                for lane in range(_L):
                    factor = exp2(low - np.float64(number(lanes, lane)))
                    for v in range(fields):
                        share = factor * factor if v == _ONE else factor
                        sums[s, b, v, y, x] += share * np.float64(number(state.sums, (_U(s) * fields + v) * state.plane + i + lane))


@_inline
def _reach(cols, windows, g):
    """The columns that windows of all sizes reach in column shift ``g``, and those of them that lie inside."""
    first, last = np.int64(2**31), np.int64(-(2**31))
    for s in range(cols.shape[0]):
        if cols[s, g, 1] < cols[s, g, 2]:
            radius = windows[s, 1] // 2
            first, last = min(first, cols[s, g, 1] - radius), max(last, cols[s, g, 2] + radius)
    begin, end = union(cols, g, g + 1, 3)
    return Axis(cols[0, g, 0], first, last, begin, end)


@_inline
def _axis(table, s, i):
    return Axis(table[s, i, 0], table[s, i, 1], table[s, i, 2], table[s, i, 3], table[s, i, 4])


@_plain
def _meet(query, keys, factor, channels, rows, s, first, last, cols, window, offset, limits, state, room, planes):
    """Sums of sixteen images, over the row shifts from ``first`` to ``last``, at most `SHIFTS`, and one column shift.

    Differences of pixels are those of ``planes``, or taken here where it is None.
    """
    n = _U(cols.last - cols.first)
    pitch, plane = n * _L, state.plane
    y0, y1 = np.int64(2**31), np.int64(-1)
    for i in range(first, last):
        if rows[s, i, 1] < rows[s, i, 2]:
            y0, y1 = min(y0, rows[s, i, 1]), max(y1, rows[s, i, 2])
    if y0 >= y1 or cols.first >= cols.last:
        return
    for i in range(first, first + SHIFTS):
        out = after(room.distances, _U(i - first) * plane)
        if i >= last or rows[s, i, 1] >= rows[s, i, 2]:
            fill(out, limits.far, _U(y1 - y0) * n)
            continue
        axis = _axis(rows, s, i)
        fill(out, limits.far, _U(axis.first - y0) * n)
        place = after(out, _U(axis.first - y0) * pitch)
        if planes is None:
            box_distances(place, query, keys, factor, channels, axis, cols, window, limits.zero, room)
        else:
            kept_distances(place, planes, i - first, query, axis, cols, window, limits.zero, room)
        fill(after(out, _U(axis.last - y0) * pitch), limits.far, _U(y1 - axis.last) * n)
    a, b = rows[s, first, 0], rows[s, min(first + 1, last - 1), 0]
    c, d = rows[s, min(first + 2, last - 1), 0], rows[s, min(first + 3, last - 1), 0]
    values = after(keys.pixels, _U(cols.first + cols.shift) * _L)
    height, stride = keys.height, keys.stride * _L
    best, sums = after(state.best, _U(s) * plane), after(state.sums, _U(s) * (_TWO + _U(len(channels))) * plane)
    for y in range(y0, y1):
        costs, pixel = after(room.distances, _U(y - y0) * pitch), _U(y) * state.width + _U(cols.first)
        _accumulate(
            costs, after(costs, plane), after(costs, _TWO * plane), after(costs, _THREE * plane),
            offset, after(best, pixel * _L), after(sums, pixel * _L), plane,
            after(values, _U((y + a) % height) * stride), after(values, _U((y + b) % height) * stride),
            after(values, _U((y + c) % height) * stride), after(values, _U((y + d) % height) * stride),
            keys.plane, channels, limits.cut, limits.slack, n,
        )  # fmt: skip


@_plain
def _interleave(out, images, stride, plane):
    """What is missing in the last block repeats the last image."""
    count, channels, height, width = images.shape
    p = pointer(out)
    for first in range(0, count, LANES):
        for c in range(channels):
            for y in range(height):
                row = after(p, (_U(first // LANES * channels) + _U(c)) * plane + _U(y) * stride * _L)
                for lane in range(LANES):
                    n = min(first + lane, count - 1)
                    for x in range(width):
                        put(row, _U(x) * _L + _U(lane), images[n, c, y, x])
                for x in range(_U(width), stride):
                    store(row, x * _L, load(row, (x - _U(width)) * _L))


@_plain
def sum_windows(queries, keys, channels, costs, factors, rows, cols, windows, wrapped, cuts, empty, best, sums, rooms):
    """Sums over all windows of some training images, for each pixel of some noisy images and each size of the window.

    Args:
        queries: Noisy images, scaled, with their border: ``(B, C, H + kh - 1, W + kw - 1)``, ``kh`` and ``kw`` of the largest window.
        keys: Training images, as `side_by_side` gives them, of the same dtype, which is the precision of the work.
        channels: As many numbers as the images have channels: a constant for the compiler, which unrolls loops.
        costs: What each training image's weight adds to its costs, ``-log2 w``, with shape ``(N,)``.
        factors: Minus this times a pixel of a training image is comparable with those of each query, ``(B,)``.
        rows: Row shifts ``(shift, first, last, begin, end)`` of each size, ``(S, R, 5)``: pixel ``(y, x)`` of the noisy image, for
            ``first <= y < last``, is compared with pixel ``y + shift``; the rows of their windows from ``begin`` to ``end`` lie inside the
            images. All sizes have the same shifts in their tables; where ``first == last`` none is met.
        cols: Column shifts, likewise; all row shifts meet all column shifts.
        windows: Height and width of the windows, ``(S, 2)``.
        wrapped: Whether windows and shifts of both images wrap around.
        cuts: Weights below ``2^-cut`` of the largest are left out, ``(S,)``.
        empty: `EMPTY`, in the precision of the work.
        best: About the smallest cost of each pixel, to `SLACK` bits, ``(S, B, H, W)``, float64; overwritten.
        sums: Sum of weights, of their squares and of weighted values, ``(S, B, 2 + C, H, W)``, float64; overwritten.
        rooms: As `rooms` gives them.
    """
    count, sizes, height, width = len(costs), best.shape[0], best.shape[2], best.shape[3]
    room = Room(pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3]), pointer(rooms[4]), pointer(rooms[5]))
    state = Sums(pointer(rooms[6]), pointer(rooms[7]), _U(height * width) * _L + _U(APART), _U(width))
    above, before = (queries.shape[2] - height) // 2, (queries.shape[3] - width) // 2
    line = (_U(queries.shape[3]) + _ONE) * _L
    planes = Planes(pointer(rooms[8]), pointer(rooms[9]), line, _U(queries.shape[2]) * line + _U(APART))
    zero, far, slack = splat(empty - empty), splat(empty), splat(single(SLACK, room.row))
    query_plane = _U(queries.shape[2] * queries.shape[3])
    most = rows.shape[1] * cols.shape[1]
    best[:] = EMPTY
    sums[:] = 0.0
    for b in range(len(factors)):
        factor = splat(factors[b])
        pixels = after(pointer(queries), _U(b * len(channels)) * query_plane)
        query = Image(pixels, height, _U(queries.shape[3]), query_plane, above, before)
        terms = 0
        for block in range(0, count, LANES):
            if terms == 0:
                _restart(best, b, state, channels)
            for lane in range(LANES):
                put(room.row, _U(lane), costs[block + lane] if block + lane < count else empty)
            offset = load(room.row, _U(0))
            pixels = after(pointer(keys.pixels), _U(block // LANES * len(channels)) * keys.plane)
            images = Image(pixels, keys.height, keys.stride, keys.plane, 0, 0)
            for g in range(cols.shape[1]):
                for first in range(0, rows.shape[1], SHIFTS):
                    last = min(first + SHIFTS, rows.shape[1])
                    if sizes > 1:
                        for i in range(first, last):
                            keep(planes, i - first, query, images, factor, channels, rows, i, _reach(cols, windows, g), wrapped, zero)
                    for s in range(sizes):
                        axis, window = _axis(cols, s, g), Window(_U(windows[s, 0]), _U(windows[s, 1]), wrapped)
                        limits = Limits(zero, far, splat(cuts[s]), slack)
                        if sizes > 1:
                            _meet(query, images, factor, channels, rows, s, first, last, axis, window, offset, limits, state, room, planes)
                        else:
                            _meet(query, images, factor, channels, rows, s, first, last, axis, window, offset, limits, state, room, None)
            terms += most
            if terms + most > TERMS or block + LANES >= count:
                _flush(best, sums, b, state, channels)
                terms = 0
