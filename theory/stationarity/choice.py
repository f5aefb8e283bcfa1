r"""Which of many noisy images a descent learns from.

At low noise nearly every image is clear to ELS, and what attention can gain is in the few that are not: at sigma/alpha .49 on
the toy's grid 40,000 images taught ``full`` as much as 160,000 when they were chosen from these. Of ``N`` images ``n`` are kept,
image ``i`` with the probability

.. math:: \pi_i = \min(1, c \, q_i), \qquad q_i = \sqrt{l_i + f \, \bar l}, \qquad \textstyle\sum_i \pi_i = n,

``l`` the loss of ELS, and counts ``n / (N \pi_i)`` (Horvitz & Thompson 1952): the mean over those kept, so weighted, is that over
all, in expectation over the choice, for every function of the images. Roots, since the size of a gradient is that of a residual.
The floor ``f`` keeps counts small.
"""

import torch
from torch import Tensor

from theory.types import Float, Int

FLOOR = 0.05  # ``f``
MOST = 8.0  # images drawn for each that is kept


def sizes(losses: Float[Tensor, "*lead N"]) -> Float[Tensor, "*lead N"]:
    """``q`` of each image in units of the root of the mean loss; equal where nothing is lost."""
    mean = losses.mean(-1, keepdim=True)
    return torch.where(mean > 0, losses / mean.clamp(min=torch.finfo(losses.dtype).tiny), 1.0).add(FLOOR).sqrt()


def surplus(losses: Float[Tensor, "*lead N"]) -> Float[Tensor, "*lead"]:
    """How many images to draw for each that is kept, where losses are like these: from 1 to `MOST`.

    ``E[q^2] / E[q]^2``, by which the variance of a mean falls when images are drawn in proportion to ``q`` and residuals are like ELS's.
    """
    q = sizes(losses)
    return (q.square().mean(-1) / q.mean(-1).square()).clamp(1.0, MOST)


def chosen(losses: Float[Tensor, " N"], count: int, uniform: float) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Numbers of the images that are kept, ascending, and what each counts.

    Args:
        losses: Loss of ELS on each image, none negative, in float64.
        count: How many to keep, at most ``N``.
        uniform: A random number in [0, 1): where systematic sampling starts.
    """
    probabilities = inclusion(sizes(losses), count)
    ends = probabilities.cumsum(0)
    places = uniform + torch.arange(count, dtype=ends.dtype)
    rows = torch.searchsorted(ends * (count / ends[-1]), places, right=True).clamp(max=len(losses) - 1)
    return rows, count / (len(losses) * probabilities[rows])


def inclusion(q: Float[Tensor, " N"], count: int) -> Float[Tensor, " N"]:
    """``min(1, c q)`` with sum ``count``, of positive ``q``."""
    falling = q.sort(descending=True).values
    rest = falling.flip(0).cumsum(0).flip(0)  # sum of this and all that are smaller
    c = (count - torch.arange(count).to(q)) / rest[:count]  # where so many are sure to be kept
    fits = (c * falling[:count] <= 1).nonzero()
    return (c[int(fits[0]) if len(fits) else -1] * q).clamp(max=1.0)
