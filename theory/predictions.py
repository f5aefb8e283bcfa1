r"""What a network may output, and the posterior mean ``m`` it stands for. A new one is one entry in `PREDICTIONS`.

Each is linear in ``m`` and in the noisy image ``x_t = alpha_t x_0 + sigma_t epsilon``, with the guess of the noise
``epsilon = (x_t - alpha_t m) / sigma_t``:

- ``sample``: ``m`` itself.
- ``epsilon``: the noise (arXiv 2006.11239).
- ``score``: ``-epsilon / sigma_t``, the gradient of the log density (Tweedie).
- ``v``: the velocity ``alpha_t epsilon - sigma_t m`` (arXiv 2202.00512), of which
  ``m = (alpha_t x_t - sigma_t v) / (alpha_t^2 + sigma_t^2)``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from theory.errors import InputError, choices

Number = Tensor | float


class Prediction(NamedTuple):
    """One kind of output.

    Attributes:
        output: ``(m, x_t, alpha, sigma)`` to what is put out.
        mean: ``(output, x_t, alpha, sigma)`` to ``m``.
        unit: ``(alpha, sigma)`` to the size of an output in which a change of ``m`` by 1 is 1.
        slope: ``(alpha, sigma)`` to ``alpha / sigma`` times the derivative of ``m`` by the output, finite where there is no signal.
        bounded: Whether outputs of one size err by one size of ``m`` however little signal there is.
        called: What a loss is of, for titles; empty where it is of ``m``.
    """

    output: Callable[[Tensor, Tensor, Number, Number], Tensor]
    mean: Callable[[Tensor, Tensor, Number, Number], Tensor]
    unit: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    bounded: bool
    called: str = ""


PREDICTIONS: dict[str, Prediction] = {
    "sample": Prediction(
        output=lambda m, x, a, s: m,
        mean=lambda out, x, a, s: out,
        unit=lambda a, s: torch.ones_like(s),
        slope=lambda a, s: a / s,
        bounded=True,
    ),
    "epsilon": Prediction(
        output=lambda m, x, a, s: (x - a * m) / s,
        mean=lambda out, x, a, s: (x - s * out) / a,
        unit=lambda a, s: a / s,
        slope=lambda a, s: -torch.ones_like(s),
        bounded=False,
        called="epsilon",
    ),
    "score": Prediction(
        output=lambda m, x, a, s: -(x - a * m) / s / s,
        mean=lambda out, x, a, s: (x + s**2 * out) / a,
        unit=lambda a, s: a / s**2,
        slope=lambda a, s: s,
        bounded=False,
        called="the score",
    ),
    "v": Prediction(
        output=lambda m, x, a, s: (a * x - (a**2 + s**2) * m) / s,
        mean=lambda out, x, a, s: (a * x - s * out) / (a**2 + s**2),
        unit=lambda a, s: (a**2 + s**2) / s,
        slope=lambda a, s: -a / (a**2 + s**2),
        bounded=True,
        called="v",
    ),
}


def check_prediction(prediction: str) -> str:
    """``prediction`` itself, if it is one of `PREDICTIONS`."""
    if prediction not in PREDICTIONS:
        raise InputError(f"prediction {prediction!r}", choices(PREDICTIONS), "choose what the network predicts")
    return prediction


def predicted(prediction: str, mean: Tensor, x_t: Tensor, alpha: Number, sigma: Number) -> Tensor:
    """A posterior mean as a network of that prediction outputs it."""
    return PREDICTIONS[prediction].output(mean, x_t, alpha, sigma)


def recovered(prediction: str, out: Tensor, x_t: Tensor, alpha: Number, sigma: Number) -> Tensor:
    """The posterior mean from a network's output, the inverse of `predicted`."""
    return PREDICTIONS[prediction].mean(out, x_t, alpha, sigma)


def units(prediction: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Size of an output in which a change of the posterior mean by 1 is 1."""
    return PREDICTIONS[prediction].unit(alpha, sigma)


def loss_of(prediction: str) -> str:
    """What a loss is of, as a title says it: ``" (of epsilon, as it is predicted)"``, or nothing for the posterior mean."""
    called = PREDICTIONS[prediction].called
    return f" (of {called}, as it is predicted)" if called else ""
