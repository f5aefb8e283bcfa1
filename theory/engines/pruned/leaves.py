"""The compiled parts of a walk: distances of boxes and coordinates, distances of candidates, and the sums over a leaf.

Costs, states and what is left out are those of `theory.engines.pruned.search`.
"""

import numpy as np

from theory.engines.compiled import compiled
from theory.engines.exponential import exp2

# Nothing here makes an array, not even a view: without numba's counting of references, whose atomic operations took a quarter of the time.
_fast = compiled(fastmath={"contract", "reassoc", "nsz", "nnan", "ninf"}, nogil=True, error_model="numpy", _nrt=False)
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_U = np.uintp

UNIT = 2.0**-24  # of float32, in which coordinates are kept
STEP = 128  # numbers between two looks at whether a distance is beyond its limit
OUTSIDE = 1e30  # squared distance of a place in a leaf that is not full
FAR = 1e30  # a cost beyond all
SUMS = 7.0  # rounding of a sum of `STEP` squares in float32, in its last digits: 1.4 times the largest found, on photographs and noise
# Nanoseconds, as measured: a box, a coordinate in a leaf, a pixel compared, a candidate, a pixel copied, a candidate of a leaf summed
# as a whole; and a pixel and a candidate compared in float32.
NODE, KEY, NUMBER, HIT, FETCH, WHOLE = 45.0, 0.11, 0.22, 30.0, 0.75, 1.5
SINGLE_NUMBER, SINGLE_HIT = 0.06, 9.0

TOP, SUM, SQUARE, LEFT, DONE, FLOOR, VALUES = (_U(i) for i in range(7))  # columns of a query's state


@_fast
def box_distance(low, high, i, points, p, dims):
    """Squared distance of a point from a box."""
    total = np.float32(0)
    for j in range(dims):
        d = max(max(low[i + j] - points[p + j], points[p + j] - high[i + j]), np.float32(0))
        total += d * d
    return total


@_fast
def coordinate_distances(coords, i, points, p, dims, width, out):
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
def exact_distance(keys, i, queries, o, size, limit):
    """Squared distance of two rows, in float64, or what it is at least once beyond the limit."""
    total = 0.0
    for first in range(_U(0), size, _U(STEP)):
        total += _part(keys, i + first, queries, o + first, min(_U(STEP), size - first))
        if total > limit:
            return total
    return total


@_plain
def fetch(keys, i, images, start, height, run, stride):
    """Copy a window out of the images, as a row."""
    for _ in range(height):
        _copy(keys, i, images, start, run)
        i += run
        start += stride


@_plain
def cost_of(squared, slack, scale, dims):
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
def sum_leaf(
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
            fetch(keys, j * size, images, start, height, run, stride)
            known[j] = True
            spent += FETCH * size
        squared = exact_distance(keys, j * size, queries, o, size, limit)
        spent += HIT + NUMBER * (size + count)
        if squared > limit:
            states[s + LEFT] += weights[base + j] * exp2(states[s + TOP] - scale * squared)
        else:
            _add(states, s, scale * squared, weights[base + j], squares[base + j], images, start + offset, count)
    nearest = _nearest(near, threshold, width, np.float32(FAR))
    if beyond > 0.0 and nearest < np.float32(OUTSIDE / 2):
        states[s + LEFT] += beyond * exp2(states[s + TOP] - cost_of(nearest, slack, scale, dims))
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
def sum_whole(states, s, count, scale, cut, leaf, mass, near, width, weights, squares, values, shares):
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
def sum_leaf_single(
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
            fetch(keys, j * size, images, _U(starts[base + j]), height, run, stride)
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
        states[s + LEFT] += beyond * exp2(states[s + TOP] - cost_of(nearest, slack, scale, dims))
    return spent


@_plain
def rounding(cost, scale, reach, size):
    """Bound on the rounding error of a cost in float32, in nats: of its sums, and of rounding the pixels of the noisy image.

    The errors of parts are independent, and so are those of single pixels.
    """
    return UNIT * np.log(2.0) * (SUMS * cost / np.sqrt(np.ceil(size / STEP)) + 2.0 * np.sqrt(cost * scale) * reach)


@_plain
def first_of(near, width):
    """Number of the smallest."""
    best = _U(0)
    for j in range(width):
        best = j if near[j] < near[best] else best
    return best


@_plain
def forget(known, width):
    for j in range(width):
        known[j] = False
