r"""Noise schedules: ``t -> (alpha_t, sigma_t)``.

The forward process perturbs an image ``x_0`` with Gaussian noise,

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad \epsilon \sim N(0, I), \quad t \in [0, 1].

The noise-to-signal ratio ``sigma_t / alpha_t`` grows with ``t``. Coefficients are computed and
returned in float64: at low noise they are small differences, and every posterior divides by them.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from theory.errors import InputError, choices
from theory.types import Images, Times

Coefficient = Float[Tensor, "..."]


class Schedule(ABC):
    """A noise schedule: call it with ``t`` to get ``(alpha_t, sigma_t)``."""

    name: str

    def __call__(self, t: Times) -> tuple[Coefficient, Coefficient]:
        """Signal and noise coefficients at time ``t``.

        Args:
            t: Time in [0, 1], with shape ``()`` or ``(B,)``.

        Returns:
            ``alpha_t`` and ``sigma_t`` in float64, with the shape of ``t``, on its device.

        Raises:
            InputError: If a time lies outside [0, 1] or is NaN.
        """
        t = torch.as_tensor(t, dtype=torch.float64)
        outside = ~((t >= 0) & (t <= 1))  # written so that NaN counts as outside
        if outside.any():
            raise InputError(f"time t = {t[outside].flatten()[0].item():g}", "0 <= t <= 1", "rescale the times")
        return self.coefficients(t)

    @abstractmethod
    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        """``(alpha_t, sigma_t)`` for float64 times already known to lie in [0, 1]."""

    @abstractmethod
    def time(self, ratio: Times) -> Coefficient:
        """The time at which ``sigma_t / alpha_t`` equals ``ratio`` (float64, the shape of ``ratio``).

        Raises:
            InputError: If the schedule never reaches that ratio.
        """

    def perturb(self, x_0: Images, t: Times, epsilon: Images) -> Images:
        """``alpha_t * x_0 + sigma_t * epsilon``, in the dtype of ``x_0``.

        Args:
            x_0: Clean images with shape ``(B, C, H, W)``, in [-1, 1].
            t: Time with shape ``()`` or ``(B,)``.
            epsilon: Standard normal noise, with the shape of ``x_0``.
        """
        alpha_t, sigma_t = (c.to(x_0).reshape(-1, 1, 1, 1) for c in self(t))
        return alpha_t * x_0 + sigma_t * epsilon

    def _reached(self, ratio: Times) -> Coefficient:
        ratio = torch.as_tensor(ratio, dtype=torch.float64)
        alpha, sigma = self(torch.tensor([0.0, 1.0]))
        low, high = (sigma / alpha).tolist()
        # The end points themselves must pass after rounding.
        outside = ~((ratio >= low * (1 - 1e-12)) & (ratio <= high * (1 + 1e-12)))
        if outside.any():
            raise InputError(
                f"noise-to-signal ratio {ratio[outside].flatten()[0].item():g}",
                f"a ratio the {self.name} schedule reaches, {low:.4g} to {high:.4g}",
                "choose a ratio in that range or another schedule",
            )
        return ratio.clamp(low, high)


class CosineSchedule(Schedule):
    r"""The variance-preserving cosine schedule of Kamb & Ganguli (arXiv 2412.20292).

    .. math:: \alpha_t = \cos(\tfrac{\pi}{2} \tfrac{t}{1.008}), \quad \sigma_t = \sin(\tfrac{\pi}{2} \tfrac{t}{1.008})

    so that ``sigma_t = sqrt(1 - alpha_t^2)`` without the cancellation at small ``t``.
    """

    name = "cosine"
    stretch = 1.008

    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        angle = math.pi / 2 * t / self.stretch
        return torch.cos(angle), torch.sin(angle)

    def time(self, ratio: Times) -> Coefficient:
        return torch.atan(self._reached(ratio)) * (2 / math.pi * self.stretch)


class VPLinearSchedule(Schedule):
    r"""DDPM's linear schedule (betas 1e-4 to 0.02 over 1000 steps) in continuous time (arXiv 2011.13456).

    .. math:: \alpha_t = \exp(-\tfrac12 B_t), \quad \sigma_t^2 = 1 - \exp(-B_t), \quad
              B_t = \beta_0 t + \tfrac12 (\beta_1 - \beta_0) t^2, \quad \beta_0 = 0.1,\ \beta_1 = 20.
    """

    name = "vp"
    beta_0, beta_1 = 0.1, 20.0

    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        integral = self.beta_0 * t + 0.5 * (self.beta_1 - self.beta_0) * t**2
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def time(self, ratio: Times) -> Coefficient:
        integral = torch.log1p(self._reached(ratio) ** 2)
        slope = self.beta_1 - self.beta_0
        # The positive root of slope/2 t^2 + beta_0 t = integral, in the form that does not cancel.
        return 2 * integral / (self.beta_0 + torch.sqrt(self.beta_0**2 + 2 * slope * integral))


class VESchedule(Schedule):
    r"""Variance-exploding, geometric: ``alpha_t = 1``, ``sigma_t = sigma_min (sigma_max / sigma_min)^t`` (arXiv 2011.13456)."""

    name = "ve"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        self.sigma_min, self.sigma_max = _increasing(sigma_min, sigma_max)

    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, ratio: Times) -> Coefficient:
        return torch.log(self._reached(ratio) / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


class EDMSchedule(Schedule):
    r"""Karras et al. (arXiv 2206.00364, eq. 5): ``alpha_t = 1`` and

    .. math:: \sigma_t = \big(\sigma_{min}^{1/\rho} + t\,(\sigma_{max}^{1/\rho} - \sigma_{min}^{1/\rho})\big)^\rho .
    """

    name = "edm"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.rho = rho
        _increasing(sigma_min, sigma_max)
        if not 0 < rho < math.inf:
            raise InputError(f"rho={rho}", "a positive finite exponent", "choose one, such as 7")
        self.low, self.high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        return torch.ones_like(t), (self.low + t * (self.high - self.low)) ** self.rho

    def time(self, ratio: Times) -> Coefficient:
        return (self._reached(ratio) ** (1 / self.rho) - self.low) / (self.high - self.low)


def _increasing(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(f"sigma_min={sigma_min}, sigma_max={sigma_max}", "0 < sigma_min < sigma_max, finite", "correct the noise range")
    return sigma_min, sigma_max


SCHEDULES: dict[str, type[Schedule]] = {s.name: s for s in (CosineSchedule, VPLinearSchedule, VESchedule, EDMSchedule)}


def schedule(name: str) -> Schedule:
    """The schedule of that name with its default parameters: ``cosine``, ``vp``, ``ve`` or ``edm``."""
    if name not in SCHEDULES:
        raise InputError(f"schedule {name!r}", choices(SCHEDULES), "choose one of these")
    return SCHEDULES[name]()


class Noise:
    """A stream of standard normal noise; the same seed gives the same numbers on every device."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, like: Tensor) -> Tensor:
        """The next numbers, with shape, dtype and device of ``like``."""
        return torch.from_numpy(self.generator.standard_normal(tuple(like.shape))).to(like)
