"""The engine of windows: patches of images, shift by shift, never listed; on the CPU and on a card."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from theory.captured import waits
from theory.centred import Centred
from theory.engines.engine import Case, Engine
from theory.engines.state import State
from theory.engines.windows.cuda import launcher as cards
from theory.engines.windows.cuda import sums, tiles
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
        rtol: Share of the weight of a posterior that may be left out on a card (`theory.engines.windows.cuda.tiles`).
    """

    name = "windows"

    def __init__(self, launcher: Launcher | None = None, rtol: float = 0.0) -> None:
        self._launcher, self._rtol = launcher, rtol

    def leaving_out(self, rtol: float, case: Case) -> "Windows":
        on_card = self._launcher is not None or case.like.device.type == "cuda"
        return Windows(self._launcher, rtol) if rtol > 0 and on_card and tiles.suits(case.meetings) else self

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
        images, log_weights = _read(case, launcher), training.weighed(case.label, x)
        exact = lambda: _read(replace(case, like=case.like.double()), launcher)  # noqa: E731

        def prepared(dtype: torch.dtype, most: int) -> sums.Prepared:
            make = lambda: sums.Prepared.of(_layout(case), x.shape[1], dtype, launcher, most)  # noqa: E731
            return training.kept(("card", case.meetings, dtype, launcher.device, most), make)

        def summed(rows: Tensor | None, *noisy: Tensor) -> State:
            """After some training images, or after all."""
            given = [images, log_weights, exact] if rows is None else [images[rows], log_weights[rows], lambda: _rows(exact(), rows)]
            ready = prepared(x.dtype, sums.together(len(noisy[0])))
            return sums.sum_windows(*noisy, *given, ready, lambda: prepared(torch.float64, 1), training.memory, launcher)

        def pruned(*noisy: Tensor) -> State:
            """Of one noisy image."""
            return tiles.sum_pruned(
                known.costs(*noisy, _layout(case), launcher), log_weights, self._rtol, lambda rows: summed(rows, *noisy)
            )

        noisy = training.shifted(case.label, x, alpha), alpha, sigma
        try:
            known = _tiles(case, images) if self._rtol > 0 and waits() else None
            if known is None:
                return summed(None, *noisy)
            return State.joined([pruned(*(v[i : i + 1] for v in noisy)) for i in range(len(x))])
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{len(x)} noisy images beside {case.count} training images on {x.device}, whose memory ran out",
                "less at a time",
                "use fewer noisy images, a smaller memory= or machine.training.free()",
            ) from error


def _tiles(case: Case, images: TrainingImages) -> tiles.Tiles | None:
    """What tells which training images may be left out; None where none may, or there is no room to find out."""
    training, room = case.training, 4 * len(images) * math.prod(case.meetings.shape) <= case.training.memory // 2
    if not room or isinstance(images, Centred):
        return None
    make = lambda: tiles.Tiles.of(_layout(case), case.meetings.wraps[1], images)  # noqa: E731
    return training.kept(("tiles", *case.key), make)


def _rows(images: TrainingImages, rows: Tensor) -> Tensor:
    """Some training images, wherever they are."""
    return images[rows.to(images.stored.device if isinstance(images, Centred) else images.device)]


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
