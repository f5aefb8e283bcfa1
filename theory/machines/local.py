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

from theory.data.imageset import ImageSet
from theory.machines.base import AnalyticDenoiser, Problem
from theory.noise import Schedule
from theory.patches import Block, PatchSchedule, PatchSize, Size, check_border, windows, wrap
from theory.posterior import Keys, KeySource
from theory.types import Images, Queries, TrainingImages


class Local(AnalyticDenoiser):
    """The local denoiser.

    Args:
        data, schedule, engine, memory: As in `AnalyticDenoiser`.
        patch_size: Odd number of pixels, a pair ``(height, width)``, a list of sizes over equal
            intervals of t, or a `PatchSchedule`.
        border: ``"zeros"`` (patches are cut off) or ``"circular"`` (patches wrap).

    Raises:
        InputError: If the patch size or the border is not one of these.
    """

    name = "local"
    per_pixel = True

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        patch_size: PatchSize,
        border: str = "zeros",
        **options,
    ) -> None:
        self.patch_sizes = PatchSchedule.of(patch_size)
        self.border = check_border(border)
        super().__init__(data, schedule, **options)

    def patch_size(self, t: float) -> Size:
        return self.patch_sizes(t)

    def centre(self, images: TrainingImages) -> Tensor:
        return images.mean(dim=0, keepdim=True)

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        count, channels, height, width = images.shape
        pixels, dim = height * width, channels * size[0] * size[1]
        rh, rw = size[0] // 2, size[1] // 2
        block = Block((rh, rh + height), (rw, rw + width), rh, rh, rw, rw)

        def rows(x: Images) -> Queries:
            # Centred images are zero outside in query and key alike: what is cut off counts nothing.
            padded = wrap(x, size) if self.border == "circular" else pad(x, (rw, rw, rh, rh))
            return rearrange(windows(padded, block), "b c y x i j -> (y x) b (c i j)")

        def read(start: int, stop: int) -> Keys:
            part = images[start:stop]
            return Keys(rows(part), rearrange(part, "n c y x -> (y x) n c"), log_weights[start:stop].expand(pixels, -1))

        inside = rows(torch.ones_like(images[:1]))[:, 0].sum(-1)
        yield Problem(
            source=KeySource(read, items=count, groups=pixels, rows=1, dim=dim, value_dim=channels),
            queries=rows,
            place=lambda values: rearrange(values, "(y x) b v -> b v y x", y=height),
            rows=slice(None),
            cols=slice(None),
            dims=inside,
        )
