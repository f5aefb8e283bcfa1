r"""Posterior means over a finite set of candidates: the sum every closed-form score is made of.

A query ``q`` (what the model sees of the noisy image) is compared with keys ``k_j`` (clean
candidates, weight ``w_j``) that carry values ``v_j``:

.. math:: \ell_j = -\frac{\|q - \alpha_t k_j\|^2}{2 \sigma_t^2} + \log w_j, \qquad
          E[v | q] = \frac{\sum_j e^{\ell_j} v_j}{\sum_j e^{\ell_j}} .

The sum is a monoid (`state`), apart from how it is summed: `dense` keeps every logit and can be
differentiated, `stream` runs through the keys in pieces within a memory budget. Machines only
choose queries, keys, values and weights (`source`). Where candidates are all windows of images,
`windows` sums them without ever listing them. `fused` sums listed ones in one kernel for GPUs;
triton is loaded when it is needed.
"""

import logging
from functools import cache

import torch

from theory.errors import InputError, choices
from theory.posterior.dense import dense_sum
from theory.posterior.fused import fused_sum, hindrance, require_triton
from theory.posterior.source import Keys, KeySource, distinct_share, stored
from theory.posterior.state import State
from theory.posterior.stream import stream_sum

SUMS = {"stream": stream_sum, "dense": dense_sum, "triton": fused_sum}
ENGINES = ("auto", "windows", *SUMS)


def summation(name: str):
    """How an engine sums listed candidates: ``dense`` (differentiable), ``triton`` (fused), or any other's ``stream`` (within a budget).

    Raises:
        InputError: If there is no such engine, or it needs triton and that is not installed.
    """
    if name not in ENGINES:
        raise InputError(f"engine {name!r}", choices(ENGINES), "choose one of these")
    if name == "triton":
        require_triton()
    return SUMS.get(name, stream_sum)


def automatic(device: torch.device, by_patches: bool) -> str:
    """The engine that ``"auto"`` takes for listed candidates: ``triton`` for patches on CUDA, where it was the faster one for ELS at
    every size measured, and ``stream`` elsewhere. Says once why triton can't be used.
    """
    if device.type != "cuda" or not by_patches:
        return "stream"
    if (reason := hindrance()) is None:
        return "triton"
    _tell(reason)
    return "stream"


@cache
def _tell(reason: str) -> None:
    logging.getLogger(__name__).warning("sums over patches on CUDA take up to 32 times as long without triton: %s", reason)


__all__ = ["ENGINES", "KeySource", "Keys", "State", "automatic", "dense_sum", "distinct_share", "stored", "stream_sum", "summation"]
