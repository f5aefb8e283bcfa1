r"""Where each pixel of a sample comes from: the training candidate its posterior weighs most.

For a local machine the posterior of pixel ``p`` runs over patches of training images (arXiv 2412.20292,
eq. 7-10); at low noise nearly all its weight is on one of them,

.. math:: (n^*, p'^*) = \arg\max_{n, p'} W_{n,p'}(\Phi_p) ,

and the pixel is a copy of ``x_{n^*}(p'^*)``. Neighbouring pixels with the same image and the same shift
``p'^* - p`` are a copied piece: together these are the patch mosaic that the machine makes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from theory.denoiser import require_noise
from theory.engines.listed.problems import Problem, pixels, problems
from theory.engines.listed.source import items_within
from theory.errors import InputError
from theory.machines.base import AnalyticDenoiser
from theory.types import Images


class Provenance(NamedTuple):
    """The heaviest candidate of each pixel.

    Attributes:
        image: Number of the training image, with shape ``(B, H, W)``.
        pixel: Row and column in it of the pixel copied, with shape ``(B, H, W, 2)``.
        weight: Its posterior weight, with shape ``(B, H, W)``, float64.
    """

    image: Tensor
    pixel: Tensor
    weight: Tensor

    def pieces(self) -> Tensor:
        """A number for every pair of image and shift: pixels that share it are copied together, with shape ``(B, H, W)``."""
        height, width = self.image.shape[1:]
        shift = (self.pixel - _grid(height, width).to(self.pixel)) % self.pixel.new_tensor([height, width])
        return (self.image * height + shift[..., 0]) * width + shift[..., 1]


@torch.no_grad()
def provenance(machine: AnalyticDenoiser, x_t: Images, t: float, label: int | None = None) -> Provenance:
    """The heaviest candidate of each pixel, and the first of equals; in float64.

    Args:
        machine: A closed-form machine.
        x_t: Noisy images, or samples taken as such, with shape ``(B, C, H, W)``.
        t: Time in (0, 1]; a small one asks what a finished sample was copied from.
        label: Restrict the training set to a class; images are numbered within it.

    Raises:
        InputError: If shapes, time or label do not fit, ``sigma_t`` is 0, or the machine holds a part of the images only.
    """
    machine.check(x_t)
    if machine.distributed:
        raise InputError("a machine with distributed=True", "one that holds all training images", "make it without distributed=True")
    alpha, sigma = machine.schedule(t)
    require_noise(sigma)
    x_t = x_t.double()
    size = machine.patch_size(float(t))
    case = machine.case(label, size, x_t)
    images, log_weights = machine.training.centred(label, x_t)
    centred = x_t - alpha * machine.training.centre(label).to(x_t.device)
    count, _, height, width = x_t.shape
    image = torch.zeros(count, height, width, dtype=torch.int64, device=x_t.device)
    pixel, weight = image.new_zeros(count, height, width, 2), x_t.new_zeros(count, height, width)
    for problem in problems(case.meetings, images, log_weights):
        best, share = _heaviest(problem, problem.queries(centred), float(alpha), float(sigma), machine.memory)
        item, row = best // problem.source.rows, best % problem.source.rows
        groups = torch.arange(len(best), device=best.device)[:, None].expand_as(best)
        place = problem.origins.to(best.device)[groups, row]
        area = (slice(None), *((...,) if case.meetings.whole else (problem.rows, problem.cols)))  # a whole image has one answer
        image[area] = problem.place(item[..., None])[:, 0]
        pixel[area] = torch.stack([problem.place(place[..., i, None])[:, 0] for i in (0, 1)], -1)
        weight[area] = problem.place(share[..., None])[:, 0]
    if not machine.per_pixel:  # the candidate is a whole image, and its origin a shift
        pixel = (_grid(height, width).to(pixel) + pixel) % pixel.new_tensor([height, width])
    return Provenance(image, pixel, weight)


def _grid(height: int, width: int) -> Tensor:
    """Row and column of each pixel, with shape ``(H, W, 2)``."""
    return pixels((0, height), (0, width)).reshape(height, width, 2)


def _heaviest(problem: Problem, queries: Tensor, alpha: float, sigma: float, memory: int) -> tuple[Tensor, Tensor]:
    """Number of the heaviest key of each query, counted item by item, and its posterior weight; ``(G, Q)`` each."""
    source = problem.source
    top = queries.new_full(queries.shape[:2], -torch.inf)
    best, total = torch.zeros_like(top, dtype=torch.int64), torch.zeros_like(top)
    step = items_within(source, memory / 8 / 4)
    width = max(1, int(memory / 8 / 4 / (min(step, source.items) * source.rows * source.groups)))
    for start in range(0, source.items, step):
        keys, _, log_weights, _ = source.read(start, min(start + step, source.items))
        keys = alpha * keys
        offset = log_weights - keys.square().sum(-1) / (2 * sigma**2)
        for first in range(0, queries.shape[1], width):
            part = slice(first, first + width)
            logits = queries[:, part] @ keys.mT / sigma**2 + offset[:, None]
            largest, index = logits.max(-1)
            better, old = largest > top[:, part], top[:, part]
            new = torch.maximum(largest, old)
            total[:, part] = total[:, part] * torch.exp(old - new) + torch.exp(logits - new[..., None]).sum(-1)
            best[:, part] = torch.where(better, index + start * source.rows, best[:, part])
            top[:, part] = new
    return best, 1 / total


if __name__ == "__main__":
    import sys

    from theory.command.origins import main

    sys.exit(main())
