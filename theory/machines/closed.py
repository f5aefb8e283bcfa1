"""What every closed-form denoiser is, whether it sums candidates or has a formula: a training set, checks, classes and times.

Images of one *kind*, which share all that is prepared for them, are denoised together.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser, Posterior, require_noise
from theory.machines import checks
from theory.noise import CosineSchedule, Schedule
from theory.types import BatchLabels, Coefficients, Images, Times

MEMORY = 2**29  # bytes
Kind = tuple[Hashable, ...]  # the class, and what else decides what is prepared


class ClosedForm(Denoiser):
    """Base class of all machines.

    Args:
        data: The training set.
        schedule: The noise schedule; the cosine schedule of the papers by default.
        memory: Working memory in bytes, beyond the training images and the result.

    Attributes:
        name: As commands take it.
        settings: Options of its own, as specifications name them (`empirical.models`).
        differentiable: Whether gradients run through it.
        how: In a few words, how it is computed.

    Computation follows ``x_t``: its device, and float32 or float64.
    """

    name: str
    settings: tuple[str, ...] = ()
    per_pixel = False  # whether each pixel has a posterior of its own
    differentiable = False
    how = ""

    def __init__(self, data: ImageSet, schedule: Schedule | None = None, *, memory: int = MEMORY) -> None:
        self.data = data
        self.schedule = schedule or CosineSchedule()
        self.memory = checks.memory(memory)
        self._kept: dict[Hashable, Any] = {}

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The exact posterior under this machine's constraint.

        Args:
            x_t: Noisy images with shape ``(B, C, H, W)``, float32 or float64.
            t: Time in (0, 1], with shape ``()`` or ``(B,)``.
            label: Restrict the training set to a class, with shape ``()`` or ``(B,)``.

        Raises:
            InputError: If shapes, times or labels do not fit, or ``sigma_t`` is 0.
        """
        alpha, sigma, kinds = self._asked(x_t, t, label)
        return by_kind(kinds, self._of_kind, x_t, alpha, sigma)

    def plan(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> str:
        """How a call would be computed; arguments of a call."""
        *_, kinds = self._asked(x_t, t, label)
        return "\n".join(f"{self.name}, class {label}: {self.how}" for label in dict.fromkeys(kind[0] for kind in kinds))

    def check(self, x_t: Images) -> None:
        """Refuse noisy images of another shape or dtype than can be compared with the training images.

        Raises:
            InputError: If they don't fit, or want a gradient that is not given.
        """
        checks.noisy_images(x_t, self.data)
        if not self.differentiable:
            checks.no_gradient(x_t, f"machine {self.name!r}", "noisy images without", "pass x_t.detach()")

    def kind(self, label: int | None, t: float) -> Kind:
        """What decides what is prepared for a noisy image: its class, unless overridden."""
        return (label,)

    @abstractmethod
    def _of_kind(self, kind: Kind, x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        """The posterior of images of one kind; coefficients ``(B,)``, float64."""

    def _asked(self, x_t: Images, t: Times, label: BatchLabels | None) -> tuple[Coefficients, Coefficients, list[Kind]]:
        """What was asked for, checked: alpha, sigma, and the kind of each image."""
        self.check(x_t)
        t = checks.times(t)
        alpha, sigma = self.schedule(t)
        require_noise(sigma)
        times, alpha, sigma = (checks.per_image(c, len(x_t), "time t") for c in (t, alpha, sigma))
        alpha, sigma = (_moved(tuple(c.tolist()), x_t.device) for c in (alpha, sigma))
        return alpha, sigma, list(map(self.kind, checks.classes(label, len(x_t)), times.tolist()))

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for a key before, or is made now."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


@lru_cache(maxsize=256)
def _moved(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device, where they stay: a CUDA graph can't fetch them."""
    with torch.inference_mode(False):  # of use whatever mode asks for them next
        return torch.tensor(numbers, dtype=torch.float64).to(device)


def by_kind(kinds: list[Kind], solve: Callable[..., Posterior], *args: Tensor) -> Posterior:
    """``solve(kind, ...)`` called once for all images of a kind, and its answers in the order of the images."""
    rows: dict[Kind, list[int]] = {}
    for i, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(i)
    if len(rows) == 1:
        return solve(kinds[0], *args)
    parts = [solve(kind, *(x[some] for x in args)) for kind, some in rows.items()]
    order = torch.tensor([i for some in rows.values() for i in some], device=args[0].device).argsort()
    return Posterior(*(None if field[0] is None else torch.cat(field)[order] for field in zip(*parts, strict=True)))
