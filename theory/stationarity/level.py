"""Noisy images of one noise level that a solution is judged by."""

from dataclasses import dataclass

import torch
from torch import Tensor

from theory.predictions import predicted, units
from theory.stationarity.basis import LocalBasis
from theory.stationarity.fresh import Source
from theory.stationarity.learned import Draws
from theory.types import Images


@dataclass(frozen=True)
class Level:
    """A noise level, and images that no solution was made from.

    Attributes:
        t, alpha, sigma: Time and coefficients.
        basis: What gave the coordinates.
        fresh: What their patches tell, and targets.
        x_t: The images themselves, with shape ``(n, C, H, W)``.
    """

    t: float
    alpha: float
    sigma: float
    basis: LocalBasis
    fresh: Draws
    x_t: Images

    @classmethod
    def of(cls, source: Source, t: float, count: int, seed: tuple[int, ...]) -> "Level":
        """``count`` images at time ``t``."""
        alpha, sigma = (float(c) for c in source.schedule(t))
        x_t = source.noisy(torch.full((count,), t, dtype=torch.float64), seed)
        return cls(t, alpha, sigma, source.basis, source.told(x_t, torch.full((count,), t, dtype=torch.float64)), x_t)

    @property
    def classes(self) -> Tensor:
        """Number of the class at each position, where the images are."""
        return self.basis.classes.to(self.fresh.els.device)

    @property
    def unit(self) -> float:
        """Size of an output in which a change of the posterior mean by 1 is 1."""
        alpha, sigma = (torch.tensor(c, dtype=torch.float64) for c in (self.alpha, self.sigma))
        return float(units(self.basis.prediction, alpha, sigma))

    @property
    def variance(self) -> float:
        """Variance of the target, summed over an image, and a hundredth of its mean square, so that an error far too
        small to see is none even where the target never varies."""
        target = self.fresh.target.double()
        return float(target.var(0).sum() + 1e-2 * target.square().mean(0).sum())

    @property
    def negligible(self) -> float:
        """A difference of losses that is none: relative errors of 3e-4, far more than rounding and far less than a pixel shows."""
        return 1e-7 * float(self.fresh.target.double().square().sum((-2, -1)).mean())

    @property
    def els_losses(self) -> Tensor:
        """Loss of ELS on each image."""
        return (self.fresh.els - self.fresh.target).double().square().sum((-2, -1))

    def losses(self, mean: Images) -> Tensor:
        """Loss, as it is predicted, of these posterior means of the images."""
        out = predicted(self.basis.prediction, mean.double(), self.x_t.double(), self.alpha, self.sigma)
        return (self.basis.rows(out) - self.fresh.target.double()).square().sum((-2, -1))
