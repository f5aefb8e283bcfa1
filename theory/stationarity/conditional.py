r"""Noisy images drawn given the patch one of their pixels sees.

A stationarity condition is an average over noisy images given that the patch at some pixel ``p`` of
a border class ``S`` is ``Phi``. Since noise is independent between pixels, that law is exact:

.. math:: P(n, p \mid \Phi) \propto w_n \exp\Big(-\frac{\|\Phi - \alpha x_n[\Omega_p]\|^2}{2 \sigma^2}\Big), \qquad
          x_t = \alpha x_n + \sigma \epsilon \ \text{outside}\ \Omega_p, \quad x_t[\Omega_p] = \Phi .

First the training image and the pixel are drawn from the posterior of the patch; then everything the
patch does not show is filled with fresh noise.
"""

import math

import numpy as np
import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.errors import InputError
from theory.stationarity.sites import Sites
from theory.types import Float, Int

PIECE = 2**22  # numbers in flight when patches are compared


def draw_given_patch(
    data: ImageSet, sites: Sites, patches: Float[Tensor, "m d"], alpha: float, sigma: float, count: int, seed: int
) -> tuple[Float[Tensor, "m count C H W"], Int[Tensor, "m count"]]:
    r"""Noisy images in which a pixel of ``sites`` sees a given patch.

    Args:
        data: The training set; its weights count.
        sites: The border class.
        patches: Noisy patches with shape ``(m, d)``, laid out as by `Sites.patches`.
        alpha: Signal coefficient.
        sigma: Noise coefficient, positive.
        count: Number of images for each patch; the first ones do not depend on it.
        seed: Seed of the draws.

    Returns:
        The images with shape ``(m, count, C, H, W)``, in float64 on the device of the training set,
        and the row-major number of the pixel that sees the patch, with shape ``(m, count)``.

    Raises:
        InputError: If ``sigma`` is not positive, ``count`` or ``seed`` is negative, the patches do not fit
            the class or are not finite, or a patch would wrap around the image and overlap itself.
    """
    columns = _columns(data, sites)
    _check(patches, columns.shape[1], alpha, sigma, count, seed)
    choose, fill = np.random.default_rng(seed).spawn(2)
    patches = patches.to(data.images.device, torch.float64)
    uniform = torch.from_numpy(choose.random((count, len(patches)))).to(patches).mT.contiguous()
    chosen = _choose(_log_posterior(data, sites, patches, alpha, sigma), uniform)
    image, pixel = chosen // sites.count, chosen % sites.count

    noise = fill.standard_normal((count, len(patches), *data.images.shape[1:]))
    drawn = alpha * data.images[image].double() + sigma * torch.from_numpy(noise).to(patches).transpose(0, 1)
    shown = patches[:, None].expand(-1, count, -1)
    drawn = drawn.flatten(2).scatter(2, columns[pixel], shown).reshape(drawn.shape)
    return drawn, sites.numbers(*data.images.shape[-2:]).to(pixel.device)[pixel]


def _columns(data: ImageSet, sites: Sites) -> Int[Tensor, "p d"]:
    """Where the patch of each pixel lies in a flattened image."""
    _, channels, height, width = data.images.shape
    if sites.wrapped and (sites.wrapped[0] > height or sites.wrapped[1] > width):
        raise InputError(
            f"patch size {sites.wrapped[0]}x{sites.wrapped[1]} on {height}x{width} images with a circular border",
            "a patch that does not overlap itself",
            "use a smaller patch or border='zeros'",
        )
    index = torch.arange(channels * height * width, dtype=torch.float64, device=data.images.device)
    return sites.patches(index.reshape(1, channels, height, width))[0].long()


def _check(patches: Tensor, width: int, alpha: float, sigma: float, count: int, seed: int) -> None:
    if patches.shape[1] != width or not patches.isfinite().all():
        raise InputError(
            f"patches of shape {tuple(patches.shape)}{'' if patches.isfinite().all() else ' with numbers that are not finite'}",
            f"finite patches of {width} numbers",
            "cut them out of noisy images with sites.patches",
        )
    if not (math.isfinite(alpha) and 0 < sigma < math.inf):
        raise InputError(f"alpha={alpha}, sigma={sigma}", "finite coefficients, sigma positive", "choose a time after 0")
    if count < 0 or seed < 0:
        raise InputError(f"{count} draws with seed {seed}", "neither to be negative", "correct them")


def _log_posterior(data: ImageSet, sites: Sites, patches: Tensor, alpha: float, sigma: float) -> Float[Tensor, "m K"]:
    """``log w_n - ||Phi - alpha x_n[Omega_p]||^2 / 2 sigma^2`` for all images ``n`` and, within each, pixels ``p``."""
    pieces = data.images.split(math.ceil(PIECE / (sites.count * patches.shape[1])))
    clean = (sites.patches(images.double()).flatten(0, 1) for images in pieces)
    # Differences one by one: a matrix product would cancel at low noise.
    distance = torch.cat([torch.cdist(patches, alpha * rows, compute_mode="donot_use_mm_for_euclid_dist") for rows in clean], 1)
    log_weights = data.weights.to(patches).log().repeat_interleave(sites.count)
    return log_weights - (distance / sigma).square() / 2


def _choose(logits: Float[Tensor, "m K"], uniform: Float[Tensor, "m count"]) -> Int[Tensor, "m count"]:
    """Columns drawn with probability proportional to ``exp(logits)``, by inversion."""
    reached = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    # To the right: never one of probability zero. A uniform number times the sum never rounds up to the sum.
    return torch.searchsorted(reached, uniform * reached[:, -1:], right=True)
