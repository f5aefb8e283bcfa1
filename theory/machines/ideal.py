r"""The ideal score (IS): no constraint, posterior over whole training images.

.. math:: E[x_0 | x_t] = \sum_n W_n x_n, \quad
          W_n \propto w_n \exp\big(-\|x_t - \alpha_t x_n\|^2 / 2\sigma_t^2\big)

Kamb & Ganguli, arXiv 2412.20292, eq. 3-4. Its samples are training images.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from theory.centred import Centred, reading
from theory.machines.base import AnalyticDenoiser, Problem, whole_image
from theory.patches import Size
from theory.posterior import Keys, KeySource
from theory.posterior.pruned import meetings
from theory.posterior.pruned.meetings import Meetings
from theory.posterior.source import squared_norms
from theory.types import TrainingImages

PIECE = 2**20  # numbers whose squares are added at a time


class Ideal(AnalyticDenoiser):
    """The ideal denoiser. Arguments of `AnalyticDenoiser`."""

    name = "ideal"
    per_pixel = False

    def centre(self, mean: Tensor) -> Tensor:
        return mean

    def meetings(self, size: Size) -> Meetings:
        return meetings.images(*self.data.images.shape[-2:])

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        dim = math.prod(images.shape[1:])
        step = max(1, PIECE // dim)
        squares = torch.cat([squared_norms(images[i : i + step].flatten(1)[None]) for i in range(0, len(images), step)], 1)

        def read(start: int, stop: int) -> Keys:
            part = images[start:stop].flatten(1)[None]
            return Keys(part, part, log_weights[None, start:stop])

        source = KeySource(
            read,
            items=len(images),
            groups=1,
            rows=1,
            dim=dim,
            value_dim=dim,
            squares=squares,
            reading=reading(images),
            kept=not isinstance(images, Centred),
        )
        yield Problem(
            source=source,
            queries=lambda x: x.flatten(1)[None],
            repeat=1,
            place=partial(whole_image, shape=images.shape[1:]),
            rows=slice(None),
            cols=slice(None),
            dims=torch.tensor([dim], device=images.device),
            origins=torch.zeros(1, 1, 2, dtype=torch.int64),
        )
