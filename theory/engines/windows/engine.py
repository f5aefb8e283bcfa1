"""The engine of windows: patches of images, shift by shift, never listed; on the CPU and on a card."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from theory.centred import Centred
from theory.engines.engine import Case, Engine
from theory.engines.state import State
from theory.engines.windows.cuda import launcher as cards
from theory.engines.windows.cuda import sums
from theory.engines.windows.cuda.launcher import Launcher
from theory.engines.windows.layout import Layout, layout
from theory.errors import InputError
from theory.meetings import Meetings
from theory.types import Coefficients, Images, TrainingImages

DOUBLE = 2.5  # times as long takes a sum in float64
SHARE = 0.8  # of what a card has free that training images may take
CARD = 100  # cores that a card is worth, at least; compared with engines that were measured on one (docs/engines.md)


class Windows(Engine):
    """Sums over windows (`theory.engines.windows.cpu`, `theory.engines.windows.cuda`).

    Args:
        launcher: Starts kernels instead of the card that the noisy images are on.
    """

    name = "windows"

    def __init__(self, launcher: Launcher | None = None) -> None:
        self._launcher = launcher

    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        if self._launcher is None and like.device.type not in ("cpu", "cuda"):
            return f"it needs noisy images on the CPU or on a CUDA device, not on {like.device}"
        if _known(meetings) is None:
            return "it needs a machine that sees patches, the same shift for all pixels of a rectangle"
        return cards.hindrance(like.device) if self._launcher is None and like.device.type == "cuda" else None

    def cost(self, case: Case) -> float:
        seconds = 1e-9 * _layout(case).cost * case.count * (1.0 if case.like.dtype == torch.float32 else DOUBLE)
        if case.like.device.type != "cuda":
            return seconds
        channels, limits = case.training.data.images.shape[1], cards.limits_of(case.like.device)
        return seconds / CARD if sums.fits(_layout(case), channels, case.like.dtype, limits) else math.inf

    def sum(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        return self.sweep([case], x, alpha, sigma)[0]

    def sweep(self, cases: Sequence[Case], x: Images, alpha: Coefficients, sigma: Coefficients) -> list[State]:
        """Several sizes of the window; on the CPU in one pass over the training images."""
        if self._launcher is not None or x.device.type == "cuda":
            return [self._on_card(case, x, alpha, sigma) for case in cases]
        from theory.engines.windows.cpu import sum_windows  # loads the compiler: a second that other engines need not wait

        training, label = cases[0].training, cases[0].label
        images = *training.centred(label, x), training.exact(label, x)
        return sum_windows(training.shifted(label, x, alpha), alpha, sigma, *images, [_layout(case) for case in cases], training.memory)

    def _on_card(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        launcher, training = self._launcher or cards.card(x.device.index or 0), case.training

        def prepared(dtype: torch.dtype) -> sums.Prepared:
            most = sums.together(len(x)) if dtype == x.dtype else 1
            make = lambda: sums.Prepared.of(_layout(case), x.shape[1], dtype, launcher, most)  # noqa: E731
            return training.kept(("card", case.meetings, dtype, launcher.device, most), make)

        exact = lambda: _read(replace(case, like=case.like.double()), launcher)  # noqa: E731
        images = _read(case, launcher), training.own(case.label)[1].to(x), exact
        shifted = training.shifted(case.label, x, alpha)
        again = lambda: prepared(torch.float64)  # noqa: E731
        try:
            return sums.sum_windows(shifted, alpha, sigma, *images, prepared(x.dtype), again, training.memory, launcher)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{len(x)} noisy images beside {case.count} training images on {x.device}, whose memory ran out",
                "less at a time",
                "use fewer noisy images, a smaller memory= or machine.training.free()",
            ) from error


def _read(case: Case, launcher: Launcher) -> TrainingImages:
    """Centred training images on the card, or what reads them piece by piece where they don't fit there."""
    training = case.training
    stored = training.own(case.label)[0]

    def held() -> bool:
        return math.prod(stored.shape) * case.like.element_size() <= SHARE * launcher.room()

    if training.data.on_disk or training.kept(("card holds", *case.key), held):
        return training.centred(case.label, case.like)[0]
    return Centred(stored, training.centre(case.label), case.like.dtype, case.like.device)


def _layout(case: Case) -> Layout:
    return _known(case.meetings)


@lru_cache(maxsize=64)
def _known(meetings: Meetings) -> Layout | None:
    """The layout of what meets, which each call asks for."""
    return layout(meetings)
