"""A trained network as a `Denoiser`, so that whatever takes a machine takes a network."""

import torch
from torch import Tensor, nn

from empirical.checks import checked_times
from empirical.precision import arithmetic
from theory.denoiser import Denoiser, Posterior, require_noise
from theory.errors import InputError
from theory.noise import Schedule
from theory.predictions import recovered
from theory.types import BatchLabels, Images, Times

BATCH = 1024  # images evaluated at a time


class NetworkDenoiser(Denoiser):
    """The posterior mean a network stands for.

    Args:
        module: A network of `empirical.networks`.
        schedule: The noise it was trained on.
        prediction: What it outputs: a key of `theory.predictions.PREDICTIONS`.
        shape: ``(C, H, W)`` of the images it was trained on.

    The mean has the dtype of ``x_t``; the network works in its own.
    """

    def __init__(self, module: nn.Module, schedule: Schedule, prediction: str, shape: tuple[int, int, int]) -> None:
        self.module, self.schedule, self.prediction, self.shape = module.eval(), schedule, prediction, tuple(shape)

    @property
    def receptive_field(self) -> int | None:
        """Pixels along the side of the window an output pixel sees; None for the whole image."""
        return self.module.receptive_field

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The posterior mean, without evidence: a network has none.

        Raises:
            InputError: If images, times or labels don't fit the network.
        """
        alpha, sigma, times, label = self._checked(x_t, t, label)
        weight = next(self.module.parameters())
        parts = []
        for i in range(0, len(x_t), BATCH):
            rows = slice(i, i + BATCH)
            with torch.set_grad_enabled(x_t.requires_grad), arithmetic():
                out = self.module(x_t[rows].to(weight), times[rows].to(weight), None if label is None else label[rows].to(weight.device))
            a, s = (c[rows].to(x_t).reshape(-1, 1, 1, 1) for c in (alpha, sigma))
            parts.append(recovered(self.prediction, out.to(x_t), x_t[rows], a, s))
        return Posterior(torch.cat(parts))

    def _checked(self, x_t: Tensor, t: Times, label: BatchLabels | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        times = checked_times(x_t, t, self.shape)
        alpha, sigma = self.schedule(times)
        require_noise(sigma)
        if label is None and self.module.classes:
            raise InputError("no label", f"a class, 0 to {self.module.classes - 1}: the network was trained with one", "name a label")
        return alpha, sigma, times, None if label is None else self._checked_label(label, len(x_t))

    def _checked_label(self, label: BatchLabels, count: int) -> Tensor:
        classes = self.module.classes
        label = torch.as_tensor(label)
        if classes == 0:
            raise InputError("a label", "none: the network was trained without classes", "leave out the label, or train with --conditional")
        if label.ndim > 1 or (label.ndim == 1 and len(label) != count):
            raise InputError(f"label of shape {tuple(label.shape)} for {count} images", f"shape () or ({count},)", "pass one or one each")
        if ((label < 0) | (label >= classes)).any():
            raise InputError(f"label {label.flatten().tolist()[:4]}", f"0 to {classes - 1}", "choose a class of the training data")
        return label.expand(count)
