"""The engine of shifts: all circular shifts of whole images at once, by Fourier transforms."""

import math

import torch
from torch import Tensor

from theory import meetings as statements
from theory.engines.engine import Case, Engine
from theory.engines.fourier.shifts import sum_shifts
from theory.engines.state import State
from theory.meetings import Meetings
from theory.types import Coefficients, Images

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
        images, log_weights = training.exact(label, x), training.own(label)[1].to(x.device)
        shifted = training.shifted(label, x, alpha)
        return sum_shifts(shifted, alpha, sigma, images, log_weights, _spectra(case), training.memory // 2)


def _spectra(case: Case) -> Tensor | None:
    """Transforms of the training images, kept where there is room."""
    training, key = case.training, ("spectra", case.label, case.like.device)

    def make() -> Tensor | None:
        images = training.exact(case.label, case.like)
        return torch.fft.rfft2(images[:]) if training.granted(key, 8 * math.prod(images.shape)) else None

    return training.kept(key, make)
