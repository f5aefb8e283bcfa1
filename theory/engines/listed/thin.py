"""Products of a few rows with a great many, on the CPU: a batch of images against a data set.

A library lays both factors out anew before it multiplies, which pays where both are large. Here the large one is read once, as it lies:
`ROWS` of its rows meet `WIDE` queries at a time, so that all sums stay in registers (`lanes`). Every number of the result is summed by
one thread in a fixed order.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from theory.engines.compiled import compiled
from theory.engines.lanes import LANES, after, aligned, fma, load, number, pointer, put, single, splat, store

WIDE = 4 * LANES  # queries side by side
ROWS = 6  # rows that meet them at a time
DEPTH = 512  # products that are summed in a register before they are added to the others
WASTE = 1.25  # queries are filled up to a multiple of `WIDE`, if that makes them no more than so many times as many
PANELS = 16  # of `ROWS` keys whose products are written together
TASK = 768  # keys for one thread at a time
_U = np.uintp
_L, _TWO, _THREE, _FOUR, _FIVE, _WIDE = _U(LANES), _U(2), _U(3), _U(4), _U(5), _U(WIDE)
_plain = compiled(nogil=True, error_model="numpy", _nrt=False)
_inline = compiled(nogil=True, error_model="numpy", _nrt=False, forceinline=True)


def suits(queries: int, keys: Tensor) -> bool:
    """Whether products of so many rows with these keys are faster here than in a library."""
    few = -(-queries // WIDE) * WIDE <= WASTE * queries
    large = len(keys) >= ROWS and keys.shape[1] >= DEPTH
    return few and large and keys.device.type == "cpu" and keys.dtype == torch.float32 and keys.is_contiguous()


def inner(queries: Float[Tensor, "Q d"], keys: Float[Tensor, "K d"]) -> Float[Tensor, "Q K"]:
    """``queries keys^T``."""
    (count, width), total = queries.shape, len(keys)
    blocks = [_turned(pad(part, (0, 0, 0, WIDE - len(part)))) for part in queries.split(WIDE)]
    out = torch.empty(len(blocks) * WIDE, total)

    def task(first: int) -> None:
        last = min(first + TASK, total)
        for i, block in enumerate(blocks):
            sizes = (_U(n) for n in (width, total, first, last))
            _inner(out.numpy()[i * WIDE :].reshape(-1), block, keys.numpy().reshape(-1), *sizes, aligned(PANELS * ROWS * WIDE, np.float32))

    _run(task, range(0, total, TASK))
    return out[:count]


def _run(task: Callable[[int], None], firsts: Iterable[int]) -> None:
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(task, firsts))


def _turned(queries: Float[Tensor, "Q d"]) -> np.ndarray:
    """Queries side by side."""
    out = aligned(queries.numel(), np.float32)
    out[:] = queries.T.reshape(-1).numpy()
    return out


@_inline
def _times(x, vectors, sums):
    x = splat(x)
    return (fma(x, vectors[0], sums[0]), fma(x, vectors[1], sums[1]), fma(x, vectors[2], sums[2]), fma(x, vectors[3], sums[3]))


@_inline
def _add(out, sums):
    for i in range(4):
        store(out, _U(i) * _L, load(out, _U(i) * _L) + sums[i])


@_plain
def _panel(out, pitch, rows, row, step, vectors, apart, count):
    """``out[j, :64] += sum_{i < count} rows[j, i] vectors[i, :64]`` for six rows, ``row`` numbers apart; ``i`` goes in steps."""
    zero = splat(single(0.0, out))
    a = b = c = d = e = f = (zero, zero, zero, zero)
    for i in range(count):
        v, x = after(vectors, i * apart), after(rows, i * step)
        four = load(v, _U(0)), load(v, _L), load(v, _TWO * _L), load(v, _THREE * _L)
        a, b, c = _times(number(x, _U(0)), four, a), _times(number(x, row), four, b), _times(number(x, _TWO * row), four, c)
        d, e, f = _times(number(x, _THREE * row), four, d), _times(number(x, _FOUR * row), four, e), _times(number(x, _FIVE * row), four, f)
    _add(out, a)
    _add(after(out, pitch), b)
    _add(after(out, _TWO * pitch), c)
    _add(after(out, _THREE * pitch), d)
    _add(after(out, _FOUR * pitch), e)
    _add(after(out, _FIVE * pitch), f)


@_plain
def _inner(out, queries, keys, width, total, first, last, room):
    """Columns ``first`` to ``last`` of the products; the last six keys may be met twice."""
    o, q, k, sums = pointer(out), pointer(queries), pointer(keys), pointer(room)
    zero, rows = splat(single(0.0, o)), _U(ROWS)
    for start in range(first, last, _U(PANELS) * rows):
        stop = min(start + _U(PANELS) * rows, last)
        for i in range(_U(PANELS) * rows * _FOUR):
            store(sums, i * _L, zero)
        for j in range(start, stop, rows):
            place = after(sums, (j - start) * _WIDE)
            for i in range(_U(0), width, _U(DEPTH)):
                key = after(k, min(j, total - rows) * width + i)
                _panel(place, _WIDE, key, width, _U(1), after(q, i * _WIDE), _WIDE, min(_U(DEPTH), width - i))
        for lane in range(_WIDE):
            for j in range(start, stop):
                panel = (j - start) // rows * rows
                shift = start + panel - min(start + panel, total - rows)  # of a panel that was moved to end with the last key
                put(o, lane * total + j, number(sums, (j - start + shift) * _WIDE + lane))
