r"""How close two models come, image by image. Definitions once, for every table and figure.

- `pearson_r`: correlation of the pixels of two images, each centred on its own mean.
- `r2_pearson`: its square. Published figures (arXiv 2412.20292) are ``pearson_r`` under the name r^2.
- `r2_determination`: ``1 - sum (a - b)^2 / sum (a - mean a)^2`` with ``a`` the truth (the network): it also
  counts errors of scale and offset, and may be negative.

Medians over images come with a 95% bootstrap interval, shares with a Wilson interval.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.data.imageset import Rule
from theory.denoiser import Denoiser
from theory.metrics import Estimate, Proportion, squared_error
from theory.types import Float, Images

RESAMPLES = 2000


def pearson_r(a: Images, b: Images) -> Float[Tensor, " B"]:
    """Correlation of the pixels of each pair of images; NaN where one is constant."""
    a, b = (x.double().flatten(1) - x.double().flatten(1).mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def r2_pearson(a: Images, b: Images) -> Float[Tensor, " B"]:
    """``pearson_r^2``."""
    return pearson_r(a, b).square()


def r2_determination(truth: Images, other: Images) -> Float[Tensor, " B"]:
    """``1 - SS_res / SS_tot`` of each pair; NaN where the truth is constant."""
    flat = truth.double().flatten(1)
    total = (flat - flat.mean(1, keepdim=True)).square().sum(1)
    return 1 - squared_error(truth, other) / torch.where(total > 0, total, torch.nan)


def cosine(a: Images, b: Images) -> Float[Tensor, " B"]:
    """Cosine of the angle between each pair of images as vectors, as in 2412.20292; NaN where one is zero."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def sensitivity(denoiser: Denoiser, x_t: Images, t: float, pixel: tuple[int, int] | None = None) -> Float[Tensor, "H W"]:
    r"""How much the prediction at one pixel depends on every pixel: its receptive field, measured.

    .. math:: S(p) = \Big( E \sum_{c,c'} \big(\partial\, E[x_0 | x_t]_{c, q} / \partial x_{t, c', p}\big)^2 \Big)^{1/2}

    Args:
        denoiser: Anything autograd runs through: a network, or a machine with ``engine="dense"``.
        x_t: Noisy images with shape ``(B, C, H, W)``.
        t: Their time.
        pixel: ``q``, row and column; the central one if not given.
    """
    height, width = x_t.shape[-2:]
    y, x = pixel or (height // 2, width // 2)
    with torch.enable_grad():
        moved = x_t.detach().clone().requires_grad_()
        centre = denoiser.denoise(moved, t)[:, :, y, x].sum(0)
        jacobian = torch.stack([torch.autograd.grad(c, moved, retain_graph=True)[0] for c in centre])
    return jacobian.double().square().sum((0, 2)).mean(0).sqrt()


class Median(NamedTuple):
    """A median over independent samples and its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Float[Tensor, " n"], seed: int = 0) -> "Median":
        """From at least one sample; a NaN makes all NaN, rather than being left out."""
        values = samples.double().cpu().numpy()
        if np.isnan(values).any():
            return cls(float("nan"), float("nan"), float("nan"))
        drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
        low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
        return cls(float(np.median(values)), float(low), float(high))


def label_agreement(rule: Rule, a: Images, b: Images) -> Proportion:
    """Share of pairs in which every cell is the same colour in both (and a colour at all)."""
    first, second = rule.decode(a), rule.decode(b)
    return Proportion.of(((first == second) & (first >= 0)).all(1))


class Gap(NamedTuple):
    """Loss of a network above that of its theory, on the same noisy images.

    Attributes:
        value, stderr: ``E[loss of the network - loss of the theory]`` for an image, and its standard error.
        below: Whether the network lies below by more than three standard errors. Then what the theory was
            computed in is too small: no network of the family beats the optimum of the family.
    """

    value: float
    stderr: float
    below: bool

    @classmethod
    def of(cls, network: Float[Tensor, " n"], theory: Float[Tensor, " n"]) -> "Gap":
        """From losses image by image."""
        difference = Estimate.of(network.double() - theory.double())
        return cls(*difference, below=difference.value < -3 * difference.stderr)
