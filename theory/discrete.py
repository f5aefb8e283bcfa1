r"""Noise schedules of networks trained at discrete levels, such as DDPM's thousand steps.

Such a network knows ``T`` levels, numbered by its *timestep* ``i`` from 0 to ``T - 1``, with ``\bar\alpha_i = \prod_{j \le i} (1 -
\beta_j)`` and ``x_i = sqrt(\bar\alpha_i) x_0 + sqrt(1 - \bar\alpha_i) \epsilon``. Here level ``i`` is time

.. math:: t = (i + 1) / T, \qquad \alpha_t = \cos\theta_t, \quad \sigma_t = \sin\theta_t, \quad
          \theta_{(i+1)/T} = \arctan\sqrt{(1 - \bar\alpha_i) / \bar\alpha_i}, \quad \theta_0 = 0,

and between levels the angle is linear in ``t``: so are the images that a straight line through two levels would give to second order, and
``alpha^2 + sigma^2 = 1`` everywhere. ``t = 0`` is the clean image, and a last level without signal (zero terminal SNR) is legal.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from theory.errors import InputError, choices
from theory.noise import Coefficient, Schedule
from theory.types import Times

STEPS = 1000
CAP = 0.999  # of a beta, in squaredcos_cap_v2


class DiscreteSchedule(Schedule):
    """Levels one by one.

    Args:
        alphas_cumprod: ``\\bar\\alpha_i`` with shape ``(T,)``, decreasing, in [0, 1).

    Raises:
        InputError: If they are not that.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        if table.ndim != 1 or len(table) == 0 or not ((table >= 0) & (table < 1)).all() or not (table.diff() < 0).all():
            shown = f"{[round(float(a), 6) for a in table.flatten()[:3]]}... of shape {tuple(table.shape)}"
            raise InputError(f"alphas_cumprod {shown}", "decreasing numbers in [0, 1), one a level", "check the betas")
        angles = torch.atan2((1 - table).sqrt(), table.sqrt())
        self.angles = torch.cat([torch.zeros(1, dtype=torch.float64), angles])
        self.levels = len(table)
        self.name = f"discrete-{self.levels}-{hashlib.sha256(table.numpy().tobytes()).hexdigest()[:8]}"

    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        angles = self.angles.to(t.device)
        level = t * self.levels
        before = level.floor().clamp(max=self.levels - 1).long()
        angle = torch.lerp(angles[before], angles[before + 1], level - before)
        return torch.cos(angle), torch.sin(angle)

    def time(self, ratio: Times) -> Coefficient:
        angle = torch.atan(self._reached(ratio))
        angles = self.angles.to(angle.device)
        after = torch.searchsorted(angles, angle.contiguous()).clamp(1, self.levels)
        share = (angle - angles[after - 1]) / (angles[after] - angles[after - 1])
        return (after - 1 + share.clamp(0, 1)) / self.levels

    def timestep(self, t: Times) -> Coefficient:
        """``T t - 1``, the number of the level, a fraction between two; 0 below the first, where no network was trained."""
        step = torch.as_tensor(t, dtype=torch.float64) * self.levels - 1
        whole = step.round()
        return torch.where((step - whole).abs() < 1e-6, whole, step).clamp(min=0)  # a level is met in spite of rounding


def _linear(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)


def _scaled_linear(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()


def _squared_cosine(first: float, last: float, steps: int) -> Tensor:
    """Nichol & Dhariwal (arXiv 2102.09672, eq. 17), whatever the first and last."""
    edges = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - edges[1:] / edges[:-1]).clamp(max=CAP)


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
}


def beta_schedule(name: str, first: float = 1e-4, last: float = 0.02, steps: int = STEPS) -> DiscreteSchedule:
    """The levels of betas by their usual names: ``linear`` (arXiv 2006.11239), ``scaled_linear`` or ``squaredcos_cap_v2``.

    Raises:
        InputError: If there are no such betas.
    """
    if name not in BETAS:
        raise InputError(f"betas {name!r}", choices(BETAS), "choose one of these")
    if not 0 < first <= last < 1 or steps < 1:
        raise InputError(f"betas from {first} to {last} in {steps} steps", "0 < first <= last < 1, at least one step", "correct them")
    return DiscreteSchedule(torch.cumprod(1 - BETAS[name](first, last, steps), 0))


class CalledSchedule(Schedule):
    """A schedule that somebody else computes, such as one of azula's; ratios are found by bisection.

    Args:
        function: ``t -> (alpha_t, sigma_t)``, for float64 tensors; ``sigma_t / alpha_t`` has to grow with ``t``.
        name: What it is.

    Raises:
        InputError: If the ratio does not grow.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, Tensor]], name: str) -> None:
        self.function, self.name = function, name
        alpha, sigma = self.coefficients(torch.linspace(0, 1, 101, dtype=torch.float64))
        if not ((sigma / alpha).diff() > 0).all() or not (alpha >= 0).all() or not (sigma >= 0).all():
            raise InputError(f"schedule {name}", "sigma/alpha that grows with t in [0, 1]", "turn its time around, or correct it")

    def coefficients(self, t: Coefficient) -> tuple[Coefficient, Coefficient]:
        alpha, sigma = (torch.as_tensor(c, dtype=torch.float64, device=t.device) for c in self.function(t))
        return alpha.expand(t.shape), sigma.expand(t.shape)

    def time(self, ratio: Times) -> Coefficient:
        ratio = self._reached(ratio)
        low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
        for _ in range(60):  # each halves the interval: 2^-60 is below rounding
            middle = (low + high) / 2
            alpha, sigma = self.coefficients(middle)
            below = sigma < ratio * alpha
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
