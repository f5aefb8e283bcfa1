r"""A network from elsewhere as a `Denoiser`.

Whatever a network predicts, the posterior mean follows:

.. math:: \epsilon:\ \frac{x_t - \sigma_t \hat\epsilon}{\alpha_t}, \qquad
          v = \alpha_t \epsilon - \sigma_t x_0:\ \frac{\alpha_t x_t - \sigma_t \hat v}{\alpha_t^2 + \sigma_t^2}, \qquad
          \text{score}:\ \frac{x_t + \sigma_t^2 \hat s}{\alpha_t}, \qquad \text{sample}:\ \hat x_0 .

What it is told of the noise level is ``t`` in [0, 1]; the number of a discrete level; or, in the convention of EDM and k-diffusion,
``sigma``: then it is shown ``x_t / alpha_t = x_0 + sigma epsilon`` with ``sigma = sigma_t / alpha_t``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from empirical.checks import checked_times
from theory.denoiser import Denoiser, Posterior, require_noise
from theory.discrete import DiscreteSchedule
from theory.errors import InputError, choices
from theory.noise import Noise, Schedule
from theory.predictions import PREDICTIONS, recovered
from theory.types import BatchLabels, Images, Times

BATCH = 256  # images evaluated at a time
SAME = 1e-3  # two answers to one question differ by less than this share of their range, on any device
TIMES = ("t", "sigma", "timestep")
Function = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class OutsideDenoiser(Denoiser):
    """The posterior mean that a function stands for.

    Args:
        function: ``(x, level, label) -> output``, of shapes ``(B, C, H, W)``, ``(B,)`` and ``(B,)`` or None.
        schedule: The noise it was trained on.
        prediction: What it outputs: a key of `theory.predictions.PREDICTIONS`.
        shape: ``(C, H, W)`` of the images.
        name: What to call it in errors.
        time: What it is told: ``"t"``, ``"timestep"`` (of a `DiscreteSchedule`, fractions between levels) or ``"sigma"``.
        snap: Whether a timestep is rounded to the nearest level.
        classes: Number of classes; 0 if it takes none, None if that is not known.
        label: Class where a call names none.
        module: What holds its weights, if anything does: they decide dtype and device.
        receptive_field: Pixels along the side of what an output pixel sees; None if that is all, or not known.

    Raises:
        InputError: If an option is not one of these, or weights are of half precision or on no device.
    """

    def __init__(
        self,
        function: Function,
        schedule: Schedule,
        prediction: str,
        shape: tuple[int, int, int],
        *,
        name: str = "network",
        time: str = "t",
        snap: bool = False,
        classes: int | None = None,
        label: int | None = None,
        module: nn.Module | None = None,
        receptive_field: int | None = None,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise InputError(f"prediction {prediction!r} of {name}", choices(PREDICTIONS), "name what the network outputs")
        if time not in TIMES:
            raise InputError(f"time={time} of {name}", choices(TIMES), "name what the network is told")
        if time == "timestep" and not isinstance(schedule, DiscreteSchedule):
            raise InputError(
                f"time=timestep with schedule {schedule.name} of {name}", "a schedule of discrete levels", "use schedule=linear"
            )
        self.function, self.schedule, self.prediction, self.shape = function, schedule, prediction, tuple(shape)
        self.name, self.time, self.snap, self.classes, self.label = name, time, snap, classes, label
        self.module, self.receptive_field = module, receptive_field
        if module is not None:
            module.eval()
            _require_weights(module, name)

    def to(self, device: str | torch.device) -> "OutsideDenoiser":
        """Move the weights."""
        if self.module is not None:
            self.module.to(device)
        return self

    def probed(self) -> "OutsideDenoiser":
        """Ask it once, so that what does not work shows before hours of work, and twice, so that what is random does.

        Raises:
            InputError: If it fails, or answers one question differently each time.
        """
        x_t = Noise(0)(torch.empty(2, *self.shape)).to(_device(self.module))
        label = 0 if self.classes and self.label is None else None
        first, again = (self(x_t, 0.5, label).mean for _ in range(2))
        spread = float(first.max() - first.min())
        if float((first - again).abs().max()) > SAME * max(spread, 1e-6):
            raise InputError(
                f"{self.name}, which answers one question differently each time", "the same", "switch off what is random in it"
            )
        return self

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The posterior mean, in the dtype of ``x_t``; the network works in its own.

        Raises:
            InputError: If images, times or labels don't fit the network, or what it returns is no image.
        """
        alpha, sigma, times, label = self._checked(x_t, t, label)
        parts = []
        for i in range(0, len(x_t), BATCH):
            rows = slice(i, i + BATCH)
            a, s = (c[rows].to(x_t).reshape(-1, 1, 1, 1) for c in (alpha, sigma))
            shown = x_t[rows] / a if self.time == "sigma" else x_t[rows]
            level = self._level(times[rows], alpha[rows], sigma[rows])
            out = self._asked(shown, level, None if label is None else label[rows], float(times[i]))
            parts.append(recovered(self.prediction, out.to(x_t), x_t[rows], a, s))
        return Posterior(torch.cat(parts))

    def _level(self, times: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.time == "sigma":
            return sigma / alpha
        if self.time == "t":
            return times
        step = self.schedule.timestep(times)
        return step.round() if self.snap else step

    def _asked(self, x: Tensor, level: Tensor, label: Tensor | None, t: float) -> Tensor:
        """What the network answers, if it is an image."""
        weight = next(self.module.parameters(), None) if self.module is not None else None
        like = x if weight is None else weight
        try:
            with torch.set_grad_enabled(x.requires_grad):
                out = self.function(x.to(like), level.to(like), None if label is None else label.to(like.device))
        except (InputError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a network of the user's own raises
            told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            given = f"{self.name}, which fails on x_t of shape {tuple(x.shape)}, {like.dtype}, on {x.device} ({told})"
            raise InputError(given, "a network (x_t, t) or (x_t, t, label) for such images", "correct it, or the options") from error
        if not isinstance(out, Tensor) or out.shape != x.shape:
            what = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise InputError(f"{self.name}, which returns {what}", f"a tensor of shape {tuple(x.shape)}", "return an image for each image")
        if out.dtype not in (torch.float32, torch.float64):
            raise InputError(f"{self.name}, which returns {out.dtype}", "float32 or float64", "call .float() on the network")
        if not out.isfinite().all():
            raise InputError(f"{self.name}, which returns NaN or infinity at t = {t:.3g}", "finite pixels", "check its weights and options")
        return out

    def _checked(self, x_t: Tensor, t: Times, label: BatchLabels | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        times = checked_times(x_t, t, self.shape)
        alpha, sigma = self.schedule(times)
        require_noise(sigma)
        if (alpha == 0).any() and (not PREDICTIONS[self.prediction].bounded or self.time == "sigma"):
            raise InputError(
                f"alpha_t = 0 with prediction {self.prediction}", "some signal", "use times below 1: noise tells no image there"
            )
        return alpha, sigma, times, self._checked_label(label, len(x_t))

    def _checked_label(self, label: BatchLabels | None, count: int) -> Tensor | None:
        label = self.label if label is None else label
        if label is None:
            if self.classes:
                given = f"no label for {self.name}"
                raise InputError(given, f"a class, 0 to {self.classes - 1}: it was trained with one", "name a label, as in label=3")
            return None
        if self.classes == 0:
            raise InputError(f"a label for {self.name}", "none: the network has no classes", "leave out the label")
        label = torch.as_tensor(label)
        if label.ndim > 1 or (label.ndim == 1 and len(label) != count) or label.is_floating_point():
            given = f"label of shape {tuple(label.shape)} and {label.dtype} for {count} images"
            raise InputError(given, f"integers of shape () or ({count},)", "pass one or one each")
        if self.classes is not None and ((label < 0) | (label >= self.classes)).any():
            raise InputError(f"label {label.flatten().tolist()[:4]}", f"0 to {self.classes - 1}", "choose a class of the network")
        return label.expand(count)


def _require_weights(module: nn.Module, name: str) -> None:
    """Refuse weights of half precision, or on several devices, or on none."""
    weights = list(module.parameters())
    half = sorted({str(w.dtype) for w in weights if w.is_floating_point() and w.dtype not in (torch.float32, torch.float64)})
    if half:
        raise InputError(f"{name} with weights of {', '.join(half)}", "float32 or float64", "call .float() on the network first")
    devices = sorted({w.device.type for w in weights})
    if "meta" in devices or len(devices) > 1:
        raise InputError(f"{name} with weights on {' and '.join(devices)}", "all on one device, loaded", "load its weights, or move them")


def _device(module: nn.Module | None) -> torch.device:
    weight = None if module is None else next(module.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device
