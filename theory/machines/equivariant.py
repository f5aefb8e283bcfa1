r"""The equivariant score (ES): a translation-equivariant model that sees the whole image.

.. math:: E[x_0 | x_t] = \sum_{n, s} W_{n,s}\, T_s x_n, \quad
          W_{n,s} \propto w_n \exp\big(-\|x_t - \alpha_t T_s x_n\|^2 / 2\sigma_t^2\big)

over all circular translations ``T_s``. Kamb & Ganguli, arXiv 2412.20292, eq. 5-6. It is the ideal
score of the training set with all its shifts; its samples are shifted training images.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from theory.machines.base import AnalyticDenoiser, Problem, pixels, whole_image
from theory.patches import Size
from theory.posterior import Keys, KeySource
from theory.types import TrainingImages


class Equivariant(AnalyticDenoiser):
    """The equivariant denoiser. Arguments of `AnalyticDenoiser`."""

    name = "equivariant"
    per_pixel = False

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        count, channels, height, width = images.shape
        dim, shifts = channels * height * width, height * width

        def read(start: int, stop: int) -> Keys:
            tiled = images[start:stop].repeat(1, 1, 2, 2)[..., :-1, :-1]  # every shift is a window of the tiled image
            rows = rearrange(tiled.unfold(2, height, 1).unfold(3, width, 1), "n c y x i j -> 1 (n y x) (c i j)")
            return Keys(rows, rows, (log_weights[start:stop] - math.log(shifts)).repeat_interleave(shifts)[None])

        yield Problem(
            source=KeySource(read, items=count, groups=1, rows=shifts, dim=dim, value_dim=dim),
            queries=lambda x: x.flatten(1)[None],
            repeat=1,
            place=partial(whole_image, shape=images.shape[1:]),
            rows=slice(None),
            cols=slice(None),
            dims=torch.tensor([dim], device=images.device),
            origins=pixels((0, height), (0, width))[None],
        )
