"""What machines refuse: arguments, noisy images, times and labels."""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from theory.captured import answer
from theory.data.imageset import ImageSet
from theory.errors import InputError
from theory.patches import Size
from theory.types import BatchLabels, Images, Times

MINIMUM = 2**24  # bytes


def memory(given: int) -> int:
    """A budget that sums can work within."""
    if not (isinstance(given, Real) and MINIMUM <= given < math.inf):
        raise InputError(f"memory={given!r} bytes", f"at least {MINIMUM} bytes (16 MB)", "raise the budget")
    return int(given)


def rtol(given: float, engine: str, data: ImageSet) -> float:
    """A share of the weight that may be left out."""
    if not (isinstance(given, Real) and 0 <= given < 1):
        raise InputError(f"rtol={given!r}", "a share of the weight in [0, 1)", "use 0 for exact sums, or a small number such as 1e-4")
    if given > 0 and engine != "auto":
        raise InputError(f"rtol={given:g} with engine={engine!r}", "engine='auto'", "other engines are exact: leave out one of the two")
    if given > 0 and data.on_disk:
        raise InputError(
            f"rtol={given:g} with data set {data.name!r} on disk",
            "images in memory: an index of them has to be",
            "leave out rtol, or load them with npz:FILE",
        )
    return float(given)


def distributed(given: bool, engine: str) -> bool:
    """Whether candidates are divided, which no gradient survives."""
    if given and engine == "dense":
        raise InputError(
            "engine='dense' with distributed=True", "another engine", "no gradient passes from process to process: use engine='auto'"
        )
    return given


def noisy_images(x_t: Images, data: ImageSet) -> None:
    """Noisy images that can be compared with the training images."""
    if not isinstance(x_t, Tensor):
        raise InputError(f"noisy images of type {type(x_t).__name__}", "a torch.Tensor", "convert them with torch.as_tensor")
    if x_t.ndim != 4 or x_t.shape[1:] != data.images.shape[1:]:
        raise InputError(
            f"noisy images of shape {tuple(x_t.shape)}",
            f"(B, {', '.join(map(str, data.images.shape[1:]))}), the shape of data set {data.name!r}",
            "pass a batch of images with the channels and size of the training images",
        )
    if len(x_t) == 0:
        raise InputError("an empty batch of noisy images", "at least one image", "leave out the call")
    if x_t.dtype not in (torch.float32, torch.float64):
        raise InputError(f"noisy images of dtype {x_t.dtype}", "float32 or float64", "convert them with .float()")
    if not answer(x_t.isfinite().all(), True):
        raise InputError("noisy images with NaN or infinite pixels", "finite pixels", "check what produced them")


def no_gradient(x_t: Images, what: str, expected: str, remedy: str) -> None:
    """Noisy images that want no gradient, where there is none."""
    if x_t.requires_grad and torch.is_grad_enabled():
        raise InputError(f"noisy images that require a gradient with {what}", expected, remedy)


def times(given: Times) -> Tensor:
    """Times as numbers, in float64, where they can be looked at."""
    try:
        return torch.as_tensor(given, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError):
        raise InputError(f"time t = {given!r}", "a number in (0, 1], or one for each image", "pass numbers") from None


def classes(label: BatchLabels | None, batch: int) -> list[int | None]:
    """The class of each noisy image, or None."""
    if label is None:
        return [None] * batch
    try:
        label = torch.as_tensor(label)
    except (TypeError, ValueError):
        raise InputError(f"label {label!r}", "a class number, or one for each image", "pass integers") from None
    if label.dtype.is_floating_point or label.dtype == torch.bool:
        raise InputError(f"label of dtype {label.dtype}", "integers", "pass class numbers such as 3")
    return [int(i) for i in per_image(label, batch, "label").tolist()]


def per_image(value: Tensor, batch: int, what: str) -> Tensor:
    """One number for each noisy image."""
    if value.ndim == 0:
        return value.expand(batch)
    if value.shape != (batch,):
        raise InputError(
            f"{what} of shape {tuple(value.shape)} for {batch} images", f"shape () or ({batch},)", "pass one for all or one each"
        )
    return value


def whole(given: int, name: str, least: int) -> int:
    """A whole number that is large enough."""
    if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
        raise InputError(f"{name}={given!r}", f"a whole number, at least {least}", "correct it")
    return int(given)


def finite(given: float, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within bounds."""
    if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given) or not least <= given <= most:
        bounds = (
            "" if (least, most) == (-math.inf, math.inf) else f", {least:g} or more" if most == math.inf else f" from {least:g} to {most:g}"
        )
        raise InputError(f"{name}={given!r}", f"a finite number{bounds}", "correct it")
    return float(given)


def truth(given: bool, name: str) -> bool:
    """True or false."""
    if not isinstance(given, bool):
        raise InputError(f"{name}={given!r}", "True or False", "choose one")
    return given


def heatmap(given: Tensor, shape: Size) -> Tensor:
    """Sensitivities of every pixel to every pixel."""
    expected = (*shape, *shape)
    good = isinstance(given, Tensor) and given.shape == expected and bool((given >= 0).all() and given.isfinite().all())
    if not good or not bool((given.sum((2, 3)) > 0).all()):
        what = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"of type {type(given).__name__}"
        raise InputError(f"a heatmap {what}", f"{expected}, finite, none negative and some positive for every pixel", "correct heatmap=")
    return given
