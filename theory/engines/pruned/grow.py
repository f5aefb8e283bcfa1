"""The compiled loops that make a tree: windows as rows, their hashes, and halves by the median.

Images are flat, channels last; a window begins at a place ``start`` of that array and has ``height`` rows of ``run`` numbers,
``stride`` apart.
"""

import numpy as np

from theory.engines.compiled import compiled

_plain = compiled(nogil=True, error_model="numpy")


@_plain
def gather(images, starts, height, run, stride, out):
    """Windows as rows: ``out`` has shape ``(len(starts), height * run)``."""
    for k in range(len(starts)):
        for r in range(height):
            i = starts[k] + r * stride
            for j in range(run):
                out[k, r * run + j] = images[i + j]


@_plain
def digests(bits, starts, height, run, stride, odd, out):
    """A 64-bit hash of each window, from the bits of its pixels."""
    for k in range(len(starts)):
        total = np.int64(0)
        for r in range(height):
            i = starts[k] + r * stride
            for j in range(run):
                total += np.int64(bits[i + j]) * odd[r * run + j]
        out[k] = total


@_plain
def same_as_previous(bits, starts, hashes, height, run, stride, out):
    """Whether each window equals the one before it; only windows with equal hashes are looked at."""
    out[0] = False
    for k in range(1, len(starts)):
        equal = hashes[k] == hashes[k - 1]
        r = 0
        while equal and r < height:
            a, b = starts[k] + r * stride, starts[k - 1] + r * stride
            for j in range(run):
                equal &= bits[a + j] == bits[b + j]
            r += 1
        out[k] = equal


@_plain
def halve(coords, order, depth, low, high, first, last):
    """Sort rows into a balanced binary tree: each node is halved along its coordinate of largest variance.

    Args:
        coords: Coordinates ``(K, m)``.
        order: Numbers of the rows, overwritten by their order in the tree.
        depth: Depth of the leaves; node ``i`` has the children ``2 i + 1`` and ``2 i + 2``.
        low, high: Smallest and largest coordinates of each node, ``(nodes, m)``; overwritten.
        first, last: Range of each node in ``order``; overwritten.
    """
    dims = coords.shape[1]
    total, squares = np.empty(dims), np.empty(dims)
    first[0], last[0] = 0, len(order)
    inner = 2**depth - 1
    for node in range(len(first)):
        a, b = first[node], last[node]
        total[:] = 0.0
        squares[:] = 0.0
        low[node] = coords[order[a]]
        high[node] = coords[order[a]]
        for k in range(a, b):
            for i in range(dims):
                c = coords[order[k], i]
                low[node, i] = min(low[node, i], c)
                high[node, i] = max(high[node, i], c)
                d = np.float64(c) - np.float64(coords[order[a], i])
                total[i] += d
                squares[i] += d * d
        if node < inner:
            middle = (a + b) // 2
            _select(coords, order, a, b, middle, np.argmax(squares - total * total / (b - a)))
            first[2 * node + 1], last[2 * node + 1] = a, middle
            first[2 * node + 2], last[2 * node + 2] = middle, b


@_plain
def _select(coords, order, a, b, middle, i):
    """Reorder ``order[a:b]`` so that coordinate ``i`` of the rows before ``middle`` is not above that of those after (Hoare)."""
    left, right = a, b - 1
    while left < right:
        pivot = coords[order[(left + right) // 2], i]
        j, k = left, right
        while j <= k:
            while coords[order[j], i] < pivot:
                j += 1
            while coords[order[k], i] > pivot:
                k -= 1
            if j <= k:
                order[j], order[k] = order[k], order[j]
                j += 1
                k -= 1
        if middle <= k:
            right = k
        elif middle >= j:
            left = j
        else:
            return
