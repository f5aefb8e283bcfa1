r"""What a network sees, measured: its receptive field by gradients, its equivariance by shifts, its border by both.

A pixel's guess depends on the pixels in its *field*: the smallest odd square around it that holds 99% of the squared gradients
(`SHARE`). What is *touched* is every pixel with a gradient at all. A network is equivariant if it answers a shifted image with the
shifted answer:

.. math:: e_s = \| D(S x) - S D(x) \| / \| D(x) - \overline{D(x)} \|

for circular shifts ``S``. A convolutional network with circular padding has ``e_s = 0``, with zeros only away from the border; one that
halves its image only for multiples of that; one that knows places never.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from empirical.metrics import sensitivity
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.metrics import noisy_images

SHARE = 0.99
TOUCHED = 1e-6  # of the largest gradient: below that is rounding
SHIFTS = (1, 2, 4)
EQUIVARIANT = 0.02  # relative errors below this count as none: float32 gives 1e-6, a learned position far more
IMAGES = 32


def seen(
    network: Denoiser, data: ImageSet, times: list[float], *, seed: int = 0, label: int | None = None, device: str | torch.device = "cpu",
    told: Callable[[], None] = lambda: None,
) -> tuple[dict, dict[str, Tensor]]:  # fmt: skip
    """What a network sees at each level.

    Args:
        network: Any denoiser.
        data: Its training set.
        times: Levels.
        seed: Of the noisy images.
        label: Class to condition on; a network that wants one has to be opened with it for gradients.
        device: Where it works.
        told: Called after each level.

    Returns:
        For JSON: ``levels`` (``t``, ``field``, ``touched``, ``equivariance`` by shift, all of them by pixels), ``padding``
        (``circular``, ``zeros`` or ``places``), ``attention`` (names of such layers) and ``gradients`` (why there are none, if so); and
        ``fields``, squared gradients with shape ``(levels, H, W)``, and ``errors`` of a shift by one with that shape.
    """
    height, width = data.images.shape[-2:]
    levels, fields, errors, reason = [], [], [], ""
    shown = data.select(label)
    for t in times:
        noisy = noisy_images(shown, network.schedule, t, IMAGES, seed, device)
        try:
            field = sensitivity(_Labelled(network, label), noisy.x_t[:8], t).cpu().square() if not reason else torch.zeros(height, width)
        except (RuntimeError, InputError) as error:  # a function that autograd does not run through
            reason, field = f"no gradient runs through it ({str(error).splitlines()[0][:80]})", torch.zeros(height, width)
        if not field.isfinite().all():  # as behind a torch.where whose other branch is not finite
            reason, field = f"its gradients at t = {t:g} are not finite", torch.zeros(height, width)
        answers = network.denoise(noisy.x_t, t, label)
        shifts = {s: _shifted(network, noisy.x_t, answers, t, s, label) for s in SHIFTS if s < min(height, width)}
        levels.append(
            {
                "t": t,
                "field": None if reason else _side(field),
                "touched": None if reason else _extent(field),
                "equivariance": {str(s): float(e.mean().sqrt()) for s, e in shifts.items()},
                "interior": {str(s): float(_inside(e).mean().sqrt()) for s, e in shifts.items()},
            }
        )
        fields.append(field.float())
        errors.append(next(iter(shifts.values())).sqrt().float() if shifts else torch.zeros(height, width))
        told()
    report = {"levels": levels, "padding": _padding(levels), "attention": attention_layers(network), "gradients": reason}
    return report, {"fields": torch.stack(fields), "errors": torch.stack(errors)}


class _Labelled(Denoiser):
    """A network asked for one class."""

    def __init__(self, network: Denoiser, label: int | None) -> None:
        self.network, self.schedule, self.label = network, network.schedule, label

    def __call__(self, x_t, t, label=None):
        return self.network(x_t, t, self.label)


def attention_layers(network: Denoiser) -> list[str]:
    """Names of the layers of a network that look everywhere at once, by the names of their classes."""
    module = getattr(network, "module", None)
    if not isinstance(module, nn.Module):
        return []
    found = [name for name, inner in module.named_modules() if "attention" in type(inner).__name__.lower() and name]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _side(field: Tensor) -> int:
    """The side of the smallest odd square around the centre that holds `SHARE` of the squared gradients."""
    height, width = field.shape
    y, x, total = height // 2, width // 2, float(field.sum())
    for reach in range(max(height, width)):
        inside = field[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        if float(inside.sum()) >= SHARE * total:
            return 2 * reach + 1
    return 2 * max(height, width) - 1


def _extent(field: Tensor) -> int:
    """The side of the odd square around the centre outside which nothing has a gradient."""
    height, width = field.shape
    if not float(field.max()) > 0:
        return 0
    rows, columns = (field > TOUCHED**2 * field.max()).nonzero(as_tuple=True)
    return 2 * int(max((rows - height // 2).abs().max(), (columns - width // 2).abs().max())) + 1


def _shifted(network: Denoiser, x_t: Tensor, answers: Tensor, t: float, shift: int, label: int | None) -> Tensor:
    """Squared relative error of a shift, pixel by pixel, over shifts down and to the right; shape ``(H, W)``."""
    scale = (answers - answers.mean((-2, -1), keepdim=True)).double().square().mean().clamp(min=1e-30)  # of constant answers 0
    errors = []
    for axis in (-2, -1):
        moved = network.denoise(x_t.roll(shift, axis), t, label).roll(-shift, axis)
        errors.append((moved - answers).double().square().mean((0, 1)) / scale)
    return torch.stack(errors).mean(0).cpu()


def _inside(error: Tensor) -> Tensor:
    """The ninth of the image that is furthest from its border."""
    height, width = error.shape
    above, left = (min(-(-side // 3), (side - 1) // 2) for side in (height, width))
    return error[above : height - above, left : width - left]


def _padding(levels: list[dict]) -> str:
    """``circular`` if all pixels answer shifts alike, ``zeros`` if only the inner ones do, else ``places``."""
    best = min(max(level["equivariance"][s] for level in levels) for s in levels[0]["equivariance"]) if levels[0]["equivariance"] else 0.0
    if best < EQUIVARIANT:
        return "circular"
    inner = min(min(level["interior"].values()) for level in levels)
    return "zeros" if inner < EQUIVARIANT else "places"
