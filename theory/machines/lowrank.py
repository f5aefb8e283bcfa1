r"""A Gaussian whose covariance is known by its principal directions, and what it makes of a noisy image.

With ``x_0 ~ N(mu, U diag(lambda) U^T)`` and ``c = U^T (x_t - alpha_t mu)``

.. math:: E[x_0 | x_t] = \mu + U \frac{\alpha_t \lambda}{\alpha_t^2 \lambda + \sigma_t^2} c , \qquad
          x_t \sim N\big(\alpha_t \mu,\ \alpha_t^2 U \mathrm{diag}(\lambda) U^T + \sigma_t^2 I\big) .

One decomposition serves all times. A singular covariance is no obstacle: with noise every direction has variance. Where pixels
outnumber images, directions come from the products of images, ``N x N``, and the covariance is never written out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from theory.errors import InputError
from theory.types import Coefficients, Float

NOTHING = 1e-20  # variance of pixels in [-1, 1] that is rounding of images that are all the same
BAND = 128  # rows of a covariance found at a time, at least
PIECE = 2**23  # numbers of images held in float64 at a time


@dataclass(frozen=True)
class LowRank:
    """``N(mean, directions diag(variances) directions^T)``, float64.

    Attributes:
        mean: With shape ``(D,)``.
        variances: Positive, largest first, with shape ``(r,)``.
        directions: Orthonormal, with shape ``(D, r)``.
    """

    mean: Float[Tensor, " D"]
    variances: Float[Tensor, " r"]
    directions: Float[Tensor, "D r"]

    def to(self, device: torch.device) -> "LowRank":
        """The same elsewhere."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def posterior(self, x: Float[Tensor, "B D"], alpha: Coefficients, sigma: Coefficients) -> tuple[Tensor, Tensor]:
        """Posterior means ``(B, D)`` and log densities ``(B,)`` of noisy images, in float64."""
        difference = x - alpha[:, None] * self.mean
        along = difference @ self.directions
        total = alpha[:, None] ** 2 * self.variances + sigma[:, None] ** 2
        mean = self.mean + (alpha[:, None] * self.variances / total * along) @ self.directions.T
        rest = (difference.square().sum(1) - along.square().sum(1)).clamp(min=0) / sigma**2
        dimension, rank = self.directions.shape
        spread = total.log().sum(1) + (dimension - rank) * 2 * sigma.log() + dimension * math.log(2 * math.pi)
        return mean, -0.5 * ((along.square() / total).sum(1) + rest + spread)


def fit(images: Tensor, weights: Tensor, memory: int, rank: int | None = None) -> LowRank:
    """The Gaussian with the mean and covariance of weighted images.

    Args:
        images: With shape ``(N, C, H, W)``.
        weights: With shape ``(N,)``; they need not sum to 1.
        memory: Bytes that may be used.
        rank: Keep at most that many directions, those of the largest variance; the others get none. All if None.

    Raises:
        InputError: If it does not fit into ``memory``.
    """
    count, dimension = len(images), images[0].numel()
    small = min(count, dimension)
    require_memory(8 * small * (2 * small + 2 * dimension), memory, f"the principal directions of {count} images of {dimension} numbers")
    weights = weights.double() / weights.double().sum()
    mean = mean_of(images, weights)
    if count < dimension:
        rows = weights.sqrt()[:, None] * (images.flatten(1).double() - mean)
        variances, left = torch.linalg.eigh(rows @ rows.T)
    else:
        variances, directions = torch.linalg.eigh(covariance(images, weights, mean))
    keep = variances > max(float(variances[-1]) * max(count, dimension) * torch.finfo(torch.float64).eps, NOTHING)
    order = keep.nonzero()[:, 0].flip(0)[:rank]
    variances = variances[order]
    directions = rows.T @ (left[:, order] / variances.sqrt()) if count < dimension else directions[:, order]
    return LowRank(mean, variances, directions.contiguous())


def mean_of(images: Tensor, weights: Tensor) -> Float[Tensor, " D"]:
    """The weighted mean of images, float64; weights sum to 1."""
    total = torch.zeros(images[0].numel(), dtype=torch.float64, device=images.device)
    for part, some in _pieces(images, weights):
        total += some @ part
    return total


def covariance(images: Tensor, weights: Tensor, mean: Tensor) -> Float[Tensor, "D D"]:
    """The weighted covariance of images, float64, read in pieces; weights sum to 1."""
    dimension = len(mean)
    total, step = torch.zeros(dimension, dimension, dtype=torch.float64, device=images.device), max(BAND, dimension // 8)
    for part, some in _pieces(images, weights):
        rows = some.sqrt()[:, None] * (part - mean)
        for start in range(0, dimension, step):  # on and above the diagonal, band by band
            band = slice(start, start + step)
            total[band, start:].addmm_(rows[:, band].T, rows[:, start:])
    return total.triu() + total.triu(1).T


def require_memory(needed: float, memory: int, what: str) -> None:
    """Refuse what does not fit."""
    if needed > memory:
        raise InputError(f"{what}: {needed / 2**20:.0f} MB", f"at most memory={memory} bytes ({memory / 2**20:.0f} MB)", "raise memory")


def _pieces(images: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, PIECE // images[0].numel())
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        yield images[part].flatten(1).double(), weights[part]
