r"""The compiled inner loops: distances between windows by box sums, their exponentials, and sums.

For one shift between a noisy and a training image, the squared distances of *all* pairs of windows
are box sums of one plane of squared differences of pixels, whose cost does not grow with the window.
A box of any width is put together from boxes of widths 1, 2, 4, ..., each the sum of two of half
the width: additions of positive numbers only, so that the rounding error of a distance is relative
to the distance, however it is small beside the images. (A running sum would subtract, and drift.)

Logits are kept in base 2 and with the sign turned: ``cost = log2(e) |q - alpha k|^2 / 2 sigma^2 - log2 w``.

Planes are flat arrays and loops run over them with unsigned indices, without which the compiler
allows for negative ones and does not vectorise.
"""

import numpy as np
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

LANES = 4  # training images that meet a shift of the noisy image at once
APART = 48  # numbers between planes, whose size is often a multiple of a page: these would share lines of the cache
NARROW = 4  # columns that only their border needs are dropped from sums when they are more than one in so many
BLOCK = 128  # queries whose exponentials are skipped or computed together
EMPTY = 1e30  # the cost of no candidate at all
_U = np.uintp
_FAST = {"contract", "reassoc", "nsz", "nnan", "ninf"}  # no infinities and no NaN come in
_fast = njit(fastmath=_FAST, nogil=True, error_model="numpy", cache=True)
_plain = njit(nogil=True, error_model="numpy", cache=True)


@intrinsic
def _bits(context, x):
    """The bits of a float as an integer of the same width."""
    kinds = {types.float32: types.int32, types.float64: types.int64}
    if x not in kinds:
        raise TypingError(f"no bits of {x}")
    integer = kinds[x]
    return integer(x), lambda c, builder, signature, values: builder.bitcast(values[0], c.get_value_type(integer))


@intrinsic
def _float(context, x):
    """The float that has these bits."""
    kinds = {types.int32: types.float32, types.int64: types.float64}
    if x not in kinds:
        raise TypingError(f"no float of {x}")
    real = kinds[x]
    return real(x), lambda c, builder, signature, values: builder.bitcast(values[0], c.get_value_type(real))


def _taylor(terms: int, kind: type) -> tuple:
    """Coefficients of ``2^f = sum_i (f ln 2)^i / i!``, enough for ``|f| <= 1/2`` at the precision."""
    factorial, coefficients = 1.0, []
    for i in range(terms):
        factorial *= max(i, 1)
        coefficients.append(kind(np.log(2.0) ** i / factorial))
    return tuple(coefficients)


_A0, _A1, _A2, _A3, _A4, _A5, _A6 = _taylor(7, np.float32)
_B0, _B1, _B2, _B3, _B4, _B5, _B6, _B7, _B8, _B9, _B10, _B11, _B12 = _taylor(13, np.float64)
_ROUND32, _ROUND64 = np.float32(1.5 * 2**23), np.float64(1.5 * 2**52)  # adding this rounds to an integer, kept in the low bits
_LOW32, _LOW64 = np.float32(-120.0), np.float64(-1000.0)


def exp2(x):
    """``2^x`` for x <= 0, floored at 2^-120 (float32) or 2^-1000: no denormal number is ever made."""
    raise NotImplementedError


@overload(exp2, jit_options={"fastmath": {"contract", "nnan"}})
def _exp2(x):
    if x == types.float32:

        def single(x):
            x = max(x, _LOW32)
            shifted = x + _ROUND32
            f = x - (shifted - _ROUND32)
            p = _A0 + f * (_A1 + f * (_A2 + f * (_A3 + f * (_A4 + f * (_A5 + f * _A6)))))
            return _float(np.int32(_bits(p) + (_bits(shifted) << 23)))  # integers are promoted to 64 bits

        return single

    def double(x):
        x = max(x, _LOW64)
        shifted = x + _ROUND64
        f = x - (shifted - _ROUND64)
        high = _B7 + f * (_B8 + f * (_B9 + f * (_B10 + f * (_B11 + f * _B12))))
        p = _B0 + f * (_B1 + f * (_B2 + f * (_B3 + f * (_B4 + f * (_B5 + f * (_B6 + f * high))))))
        return _float(_bits(p) + (_bits(shifted) << 52))

    return double


# ---------------------------------------------------------------------- planes


@_fast
def _copy(out, o, a, i, n):
    for j in range(n):
        out[o + j] = a[i + j]


@_fast
def _fours(out, o, a, i, step, n):
    for j in range(n):
        out[o + j] = (a[i + j] + a[i + step + j]) + (a[i + step + step + j] + a[i + step + step + step + j])


@_fast
def _threes(out, a, step, n):
    for j in range(n):
        out[j] = a[j] + a[step + j] + a[step + step + j]


@_fast
def _add(out, a, i, n):
    for j in range(n):
        out[j] += a[i + j]


@_fast
def _add_twos(out, a, i, step, n):
    for j in range(n):
        out[j] += a[i + j] + a[i + step + j]


@_fast
def _square_first(out, q, i, keys, k, n):
    for j in range(n):
        d = q[i + j] - keys[k + j]
        out[j] = d * d


@_fast
def _square_more(out, q, i, keys, k, n):
    for j in range(n):
        d = q[i + j] - keys[k + j]
        out[j] += d * d


@_fast
def _square_three(out, q, i, qs, keys, k, ks, n):
    for j in range(n):
        a = q[i + j] - keys[k + j]
        b = q[i + qs + j] - keys[k + ks + j]
        c = q[i + qs + qs + j] - keys[k + ks + ks + j]
        out[j] = a * a + b * b + c * c


@_plain
def _squares(out, q, i, qs, keys, k, ks, channels, n):
    """Squared differences of pixels, summed over channels."""
    if channels == 3:
        _square_three(out, q, i, qs, keys, k, ks, n)
        return
    _square_first(out, q, i, keys, k, n)
    for c in range(1, channels):
        _square_more(out, q, i + _U(c) * qs, keys, k + _U(c) * ks, n)


@_plain
def _box(out, work, size, n, step, k):
    """``out[j] = sum_{i < k} work[j + i * step]`` for ``j < n``, ``k`` odd.

    Sums of 4 and 16 terms are made first, in the second and third part of ``work``, each ``size`` numbers long;
    then ``k = 16 a + 4 b + c`` is put together.
    """
    one, three, four, sixteen = _U(1), _U(3), _U(4), _U(16)
    ones, fours, sixteens = k % four, (k % sixteen) // four, k // sixteen
    if k >= four:
        _fours(work, size, work, _U(0), step, n + (k - four) * step)
    if k >= sixteen:
        _fours(work, size + size, work, size, four * step, n + (k - sixteen) * step)
    if ones == three:
        _threes(out, work, step, n)
    else:
        _copy(out, _U(0), work, _U(0), n)
    i = ones * step + size
    if fours == one:
        _add(out, work, i, n)
    elif fours >= _U(2):
        _add_twos(out, work, i, four * step, n)
    if fours == three:
        _add(out, work, i + (four + four) * step, n)
    i += fours * four * step + size
    for _ in range(sixteens):
        _add(out, work, i, n)
        i += sixteen * step


# ---------------------------------------------------------------------- exponentials


@_fast
def _gain(costs, i, plane, best, n, c0, c1, c2, c3, cut):
    """How far some cost lies below the best of its query so far plus ``cut``, at most, and at least 0; as bits.

    Bits of positive numbers are ordered as the numbers are, and a largest integer is found four times faster.
    """
    gain = _bits(cut - cut)
    second, third, fourth = i + plane, i + plane + plane, i + plane + plane + plane
    for j in range(n):
        low = min(min(costs[i + j] + c0, costs[second + j] + c1), min(costs[third + j] + c2, costs[fourth + j] + c3))
        gain = max(gain, _bits(max(best[i + j] - low + cut, cut - cut)))
    return gain


@_fast
def _improve(costs, i, plane, best, factor, n, c0, c1, c2, c3):
    """Lower the best costs to those of this block; ``factor`` rescales what was summed so far."""
    second, third, fourth = i + plane, i + plane + plane, i + plane + plane + plane
    for j in range(n):
        low = min(min(costs[i + j] + c0, costs[second + j] + c1), min(costs[third + j] + c2, costs[fourth + j] + c3))
        low = min(low, best[i + j])
        factor[j] = exp2(low - best[i + j])
        best[i + j] = low


@_fast
def _scale(sums, i, factor, n):
    for j in range(n):
        sums[i + j] *= factor[j]


@_fast
def _exponentials(costs, i, plane, best, sums, n, c0, c1, c2, c3):
    """Overwrite costs by weights relative to the best; add the weights and their squares."""
    second, third, fourth = i + plane, i + plane + plane, i + plane + plane + plane
    for j in range(n):
        top = best[i + j]
        a = exp2(top - c0 - costs[i + j])
        b = exp2(top - c1 - costs[second + j])
        c = exp2(top - c2 - costs[third + j])
        d = exp2(top - c3 - costs[fourth + j])
        costs[i + j] = a
        costs[second + j] = b
        costs[third + j] = c
        costs[fourth + j] = d
        sums[i + j] += (a + b) + (c + d)
        sums[second + j] += (a * a + b * b) + (c * c + d * d)


@_fast
def _weigh(out, o, weights, i, plane, values, v, step, n):
    """Add the values of four images, weighted."""
    second, third, fourth = i + plane, i + plane + plane, i + plane + plane + plane
    for j in range(n):
        out[o + j] += (weights[i + j] * values[v + j] + weights[second + j] * values[v + step + j]) + (
            weights[third + j] * values[v + step + step + j] + weights[fourth + j] * values[v + step + step + step + j]
        )


@_plain
def _accumulate(costs, plane, first, last, best, sums, values, v, step, channel_step, channels, offsets, factor, cut):
    """Costs of four images against the queries ``first`` to ``last``: update the best costs and the sums.

    Blocks of queries all of whose weights are below ``2^-cut`` of their largest are left out.
    """
    c0, c1, c2, c3 = offsets[0], offsets[1], offsets[2], offsets[3]
    i = first
    while i < last:
        n = min(_U(BLOCK), last - i)
        gain = _gain(costs, i, plane, best, n, c0, c1, c2, c3, cut)
        if gain > _bits(cut - cut):
            if gain > _bits(cut):
                _improve(costs, i, plane, best, factor, n, c0, c1, c2, c3)
                _scale(sums, i, factor, n)
                _scale(sums, i + plane, factor, n)
                _scale(sums, i + plane, factor, n)
                for c in range(channels):
                    _scale(sums, i + (_U(2) + _U(c)) * plane, factor, n)
            _exponentials(costs, i, plane, best, sums, n, c0, c1, c2, c3)
            for c in range(channels):
                _weigh(sums, i + (_U(2) + _U(c)) * plane, costs, i, plane, values, v + i + _U(c) * channel_step, step, n)
        i += n


# ---------------------------------------------------------------------- one noisy image


@_plain
def _gather(out, images, first, rows, cols, scale):
    """Four images with a border: ``out[l, c, y, x] = scale images[first + l, c, rows[y], cols[x]]``, 0 where an index is -1."""
    count, channels = images.shape[0], images.shape[1]
    i = 0
    for lane in range(LANES):
        n = min(first + lane, count - 1)
        for c in range(channels):
            for y in range(len(rows)):
                for x in range(len(cols)):
                    out[i] = scale * images[n, c, rows[y], cols[x]] if rows[y] >= 0 and cols[x] >= 0 else scale - scale
                    i += 1


@_plain
def _columns(out, o, a, row, rows, stride, first, width):
    """Columns ``first`` to ``first + width`` of the rows from ``row`` on, as one flat array that begins at ``o``."""
    for r in range(_U(rows)):
        _copy(out, _U(o) + r * _U(width), a, (_U(row) + r) * _U(stride) + _U(first), _U(width))


@_plain
def _restore(out, row, packed, i, rows, stride, first, width, pitch):
    """The inverse of `_columns`, of the first ``width`` of ``pitch`` columns."""
    for r in range(_U(rows)):
        _copy(out, (_U(row) + r) * _U(stride) + _U(first), packed, _U(i) + r * _U(pitch), _U(width))


@_plain
def sum_windows(query, images, costs, scale, rows, cols, groups, entries, window, wrapped, cut, empty, best, sums):
    """Sums over all windows of some training images, for each pixel of one noisy image.

    Args:
        query: The noisy image, scaled, with its border: ``(C, H + kh - 1, W + kw - 1)``.
        images: Training images ``(N, C, H', W')`` of the same dtype, which is the precision of the work.
        costs: What each image's weight adds to its costs, ``-log2 w``, with shape ``(N,)``.
        scale: Times a pixel of a training image, this is comparable with ``query``.
        rows, cols: Row and column of the training image at each of the image with its border; -1 is outside.
        groups: Shifts of equal column offset: ``(offset, x0, x1, first entry, last entry)``.
        entries: Row offset and rows ``(offset, y0, y1)`` of each shift: pixel ``(y, x)`` of the noisy image, for ``y0 <= y < y1``
            and ``x0 <= x < x1``, is compared with the pixel whose window begins at row ``y`` + offset and column ``x`` + offset.
        window: Height and width of the window.
        wrapped: Whether rows of the noisy image and of every shift wrap around, so that one period is enough.
        cut: Weights below ``2^-cut`` of the largest are left out.
        empty: `EMPTY`, in the precision of the work.
        best: Smallest cost of each pixel, ``(H, W)``; overwritten.
        sums: Sum of weights, of their squares and of weighted values, ``(2 + C, H, W)``, float64; overwritten.
    """
    kind = query.dtype
    count, channels = images.shape[0], images.shape[1]
    high, wide = window
    height, width = best.shape
    zero = scale - scale
    extended_rows, extended_cols = len(rows), len(cols)
    query_rows, query_cols = query.shape[1], query.shape[2]
    pitch = width + wide - 1
    size = query_rows * pitch + APART
    plane = height * pitch + APART
    key_size = extended_rows * pitch + APART
    keys = np.zeros(LANES * channels * extended_rows * extended_cols + pitch, kind)
    key_planes, values = np.zeros(LANES * channels * key_size, kind), np.zeros(LANES * channels * key_size, kind)
    query, query_planes = query.reshape(-1), np.empty(channels * size, kind)
    squares, strips, wide_strips = np.empty(3 * size, kind), np.empty(3 * size, kind), np.empty(size, kind)
    planes = np.empty(LANES * plane, kind)
    packed_best, packed_sums = np.empty(plane, kind), np.empty((2 + channels) * plane, kind)
    block_best, block_sums = np.empty(height * width + pitch, kind), np.empty((2 + channels) * height * width + pitch, kind)
    factor, offsets = np.empty(BLOCK, kind), np.empty(LANES, kind)
    best[:] = empty
    sums[:] = 0.0
    kh, kw = _U(high), _U(wide)
    for first in range(0, count, LANES):
        _gather(keys, images, first, rows, cols, scale)
        for lane in range(LANES):
            offsets[lane] = costs[first + lane] if first + lane < count else empty
        block_best[:] = zero
        block_best[: height * width] = best.reshape(-1)
        block_sums[:] = zero
        for g in range(groups.shape[0]):
            dx, x0, x1, first_entry, last_entry = groups[g]
            w = x1 - x0
            p = w + wide - 1
            short = w if (wide - 1) * NARROW > p else p
            for i in range(LANES * channels):
                _columns(key_planes, i * key_size, keys, i * extended_rows, extended_rows, extended_cols, x0 + dx, p)
                _columns(values, i * key_size, keys, i * extended_rows, extended_rows, extended_cols, x0 + dx + wide // 2, short)
            for c in range(channels):
                _columns(query_planes, c * size, query, c * query_rows, query_rows, query_cols, x0, p)
            _columns(packed_best, 0, block_best, 0, height, width, x0, short)
            for i in range(2 + channels):
                _columns(packed_sums, i * plane, block_sums, i * height, height, width, x0, short)
            for e in range(first_entry, last_entry):
                dy, y0, y1 = entries[e]
                skip = high // 2 if wrapped else 0
                n_rows = y1 - y0 if wrapped else y1 - y0 + high - 1
                n = _U((y1 - y0) * short)
                for lane in range(LANES):
                    k = _U(lane * channels * key_size + (y0 + dy + skip) * p)
                    _squares(squares, query_planes, _U((y0 + skip) * p), _U(size), key_planes, k, _U(key_size), channels, _U(n_rows * p))
                    if short == p:
                        _box(strips[skip * p :], squares, _U(size), _U(n_rows * p - wide + 1), _U(1), kw)
                    else:
                        _box(wide_strips, squares, _U(size), _U(n_rows * p - wide + 1), _U(1), kw)
                        _columns(strips, skip * w, wide_strips, 0, n_rows, p, 0, w)
                    if wrapped:
                        for r in range(skip):
                            _copy(strips, _U((skip - 1 - r) * short), strips, _U((skip - 1 - r + n_rows) * short), _U(short))
                            _copy(strips, _U((skip + n_rows + r) * short), strips, _U((skip + r) * short), _U(short))
                    _box(planes[lane * plane + y0 * short :], strips, _U(size), n, _U(short), kh)
                v = _U((dy + high // 2) * short)
                _accumulate(
                    planes, _U(plane), _U(y0 * short), _U(y0 * short) + n, packed_best, packed_sums, values, v,
                    _U(channels * key_size), _U(key_size), channels, offsets, factor, cut,
                )  # fmt: skip
            _restore(block_best, 0, packed_best, 0, height, width, x0, w, short)
            for i in range(2 + channels):
                _restore(block_sums, i * height, packed_sums, i * plane, height, width, x0, w, short)
        _flush(best, sums, block_best, block_sums)


@_plain
def _flush(best, sums, block_best, block_sums):
    """Add the sums of a block, relative to its best costs, to those of all blocks, in float64."""
    height, width = best.shape
    for y in range(height):
        for x in range(width):
            low = block_best[y * width + x]
            factor = 2.0 ** max(np.float64(low) - np.float64(best[y, x]), -1000.0)
            best[y, x] = low
            for c in range(sums.shape[0]):
                scale = factor * factor if c == 1 else factor
                sums[c, y, x] = sums[c, y, x] * scale + block_sums[(c * height + y) * width + x]
