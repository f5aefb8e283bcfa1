"""The engine of shifts: all circular shifts of whole images at once, by Fourier transforms."""

import math

import torch
from torch import Tensor

from theory import meetings as statements
from theory.engines.engine import Case, Engine, like
from theory.engines.fourier.shifts import sum_shifts
from theory.engines.state import State
from theory.meetings import Meetings
from theory.types import Coefficients, Images

PIECE = 2**22  # numbers of images in float64 at a time
NANOSECONDS = 5.0  # that each number of an image takes on one core, for each halving of its pixels, as measured on photos


class Fourier(Engine):
    """Sums over shifts (`theory.engines.fourier.shifts`)."""

    name = "fourier"
    first = True  # distances are in float64, so that float32 images lose nothing at low noise

    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        return None if meetings == statements.shifts(meetings.shape) else "it needs whole images with all their shifts"

    def cost(self, case: Case) -> float:
        numbers = math.prod(case.training.data.images.shape[1:])
        return 1e-9 * NANOSECONDS * case.count * numbers * (1 + math.log2(math.prod(case.meetings.shape)))

    def sum(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        training, label = case.training, case.label
        images, log_weights = training.exact(label, x), training.weighed(label, like(x.double()))
        shifted = training.shifted(label, x, alpha)
        return sum_shifts(shifted, alpha, sigma, images, log_weights, _norms(case), _spectra(case), training.memory // 2)


def _norms(case: Case) -> Tensor:
    """Half of the squared norms of the training images, kept: images whose spectra are kept too need not be read again."""
    training = case.training

    def make() -> Tensor:
        parts = training.exact(case.label, case.like)
        step = max(1, PIECE // math.prod(parts.shape[1:]))
        return torch.cat([0.5 * parts[i : i + step].square().sum((1, 2, 3)) for i in range(0, len(parts), step)])

    return training.kept(("norms", case.label, case.like.device), make)


def _spectra(case: Case) -> Tensor | None:
    """Transforms of the training images, kept where there is room."""
    training, key = case.training, ("spectra", case.label, case.like.device)

    def make() -> Tensor | None:
        images = training.exact(case.label, case.like)
        return torch.fft.rfft2(images[:]) if training.granted(key, 8 * math.prod(images.shape)) else None

    return training.kept(key, make)
