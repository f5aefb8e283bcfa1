"""What rounding does to distances between windows, on the CPU and on a card: preparing images for it, and a bound on what is left."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from theory.centred import Centred
from theory.types import Coefficients, Images, TrainingImages

TOLERANCE = 4e-4  # bound on the error of a float32 logit that is used as it is
PIXELS = 1.2  # see `bound`


def scaled(x: Images, alpha: Coefficients, sigma: Coefficients, dtype: torch.dtype) -> tuple[Images, Tensor, Tensor]:
    """Noisy images and minus the factors of training images in the precision of the work, and by how much costs come out too small.

    A squared difference of both is a cost in bits. Rounding the factor of all pixels alike would add up over a window: the noisy image is
    scaled to fit the rounded factor. That scales all costs a little, which counts only where they are large, and is made good at the end.
    """
    scales = math.sqrt(math.log2(math.e) / 2) / sigma
    factors = (-alpha * scales).to(dtype)
    fitting = torch.where(alpha > 0, -factors.double() / alpha, scales)
    return rounded(x * fitting[:, None, None, None], dtype), factors, (scales / fitting) ** 2


def rounded(x: Images, dtype: torch.dtype) -> Images:
    """Images in the precision of the work, rounded up or down by chance, the same for each image: pixels of one colour then have
    errors that don't add up over a window."""
    if dtype == x.dtype:
        return x
    chance = _chance(x.shape[1:], x.dtype, x.device)
    last_place = torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps / 2), torch.frexp(x).exponent)
    return (x + chance * last_place).to(dtype)


@lru_cache(maxsize=16)
def _chance(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) - 0.5).to(device)


def bound(x: Images, alpha: Coefficients, sigma: Coefficients, images: TrainingImages, largest: Tensor, sums: float) -> Tensor:
    """Bound on the rounding error of the logits that matter, for each noisy image.

    With ``l`` the largest logit without its sign and ``u`` the unit roundoff: sums of positive terms put ``sums u l`` into a
    logit, however many terms; rounding the pixels puts ``PIXELS 2 sqrt(l) u (|x| + |alpha k|) / (sqrt(2) sigma)``, since
    errors of single pixels are nearly independent. No larger error was found, rounding of training images included, on photographs,
    digits, noise and images of one and two colours, with noise and without, for patches of 3 to 31 pixels and sigma from .01 to .95.
    """
    distance = (-largest).clamp(min=0).amax(1)
    reach = (x.abs().amax((1, 2, 3)) + alpha * _reach(images)) / (math.sqrt(2) * sigma)
    return torch.finfo(images.dtype).eps / 2 * (sums * distance + PIXELS * 2 * distance.sqrt() * reach)


def _reach(images: TrainingImages) -> float | Tensor:
    """At least the largest number in the images."""
    if isinstance(images, Centred):
        return images.reach
    low, high = images.aminmax()
    return torch.maximum(-low, high).double()
