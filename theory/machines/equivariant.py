r"""The equivariant score (ES): a translation-equivariant model that sees the whole image.

.. math:: E[x_0 | x_t] = \sum_{n, s} W_{n,s}\, T_s x_n, \quad
          W_{n,s} \propto w_n \exp\big(-\|x_t - \alpha_t T_s x_n\|^2 / 2\sigma_t^2\big)

over all circular translations ``T_s``. Kamb & Ganguli, arXiv 2412.20292, eq. 5-6. It is the ideal
score of the training set with all its shifts; its samples are shifted training images.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from theory.centred import reading
from theory.denoiser import Posterior
from theory.machines.base import AnalyticDenoiser, Problem, pixels, whole_image
from theory.patches import Size
from theory.posterior import Keys, KeySource
from theory.posterior.shifts import sum_shifts
from theory.types import Images, TrainingImages


class Equivariant(AnalyticDenoiser):
    """The equivariant denoiser. Arguments of `AnalyticDenoiser`; ``engine="auto"`` sums over shifts by Fourier transforms."""

    name = "equivariant"
    per_pixel = False

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._spectra: dict[tuple, Tensor | None] = {}

    def _posterior(self, x_t: Images, alpha: Tensor, sigma: Tensor, label: int | None, size: Size) -> Posterior:
        if self.engine != "auto":
            return super()._posterior(x_t, alpha, sigma, label, size)
        images, log_weights, centre = self.exact(label, x_t), self.own(label)[1].to(x_t.device), self.centre_of(label).to(x_t.device)
        shifts, dim = size[0] * size[1], x_t[0].numel()
        centred = x_t.double() - alpha.reshape(-1, 1, 1, 1) * centre
        spectra = self._spectra_of(label, images)
        mine = sum_shifts(centred, alpha, sigma, images, log_weights - math.log(shifts), spectra, self.memory // 2)
        state = self.complete(mine)
        log_evidence = state.log_sum[0] - dim * torch.log(sigma * math.sqrt(2 * math.pi))
        mean = (state.mean[0].reshape(x_t.shape) + centre).to(x_t)
        return Posterior(mean, *(v.to(x_t) for v in (log_evidence, state.ess[0], state.skipped_share[0])))

    def _spectra_of(self, label: int | None, images: TrainingImages) -> Tensor | None:
        """Transforms of the training images, kept where they take less than a quarter of the memory."""
        key = label, images.dtype, images.device
        if key not in self._spectra:
            needed = 8 * math.prod(images.shape)
            small = needed <= self._room
            self._spectra[key] = torch.fft.rfft2(images[:]) if small else None
            self._room -= needed if small else 0
        return self._spectra[key]

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        count, channels, height, width = images.shape
        dim, shifts = channels * height * width, height * width

        def read(start: int, stop: int) -> Keys:
            tiled = images[start:stop].repeat(1, 1, 2, 2)[..., :-1, :-1]  # every shift is a window of the tiled image
            rows = rearrange(tiled.unfold(2, height, 1).unfold(3, width, 1), "n c y x i j -> 1 (n y x) (c i j)")
            return Keys(rows, rows, (log_weights[start:stop] - math.log(shifts)).repeat_interleave(shifts)[None])

        yield Problem(
            source=KeySource(read, items=count, groups=1, rows=shifts, dim=dim, value_dim=dim, reading=reading(images)),
            queries=lambda x: x.flatten(1)[None],
            repeat=1,
            place=partial(whole_image, shape=images.shape[1:]),
            rows=slice(None),
            cols=slice(None),
            dims=torch.tensor([dim], device=images.device),
            origins=pixels((0, height), (0, width))[None],
        )
