r"""Exact posteriors of noisy images over all circular shifts of training images, by Fourier transforms.

The inner products of an image with all shifts of another are one cross-correlation, and so is the sum
of all shifts, weighted:

.. math:: \langle x, T_s x_n \rangle = F^{-1}\big[\sum_c \bar X_c\, X_{n,c}\big]_s , \qquad
          \sum_{n,s} W_{n,s} T_s x_n = F^{-1}\big[\sum_n \bar W_n X_n\big] ,

so that ``h w`` shifts cost ``log(h w)`` times as much as one instead of ``h w`` times. Transforms are in
float64: their error, relative to the *images*, is then small beside any noise.
"""

import math

import torch
from jaxtyping import Complex
from torch import Tensor
from torch.fft import irfft2, rfft2

from theory.engines.state import State
from theory.types import Coefficients, Images, TrainingImages

Spectra = Complex[Tensor, "N C H F"]


def sum_shifts(
    x: Images,
    alpha: Coefficients,
    sigma: Coefficients,
    images: TrainingImages,
    log_weights: Tensor,
    norms: Tensor,
    spectra: Spectra | None,
    memory: int,
) -> State:
    """The state of every noisy image after all shifts of all training images.

    Args:
        x: Centred noisy images ``(B, C, H, W)``, float64.
        alpha, sigma: Coefficients of each noisy image, with shape ``(B,)``, float64.
        images: Centred training images.
        log_weights: Log-weight of each training image and shift, with shape ``(N,)``.
        norms: Half of the squared norms of the training images, ``(N,)``, float64.
        spectra: ``rfft2`` of the training images in float64, where there is room to keep it: then images are not read at all.
        memory: Bytes that may be used.

    Returns:
        State of one group of ``B`` queries; values are whole images.
    """
    shape = x.shape[-2:]
    signal = alpha / sigma**2
    query = rfft2(x * signal[:, None, None, None]).conj_physical()
    state = State.empty(1, len(x), x[0].numel(), x.device)
    per_image = 8 * (4 * len(x) * shape.numel() + 4 * math.prod(images.shape[1:]))
    step = max(1, memory // per_image)
    for start in range(0, len(images), step):
        spectrum = rfft2(images[start : start + step].double()) if spectra is None else spectra[start : start + step]
        offset = log_weights[start : start + step].double() - (alpha * signal)[:, None] * norms[start : start + step]
        logits = irfft2(torch.einsum("bchf,nchf->bnhf", query, spectrum), shape) + offset[:, :, None, None]
        top = logits.amax((1, 2, 3))
        weights = torch.exp(logits - torch.where(top > -torch.inf, top, 0.0)[:, None, None, None])
        mean = irfft2(torch.einsum("bnhf,nchf->bchf", rfft2(weights).conj_physical(), spectrum), shape)
        sums = weights.sum((1, 2, 3)), weights.square().sum((1, 2, 3)), mean.flatten(1)
        state = state.merge(State(top[None], *(s[None] for s in sums)))
    return State(state.max - (x.square().sum((1, 2, 3)) / (2 * sigma**2))[None], state.sum, state.square, state.weighted)
