r"""Images that points are compared by while a family is solved, the same for all of its descents."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from theory.predictions import units
from theory.stationarity.descent import Range
from theory.stationarity.fresh import Groups, Source
from theory.stationarity.learned import Draws, Model, Point
from theory.types import Float

COUNT = 1000  # images of each knot
SOFT = 0.5  # share of the largest loss of ELS that it has at the level to begin with


@dataclass(frozen=True)
class Watched:
    """Knots, and images of each.

    Attributes:
        source: Where noisy images come from.
        times: The knots, ascending.
        seed: Seed of everything random.
        count: Images of each knot.
    """

    source: Source
    times: tuple[float, ...]
    seed: int
    count: int = COUNT

    @cached_property
    def t(self) -> Float[Tensor, " K"]:
        return torch.tensor(self.times, dtype=torch.float64)

    @cached_property
    def s(self) -> Float[Tensor, " K"]:
        """``log(sigma / alpha)`` of each knot."""
        alpha, sigma = self.source.schedule(self.t)
        return (sigma / alpha).log()

    @cached_property
    def units(self) -> Float[Tensor, " K"]:
        """Unit of an output at each knot."""
        return units(self.source.basis.prediction, *self.source.schedule(self.t))

    @cached_property
    def levels(self) -> Range:
        return Range.of(self.source, self.times[0], self.times[-1], (self.seed, 1))

    @cached_property
    def first(self) -> int:
        """The knot to begin with: the noisiest at which ELS loses half as much as it does at most.

        At low noise attention is sharp and hard to find; what is found where it is soft carries over.
        """
        els = self.levels.els_at(self.t)
        return int((els >= SOFT * els.max()).nonzero()[-1])

    @cached_property
    def groups(self) -> Groups:
        return self.source.groups(self.t, self.count, (self.seed, 2), self.levels.surplus_at(self.t))

    def at(self, knot: int) -> Groups:
        """What is watched at a knot."""
        return self.groups.part(torch.tensor([knot]))

    def halfway(self, knot: int, other: int) -> Groups:
        """Images halfway between two knots."""
        t = self.source.schedule.time(self.s[[knot, other]].mean().exp())[None]
        return self.source.groups(t, self.count, (self.seed, 2, 1 + min(knot, other)), self.levels.surplus_at(t))

    def loss(self, model: Model, point: Point, knot: int) -> float:
        """Mean loss at a knot."""
        return mean_loss(model, point, self.at(knot))

    def total(self, model: Model, points: list[Point]) -> float:
        """Losses of all knots, each as it counts in a descent; infinite where one is not finite."""
        losses = torch.tensor([self.loss(model, p, i) for i, p in enumerate(points)], dtype=torch.float64)
        value = float((losses / self.units.square() * self.levels.weights(self.t)).sum())
        return value if np.isfinite(value) else np.inf

    def shares(self, within: tuple[float, float]) -> list[float]:
        """Share of the images that each knot within a range of ``sigma / alpha`` gets: as the root of what the loss of ELS counts there.

        In proportion to it, levels where ELS loses little got too few to learn anything.
        """
        counts = (self.levels.weights(self.t) * self.levels.els_at(self.t)).sqrt()
        ratio = self.s.exp()
        counts = counts.where((ratio >= within[0]) & (ratio <= within[1]), 0.0)
        return (counts / counts.sum().clamp(min=1e-300)).tolist()


def mean_loss(model: Model, point: Point, group: Groups) -> float:
    """Mean loss over the images of one group, as they count."""
    losses = model.losses(point, Draws(*(x[0] for x in vars(group.draws).values())))
    return float((losses * group.counts[0].to(losses)).mean())
