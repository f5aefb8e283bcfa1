r"""Samplers: from noise to images along any denoiser.

A sampler is one step, from ``x_t`` to ``x_s`` with ``s < t``; the loop over times is common. With
the posterior mean ``m = E[x_0 | x_t]`` and ``epsilon = (x_t - alpha_t m) / sigma_t``:

- `DDIM` (arXiv 2010.02502, eq. 12): ``x_s = alpha_s m + sqrt(1 - eta^2 tau) sigma_s epsilon + eta sqrt(tau) sigma_s z``,
  with ``tau = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2``. Deterministic for ``eta = 0``.
- `DDPM` (arXiv 2006.11239): ancestral sampling, ``eta = 1``.
- `Heun` (arXiv 2206.00364, alg. 1): second order on the probability-flow ODE, whose solution in the
  coordinates ``x / alpha`` against ``sigma / alpha`` has the slope ``epsilon``.

Sampling ends at ``t = 0`` without evaluating the denoiser there: the last step lands on
``alpha_0 m``, or, for schedules with ``sigma_0 > 0``, is followed by one last denoising.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.noise import Noise, Schedule
from theory.types import BatchLabels, Float, Images


class Samples(NamedTuple):
    """Outcome of a sampler.

    Attributes:
        images: Samples with shape ``(B, C, H, W)``.
        trajectory: All states from the initial noise to the samples with shape ``(steps + 1, B, C, H, W)``,
            or None when not asked for.
        times: The times of the states, with shape ``(steps + 1,)``.
    """

    images: Images
    trajectory: Float[Tensor, "steps B C H W"] | None
    times: Float[Tensor, " steps"]


class Sampler(ABC):
    """Base class: subclasses implement `step`.

    Args:
        denoiser: Any `Denoiser`.
        steps: Number of steps, on times spaced equally from 1 to 0.
        times: Decreasing times instead, from the start to 0, with shape ``(steps + 1,)``.
        seed: Seed of the noise that stochastic samplers add.

    Raises:
        InputError: If there is no step, or times don't decrease to 0.
    """

    def __init__(self, denoiser: Denoiser, steps: int = 50, times: Tensor | None = None, seed: int = 0) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise InputError(f"steps={steps!r}", "a whole number", "round it")
        if times is None and steps < 1:
            raise InputError(f"{steps} sampling steps", "at least 1", "ask for more steps")
        self.denoiser = denoiser
        self.times = torch.linspace(1, 0, steps + 1, dtype=torch.float64) if times is None else _checked(times)
        self.seed = seed

    @abstractmethod
    def step(self, x_t: Images, t: Tensor, s: Tensor, label: BatchLabels | None, noise: Noise) -> Images:
        """From ``x_t`` to ``x_s``, for times ``t > s`` of shape ``()``."""

    def __call__(
        self,
        x_1: Images,
        label: BatchLabels | None = None,
        *,
        trajectory: bool = False,
        progress: Progress | None = None,
        description: str = "sampling",
    ) -> Samples:
        """Run all steps.

        Args:
            x_1: Initial noise at the first time, with shape ``(B, C, H, W)``; see `initial_noise`.
            label: Class to condition on, with shape ``()`` or ``(B,)``.
            trajectory: Whether to keep all states.
            progress: Where to show the steps, under that ``description``.
        """
        x, states = x_1, [x_1]
        noise = Noise(self.seed)
        task = progress.add_task(description, total=len(self.times) - 1) if progress else None
        for t, s in zip(self.times[:-1], self.times[1:], strict=True):
            x = self.step(x, t, s, label, noise)
            if trajectory:
                states.append(x)
            if progress:
                progress.advance(task)
        if float(self.denoiser.schedule(0.0)[1]) > 0:
            x = self.denoiser.denoise(x, 0.0, label)
            states[-1] = x
        if progress:
            progress.remove_task(task)
        return Samples(x, torch.stack(states) if trajectory else None, self.times)

    def coefficients(self, t: Tensor) -> tuple[float, float]:
        """``(alpha_t, sigma_t)`` as numbers."""
        alpha, sigma = self.denoiser.schedule(t)
        return float(alpha), float(sigma)


class DDIM(Sampler):
    """Denoising diffusion implicit model; ``eta`` from 0 (deterministic) to 1 (ancestral)."""

    def __init__(self, denoiser: Denoiser, steps: int = 50, eta: float = 0.0, **options) -> None:
        super().__init__(denoiser, steps, **options)
        if not 0 <= eta <= 1:
            raise InputError(f"eta={eta}", "0 <= eta <= 1", "choose 0 for a deterministic, 1 for an ancestral sampler")
        self.eta = eta

    def step(self, x_t: Images, t: Tensor, s: Tensor, label: BatchLabels | None, noise: Noise) -> Images:
        alpha_t, sigma_t = self.coefficients(t)
        alpha_s, sigma_s = self.coefficients(s)
        mean = self.denoiser.denoise(x_t, t, label)
        epsilon = (x_t - alpha_t * mean) / sigma_t
        fresh = self.eta**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)  # share of new noise
        x_s = alpha_s * mean + sigma_s * (1 - fresh) ** 0.5 * epsilon
        return x_s + sigma_s * fresh**0.5 * noise(x_t) if fresh > 0 else x_s


class DDPM(DDIM):
    """Ancestral sampling: each step draws from the posterior of ``x_s`` given ``x_t`` and the mean."""

    def __init__(self, denoiser: Denoiser, steps: int = 50, **options) -> None:
        super().__init__(denoiser, steps, eta=1.0, **options)


class Heun(Sampler):
    """Heun's method on the probability-flow ODE; two evaluations a step, one in the last."""

    def step(self, x_t: Images, t: Tensor, s: Tensor, label: BatchLabels | None, noise: Noise) -> Images:
        alpha_t, sigma_t = self.coefficients(t)
        alpha_s, sigma_s = self.coefficients(s)
        start, change = x_t / alpha_t, sigma_s / alpha_s - sigma_t / alpha_t
        slope = self._slope(x_t, t, label, alpha_t, sigma_t)
        x_s = alpha_s * (start + change * slope)
        if sigma_s == 0:
            return x_s
        return alpha_s * (start + change * (slope + self._slope(x_s, s, label, alpha_s, sigma_s)) / 2)

    def _slope(self, x: Images, t: Tensor, label: BatchLabels | None, alpha: float, sigma: float) -> Images:
        return (x - alpha * self.denoiser.denoise(x, t, label)) / sigma


def initial_noise(
    schedule: Schedule, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Images:
    """``sigma_1`` times standard normal noise with that shape; the first images don't depend on how many follow."""
    noise = Noise(seed)(torch.empty(shape, dtype=torch.float64)) * float(schedule(1.0)[1])
    return noise.to(dtype=dtype, device=device)


SAMPLERS: dict[str, type[Sampler]] = {"ddim": DDIM, "ddpm": DDPM, "heun": Heun}


def sampler(name: str) -> type[Sampler]:
    """The sampler of that name: ``ddim``, ``ddpm`` or ``heun``."""
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r}", choices(SAMPLERS), "choose one of these")
    return SAMPLERS[name]


def _checked(times: Tensor) -> Tensor:
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all() or float(times[-1]) != 0:
        raise InputError(f"sampling times {times.tolist()}", "two or more decreasing times that end at 0", "sort them and end with 0")
    return times
