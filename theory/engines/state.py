r"""The log-sum-exp monoid.

After seeing some keys, a query's state is

.. math:: m = \max_j \ell_j, \quad s = \sum_j e^{\ell_j - m}, \quad s_2 = \sum_j e^{2(\ell_j - m)},
          \quad u = \sum_j e^{\ell_j - m} v_j .

Two states merge by rescaling both to the larger maximum; the empty state (``m = -inf``, zeros) is
neutral; merging is associative and commutative up to rounding. Nothing is ever averaged over
pieces, so no result depends on how the keys were cut. The maximum belongs to one query: sharing it
over a batch would underflow all the others at low noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.types import Means, PerQuery


@dataclass(frozen=True)
class State:
    """Partial sums of a batch of queries, in float64.

    Attributes:
        max: Largest logit so far, with shape ``(G, Q)``; ``-inf`` when no key was seen.
        sum: Sum of weights relative to it, with shape ``(G, Q)``.
        square: Sum of their squares, with shape ``(G, Q)``.
        weighted: Weighted sum of values, with shape ``(G, Q, v)``.
        skipped: Bound on the sum of the weights of keys that were left out, with shape ``(G, Q)``; zeros if None is given.
    """

    max: PerQuery
    sum: PerQuery
    square: PerQuery
    weighted: Means
    skipped: PerQuery | None = None

    def __post_init__(self) -> None:
        if self.skipped is None:
            object.__setattr__(self, "skipped", torch.zeros_like(self.sum))

    @classmethod
    def empty(cls, groups: int, queries: int, value_dim: int, device: torch.device) -> "State":
        """The neutral element."""
        zeros = torch.zeros(groups, queries, dtype=torch.float64, device=device)
        return cls(zeros - torch.inf, zeros, zeros.clone(), zeros.new_zeros(groups, queries, value_dim))

    def merge(self, other: "State") -> "State":
        """The state after the keys of both."""
        top = torch.maximum(self.max, other.max)
        a, b = rescale(self.max, top), rescale(other.max, top)
        return State(
            top,
            self.sum * a + other.sum * b,
            self.square * a**2 + other.square * b**2,
            self.weighted * a[..., None] + other.weighted * b[..., None],
            self.skipped * a + other.skipped * b,
        )

    @classmethod
    def joined(cls, states: Sequence["State"]) -> "State":
        """The states of all queries, one after another."""
        if len(states) == 1:
            return states[0]
        return cls(*(torch.cat(field, 1) for field in zip(*(vars(s).values() for s in states), strict=True)))

    def rows(self, rows: Tensor | slice) -> "State":
        """The states of some queries."""
        return State(*(x[:, rows] for x in (self.max, self.sum, self.square, self.weighted, self.skipped)))

    def put(self, rows: Tensor | slice, other: "State") -> None:
        """Overwrite the states of some queries, in place."""
        self.max[:, rows], self.sum[:, rows] = other.max, other.sum
        self.square[:, rows], self.weighted[:, rows] = other.square, other.weighted
        self.skipped[:, rows] = other.skipped

    @property
    def mean(self) -> Means:
        """Posterior mean of the values."""
        return self.weighted / self.sum[..., None]

    @property
    def log_sum(self) -> PerQuery:
        """``log sum_j exp(l_j)``."""
        return self.max + torch.log(self.sum)

    @property
    def ess(self) -> PerQuery:
        """Effective number of keys, ``(sum w)^2 / sum w^2``."""
        return self.sum**2 / self.square

    @property
    def skipped_share(self) -> PerQuery:
        """Bound on the share of the weight of all keys that was left out."""
        return self.skipped / (self.sum + self.skipped)


def rescale(maximum: PerQuery, top: PerQuery) -> PerQuery:
    """``exp(maximum - top)``, with 0 for an empty state even when both are ``-inf``."""
    return torch.where(maximum == -torch.inf, 0.0, torch.exp(maximum - top))
