"""One noise level made ready: noisy images, what their patches tell, and exact targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.metrics import noisy_images
from theory.noise import Schedule
from theory.stationarity.basis import LocalBasis, predicted
from theory.stationarity.learned import Draws

BATCH = 2000  # noisy images drawn and evaluated at a time


@dataclass(frozen=True)
class Level:
    """A noise level.

    Attributes:
        t, alpha, sigma: Time and coefficients.
        basis: What gave the coordinates.
        train: Noisy images the solver works on, with calibrated targets.
        watch: Others that tell it which point is best.
        fresh: Others it never sees.
    """

    t: float
    alpha: float
    sigma: float
    basis: LocalBasis
    train: Draws
    watch: Draws
    fresh: Draws

    @property
    def classes(self) -> Tensor:
        """Number of the class at each position, where the images are."""
        return self.basis.classes.to(self.train.els.device)

    @property
    def unit(self) -> float:
        """Size of an output in which a change of the posterior mean by 1 is 1."""
        return {"sample": 1.0, "epsilon": self.alpha / self.sigma, "score": self.alpha / self.sigma**2}[self.basis.prediction]

    @property
    def variance(self) -> float:
        """Variance of the target, summed over an image, and a thousandth of its mean square, so that an error far too
        small to see is none even where the target never varies."""
        target = self.train.target.double()
        return float(target.var(0).sum() + 1e-3 * target.square().mean(0).sum())

    @property
    def train_els_loss(self) -> float:
        """Loss of ELS on the training images."""
        return float(els_losses(self.train).mean())


def els_losses(draws: Draws) -> Tensor:
    """Loss of ELS on each image."""
    return (draws.els - draws.target).double().square().flatten(1).sum(1)


def make_level(
    basis: LocalBasis,
    data: ImageSet,
    schedule: Schedule,
    ideal: Denoiser,
    t: float,
    *,
    images: int,
    watch: int,
    fresh: int,
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Level:
    """Draw noisy images at time ``t`` and prepare them.

    Args:
        basis: Coordinates of patches.
        data, schedule: Training set and noise.
        ideal: The exact posterior mean; it gives the targets.
        t: Time in (0, 1].
        images, watch, fresh: How many to solve on, to watch and to judge by.
        seed: Seed of images and noise.
        dtype, device: Precision and place of the work.
    """
    alpha, sigma = (float(c) for c in schedule(t))
    noisy = noisy_images(data, schedule, t, images + watch + fresh, seed, device)
    draws = []
    for part in noisy.x_t.to(dtype).split(BATCH):
        coefficients = (torch.full((len(part),), c, dtype=torch.float64, device=device) for c in (alpha, sigma))
        u, els, _ = basis(part, *coefficients)
        target = predicted(basis.prediction, ideal.denoise(part, t).double(), part.double(), alpha, sigma)
        draws.append((u, els, basis.rows(target).to(dtype)))
    together = Draws(*(torch.cat(x) for x in zip(*draws, strict=True)))
    del draws
    train, watched, judged = (together.part(rows) for rows in (slice(images), slice(images, images + watch), slice(images + watch, None)))
    return Level(t, alpha, sigma, basis, train.calibrated(basis.classes.to(device)), watched, judged)
