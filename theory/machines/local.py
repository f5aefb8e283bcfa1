r"""The local score (LS): each pixel sees a patch, and knows where it is.

.. math:: E[x_0(p) | \Phi_p] = \sum_n W_n x_n(p), \quad
          W_n \propto w_n \exp\big(-\|x_t[\Omega_p] - \alpha_t x_n[\Omega_p]\|^2 / 2\sigma_t^2\big)

with the patch ``Omega_p`` around pixel ``p`` cut off at the border (``zeros``) or wrapped
(``circular``). Kamb & Ganguli, arXiv 2412.20292, eq. 7-8. A patch that covers the image from every
pixel gives the ideal score.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from theory.centred import reading
from theory.machines.base import Problem, pixels
from theory.machines.patchwise import PatchDenoiser
from theory.patches import Block, Size, windows, wrap
from theory.posterior import Keys, KeySource
from theory.posterior.pruned import meetings
from theory.posterior.pruned.meetings import Meetings
from theory.posterior.windows.layout import Layout, in_place
from theory.types import Images, Queries, TrainingImages


class Local(PatchDenoiser):
    """The local denoiser. Arguments of `PatchDenoiser`."""

    name = "local"

    def centre(self, mean: Tensor) -> Tensor:
        return mean

    def layout(self, size: Size) -> Layout:
        return in_place(*self.data.images.shape[-2:], size, self.border)

    def meetings(self, size: Size) -> Meetings:
        return meetings.in_place(*self.data.images.shape[-2:], size, self.border)

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        height, width = images.shape[-2:]
        for y in range(height):
            yield _row(images, log_weights, size, self.border, y, width)


def _row(images: TrainingImages, log_weights: Tensor, size: Size, border: str, y: int, width: int) -> Problem:
    """One row of pixels, each a group of its own: its patch against training patches at the same pixel."""
    count, channels, height, _ = images.shape
    rh, rw = size[0] // 2, size[1] // 2
    circular = border == "circular"
    above, below = (rh, rh) if circular else (min(rh, y), min(rh, height - 1 - y))
    top = rh if circular else 0  # rows that wrapping adds above the image
    block = Block((top + y, top + y + 1), (rw, rw + width), above, below, rw, rw)

    def rows(x: Images) -> Queries:
        # Columns outside are zero in query and key alike (both are centred), so they count nothing.
        padded = wrap(x, size) if circular else pad(x, (rw, rw))
        return rearrange(windows(padded, block), "b c 1 x i j -> x b (c i j)")

    def read(start: int, stop: int) -> Keys:
        part = images[start:stop]
        return Keys(rows(part), rearrange(part[:, :, y], "n c x -> x n c"), log_weights[start:stop].expand(width, -1))

    return Problem(
        source=KeySource(
            read, count, groups=width, rows=1, dim=channels * block.window[0] * size[1], value_dim=channels, reading=reading(images)
        ),
        queries=rows,
        repeat=1,
        place=lambda values: rearrange(values, "x b v -> b v 1 x"),
        rows=slice(y, y + 1),
        cols=slice(None),
        dims=rows(torch.ones_like(images[:1]))[:, 0].sum(-1),
        origins=pixels((y, y + 1), (0, width))[:, None],
    )
