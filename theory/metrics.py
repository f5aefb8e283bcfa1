"""What is measured of a denoiser: its loss, the rule its samples obey, and what they memorise."""

from typing import NamedTuple

import torch
from scipy.stats import norm
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.noise import Noise, Schedule
from theory.types import Float, Images

PIECE = 2**12  # training images compared at a time


class Estimate(NamedTuple):
    """A mean over independent samples and its standard error."""

    value: float
    stderr: float

    @classmethod
    def of(cls, samples: Float[Tensor, " n"]) -> "Estimate":
        """From at least two samples."""
        samples = samples.double()
        return cls(float(samples.mean()), float(samples.std() / len(samples) ** 0.5))


class Proportion(NamedTuple):
    """A share of independent samples with its 95% Wilson interval (Wilson 1927)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Tensor) -> "Proportion":
        """From a boolean tensor with shape ``(n,)``."""
        n, share, z = len(hits), float(hits.double().mean()), float(norm.ppf(0.975))
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
        return cls(share, max(0.0, centre - half), min(1.0, centre + half))


class NoisyImages(NamedTuple):
    """Training images and their noisy versions at one time: common random numbers for all models."""

    x_0: Images
    x_t: Images
    t: float


def noisy_images(data: ImageSet, schedule: Schedule, t: float, count: int, seed: int, device: str | torch.device = "cpu") -> NoisyImages:
    """Images drawn by weight, and their versions at time ``t``; the same seed gives the same at every time."""
    x_0 = data.draw(count, seed)
    epsilon = Noise(seed + 1)(x_0)
    return NoisyImages(x_0.to(device), schedule.perturb(x_0, t, epsilon).to(device), t)


def squared_error(a: Images, b: Images) -> Float[Tensor, " B"]:
    """``||a - b||^2`` of each image, summed over pixels and channels, in float64."""
    return (a.double() - b.double()).square().flatten(1).sum(1)


def denoising_loss(denoiser: Denoiser, noisy: NoisyImages, reference: Images) -> tuple[Estimate, Estimate]:
    """Denoising loss, and its excess over the best possible.

    The loss is ``E ||E[x_0 | x_t] - x_0||^2`` an image. The excess is
    ``E ||mean - reference||^2``, where ``reference`` is the exact posterior mean: by Pythagoras
    the two differ by a constant, the loss of the reference, and the excess has far less noise.
    """
    mean = denoiser.denoise(noisy.x_t, noisy.t)
    return Estimate.of(squared_error(mean, noisy.x_0)), Estimate.of(squared_error(mean, reference))


class Memorisation(NamedTuple):
    """How close samples come to the training set.

    Attributes:
        distance: Root mean squared pixel difference to the nearest training image, with shape ``(n,)``.
        memorised: Whether a sample is a copy: three times closer to its nearest training image than to
            any other (the criterion of Yoon et al. 2023), with shape ``(n,)``.
        nearest: Number of the nearest training image, with shape ``(n,)``.
    """

    distance: Tensor
    memorised: Tensor
    nearest: Tensor


def memorisation(samples: Images, data: ImageSet, ratio: float = 1 / 3) -> Memorisation:
    """Nearest training images of samples, by exact Euclidean distance; equal images count as one."""
    flat = samples.flatten(1).double()
    nearest = _nearest(flat, data)
    copies = data.images[nearest.index.cpu()].to(flat).flatten(1)
    other = _nearest(flat, data, unlike=copies)
    return Memorisation(nearest.distance / flat.shape[1] ** 0.5, nearest.distance <= ratio * other.distance, nearest.index)


class _Nearest(NamedTuple):
    distance: Tensor
    index: Tensor


def _nearest(samples: Tensor, data: ImageSet, unlike: Tensor | None = None) -> _Nearest:
    """The training image nearest to each sample, the first of equals, read in pieces; with ``unlike``, of those that differ from it."""
    best = _Nearest(samples.new_full((len(samples),), torch.inf), torch.zeros(len(samples), dtype=torch.int64, device=samples.device))
    for start in range(0, len(data), PIECE):
        images = data.images[start : start + PIECE].to(samples).flatten(1)
        distances = _distances(samples, images)
        if unlike is not None:
            distances[_distances(unlike, images) == 0] = torch.inf
        index = distances.argmin(1)
        distance = distances.gather(1, index[:, None])[:, 0]
        nearer = distance < best.distance
        best = _Nearest(torch.where(nearer, distance, best.distance), torch.where(nearer, index + start, best.index))
    return best


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Not by matrix products: the distance of a perfect copy would come out as 1e-7, not 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
