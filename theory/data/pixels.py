"""Floating point pixels: the range they are given in, and that all computing is done in, [-1, 1].

Images in [0, 1] are as common, and lie in [-1, 1] too: taken so they have no black, and half the contrast that the noise expects. No number
tells which is meant, so that such images are taken as they are, with a warning that naming the range silences.
"""

import warnings

from torch import Tensor

from theory.errors import InputError, InputWarning, choices

PIECE = 2**12  # images looked at at a time
SIGNED, UNIT = "signed", "unit"
LOWEST = {SIGNED: -1, UNIT: 0}


def check_pixels(images: Tensor, name: str, range: str | None = None) -> None:
    """Refuse pixels that are not numbers in their range, and warn of a range that was not named and looks like [0, 1].

    Args:
        images: Pixels with shape ``(N, C, H, W)``; nothing is clipped.
        name: Where they come from.
        range: ``"signed"`` for [-1, 1], ``"unit"`` for [0, 1], or None for the first with a warning where all lie in the second.

    Raises:
        InputError: If there is no such range, or a pixel is NaN or outside it.
    """
    if range is not None and range not in LOWEST:
        raise InputError(f"range={range!r}", f"{choices(LOWEST)}: pixels in [-1, 1] or [0, 1]", "choose one of these")
    if not images.is_floating_point():
        raise InputError(f"{name}: pixels of dtype {images.dtype}", "floating point in [-1, 1]", "scale them, as in x / 127.5 - 1")
    low, high = _span(images, name)
    if low < LOWEST[range or SIGNED] or high > 1:
        told = f"pixels in [{LOWEST[range or SIGNED]}, 1]"
        given = f"{name}: pixels from {low:g} to {high:g}" + (f" with range={range}" if range else "")
        raise InputError(
            given, told, "leave out the range" if range == UNIT and low >= -1 and high <= 1 else "scale them, as in x / 127.5 - 1"
        )
    if range is None and 0 <= low < high:
        _warn(name, low, high)


def _span(images: Tensor, name: str) -> tuple[float, float]:
    """The smallest and the largest pixel, all being finite."""
    pieces = images.split(PIECE)
    for number, piece in enumerate(pieces):
        if not piece.isfinite().all():
            bad = (~piece.isfinite()).flatten(1).any(1).nonzero()[0].item() + number * PIECE
            raise InputError(f"{name}: image {bad} has NaN or infinite pixels", "finite pixels", "remove or repair that image")
    return min(float(p.min()) for p in pieces), max(float(p.max()) for p in pieces)


def _warn(name: str, low: float, high: float) -> None:
    told = f"{name}: pixels from {low:g} to {high:g}, taken as dim images in [-1, 1]"
    fix = f"if they are meant in [0, 1] add range={UNIT}, which makes them 2 x - 1; range={SIGNED} says they are not"
    warnings.warn(f"{told}; {fix}", InputWarning, stacklevel=5)  # who made the ImageSet
