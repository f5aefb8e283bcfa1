"""What attention does at one pixel of one noisy image."""

from typing import NamedTuple

from torch import Tensor

from theory.machines import EquivariantLocal, Ideal
from theory.metrics import noisy_images
from theory.stationarity import SolvedScore
from theory.types import Images


class View(NamedTuple):
    """What attention does at one pixel of one noisy image.

    Attributes:
        name: The family.
        t: Time.
        pixel: Row and column.
        x_t, els, local, context, exact: Images with shape ``(C, H, W)``; ``local + context`` is the model's mean.
        attention: Attention of the pixel to all pixels, with shape ``(H, W)``.
    """

    name: str
    t: float
    pixel: tuple[int, int]
    x_t: Tensor
    els: Tensor
    local: Tensor
    context: Tensor
    exact: Tensor
    attention: Tensor


def view(solution: SolvedScore, seed: int) -> View:
    """The image, of 64, and the pixel where the prediction gains most over that from the patch alone (ELS),
    at the level where it gains most on average."""
    gains = [c["gain"] for c in solution.certificates]
    t = solution.setting.times[max(range(len(gains)), key=gains.__getitem__)]
    data, schedule, setting = solution.data, solution.schedule, solution.setting
    x_t = noisy_images(data, schedule, t, 64, seed).x_t
    split = solution.split(x_t, t)
    exact = Ideal(data, schedule, memory=solution.memory).denoise(x_t, t)
    els = EquivariantLocal(data, schedule, patch_size=setting.patch_size, border=setting.border, memory=solution.memory).denoise(x_t, t)
    gain = _error(els, exact) - _error(split.local + split.context, exact)
    image, pixel = divmod(int(gain.flatten().argmax()), gain[0].numel())
    height, width = gain.shape[1:]
    attention = split.attention[image, pixel].reshape(height, width)
    parts = (x[image] for x in (x_t, els, split.local, split.context, exact))
    return View(setting.family, t, divmod(pixel, width), *parts, attention)


def _error(mean: Images, truth: Images) -> Tensor:
    return (mean - truth).square().sum(1)
