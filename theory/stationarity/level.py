"""One noise level made ready: noisy images, exact targets, and a basis whitened on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.metrics import noisy_images
from theory.noise import Schedule
from theory.stationarity.basis import LocalBasis, predicted
from theory.stationarity.galerkin import Sample, whitening

QUIET = 1e-3  # share of the target's variance added to the scale, where ELS has no loss at all
BATCH = 2000  # noisy images drawn and evaluated at a time


@dataclass(frozen=True)
class Level:
    """A noise level.

    Attributes:
        t, alpha, sigma: Time and coefficients.
        train: Noisy images the solver works on in each of the nested bases, with calibrated targets.
        watch: Others that tell it when to stop.
        fresh: Others it never sees.
        whiten: Matrix of each class that turns raw features into whitened ones, with shape ``(F, columns)``.
        moments: Second moments of the raw features of each class.
        columns: Whitened functions of each class in each of the nested bases; the last is held out.
        els: The ELS solution of each class in whitened functions, with shape ``(columns, C)``.
        els_columns, cluster_columns: Places of ELS and of the posterior of the clusters among the raw features of each class.
    """

    t: float
    alpha: float
    sigma: float
    train: list[Sample]
    watch: Sample
    fresh: Sample
    whiten: list[Tensor]
    moments: list[Tensor]
    columns: list[list[int]]
    els: list[Tensor]
    els_columns: list[slice]
    cluster_columns: list[slice]

    @property
    def train_els_loss(self) -> float:
        """Loss of ELS on the training images."""
        return float((self.train[-1].els - self.train[-1].target).double().square().flatten(1).sum(1).mean())

    @property
    def variance(self) -> float:
        """Variance of the target, summed over an image, and a millionth of its mean square: what float32 rounds away
        is no loss even where the target never varies."""
        target = self.train[-1].target.double()
        return float(target.var(0).sum() + 1e-6 * target.square().mean(0).sum())

    @property
    def scale(self) -> float:
        """``E[l^2] / E[l]`` with ``l`` the ELS loss of an image: the loss of an image that has one."""
        losses = (self.train[-1].els - self.train[-1].target).double().square().flatten(1).sum(1)
        return float(losses.square().mean() / losses.mean().clamp(min=1e-300)) + QUIET * self.variance

    @property
    def fresh_els_losses(self) -> Tensor:
        """Loss of ELS on each fresh image."""
        return (self.fresh.els - self.fresh.target).double().square().flatten(1).sum(1)

    def raw(self, matrices: list[Tensor]) -> list[Tensor]:
        """Coefficients of the raw features from those of the first whitened ones.

        The part of a function that is linear in ELS is carried by the ELS columns alone: at other
        times these are ELS still, which a sum of nearly dependent features is not.
        """
        out = []
        for w, m, els, columns in zip(self.whiten, matrices, self.els, self.els_columns, strict=True):
            share = torch.linalg.lstsq(els[: len(m)], m.double(), driver="gelsd" if m.device.type == "cpu" else None).solution
            raw = w[:, : len(m)] @ (m.double() - els[: len(m)] @ share)
            raw[columns] += share
            out.append(raw)
        return out

    def projected(self, raw: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """The nearest functions in the span of the first whitened ones, in the mean square on this level."""
        return [(w.T @ (m @ r))[:s] for w, m, r, s in zip(self.whiten, self.moments, raw, sizes, strict=True)]


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
    blocks: list[int],
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Level:
    """Draw noisy images at time ``t`` and prepare them.

    Args:
        basis: Raw functions.
        data, schedule: Training set and noise.
        ideal: The exact posterior mean; it gives the targets.
        t: Time in (0, 1].
        images, watch, fresh: How many to solve on, to watch and to judge by.
        blocks: Random features in each of the three nested bases, and with the held-out ones. The bases are
            solved on a quarter, a half and all of the images.
        seed: Seed of images and noise.
        dtype, device: Precision and place of the work.
    """
    alpha, sigma = (float(c) for c in schedule(t))
    noisy = noisy_images(data, schedule, t, images + watch + fresh, seed, device)
    x_t = noisy.x_t.to(dtype)
    features = [[] for _ in basis.functions]
    means = []
    for part in x_t.split(BATCH):
        coefficients = (torch.full((len(part),), c, dtype=torch.float64, device=device) for c in (alpha, sigma))
        for kept, new in zip(features, basis(part, *coefficients), strict=True):
            kept.append(new)
        means.append(ideal.denoise(part, t))
    raw = [torch.cat(f) for f in features]
    del features
    els = torch.cat([f[..., b.els] for f, b in zip(raw, basis.functions, strict=True)], 1)
    target = basis.rows(predicted(basis.prediction, torch.cat(means).double(), x_t.double(), alpha, sigma)).to(dtype)
    whiten, moments, columns, whitened = [], [], [], []
    for i, b in enumerate(basis.functions):
        flat = raw[i][:images].flatten(0, 1)
        matrix, second, sizes = whitening(flat, [b.fixed + k for k in blocks])
        whitened.append(torch.cat([(part.double() @ matrix).to(dtype) for part in raw[i].split(BATCH)]))
        raw[i] = raw[i][:0]
        whiten.append(matrix)
        moments.append(second)
        columns.append(sizes)
    columns = [list(c) for c in zip(*columns, strict=True)]
    parts = [slice(images), slice(images, images + watch), slice(images + watch, None)]
    train, watched, judged = (Sample([w[rows] for w in whitened], target[rows], els[rows]) for rows in parts)
    return Level(
        t=t,
        alpha=alpha,
        sigma=sigma,
        train=[
            train.part(slice(-(-images // 2**halvings))).calibrated(sizes) for halvings, sizes in zip((2, 1, 0), columns[:-1], strict=True)
        ],
        watch=watched,
        fresh=judged,
        whiten=whiten,
        moments=moments,
        columns=columns,
        els=[w.T @ m[:, b.els] for w, m, b in zip(whiten, moments, basis.functions, strict=True)],
        els_columns=[b.els for b in basis.functions],
        cluster_columns=[b.clusters for b in basis.functions],
    )
