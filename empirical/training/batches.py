r"""What a step is trained on: noisy images, and what the network should make of them.

Images are drawn by weight, times uniformly (a share ``focus`` of them from the middle only), noise is fresh. The network's
output is compared with

.. math:: T = m, \ (x_t - \alpha_t m) / \sigma_t, \ -(x_t - \alpha_t m) / \sigma_t^2
          \ \text{or} \ (\alpha_t x_t - (\alpha_t^2 + \sigma_t^2) m) / \sigma_t ,

for the prediction types ``sample``, ``epsilon``, ``score`` (whose loss has the weight ``w_t = sigma_t^2``, others 1) and ``v``
(`theory.predictions`), with ``m`` the clean image ``x_0``, or under ``target="posterior"`` the exact posterior mean
``E[x_0 | x_t]`` of the training set (of the class, where the network is told one). This changes the loss by a constant, and so
neither its gradient's mean nor any optimum; what the clean image adds to the gradient's noise is gone.

Where training begins at one noise level (``begin``), times are drawn near that one for a tenth of the steps (`ALONE`), and from a
range that opens linearly to all of them until a quarter is done (`OPEN`): with ``w`` in [0, 1] how far, a time ``t`` becomes
``w t + (1 - w) t_0``, and up to `NEAR` to either side. Attention is soft and soon found where noise is high, and what is found there
carries over; over all levels at once networks with attention stay for many thousands of steps where the CNN ends.

All numbers come from the default generator of the device, which the trainer seeds by seed and step: what networks draw
themselves goes on where this ends, and a captured graph replays both from that seed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from empirical.training.config import Config
from theory.data import ImageSet
from theory.data.toy import Toy
from theory.machines import Ideal
from theory.noise import Schedule
from theory.predictions import predicted

EARLIEST = 1e-3  # times are drawn from here to 1: at t = 0 there is nothing to denoise
ALONE, OPEN = 0.1, 0.25  # shares of the steps until which there is one noise level, and from which there are all
NEAR = 0.03  # how far in time a level reaches to either side while it is alone
MIDDLE = (0.25, 0.75)  # times at which context has most to say: sigma/alpha .41 to 2.4 on the cosine schedule


class Batch(NamedTuple):
    """One step's images.

    Attributes:
        x_t: Noisy images with shape ``(B, C, H, W)``, float32.
        times: Their times with shape ``(B,)``, float32.
        goal: What an ideal network would put out, ``T`` above, with the shape of ``x_t``.
        weight: ``w_t`` with shape ``(B, 1, 1, 1)``, or None where it is 1.
        label: Their classes with shape ``(B,)``, or None.
    """

    x_t: Tensor
    times: Tensor
    goal: Tensor
    weight: Tensor | None
    label: Tensor | None


class Batches:
    """Draws batches, all on one device. Nothing waits for the device but `Ideal` posteriors.

    Args:
        config: What to train.
        data: The training set.
        noise: The noise schedule.
        device: Where.

    Attributes:
        posterior: ``(x_t, t, label)`` to the exact posterior mean, or None where the target is the clean image.
        capturable: Whether a CUDA graph can hold the draw of a batch.
    """

    def __init__(self, config: Config, data: ImageSet, noise: Schedule, device: torch.device) -> None:
        self.config, self.schedule, self.device = config, noise, device
        self.images, self.cumulated = data.images.to(device), data.weights.cumsum(0).to(device)
        self.labels = data.labels.to(device) if config.conditional else None
        self.posterior = _posterior(data, noise) if config.target == "posterior" else None
        self.first = None if config.begin is None else float(noise.time(torch.tensor([config.begin], dtype=torch.float64)))
        self.width = torch.ones((), dtype=torch.float64, device=device)  # w
        self.capturable = self.posterior is None or isinstance(data.rule, Toy)

    def prepare(self, step: int) -> None:
        """Set how far the range of times has opened at a step, counted from 0."""
        if self.first is not None:
            self.width.fill_(min(1.0, max(0.0, (step / self.config.steps - ALONE) / (OPEN - ALONE))))

    def __call__(self) -> Batch:
        """The next batch from the default generator."""
        uniform = torch.rand(3, self.config.batch, dtype=torch.float64, device=self.device)
        index = torch.searchsorted(self.cumulated, uniform[0] * self.cumulated[-1], right=True).clamp_(max=len(self.images) - 1)
        x, label = self.images.index_select(0, index), None if self.labels is None else self.labels.index_select(0, index)
        t = self._times(uniform[1], uniform[2])
        alpha, sigma = (c.to(x).reshape(-1, 1, 1, 1) for c in self.schedule.coefficients(t))  # drawn from [0, 1]: nothing to check
        x_t = alpha * x + sigma * torch.randn(x.shape, device=self.device)
        mean = x if self.posterior is None else self.posterior(x_t, t, label)
        goal = predicted(self.config.prediction, mean, x_t, alpha, sigma)
        return Batch(x_t, t.to(x), goal, sigma**2 if self.config.prediction == "score" else None, label)

    def _times(self, place: Tensor, which: Tensor) -> Tensor:
        low, high = MIDDLE
        t = torch.where(which < self.config.focus, low + (high - low) * place, EARLIEST + (1 - EARLIEST) * place)
        if self.first is None:
            return t
        near = (self.first + NEAR * (2 * place - 1)).clamp(EARLIEST, 1)
        return near + self.width * (t - near)


def _posterior(data: ImageSet, noise: Schedule) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The exact posterior mean of a batch, given its labels if there are any."""
    if isinstance(data.rule, Toy):
        return lambda x_t, t, label: data.rule.posterior_mean(x_t, *noise.coefficients(t))
    return Ideal(data, noise).denoise
