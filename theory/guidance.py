r"""Classifier-free guidance: away from what holds for all classes, towards what tells one of them.

.. math:: \tilde\epsilon(x_t, c) = (1 + w)\, \epsilon(x_t, c) - w\, \epsilon(x_t)

(Ho & Salimans, arXiv 2207.12598, eq. 6). Posterior means, of which ``epsilon`` and the score are affine functions, mix in the same way.
``w = 0`` is the class alone, ``w = -1`` no class. (Elsewhere ``1 + w`` is called the guidance scale.)
"""

from theory.denoiser import Denoiser, Posterior
from theory.errors import InputError
from theory.machines import checks
from theory.types import BatchLabels, Images, Times


class Guided(Denoiser):
    """A denoiser guided from the class it is asked for; see `guided`."""

    def __init__(self, denoiser: Denoiser, scale: float, unconditional: Denoiser | None = None) -> None:
        self.denoiser, self.unconditional = denoiser, unconditional or denoiser
        self.scale, self.schedule = checks.finite(scale, "scale of guidance"), denoiser.schedule
        if self.unconditional.schedule.name != self.schedule.name:
            raise InputError(
                f"an unconditional denoiser with the {self.unconditional.schedule.name} schedule",
                f"{self.schedule.name}, that of the conditional one",
                "guide like with like",
            )

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The guided mean, which is the posterior mean of no distribution and has no evidence.

        Raises:
            InputError: If there is no label, or images, times or labels do not fit.
        """
        if label is None:
            raise InputError("guidance without a label", "a class to guide towards", "pass a label, or use the denoiser alone")
        towards = self.denoiser.denoise(x_t, t, label)
        if self.scale == 0:
            return Posterior(towards)
        return Posterior((1 + self.scale) * towards - self.scale * self.unconditional.denoise(x_t, t))


def guided(denoiser: Denoiser, scale: float, unconditional: Denoiser | None = None) -> Guided:
    """A denoiser with classifier-free guidance.

    Args:
        denoiser: Any that takes a class: a machine, or a network trained with classes.
        scale: ``w`` of arXiv 2207.12598, finite.
        unconditional: What answers without a class, where ``denoiser`` itself does not.

    Raises:
        InputError: If the scale is not finite, or the two have other noise schedules.
    """
    return Guided(denoiser, scale, unconditional)
