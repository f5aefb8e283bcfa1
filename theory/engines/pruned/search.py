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

from theory.engines.compiled import compiled
from theory.engines.exponential import exp2
from theory.engines.pruned.leaves import (
    DONE,
    FAR,
    FLOOR,
    KEY,
    LEFT,
    NODE,
    SQUARE,
    SUM,
    TOP,
    VALUES,
    box_distance,
    coordinate_distances,
    cost_of,
    exact_distance,
    fetch,
    first_of,
    forget,
    rounding,
    sum_leaf,
    sum_leaf_single,
    sum_whole,
)

_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_U = np.uintp

MIDDLE = 16  # numbers of a candidate's value, at most, for leaves to be summed as a whole
ALIGN = 8  # rows of windows are filled up to a multiple of this
SEEDS = 4  # leaves summed before the walk, for a first idea of the sum
ENOUGH = 30.0  # bits below the best that a first idea may leave out
MOST = 1000.0  # bits that are not beyond float64
SPARE = 0.5  # of what is left of the budget, the share that one leaf may use


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
        low, high, mass, coords, starts, weights, squares: As in `theory.engines.pruned.index.Tree`.
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
                if cost_of(box_distance(low, high, _U(node) * dims, points, p, dims), slack[q], scale[q], dims) > states[s + TOP] + ENOUGH:
                    continue
            if node < leaves - 1:
                a, b = _U(2 * node + 1), _U(2 * node + 2)
                spent += 2 * NODE
                if box_distance(low, high, a * dims, points, p, dims) <= box_distance(low, high, b * dims, points, p, dims):
                    stack[filled], stack[filled + 1] = b, a
                else:
                    stack[filled], stack[filled + 1] = a, b
                filled += 2
                continue
            leaf = _U(node - leaves + 1)
            coordinate_distances(coords, leaf * dims * width, points, p, dims, width, near)
            forget(known, width)
            if seen == 0:  # the nearest in coordinates tells how far the others may be
                best = first_of(near, width)
                fetch(keys, best * size, images, _U(starts[leaf * width + best]), height, run, stride)
                known[best] = True
                states[s + TOP] = scale[q] * exact_distance(keys, best * size, queries, o, size, FAR)
                single[q] = rounding(states[s + TOP] + 2 * ENOUGH, scale[q], reach[q], size) <= tolerance
            if single[q]:
                spent += sum_leaf_single(
                    states, s, _U(0), singles, o, size, slack[q], scale[q], states[s + TOP] + ENOUGH, leaf, mass[node], near, dims, width,
                    starts, weights, squares, images, height, run, stride, middle, keys, known, chosen, distances,
                )  # fmt: skip
                seen += 1
                continue
            spent += sum_leaf(
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
            cost = cost_of(box_distance(low, high, _U(node) * dims, points, _U(q) * dims, dims), slack[q], scale[q], dims)
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
        forget(known, width)
        listed = False
        for i in range(level * total, kept):
            q = active[i]
            s = _U(q) * columns
            coordinate_distances(coords, leaf * dims * width, points, _U(q) * dims, dims, width, near)
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
                spent += sum_whole(states, s, count, scale[q], cut, leaf, mass[node], near, width, weights, squares, values, shares)
                continue
            if single[q]:
                spent += sum_leaf_single(
                    states, s, count, singles, _U(q) * size, size, slack[q], scale[q], cut, leaf, mass[node], near, dims, width, starts,
                    weights, squares, images, height, run, stride, middle, keys, known, chosen, distances,
                )  # fmt: skip
                continue
            spent += sum_leaf(
                states, s, count, queries, _U(q) * size, size, slack[q], scale[q], cut, leaf, mass[node], near, dims, width, starts,
                weights, squares, images, height, run, stride, offset, keys, known, chosen,
            )  # fmt: skip
        if spent > allowed:
            return spent
    return spent
