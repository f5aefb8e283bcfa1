r"""The equivariant local score (ELS): each pixel sees a patch, and does not know where it is.

.. math:: E[x_0(p) | \Phi_p] = \sum_{n, p'} W_{n,p'}\, x_n(p'), \quad
          W_{n,p'} \propto w_n \exp\big(-\|x_t[\Omega_p] - \alpha_t x_n[\Omega_{p'}]\|^2 / 2\sigma_t^2\big)

Kamb & Ganguli, arXiv 2412.20292, eq. 9-10. The optimum of a convolutional network:

- ``border="circular"``: patches of query and training images wrap; ``p'`` runs over all pixels.
- ``border="zeros"``: ``p'`` runs over the pixels of the same border class as ``p`` (sec. 3.4 and
  App. B.2), and pixels outside count nothing.
- ``border="circular", patches="interior"``: ``p'`` runs only over pixels whose patch fits inside
  the image, while the query wraps: the convention of the paper's published code.
"""

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from theory.centred import reading
from theory.data.imageset import ImageSet
from theory.errors import InputError, choices
from theory.machines.base import Problem, pixels
from theory.machines.patchwise import PatchDenoiser
from theory.noise import Schedule
from theory.patches import Block, PatchSize, Size, border_blocks, centres, interior_block, patch_rows, wrap
from theory.posterior import Keys, KeySource
from theory.posterior.pruned import meetings
from theory.posterior.pruned.meetings import Meetings
from theory.posterior.windows import layout as windows
from theory.posterior.windows.layout import Layout
from theory.types import Images, TrainingImages

PATCHES = ("all", "interior")


class EquivariantLocal(PatchDenoiser):
    """The ELS machine.

    Args:
        data, schedule, engine, memory, rtol, distributed: As in `AnalyticDenoiser`.
        patch_size: Odd number of pixels, a pair ``(height, width)``, a list of sizes over equal
            intervals of t, or a `PatchSchedule`. It may exceed the image.
        border: ``"zeros"`` or ``"circular"``: how the network it stands for pads its images.
        patches: ``"all"`` training patches, or with a circular border those in the ``"interior"``.

    Raises:
        InputError: If an argument is not one of these, or ``"interior"`` patches don't fit.
    """

    name = "equivariant_local"

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        patch_size: PatchSize,
        border: str = "zeros",
        patches: str = "all",
        **options,
    ) -> None:
        self.patches = patches
        if patches not in PATCHES:
            raise InputError(f"patches={patches!r}", choices(PATCHES), "choose one of these")
        super().__init__(data, schedule, patch_size=patch_size, border=border, **options)
        if patches == "interior" and border == "zeros":
            raise InputError(
                "patches='interior' with border='zeros'",
                "border='circular'",
                "with zeros, border classes already say which patches count",
            )
        for size in self.patch_sizes.sizes:
            self.check_size(size)

    def check_size(self, size: Size) -> None:
        if self.patches == "interior":
            interior_block(*self.data.images.shape[-2:], size)

    def layout(self, size: Size) -> Layout:
        shape = self.data.images.shape[-2:]
        if self.border == "zeros":
            return windows.zeros(*shape, size)
        return (windows.interior if self.patches == "interior" else windows.circular)(*shape, size)

    def meetings(self, size: Size) -> Meetings:
        shape = self.data.images.shape[-2:]
        if self.border == "zeros":
            return meetings.zeros(*shape, size)
        return (meetings.interior if self.patches == "interior" else meetings.circular)(*shape, size)

    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        height, width = images.shape[-2:]
        if self.border == "zeros":
            for block in border_blocks(height, width, size):
                yield _problem(images, log_weights, block, block, block)
            return
        rh, rw = size[0] // 2, size[1] // 2
        everywhere = Block((0, height), (0, width), rh, rh, rw, rw)
        padded = Block((rh, rh + height), (rw, rw + width), rh, rh, rw, rw)
        keys = interior_block(height, width, size) if self.patches == "interior" else padded
        yield _problem(images, log_weights, everywhere, padded, keys, wrapped=size)


def _problem(
    images: TrainingImages, log_weights: Tensor, output: Block, queries: Block, keys: Block, wrapped: Size | None = None
) -> Problem:
    """Pixels of a block of the noisy image against a block of the training images.

    Blocks are those of the wrapped image where the image is wrapped; interior keys are not.
    """
    channels = images.shape[1]
    per_image = keys.shape[0] * keys.shape[1]
    dim = channels * keys.window[0] * keys.window[1]
    wrap_keys = wrapped is not None and keys is queries

    def read(start: int, stop: int) -> Keys:
        part = wrap(images[start:stop], wrapped) if wrap_keys else images[start:stop]
        values = rearrange(centres(part, keys), "n c y x -> 1 (n y x) c")
        weights = (log_weights[start:stop] - math.log(per_image)).repeat_interleave(per_image)
        return Keys(patch_rows(part, keys)[None], values, weights[None])

    def cut(x: Images) -> Tensor:
        return patch_rows(wrap(x, wrapped) if wrapped else x, queries)[None]

    return Problem(
        source=KeySource(read, items=len(images), groups=1, rows=per_image, dim=dim, value_dim=channels, reading=reading(images)),
        queries=cut,
        repeat=output.shape[0] * output.shape[1],
        place=lambda values: rearrange(values, "1 (b y x) v -> b v y x", y=output.shape[0], x=output.shape[1]),
        rows=slice(*output.rows),
        cols=slice(*output.cols),
        dims=torch.tensor([dim], device=images.device),
        origins=(pixels(keys.rows, keys.cols) - (torch.tensor(wrapped) // 2 if wrap_keys else 0))[None],
    )
