r"""The compiled walk through a tree: many queries at once, each leaving out what it provably can.

Costs are logits in base 2 with the sign turned and without weights, ``u = log2(e) |q - k|^2 / 2 s^2`` with ``s = sigma / alpha``
(noisy images are divided by alpha). All sums of a query are relative to ``2^-top``, its smallest cost so far.

A query keeps ``left``, a bound on what it left out. A node of weight ``W`` whose box bounds the costs by ``u`` from below may add
``W 2^-u``; it is left out if ``left`` then stays within its share of the budget,

.. math:: \mathtt{left} + W 2^{-u} \le \mathtt{rtol}\; S\, \frac{\text{weight of the candidates dealt with so far}}{\text{weight of all}} ,

where ``S`` is a sum over *some* candidates, and so at most the sum over all. In a leaf the same is done with single candidates.
Whatever the bounds, ``left <= rtol S`` at the end.
"""

import numpy as np

from theory.posterior.compiled import compiled
from theory.posterior.exponential import exp2

# Nothing here makes an array, not even a view: without numba's counting of references, whose atomic operations took a quarter of the time.
_fast = compiled(fastmath={"contract", "reassoc", "nsz", "nnan", "ninf"}, nogil=True, error_model="numpy", _nrt=False)
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_U = np.uintp

UNIT = 2.0**-24  # of float32, in which coordinates are kept
STEP = 128  # numbers between two looks at whether a distance is beyond its limit
MIDDLE = 16  # numbers of a candidate's value, at most, for leaves to be summed as a whole
ALIGN = 8  # rows of windows are filled up to a multiple of this
OUTSIDE = 1e30  # squared distance of a place in a leaf that is not full
FAR = 1e30  # a cost beyond all
SEEDS = 4  # leaves summed before the walk, for a first idea of the sum
ENOUGH = 30.0  # bits below the best that a first idea may leave out
MOST = 1000.0  # bits that are not beyond float64
SUMS = 7.0  # rounding of a sum of `STEP` squares in float32, in its last digits: 1.4 times the largest found, on photographs and noise
SPARE = 0.5  # of what is left of the budget, the share that one leaf may use
# Nanoseconds, as measured: a box, a coordinate in a leaf, a pixel compared, a candidate, a pixel copied, a candidate of a leaf summed
# as a whole; and a pixel and a candidate compared in float32.
NODE, KEY, NUMBER, HIT, FETCH, WHOLE = 45.0, 0.11, 0.22, 30.0, 0.75, 1.5
SINGLE_NUMBER, SINGLE_HIT = 0.06, 9.0

TOP, SUM, SQUARE, LEFT, DONE, FLOOR, VALUES = (_U(i) for i in range(7))  # columns of a query's state


@_fast
def _box(low, high, i, points, p, dims):
    """Squared distance of a point from a box."""
    total = np.float32(0)
    for j in range(dims):
        d = max(max(low[i + j] - points[p + j], points[p + j] - high[i + j]), np.float32(0))
        total += d * d
    return total


@_fast
def _distances(coords, i, points, p, dims, width, out):
    """Squared distances of a point from the candidates of a leaf."""
    for j in range(width):
        out[j] = np.float32(0)
    four = _U(4)
    for _ in range(dims // four):
        _add_four(coords, i, points[p], points[p + _U(1)], points[p + _U(2)], points[p + _U(3)], width, out)
        i += four * width
        p += four
    for c in range(dims % four):
        _add_one(coords, i, points[p + c], width, out)
        i += width


@_fast
def _add_four(coords, i, a, b, c, d, width, out):
    for j in range(width):
        e, f = a - coords[i + j], b - coords[i + width + j]
        g, h = c - coords[i + width + width + j], d - coords[i + width + width + width + j]
        out[j] += (e * e + f * f) + (g * g + h * h)


@_fast
def _add_one(coords, i, a, width, out):
    for j in range(width):
        d = a - coords[i + j]
        out[j] += d * d


@_fast
def _nearest(near, threshold, width, far):
    """The smallest distance of those not below the threshold."""
    nearest = far
    for j in range(width):
        nearest = min(nearest, near[j] if near[j] >= threshold else far)
    return nearest


@_fast
def _copy(out, o, a, i, n):
    for j in range(n):
        out[o + j] = a[i + j]


@_fast
def _within(near, threshold, width, chosen):
    """Numbers of those below the threshold; returns how many."""
    count = _U(0)
    for j in range(width):
        chosen[count] = j
        count += _U(near[j] < threshold)
    return count


@_fast
def _part(keys, i, queries, o, n):
    total = 0.0
    for j in range(n):
        d = queries[o + j] - np.float64(keys[i + j])
        total += d * d
    return total


@_plain
def _exact(keys, i, queries, o, size, limit):
    """Squared distance of two rows, in float64, or what it is at least once beyond the limit."""
    total = 0.0
    for first in range(_U(0), size, _U(STEP)):
        total += _part(keys, i + first, queries, o + first, min(_U(STEP), size - first))
        if total > limit:
            return total
    return total


@_plain
def _fetch(keys, i, images, start, height, run, stride):
    """Copy a window out of the images, as a row."""
    for _ in range(height):
        _copy(keys, i, images, start, run)
        i += run
        start += stride


@_plain
def _cost(squared, slack, scale, dims):
    """A bound on the cost from below, from a squared distance of coordinates, all of whose rounding errors it allows for."""
    root = np.sqrt(np.float64(squared)) * (1.0 - (dims + 4) * UNIT) - slack
    return scale * root * root if root > 0 else 0.0


@_plain
def _squared(cost, slack, scale, dims):
    """The inverse of `_cost`: coordinates at least that far apart belong to at least that cost."""
    return (np.sqrt(max(cost, 0.0) / scale) + slack) ** 2 * (1.0 + 3.0 * (dims + 4) * UNIT)


@_plain
def _lower(states, s, cost, count):
    """Make all sums relative to a smaller cost."""
    factor = exp2(cost - states[s + TOP])
    states[s + SUM] *= factor
    states[s + SQUARE] *= factor * factor
    states[s + LEFT] *= factor
    states[s + FLOOR] *= factor
    for v in range(count):
        states[s + VALUES + v] *= factor
    states[s + TOP] = cost


@_plain
def _add(states, s, cost, weight, square, images, value, count):
    """One more candidate."""
    if cost < states[s + TOP]:
        _lower(states, s, cost, count)
    share = exp2(states[s + TOP] - cost)
    states[s + SUM] += weight * share
    states[s + SQUARE] += square * share * share
    for v in range(count):
        states[s + VALUES + v] += weight * share * np.float64(images[value + v])


@_plain
def _leaf(
    states, s, count, queries, o, size, slack, scale, cut, leaf, mass, near, dims, width, starts, weights, squares, images, height, run,
    stride, offset, keys, known, chosen,
):  # fmt: skip
    """Sum the candidates of a leaf that may cost less than ``cut``; returns the cost of the work.

    ``near`` holds the squared distances of their coordinates; ``keys`` the windows of those that are ``known`` already; ``chosen``
    is room for numbers.
    """
    threshold = np.float32(_squared(cut, slack, scale, dims)) if cut < FAR else np.float32(OUTSIDE / 2)
    limit = cut / scale
    base = leaf * width
    beyond = mass
    spent = KEY * dims * width
    for i in range(_within(near, threshold, width, chosen)):
        j = _U(chosen[i])
        start = _U(starts[base + j])
        beyond -= weights[base + j]
        if not known[j]:
            _fetch(keys, j * size, images, start, height, run, stride)
            known[j] = True
            spent += FETCH * size
        squared = _exact(keys, j * size, queries, o, size, limit)
        spent += HIT + NUMBER * (size + count)
        if squared > limit:
            states[s + LEFT] += weights[base + j] * exp2(states[s + TOP] - scale * squared)
        else:
            _add(states, s, scale * squared, weights[base + j], squares[base + j], images, start + offset, count)
    nearest = _nearest(near, threshold, width, np.float32(FAR))
    if beyond > 0.0 and nearest < np.float32(OUTSIDE / 2):
        states[s + LEFT] += beyond * exp2(states[s + TOP] - _cost(nearest, slack, scale, dims))
    return spent


@_fast
def _smallest(near, width):
    smallest = near[0]
    for j in range(width):
        smallest = min(smallest, near[j])
    return smallest


@_fast
def _shares(near, weights, squares, base, top, scale, width, shares):
    """Weights relative to the smallest cost; returns their sum and that of their squares."""
    total, square = 0.0, 0.0
    for j in range(width):
        factor = np.float64(exp2(min(top - scale * near[j], np.float32(0))))
        shares[j] = weights[base + j] * factor
        total += shares[j]
        square += squares[base + j] * (factor * factor)
    return total, square


@_fast
def _weighted(shares, values, i, width):
    total = 0.0
    for j in range(width):
        total += shares[j] * np.float64(values[i + j])
    return total


@_plain
def _whole(states, s, count, scale, cut, leaf, mass, near, width, weights, squares, values, shares):
    """Sum all candidates of a leaf, or none, by the distances of their coordinates, where these are all of them; returns the work."""
    low = scale * _smallest(near, width)
    if low >= cut:
        states[s + LEFT] += mass * exp2(states[s + TOP] - low)
        return 0.0
    if low < states[s + TOP]:
        _lower(states, s, low, count)
    total, square = _shares(near, weights, squares, leaf * width, np.float32(states[s + TOP]), np.float32(scale), width, shares)
    states[s + SUM] += total
    states[s + SQUARE] += square
    for v in range(count):
        states[s + VALUES + v] += _weighted(shares, values, v * width, width)
    return WHOLE * width


@_fast
def _part_single(keys, i, queries, o, n):
    total = np.float32(0)
    for j in range(n):
        d = queries[o + j] - keys[i + j]
        total += d * d
    return total


@_plain
def _distance_single(keys, i, queries, o, size):
    """Squared distance of two rows in float32, but for the sum of its parts."""
    total = 0.0
    for first in range(_U(0), size, _U(STEP)):
        total += np.float64(_part_single(keys, i + first, queries, o + first, min(_U(STEP), size - first)))
    return total


@_fast
def _factors(distances, top, scale, n):
    """Overwrite distances by weights relative to the smallest cost."""
    for i in range(n):
        distances[i] = np.float64(exp2(np.float32(min(top - scale * distances[i], 0.0))))


@_plain
def _leaf_single(
    states, s, count, queries, o, size, slack, scale, cut, leaf, mass, near, dims, width, starts, weights, squares, images, height, run,
    stride, middle, keys, known, chosen, distances,
):  # fmt: skip
    """`_leaf` in float32, with all sums that are as good in it; ``middle`` is where in a window its value begins."""
    threshold = np.float32(_squared(cut, slack, scale, dims)) if cut < FAR else np.float32(OUTSIDE / 2)
    base = leaf * width
    beyond = mass
    spent = KEY * dims * width
    found = _within(near, threshold, width, chosen)
    low = FAR
    for i in range(found):
        j = _U(chosen[i])
        beyond -= weights[base + j]
        if not known[j]:
            _fetch(keys, j * size, images, _U(starts[base + j]), height, run, stride)
            known[j] = True
            spent += FETCH * size
        distances[i] = _distance_single(keys, j * size, queries, o, size)
        low = min(low, distances[i])
    if found > _U(0):
        spent += (SINGLE_HIT + SINGLE_NUMBER * size + count) * found
        if scale * low < states[s + TOP]:
            _lower(states, s, scale * low, count)
        _factors(distances, states[s + TOP], scale, found)
        total, square = 0.0, 0.0
        for i in range(found):
            j = _U(chosen[i])
            square += squares[base + j] * (distances[i] * distances[i])
            distances[i] *= weights[base + j]
            total += distances[i]
        states[s + SUM] += total
        states[s + SQUARE] += square
        for i in range(found if count > _U(0) else _U(0)):
            value = _U(chosen[i]) * size + middle
            for v in range(count):
                states[s + VALUES + v] += distances[i] * np.float64(keys[value + v])
    nearest = _nearest(near, threshold, width, np.float32(FAR))
    if beyond > 0.0 and nearest < np.float32(OUTSIDE / 2):
        states[s + LEFT] += beyond * exp2(states[s + TOP] - _cost(nearest, slack, scale, dims))
    return spent


@_plain
def _rounding(cost, scale, reach, size):
    """Bound on the rounding error of a cost in float32, in nats: of its sums, and of rounding the pixels of the noisy image.

    The errors of parts are independent, and so are those of single pixels.
    """
    return UNIT * np.log(2.0) * (SUMS * cost / np.sqrt(np.ceil(size / STEP)) + 2.0 * np.sqrt(cost * scale) * reach)


@_plain
def _first(near, width):
    """Number of the smallest."""
    best = _U(0)
    for j in range(width):
        best = j if near[j] < near[best] else best
    return best


@_plain
def _forget(known, width):
    for j in range(width):
        known[j] = False


def rooms(queries: int, size: int, nodes: int, width: int) -> tuple[np.ndarray, ...]:
    """Working memory of a search, which may serve one search at a time."""
    depth = nodes.bit_length()
    near, chosen, known = np.empty(width, np.float32), np.empty(width + 1, np.uint32), np.empty(width, np.bool_)
    keys = np.zeros(width * size, np.float32)
    stack, levels = np.empty(2 * depth + 4, np.int64), np.empty(2 * depth + 4, np.int64)
    active, counts, direct = np.empty((depth + 2) * queries, np.int64), np.empty(depth + 2, np.int64), np.empty(queries, np.bool_)
    single, shares, distances = np.empty(queries, np.bool_), np.empty(width), np.empty(width)
    return near, chosen, known, keys, stack, levels, active, counts, direct, single, np.empty(MIDDLE * width, np.float32), shares, distances


@_plain
def search(
    queries, singles, points, slack, reach, scale, rtol, low, high, mass, coords, starts, weights, squares, images, shape, offset, middle,
    tolerance, complete, allowed, states, rooms,
):  # fmt: skip
    """Sums of all queries over the candidates of a tree.

    Args:
        queries: Windows of noisy images over alpha, ``(Q, d)``, float64, filled up with zeros to a multiple of `ALIGN`. This array
            and all others are flat.
        singles: The same in float32.
        points: Their coordinates ``(Q, dims)``, float32.
        slack: How much rounding may move a distance of coordinates, ``(Q,)``.
        reach: At least the largest difference of a number of a query and of a candidate, ``(Q,)``.
        scale: Cost of a unit of squared distance, ``(Q,)``.
        rtol: Share of the sum that may be left out.
        low, high, mass, coords, starts, weights, squares: As in `theory.posterior.pruned.index.Tree`.
        images: Training images, flat, float32.
        shape: Rows of a window, numbers in each, numbers from one to the next.
        offset: Where the value of a candidate begins, from the beginning of its window in the images.
        middle: The same in a window that was copied out of them.
        tolerance: Error that a cost may have from rounding to float32.
        complete: Whether coordinates are all of a candidate.
        allowed: Work allowed, in nanoseconds; the walk ends when it is used up.
        states: ``(Q, 6 + v)``, float64, zeros. Columns `TOP` to `LEFT`, then the weighted values from `VALUES` on.
        rooms: As `rooms` gives them.

    Returns:
        The work done, in nanoseconds; more than ``allowed`` where the walk was given up.
    """
    total = len(slack)
    size, dims, columns = _U(len(queries) // total), _U(len(points) // total), _U(len(states) // total)
    leaves = (len(mass) + 1) // 2
    width, count = _U(len(starts) // leaves), columns - _U(VALUES)
    height, run, stride = _U(shape[0]), _U(shape[1]), _U(shape[2])
    offset, middle = _U(offset), _U(middle)
    near, chosen, known, keys, stack, levels, active, counts, direct, single, values, shares, distances = rooms
    spent = 0.0
    for q in range(total):  # sums over the nearest leaves, of which only their size is kept
        s, p, o = _U(q) * columns, _U(q) * dims, _U(q) * size
        stack[0], filled, seen = 0, 1, 0
        states[s + TOP] = FAR
        while filled > 0 and seen < SEEDS:
            filled -= 1
            node = stack[filled]
            if seen > 0:
                spent += NODE
                if _cost(_box(low, high, _U(node) * dims, points, p, dims), slack[q], scale[q], dims) > states[s + TOP] + ENOUGH:
                    continue
            if node < leaves - 1:
                a, b = _U(2 * node + 1), _U(2 * node + 2)
                spent += 2 * NODE
                if _box(low, high, a * dims, points, p, dims) <= _box(low, high, b * dims, points, p, dims):
                    stack[filled], stack[filled + 1] = b, a
                else:
                    stack[filled], stack[filled + 1] = a, b
                filled += 2
                continue
            leaf = _U(node - leaves + 1)
            _distances(coords, leaf * dims * width, points, p, dims, width, near)
            _forget(known, width)
            if seen == 0:  # the nearest in coordinates tells how far the others may be
                best = _first(near, width)
                _fetch(keys, best * size, images, _U(starts[leaf * width + best]), height, run, stride)
                known[best] = True
                states[s + TOP] = scale[q] * _exact(keys, best * size, queries, o, size, FAR)
                single[q] = _rounding(states[s + TOP] + 2 * ENOUGH, scale[q], reach[q], size) <= tolerance
            if single[q]:
                spent += _leaf_single(
                    states, s, _U(0), singles, o, size, slack[q], scale[q], states[s + TOP] + ENOUGH, leaf, mass[node], near, dims, width,
                    starts, weights, squares, images, height, run, stride, middle, keys, known, chosen, distances,
                )  # fmt: skip
                seen += 1
                continue
            spent += _leaf(
                states, s, _U(0), queries, o, size, slack[q], scale[q], states[s + TOP] + ENOUGH, leaf, mass[node], near, dims, width,
                starts, weights, squares, images, height, run, stride, offset, keys, known, chosen,
            )  # fmt: skip
            seen += 1
        states[s + FLOOR] = states[s + SUM] * (1.0 - 2.0 * tolerance)
        states[s + SUM] = states[s + SQUARE] = states[s + LEFT] = 0.0
        active[q] = q
        direct[q] = complete and count <= MIDDLE and np.sqrt((states[s + TOP] + 2 * ENOUGH) * scale[q]) * slack[q] <= tolerance
        if spent > allowed:
            return spent
    counts[0] = total
    stack[0], levels[0], filled = 0, 1, 1
    while filled > 0:
        filled -= 1
        node, level = stack[filled], levels[filled]
        kept = level * total
        spent += NODE * counts[level - 1]
        for i in range((level - 1) * total, (level - 1) * total + counts[level - 1]):
            q = active[i]
            s = _U(q) * columns
            cost = _cost(_box(low, high, _U(node) * dims, points, _U(q) * dims, dims), slack[q], scale[q], dims)
            more = mass[node] * exp2(min(states[s + TOP] - cost, MOST))
            done = states[s + DONE] + mass[node]
            if states[s + LEFT] + more <= rtol * max(states[s + FLOOR], states[s + SUM]) * (done / mass[0]):
                states[s + LEFT] += more
                states[s + DONE] = done
            else:
                active[kept] = q
                kept += 1
        counts[level] = kept - level * total
        if counts[level] == 0:
            continue
        if node < leaves - 1:
            stack[filled], levels[filled] = 2 * node + 2, level + 1
            stack[filled + 1], levels[filled + 1] = 2 * node + 1, level + 1
            filled += 2
            continue
        leaf = _U(node - leaves + 1)
        _forget(known, width)
        listed = False
        for i in range(level * total, kept):
            q = active[i]
            s = _U(q) * columns
            _distances(coords, leaf * dims * width, points, _U(q) * dims, dims, width, near)
            states[s + DONE] += mass[node]
            budget = rtol * max(states[s + FLOOR], states[s + SUM]) * (states[s + DONE] / mass[0]) - states[s + LEFT]
            cut = states[s + TOP] - np.log2(SPARE * budget / mass[node]) if budget > 0 else FAR
            if direct[q]:
                if not listed:
                    for v in range(count):
                        for j in range(width):
                            values[v * width + j] = images[_U(starts[leaf * width + j]) + offset + v]
                    listed = True
                spent += KEY * dims * width
                spent += _whole(states, s, count, scale[q], cut, leaf, mass[node], near, width, weights, squares, values, shares)
                continue
            if single[q]:
                spent += _leaf_single(
                    states, s, count, singles, _U(q) * size, size, slack[q], scale[q], cut, leaf, mass[node], near, dims, width, starts,
                    weights, squares, images, height, run, stride, middle, keys, known, chosen, distances,
                )  # fmt: skip
                continue
            spent += _leaf(
                states, s, count, queries, _U(q) * size, size, slack[q], scale[q], cut, leaf, mass[node], near, dims, width, starts,
                weights, squares, images, height, run, stride, offset, keys, known, chosen,
            )  # fmt: skip
        if spent > allowed:
            return spent
    return spent
