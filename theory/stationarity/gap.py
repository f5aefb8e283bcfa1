"""How much the printed stationarity condition misses at a solution."""

import torch
from torch import Tensor

from theory.stationarity.equations import Output, Roles, printed, variation
from theory.stationarity.galerkin import Galerkin
from theory.stationarity.learned import Draws, Model, Point
from theory.stationarity.level import Level

IMAGES = 2000  # images at most for the printed equation
NOTHING = 1e-6  # share of the target's variance that is no loss at all


def printed_gap(model: Model, point: Point, level: Level) -> float | None:
    """How much of the force of attention the printed equation misses at a solution of the literal family.

    The first variation is the local term ``r_p`` and what attention adds to it. Returned is the norm of the
    projected difference between the printed and the exact first variation, relative to that of what attention
    adds to the exact one: 0 if the print were right. None where attention adds nothing.
    """
    draws = level.fresh.part(slice(IMAGES))
    problem, half = Galerkin(model, point, draws), len(draws.target) // 2

    def norms(draws: Draws) -> Tensor:
        """Both terms, flat."""
        return torch.stack([torch.cat([m.flatten() for m in problem.tested(problem.theta, term, draws)]) for term in (missed, added)])

    def only(z: Tensor) -> Roles:
        zero = torch.zeros_like(z)
        return Roles(z, zero, zero, zero)

    def added(roles: Roles, output: Output, residual: Tensor) -> Roles:
        exact = variation(roles, output, residual, model.head)
        return Roles(exact.h - residual, *exact[1:])

    def missed(roles: Roles, output: Output, residual: Tensor) -> Roles:
        exact = sum(variation(roles, output, residual, model.head))
        return only(printed(roles.h, output, residual, model.head) - exact)

    # The product of the means of independent halves: sampling noise does not add to it.
    wrong, attention = (norms(draws.part(slice(half))) * norms(draws.part(slice(half, 2 * half)))).sum(1).clamp(min=0).sqrt().tolist()
    return wrong / attention if attention > NOTHING * level.variance**0.5 else None
