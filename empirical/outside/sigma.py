r"""The convention of EDM (arXiv 2206.00364) and k-diffusion: ``D(x; sigma)`` with ``x = x_0 + sigma epsilon``.

Any schedule is that one in other coordinates: ``x = x_t / alpha_t`` and ``sigma = sigma_t / alpha_t``. A network in this convention
comes in by ``module:FILE.py:NAME,time=sigma``; `as_sigma` is the way out, for their samplers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from theory.denoiser import Denoiser


def as_sigma(denoiser: Denoiser, label: int | None = None) -> Callable[..., Tensor]:
    """Any denoiser of ours as ``D(x, sigma)``, for the samplers of k-diffusion and EDM.

    Args:
        denoiser: A machine, a solved score or a network.
        label: Class to condition on.

    Returns:
        A function of ``x`` with shape ``(B, C, H, W)`` and ``sigma`` with shape ``()`` or ``(B,)``, which gives ``E[x_0 | x]``; it raises
        `InputError` where ``sigma`` is outside what the schedule reaches. Further arguments are not used.
    """

    def asked(x: Tensor, sigma: Tensor, *_: object, **__: object) -> Tensor:
        t = denoiser.schedule.time(torch.as_tensor(sigma, dtype=torch.float64, device=x.device))
        alpha = denoiser.schedule(t)[0].to(x).reshape(-1, 1, 1, 1)
        return denoiser.denoise(alpha * x, t, label)

    return asked
