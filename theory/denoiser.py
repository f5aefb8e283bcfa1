r"""The one interface every model answers to.

A denoiser maps a noisy image to the posterior mean of the clean one given *what the model may
see* of it. Score and noise prediction follow from the mean by Tweedie's formula, here and nowhere else:

.. math:: \text{score} = \frac{\alpha_t\, E[x_0 | x_t] - x_t}{\sigma_t^2}, \qquad
          \hat\epsilon = \frac{x_t - \alpha_t\, E[x_0 | x_t]}{\sigma_t} .

Analytic machines, solved attention scores and trained networks are all denoisers, so one sampler
and one comparison serve them all.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from theory.errors import InputError
from theory.noise import Schedule
from theory.types import BatchLabels, Images, Times


class Posterior(NamedTuple):
    """What a denoiser believes about the clean image.

    Attributes:
        mean: ``E[x_0 | what the model may see]``, with shape ``(B, C, H, W)``.
        log_evidence: Log density of what each posterior has seen, with shape ``(B,)`` where one
            posterior serves the whole image, ``(B, H, W)`` where each pixel has its own, ``(B, C, H, W)``
            where each number has, or None for models without one (networks).
        ess: Effective sample size ``(sum w)^2 / sum w^2``: how many training candidates share the
            posterior. Shape of ``log_evidence``, or None.
        skipped: Certified bound on the posterior weight of the candidates that were left out (``rtol=``): the mean is off by at most
            this times the range of the training pixels, besides rounding, and ``log_evidence`` too small by at most
            ``-log(1 - skipped)``. 0 where sums are exact. Shape of ``log_evidence``, or None.
    """

    mean: Tensor
    log_evidence: Tensor | None = None
    ess: Tensor | None = None
    skipped: Tensor | None = None


class Denoiser(ABC):
    """Base class of every model. Subclasses set ``schedule`` and implement ``__call__``."""

    schedule: Schedule

    @abstractmethod
    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The posterior of the clean image.

        Args:
            x_t: Noisy images with shape ``(B, C, H, W)``.
            t: Time in [0, 1], with shape ``()`` or ``(B,)``: one time for all, or one each.
            label: Class to condition on, with shape ``()`` or ``(B,)``; None for no condition.
        """

    def denoise(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Images:
        """``E[x_0 | x_t]``, with shape ``(B, C, H, W)``."""
        return self(x_t, t, label).mean

    def score(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Images:
        """``(alpha_t * mean - x_t) / sigma_t^2``, with shape ``(B, C, H, W)``.

        Raises:
            InputError: If ``sigma_t`` is 0, where the score does not exist.
        """
        return -self.epsilon(x_t, t, label) / self._coefficients(x_t, t)[1]

    def epsilon(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Images:
        """``(x_t - alpha_t * mean) / sigma_t``, with shape ``(B, C, H, W)``.

        Raises:
            InputError: If ``sigma_t`` is 0, where the noise can't be told.
        """
        alpha_t, sigma_t = self._coefficients(x_t, t)
        return (x_t - alpha_t * self.denoise(x_t, t, label)) / sigma_t

    def _coefficients(self, x_t: Images, t: Times) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = self.schedule(t)
        require_noise(sigma_t)
        return tuple(c.to(x_t).reshape(-1, 1, 1, 1) for c in (alpha_t, sigma_t))


def require_noise(sigma_t: Tensor) -> None:
    """Refuse ``sigma_t = 0``: neither posterior nor score is defined on a noiseless image."""
    if (sigma_t <= 0).any():
        raise InputError(
            "sigma_t = 0 (t = 0 of this schedule)",
            "noise: sigma_t > 0",
            "use a small t > 0; samplers end at t = 0 without evaluating it",
        )
