r"""A guess taken apart into what the pixel's own patch tells and what attention adds, for solved scores and for networks with one head.

A network's head computes ``out = h + softmax(q k^T) v`` from the features of its trunk, and its guess is an affine function of
``out``; the part of a pixel itself is the guess that ``h`` alone would make, the part of others is the rest.
"""

import torch
from torch import Tensor

from empirical.denoiser import NetworkDenoiser
from empirical.networks import heads
from theory.denoiser import Denoiser
from theory.predictions import recovered
from theory.stationarity import SolvedScore
from theory.stationarity.solution import Split
from theory.types import Images


@torch.no_grad()
def split(model: Denoiser, x_t: Images, t: float) -> Split | None:
    """The parts of a guess and the attention between pixels; None for models without attention between pixels.

    Args:
        model: Any denoiser.
        x_t: Noisy images with shape ``(B, C, H, W)``.
        t: Time in (0, 1].
    """
    if isinstance(model, SolvedScore):
        return model.split(x_t, t)
    head = getattr(model.module, "head", None) if isinstance(model, NetworkDenoiser) else None
    return _of_head(model, head, x_t, t) if isinstance(head, heads.Full | heads.Identity | heads.Literal) else None


def _of_head(model: NetworkDenoiser, head: torch.nn.Module, x_t: Images, t: float) -> Split:
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        mean = model.denoise(x_t, t)
    finally:
        hook.remove()
    z = torch.cat(seen)
    own, between = _parts(head, z)
    alpha, sigma = (c.to(x_t) for c in model.schedule(t))
    local = recovered(model.prediction, own.mT.unflatten(-1, x_t.shape[2:]).to(x_t), x_t, alpha, sigma)
    return Split(local, mean - local, between)


def _parts(head: torch.nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """What a head makes of a pixel's own features ``(B, P, C)``, and its attention ``(B, P, P)``."""
    if isinstance(head, heads.Full):
        return head.local(z), torch.softmax(head.beta * head.query(z) @ head.key(z).mT, -1)
    u = head.embed(z)
    if isinstance(head, heads.Identity):
        return head.readout(u), head.attention(head.beta * u @ u.mT)
    return u, torch.softmax(u @ u.mT, -1)
