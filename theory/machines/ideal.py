r"""The ideal score (IS): no constraint, posterior over whole training images.

.. math:: E[x_0 | x_t] = \sum_n W_n x_n, \quad
          W_n \propto w_n \exp\big(-\|x_t - \alpha_t x_n\|^2 / 2\sigma_t^2\big)

Kamb & Ganguli, arXiv 2412.20292, eq. 3-4. Its samples are training images.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from theory.machines.base import AnalyticDenoiser, Problem, whole_image
from theory.patches import Size
from theory.posterior import Keys, KeySource
from theory.posterior.pruned import meetings
from theory.posterior.pruned.meetings import Meetings
from theory.posterior.source import squared_norms
from theory.types import TrainingImages


class Ideal(AnalyticDenoiser):
    """The ideal denoiser. Arguments of `AnalyticDenoiser`."""

    name = "ideal"
    per_pixel = False

    def centre(self, images: TrainingImages) -> Tensor:
        return images.mean(dim=0, keepdim=True)

    def meetings(self, size: Size) -> Meetings:
        return meetings.images(*self.data.images.shape[-2:])

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        rows = images.flatten(1)[None]
        dim = rows.shape[-1]

        def read(start: int, stop: int) -> Keys:
            part = rows[:, start:stop]
            return Keys(part, part, log_weights[None, start:stop])

        yield Problem(
            source=KeySource(read, items=len(images), groups=1, rows=1, dim=dim, value_dim=dim, squares=squared_norms(rows)),
            queries=lambda x: x.flatten(1)[None],
            repeat=1,
            place=partial(whole_image, shape=images.shape[1:]),
            rows=slice(None),
            cols=slice(None),
            dims=torch.tensor([dim], device=images.device),
            origins=torch.zeros(1, 1, 2, dtype=torch.int64),
        )
