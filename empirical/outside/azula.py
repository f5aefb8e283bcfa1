r"""azula's denoisers as ours, and ours as azula's (https://github.com/probabilists/azula, extra ``azula``).

Their calls are alike: ``denoiser(x_t, t)`` has a ``mean``, and ``denoiser.schedule(t)`` is ``(alpha_t, sigma_t)``. They differ at ``t =
0``: azula's samplers evaluate there (``HeunSampler`` divides by ``sigma_0``), and azula's schedules begin at some ``sigma_0 > 0``. A
machine has no answer at ``sigma_t = 0``: the posterior becomes a copy of the nearest training candidate, ``epsilon = (x_t - \alpha_t m)
/ \sigma_t`` grows without bound unless ``x_t`` is one itself, and so the machine refuses. `as_azula` gives azula what it expects: the
same denoiser on times that begin at a stated ``sigma_min``.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from empirical.outside.denoiser import OutsideDenoiser
from empirical.outside.given import Given
from theory.denoiser import Denoiser, Posterior
from theory.discrete import CalledSchedule
from theory.errors import InputError
from theory.types import BatchLabels, Images, Times

EXTRA = "pip install 'score-machines[azula]'"


def azula_file(given: Given) -> Denoiser:
    """A denoiser of azula that a Python file has, or makes, as in `empirical.outside.module.module_file`; option ``label=``.

    Raises:
        InputError: If azula is not installed, or what the file has is no denoiser of azula.
    """
    from empirical.outside.module import named

    given.only("label")
    try:
        import azula.denoise  # noqa: F401
    except ImportError as error:
        raise InputError(f"{given.spec} without the package azula", "the extra azula installed", EXTRA) from error
    found = named(given)
    if not is_azula(found):
        raise InputError(f"{given.spec}, a {type(found).__name__}", "an azula.denoise.Denoiser", "use module:FILE.py:NAME for any other")
    return from_azula(found, given.shape, given.spec, given.number("label")).to(given.device).probed()


def is_azula(found: Any) -> bool:
    """Whether something is a denoiser of azula; no need to have azula for that."""
    library = sys.modules.get("azula.denoise")
    return library is not None and isinstance(found, library.Denoiser)


def from_azula(found: Any, shape: tuple[int, int, int], name: str = "azula", label: int | None = None) -> OutsideDenoiser:
    """A denoiser of azula as ours, on its own schedule.

    Args:
        found: An ``azula.denoise.Denoiser``; a label is passed on as ``label=``.
        shape: ``(C, H, W)`` of the images.
        name: What to call it.
        label: Class where a call names none.
    """
    schedule = CalledSchedule(found.schedule, f"azula {type(found.schedule).__name__}")

    def asked(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        one = t[0] if bool((t == t[0]).all()) else t  # some of azula's take one time alone
        return (found(x, one) if label is None else found(x, one, label=label)).mean

    return OutsideDenoiser(asked, schedule, "sample", shape, name=name, label=label, module=found)


class AsAzula(nn.Module):
    """Any denoiser of ours for azula's samplers: the same, on times that begin at ``sigma_min`` instead of at ``sigma_0 = 0``.

    Args:
        denoiser: A machine, a solved score or a network.
        sigma_min: ``sigma / alpha`` where azula's ``t = 0`` is to be; as in azula's schedules if not given.

    Azula's ``t`` is ``t_0 + (1 - t_0) t`` here, with ``t_0`` the time of ``sigma_min``; schedules that begin above it keep their times.
    """

    def __init__(self, denoiser: Denoiser, sigma_min: float = 1e-3) -> None:
        super().__init__()
        self.denoiser = denoiser
        alpha, sigma = denoiser.schedule(0.0)
        self.first = float(denoiser.schedule.time(sigma_min)) if float(sigma / alpha) < sigma_min else 0.0

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(alpha_t, sigma_t)`` at azula's time, in its dtype."""
        return tuple(c.to(t) for c in self.denoiser.schedule(self._own(t)))

    def forward(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The posterior at azula's time."""
        return self.denoiser(x_t, self._own(t), label)

    def _own(self, t: Tensor) -> Tensor:
        return self.first + (1 - self.first) * torch.as_tensor(t, dtype=torch.float64)


def as_azula(denoiser: Denoiser, sigma_min: float = 1e-3) -> AsAzula:
    """Any denoiser of ours for azula's samplers (`AsAzula`), as in ``HeunSampler(as_azula(machine))``."""
    return AsAzula(denoiser, sigma_min)
