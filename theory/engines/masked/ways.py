"""How sums over sets are compiled: member by member, or group by group, of the sets or of what they leave out."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from theory.engines.masked import tables

ENTRY = 5.0  # members that are added one by one in the time of an entry: a set in a chunk
FIXED = tables.GROUPS * tables.SIZE / 2  # entries that could be added while the tables of a chunk are made
WHOLE = 0.85  # share of all numbers above which sums of what is left out are taken from the whole
_NONE = {kind: np.empty(0, kind) for kind in (np.uint8, np.uint32, np.uintp)}


class Ways:
    """Sets as `tables` takes them.

    Args:
        matrix: Which rows each set holds, boolean, with shape ``(M, J)``.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.cpu()
        self.count = len(matrix)
        self.size = int(matrix.count_nonzero())
        self.sign = -1.0 if self.size > WHOLE * matrix.numel() else 1.0

    @cached_property
    def grouped(self) -> bool:
        """Whether groups are less than members."""
        chunks = -(-self.matrix.shape[1] // tables.CHUNK)
        return ENTRY * (len(self._entries[0]) + FIXED * chunks) < self.size

    @property
    def additions(self) -> float:
        """Of a sum, at most and about."""
        return (
            tables.GROUPS * len(self._entries[0]) / self.count + (tables.TILE + self.matrix.shape[1] / tables.TILE) * (self.sign < 0)
            if self.grouped
            else self.size / self.count
        )

    def given(self, first: int, last: int) -> tuple[tables.Members, tables.Lookups]:
        """Some sets; of the two, only one is filled."""
        members = tables.Members(*((_NONE[np.uint32], _NONE[np.uintp]) if self.grouped else self._members))
        if not self.grouped:
            none = (_NONE[kind] for kind in (np.uint32, np.uint8, np.uint32, np.uintp, np.uintp))
            return members, tables.Lookups(*none, np.uintp(0), self.sign, False)
        sets, patterns, left, places = self._entries
        chunks = -(-self.matrix.shape[1] // tables.CHUNK)
        begin, end = (np.searchsorted(places, np.arange(chunks) * self.count + m).astype(np.uintp) for m in (first, last))
        return members, tables.Lookups(sets, patterns, left, begin, end, np.uintp(chunks), self.sign, self.sign > 0)

    @cached_property
    def _members(self) -> tuple[np.ndarray, np.ndarray]:
        sets, members = self.matrix.numpy().nonzero()
        return members.astype(np.uint32), np.searchsorted(sets, np.arange(self.count + 1)).astype(np.uintp)

    @cached_property
    def _entries(self) -> tuple[np.ndarray, ...]:
        """Of every set and chunk where they meet, chunk by chunk: the set, its patterns, how many members it has beyond; their order."""
        matrix = self.matrix if self.sign > 0 else ~self.matrix
        bits = pad(matrix, (0, -matrix.shape[1] % tables.CHUNK)).reshape(self.count, -1, tables.GROUPS, tables.GROUP)
        patterns = torch.zeros(*bits.shape[:2], tables.WORDS, dtype=torch.uint8)
        for bit in range(tables.GROUP):
            patterns[..., : tables.GROUPS] |= bits[..., bit].to(torch.uint8) << bit
        met = patterns.any(2).T if self.sign < 0 else torch.ones(patterns.shape[1], self.count, dtype=torch.bool)
        chunks, sets = met.nonzero().unbind(1)
        held = bits.sum((2, 3), dtype=torch.int32)
        left = held.sum(1, keepdim=True) - held.cumsum(1)
        chosen = patterns[sets, chunks].reshape(-1).numpy(), left[sets, chunks].numpy().astype(np.uint32)
        return sets.numpy().astype(np.uint32), *chosen, (chunks * self.count + sets).numpy()
