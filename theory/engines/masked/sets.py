"""Sets of rows of a matrix, and sums over them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from theory.types import Float

SPAN = 2.0  # members that can be added in the time of a span
PRODUCT = 3.8  # numbers of a matrix that a product takes in the time of a member, as measured
TASK = 256  # sets for one thread at a time, at least


class Sets:
    """``M`` sets of ``J`` rows.

    Args:
        matrix: Which rows each set holds, boolean, with shape ``(M, J)``.
        length: Rows that lie side by side in a line of an image: sets are cut into spans along lines.

    On the CPU sums are compiled: members are added one by one, or running sums along lines are subtracted at the ends of spans, whichever
    is less. Where both are too much, and elsewhere, a product with the matrix makes them. Nothing is ever subtracted but within a line.
    """

    def __init__(self, matrix: Tensor, length: int) -> None:
        self.matrix, self.length = matrix, length
        self.count = len(matrix)
        self._kept: tuple[tuple | None, Tensor] = None, matrix

    def sums(self, values: Float[Tensor, "J n"]) -> Float[Tensor, "M n"]:
        """Sums of rows, which may have any sign; on the CPU of `kernel.WIDTH` columns."""
        if values.device.type != "cpu" or self.dense:
            return self._factor(values) @ values
        from theory.engines.masked import kernel  # loads the compiler

        if self.short:
            return self.bounded(values, values.new_full((self.count,), torch.inf), 0.0)[0]
        (starts, stops, ends), lines = self._spans, len(values) // self.length
        out = np.empty((self.count, kernel.WIDTH), values.numpy().dtype)
        running = np.empty(lines * (self.length + 1) * kernel.WIDTH, out.dtype)
        kernel.run(running, values.reshape(-1).numpy(), np.uintp(lines), np.uintp(self.length))
        self._parallel(lambda a, b: kernel.add_spans(out.reshape(-1), running, starts, stops, ends, a, b))
        return torch.from_numpy(out)

    def bounded(self, values: Float[Tensor, "J n"], limits: Float[Tensor, " M"], low: float) -> tuple[Float[Tensor, "M n"], int]:
        """Sums of rows that are at least ``-low``, and how many members were added. Where all sums of a set are certain to exceed its
        limit, they end early, and are only known to exceed it with ``-low`` for each member left. On the CPU, of `kernel.WIDTH` columns."""
        from theory.engines.masked import kernel

        out, (members, ends) = np.empty((self.count, kernel.WIDTH), values.numpy().dtype), self._members
        given = out.reshape(-1), values.reshape(-1).numpy(), members, ends, limits.numpy(), low
        return torch.from_numpy(out), sum(map(int, self._parallel(lambda a, b: kernel.add_members(*given, a, b))))

    @property
    def short(self) -> bool:
        """Whether adding members is less than subtracting at the ends of spans."""
        return self.size[0] <= SPAN * self.size[1]

    @property
    def dense(self) -> bool:
        """Whether a product is less than either."""
        return min(self.size[0], SPAN * self.size[1]) > self.matrix.numel() / PRODUCT

    @property
    def cost(self) -> float:
        """Members that could be added in the time of `sums`."""
        return min(self.size[0], SPAN * self.size[1], self.matrix.numel() / PRODUCT)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Members and spans of all sets."""
        lines = self.matrix.reshape(self.count, -1, self.length)
        starts = lines[..., 0].count_nonzero() + (lines[..., 1:] & ~lines[..., :-1]).count_nonzero()
        return int(lines.count_nonzero()), int(starts)

    @cached_property
    def held(self) -> Float[Tensor, " M"]:
        """Rows that each set holds, float64."""
        return self.matrix.sum(1).double()

    @cached_property
    def ways(self) -> "Ways":
        """The sets as compiled passes take them."""
        from theory.engines.masked.ways import Ways  # loads the compiler

        return Ways(self.matrix)

    def _factor(self, like: Tensor) -> Tensor:
        """The matrix as a factor; that of the last kind is kept."""
        kind = like.dtype, like.device
        if self._kept[0] != kind:
            self._kept = kind, self.matrix.to(like)
        return self._kept[1]

    def transposed(self, length: int) -> "Sets":
        """For every row, the sets that hold it; of these, ``length`` lie side by side in a line."""
        return Sets(self.matrix.T.contiguous(), length)

    @cached_property
    def _members(self) -> tuple[np.ndarray, np.ndarray]:
        sets, members = self.matrix.cpu().numpy().nonzero()
        return members.astype(np.uintp), _ends(sets, self.count)

    @cached_property
    def _spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lines = self.matrix.cpu().reshape(self.count, -1, self.length)
        before, after = pad(lines, (1, 0))[..., :-1], pad(lines, (0, 1))[..., 1:]
        sets, line, start = (lines & ~before).numpy().nonzero()
        stop = (lines & ~after).numpy().nonzero()[2] + 1
        base = line * (self.length + 1)
        return (base + start).astype(np.uintp), (base + stop).astype(np.uintp), _ends(sets, self.count)

    def _parallel(self, task: Callable[[np.uintp, np.uintp], Any]) -> list:
        """All sets, by all threads; each set by one, whatever their number."""
        threads = torch.get_num_threads()
        step = max(TASK, -(-self.count // threads))
        firsts = range(0, self.count, step)
        if len(firsts) == 1:
            return [task(np.uintp(0), np.uintp(self.count))]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda a: task(np.uintp(a), np.uintp(min(a + step, self.count))), firsts))


def _ends(sets: np.ndarray, count: int) -> np.ndarray:
    return np.searchsorted(sets, np.arange(count + 1)).astype(np.uintp)
