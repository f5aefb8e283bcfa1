r"""Locality learnt from the data: a posterior of its own for every number of an image, over the coordinates its Wiener filter attends to.

.. math:: E[x_0(m) | x_t] = \sum_n W_n^m\, x_n(m), \qquad
          W_n^m \propto w_n \exp\Big(-\frac{1}{2 \sigma_t^2} \sum_{j \in S_m} \big(x_t(j) - \alpha_t x_n(j)\big)^2\Big)

(Lukoianov, Yuan, Solomon & Sitzmann, "Locality in Image Diffusion Models Emerges from Data Statistics", arXiv 2509.09672). ``S_m`` comes
from the Wiener filter of the training set, ``A = alpha_t^2 Sigma (alpha_t^2 Sigma + sigma_t^2 I)^{-1}``, divided by its diagonal:

.. math:: S_m = \{j : |M_{jm}| \ge \tau \max |M|\}, \qquad M_{jm} = A_{jm} / A_{jj}

with ``tau = .02``, and ``A_jj`` below 1e-6 taken for 1. The text of the paper was not at hand: threshold and normalisation are those of
the published code (analytic-diffusion-studio, ``pca_locality.py``), in which ``M`` is divided row by row and read column by column, and
channels are coordinates like rows and columns.

That code normalises weights in every batch of its data loader and averages over batches, so that its result depends on the size of the
batch. Here all images are summed before anything is divided: there is no such number.
"""

import math

import torch

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.engines import Training
from theory.engines.masked.sets import Sets
from theory.engines.masked.sums import Masked, sum_masked
from theory.errors import InputError
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm
from theory.machines.lowrank import LowRank, fit, require_memory
from theory.noise import Schedule
from theory.types import Coefficients, Images

SMALL = 1e-6  # gains of the filter that are taken for 1, as published


class PcaLocal(ClosedForm):
    """The denoiser with learnt locality. Evidence and effective number have shape ``(B, C, H, W)``: each number has its own.

    Args:
        data, schedule, memory: As in `ClosedForm`. Masks depend on the noise level; those of the last levels are kept within ``memory``.
        threshold: ``tau``, above 0 and at most 1.

    Raises:
        InputError: If the threshold is not in that range, or the covariance does not fit into ``memory``.
    """

    name = "pca_local"
    settings = ("threshold",)
    how = "distances over a set of coordinates for every number (theory.engines.masked)"

    def __init__(self, data: ImageSet, schedule: Schedule | None = None, *, threshold: float = 0.02, memory: int = MEMORY) -> None:
        super().__init__(data, schedule, memory=memory)
        self.threshold = checks.finite(threshold, "threshold", 0.0, 1.0)
        if self.threshold == 0:
            raise InputError("threshold=0", "a number above 0, at most 1", "for all coordinates take the machine 'ideal'")
        dimension = data.images[0].numel()
        require_memory(24 * dimension**2, self.memory, f"masks of {dimension} numbers")
        self.training = Training(data, lambda mean: mean, self.memory, False)
        self._masks: dict[tuple[int | None, float], Sets] = {}

    def kind(self, label: int | None, t: float) -> tuple[int | None, float]:
        return label, t

    def masks(self, label: int | None, alpha: float, sigma: float) -> Sets:
        """``S_m`` of every number at a noise level."""
        key = label, sigma / alpha
        if key not in self._masks:
            if 16 * len(self._masks) * self.data.images[0].numel() ** 2 > self.memory:
                self._masks.clear()
            self._masks[key] = self._found(self.fitted(label), alpha, sigma)
        return self._masks[key]

    def fitted(self, label: int | None) -> LowRank:
        """Mean and covariance of a class, found once."""

        def make() -> LowRank:
            chosen = self.data.select(label)
            return fit(chosen.images, chosen.weights, self.memory)

        return self._once(label, make)

    def _found(self, model: LowRank, alpha: float, sigma: float) -> Sets:
        gains = alpha**2 * model.variances / (alpha**2 * model.variances + sigma**2)
        matrix = (model.directions * gains) @ model.directions.T
        own = matrix.diagonal()
        matrix = (matrix / torch.where(own < SMALL, 1.0, own)[:, None]).abs_()
        largest = matrix.max()
        return Sets((matrix >= self.threshold * largest).T.contiguous() & (largest > 0), self.data.images.shape[-1])

    def _of_kind(self, kind: tuple[int | None, float], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        masked = Masked(self.training, kind[0], self.masks(kind[0], float(alpha[0]), float(sigma[0])))
        state = sum_masked(masked, x_t, alpha, sigma, carried=True)
        centre = self.training.centre(kind[0]).to(x_t.device)
        mean, log_sum, ess = (v.reshape(x_t.shape) for v in (state.mean, state.log_sum, state.ess))
        numbers = masked.numbers.to(x_t.device).reshape(1, *x_t.shape[1:])
        evidence = log_sum - numbers * torch.log(sigma * math.sqrt(2 * math.pi)).reshape(-1, 1, 1, 1)
        return Posterior((mean + centre).to(x_t), evidence.to(x_t), ess.to(x_t), torch.zeros_like(x_t))
