r"""The smoothed closed-form score: the mean of ideal scores at noisy copies of the point.

.. math:: s_\sigma(x_t, t) = E_\eta\, \nabla \log p_t(x_t + \sigma \eta) \approx
          \frac{1}{M} \sum_{m=1}^M \nabla \log p_t(x_t + \sigma \eta_m), \qquad \eta \sim N(0, I)

(Scarvelis, Saez de Ocariz Borde & Solomon, arXiv 2310.12395). ``nabla log p_t`` is the ideal score, an affine function of the
posterior mean and of the point, and the ``eta_m`` sum to zero: the denoiser is the mean of ideal denoisers at the copies. Its samples
are barycentres of near training images.

Copies come in pairs ``+eta, -eta``, the same for all noisy images: no result depends on the batch, the error is smaller than that of as
many independent copies, and the score is the gradient of the evidence reported, the mean of ``log p_t`` at the copies.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from theory import meetings
from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.engines import Case
from theory.errors import InputError
from theory.machines import checks
from theory.machines.base import AnalyticDenoiser
from theory.machines.closed import by_kind
from theory.meetings import Meetings
from theory.noise import Schedule
from theory.patches import Size
from theory.types import BatchLabels, Coefficients, Images, Times


class Smoothed(AnalyticDenoiser):
    """The smoothed denoiser. Evidence, effective number and skipped share are means over the copies.

    Args:
        data, schedule, engine, memory, rtol, distributed: As in `AnalyticDenoiser`.
        smoothing: Standard deviation ``sigma`` of the copies around the noisy image, in its units. 0 gives the ideal score.
        copies: How many, ``M``: even, and at least 4.
        seed: Of the copies.

    Raises:
        InputError: If the smoothing is negative or not finite, or the number of copies odd or less than 4.
    """

    name = "smoothed"
    settings = ("smoothing", "copies", "seed")

    def __init__(
        self, data: ImageSet, schedule: Schedule | None = None, *, smoothing: float = 0.1, copies: int = 16, seed: int = 0, **options
    ) -> None:
        super().__init__(data, schedule, **options)
        self.smoothing = checks.finite(smoothing, "smoothing", 0.0)
        self.copies, self.seed = checks.whole(copies, "copies", 4), checks.whole(seed, "seed", 0)
        if self.copies % 2:
            raise InputError(f"copies={copies}", "an even number: copies come in pairs", "use one more")

    def meetings(self, size: Size) -> Meetings:
        return meetings.images(size)

    def centre(self, mean: Tensor) -> Tensor:
        return mean

    def standard_error(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Images:
        """The sampling error of the mean, for each pixel; arguments of a call.

        That of the mean over pairs of copies, from their scatter: one standard deviation of what other seeds would give.
        """

        def scatter(kind: tuple[int | None, Size], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
            pairs = torch.cat([part.mean for part in self._pairs(self.case(*kind, x_t), x_t, alpha, sigma)], 1)
            return Posterior((pairs.var(1) / (self.copies // 2)).sqrt().to(x_t))

        alpha, sigma, kinds = self._asked(x_t, t, label)
        return by_kind(kinds, scatter, x_t, alpha, sigma).mean

    def _posterior(self, case: Case, x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        parts = self._pairs(case, x_t, alpha, sigma)
        total = [sum(field) for field in zip(*((value.sum(1) for value in part) for part in parts), strict=True)]
        return Posterior(*((value / (self.copies // 2)).to(x_t) for value in total))

    def _pairs(self, case: Case, x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Iterator[Posterior]:
        """Means over pairs of copies, ``(B, pairs, ...)``, some pairs at a time; in float64, as copies are: rounding them would show."""
        step = max(1, self.memory // (64 * x_t.numel()))
        for eta in self._directions(x_t).split(step):
            copies = x_t.double()[:, None, None] + self.smoothing * torch.stack([eta, -eta], 1)
            shape = copies.shape[:3]
            coefficients = (c.repeat_interleave(shape[1] * shape[2]) for c in (alpha, sigma))
            found = super()._posterior(case, copies.flatten(0, 2), *coefficients)
            yield Posterior(*(value.reshape(*shape, *value.shape[1:]).mean(2) for value in found))

    def _directions(self, x_t: Images) -> Tensor:
        """``eta`` of each pair, ``(M / 2, C, H, W)``, float64: the first ones do not depend on how many follow."""
        drawn = np.random.default_rng(self.seed).standard_normal((self.copies // 2, *x_t.shape[1:]))
        return torch.from_numpy(drawn).to(x_t.device)
