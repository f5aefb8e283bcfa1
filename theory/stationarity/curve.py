r"""A member of a family at every noise level: points at a few levels, and between them every number interpolated.

With ``s = log(sigma_t / alpha_t)`` and knots ``s_1 < ... < s_K``, each number of a point is the piecewise linear function

.. math:: \theta(s) = \sum_k \hat\phi_k(s) \, \theta_k

of the noise, so that a score is as good between its levels as on them. Mixing the *outputs* of two levels instead is not:
levels that were solved apart use their features in different ways, and the mean of two different rules is none.
Below the lowest knot and above the highest the nearest point is used. Coefficients from features to outputs are in units of
an output (`theory.predictions`), which for a predicted noise or score change with the level.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from theory.stationarity.learned import Model, Net, Point
from theory.types import Float


def hats(knots: Float[Tensor, " K"], s: Float[Tensor, " n"]) -> Float[Tensor, "n K"]:
    """Weights of the knots (ascending) at ``s``: none negative, at most two of a row positive, and each row sums to 1."""
    if len(knots) == 1:
        return torch.ones_like(s)[:, None]
    s = s.clamp(knots[0], knots[-1])
    upper = torch.searchsorted(knots, s).clamp(1, len(knots) - 1)
    share = ((s - knots[upper - 1]) / (knots[upper] - knots[upper - 1]))[:, None]
    weights = s.new_zeros(len(s), len(knots)).scatter_(1, upper[:, None], share)
    return weights.scatter_(1, upper[:, None] - 1, 1 - share)


def refined(s: Float[Tensor, " K"], times: int) -> Float[Tensor, " R"]:
    """Knots (ascending), and the midpoints of each interval between them, so many times over."""
    for _ in range(times):
        s = torch.cat([torch.stack([s[:-1], (s[:-1] + s[1:]) / 2], 1).flatten(), s[-1:]])
    return s


class Layout(NamedTuple):
    """How the numbers of a point lie in one vector: the shapes of its tensors, one after another."""

    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, point: Point) -> "Layout":
        return cls(tuple(x.shape for x in (*point.net, point.coefficients)))

    def flat(self, point: Point) -> Float[Tensor, " N"]:
        """All numbers of a point, in a new vector."""
        return torch.cat([x.detach().flatten() for x in (*point.net, point.coefficients)])

    def point(self, numbers: Float[Tensor, "*lead N"]) -> Point:
        """The inverse of `flat`; leading axes stay in front of each tensor."""
        parts = numbers.split([shape.numel() for shape in self.shapes], -1)
        *net, coefficients = (x.unflatten(-1, shape) for x, shape in zip(parts, self.shapes, strict=True))
        return Point(Net(*net), coefficients)

    def scaling(self, model: Model) -> Float[Tensor, " N"]:
        """1 for the numbers that grow with the unit of an output, else 0: coefficients from all but ELS to outputs."""
        parts = [torch.zeros(shape) for shape in self.shapes]
        parts[-1] += model.outputs()
        parts[-1][:, 1 : 1 + model.channels] = 0
        return torch.cat([x.flatten() for x in parts])


def moved(model: Model, point: Point, unit: Tensor | float, other: Tensor | float) -> Point:
    """The functions of one level at another, given the units of an output (`theory.predictions`) at both."""
    layout = Layout.of(point)
    return layout.point(layout.flat(point) * (1 + (other / unit - 1) * layout.scaling(model).to(point.coefficients)))


class Curve:
    """Points at knots as one matrix.

    Args:
        model: The family.
        points: At the knots.
        s: ``log(sigma / alpha)`` of each point, distinct, in any order.
        unit: The unit of an output there.
    """

    def __init__(self, model: Model, points: list[Point], s: Float[Tensor, " K"], unit: Float[Tensor, " K"]) -> None:
        self.knots, order = s.double().sort()
        self.layout = Layout.of(points[0])
        self.scaling = self.layout.scaling(model)
        numbers = torch.stack([self.layout.flat(points[i]).double().cpu() for i in order.tolist()])
        self.numbers = numbers / self._scale(unit[order].double())

    def _scale(self, unit: Float[Tensor, " n"]) -> Float[Tensor, "n N"]:
        scaling = self.scaling.to(unit)
        return 1 + (unit[:, None] - 1) * scaling

    def at(self, s: Float[Tensor, " n"], unit: Float[Tensor, " n"], like: Tensor) -> Point:
        """The points at ``s``, with a leading axis, in the dtype and on the device of ``like``."""
        weights = hats(self.knots.to(s.device), s.double())
        return self.layout.point((weights @ self.numbers.to(s.device) * self._scale(unit.double())).to(like))
