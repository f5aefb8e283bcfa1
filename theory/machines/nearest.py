r"""The posterior over the nearest training images alone: what shortcuts to the ideal score compute.

.. math:: E[x_0 | x_t] \approx \frac{\sum_{n \in N_k} w_n e^{\ell_n} x_n}{\sum_{n \in N_k} w_n e^{\ell_n}}, \qquad
          \ell_n = -\frac{\|x_t - \alpha_t x_n\|^2}{2 \sigma_t^2}

with ``N_k`` the ``k`` images of smallest ``||x_t - alpha_t x_n||``. Published code for large data sets keeps a few hundred at every
noise level (GoldDiff: 256) and does not say what that leaves out; here ``Posterior.skipped`` is the share of the weight of *all*
images that the others hold, summed exactly. At high noise it is nearly all of it. (For sums with a bound that is kept, see ``rtol=``.)
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.errors import InputError
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm
from theory.noise import Schedule
from theory.types import Coefficients, Images

COUNT = 256  # as in the published code of GoldDiff


class Nearest(ClosedForm):
    """The posterior over the nearest images; evidence and effective number are those of the images kept.

    Args:
        data, schedule, memory: As in `ClosedForm`.
        count: How many; if None, 256, or all of a class with fewer.

    Raises:
        InputError: If the count is no positive number, or larger than the number of images (of a class, when one is asked for).
    """

    name = "nearest"
    settings = ("count",)
    how = "distances to all images in float64, then a sum over the nearest"

    def __init__(self, data: ImageSet, schedule: Schedule | None = None, *, count: int | None = None, memory: int = MEMORY) -> None:
        super().__init__(data, schedule, memory=memory)
        self.count = None if count is None else checks.whole(count, "count", 1)
        self._chosen(None)

    def _chosen(self, label: int | None) -> tuple[ImageSet, int]:
        """Images of a class, and how many of them count."""
        chosen = self._once(label, lambda: self.data.select(label))
        if self.count is not None and self.count > len(chosen):
            whose = f"data set {self.data.name!r}" + ("" if label is None else f", label {label}")
            raise InputError(f"count={self.count} nearest images of {len(chosen)} ({whose})", f"at most {len(chosen)}", "lower count=")
        return chosen, self.count or min(COUNT, len(chosen))

    @torch.no_grad()
    def _of_kind(self, kind: tuple[int | None], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        chosen, count = self._chosen(*kind)
        step = max(1, self.memory // (64 * max(count * x_t[0].numel(), len(chosen))))
        parts = [self._batch(chosen, count, *(c[i : i + step] for c in (x_t, alpha, sigma))) for i in range(0, len(x_t), step)]
        return Posterior(*(torch.cat(field).to(x_t) for field in zip(*parts, strict=True)))

    def _batch(self, chosen: ImageSet, count: int, x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        x = x_t.double().flatten(1)
        log_weights = chosen.weights.log().to(x.device)
        distances = torch.cat([_distances(x, part, alpha) for part in self._pieces(chosen.images, x.device)], 1)
        index = distances.sort(stable=True, dim=1).indices[:, :count]
        everything = log_weights - distances / (2 * sigma[:, None] ** 2)
        others = torch.logsumexp(everything.scatter(1, index, -torch.inf), 1)
        skipped = torch.exp(others - torch.logsumexp(everything, 1))
        images = chosen.images[index.flatten().to(chosen.images.device)].to(x).reshape(len(x), count, -1)
        exact = (x[:, None] - alpha[:, None, None] * images).square().sum(2)  # directly: products lose digits at low noise
        logits = log_weights[index] - exact / (2 * sigma[:, None] ** 2)
        share = logits.softmax(1)
        mean = (share[:, None] @ images)[:, 0].reshape(x_t.shape)
        density = torch.logsumexp(logits, 1) - x.shape[1] * torch.log(sigma * math.sqrt(2 * math.pi))
        return Posterior(mean, density, 1 / share.square().sum(1), skipped)

    def _pieces(self, images: Tensor, device: torch.device) -> Iterator[Tensor]:
        step = max(1, self.memory // (64 * images[0].numel()))
        yield from (part.to(device=device, dtype=torch.float64).flatten(1) for part in images.split(step))


def _distances(x: Tensor, images: Tensor, alpha: Coefficients) -> Tensor:
    """``||x - alpha x_n||^2`` of all pairs, by a product in float64; centred, so that it loses few digits."""
    centre = images.mean(0)
    q, k = x - alpha[:, None] * centre, images - centre
    cross = alpha[:, None] * (q @ k.T)
    return (q.square().sum(1, keepdim=True) - 2 * cross + alpha[:, None] ** 2 * k.square().sum(1)).clamp(min=0)
