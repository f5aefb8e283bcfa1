r"""Fresh noisy images at random noise levels, in groups that share a level, with exact targets.

A solver that sees the same noisy images again and again fits these. Here they come in pools, each used a few times and then
replaced. A pool is reproducible from its number alone, so that an interrupted solve goes on with the same bytes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.machines import Ideal
from theory.noise import Schedule
from theory.stationarity.basis import LocalBasis, predicted
from theory.stationarity.learned import Draws
from theory.types import Float, Images

BATCH = 2000  # images evaluated at a time


class Groups(NamedTuple):
    """Noisy images in groups that share a noise level.

    Attributes:
        draws: What their patches tell, and their targets; ``u`` has shape ``(G, n, P, I)`` and so on.
        t: Time of each group, in float64.
    """

    draws: Draws
    t: Float[Tensor, " G"]

    def together(self) -> "Groups":
        """One group of all images, where all are at one time."""
        return Groups(Draws(*(x.flatten(0, 1)[None] for x in vars(self.draws).values())), self.t[:1])

    def part(self, rows: Tensor) -> "Groups":
        """Some of the groups."""
        return Groups(self.draws.part(rows.to(self.draws.u.device)), self.t.index_select(0, rows.to(self.t.device)))


@dataclass(frozen=True)
class Source:
    """Where noisy images come from.

    Attributes:
        data, schedule: Training set and noise.
        basis: Coordinates of patches.
        ideal: The exact posterior mean; it gives the targets.
        dtype, device: Precision and place of the work.
    """

    data: ImageSet
    schedule: Schedule
    basis: LocalBasis
    ideal: Ideal
    dtype: torch.dtype
    device: torch.device

    def groups(self, t: Float[Tensor, " G"], count: int, seed: tuple[int, ...]) -> Groups:
        """``count`` images for each of some times.

        Args:
            t: Times, in float64 on the CPU.
            count: Images of a group.
            seed: Seed of images and noise.
        """
        times = t.repeat_interleave(count)
        u, els, target = (x.unflatten(0, (len(t), count)) for x in vars(self.told(self.noisy(times, seed), times)).values())
        return Groups(Draws(u, els, target), t)

    def noisy(self, t: Float[Tensor, " n"], seed: tuple[int, ...]) -> Images:
        """An image drawn by weight for each time, with noise; random numbers are the CPU's on every device."""
        rng = np.random.default_rng(seed)
        cumulated = self.data.weights.cpu().cumsum(0)
        uniform = torch.from_numpy(rng.random(len(t))) * cumulated[-1]
        rows = torch.searchsorted(cumulated, uniform, right=True)  # right: never an image of weight zero
        epsilon = torch.from_numpy(rng.standard_normal((len(t), *self.data.images.shape[1:])))
        x_0 = self.data.images[rows.to(self.data.images.device)].double()
        return self.schedule.perturb(x_0, t.to(x_0.device), epsilon.to(x_0.device)).to(self.device, self.dtype)

    def told(self, x_t: Images, t: Float[Tensor, " n"]) -> Draws:
        """What the patches of noisy images at these times tell, and the exact targets."""
        parts = [self._piece(*piece) for piece in zip(x_t.split(BATCH), t.to(self.device).split(BATCH), strict=True)]
        return Draws(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _piece(self, x_t: Images, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        u, els, _ = self.basis(x_t, alpha, sigma)
        a, s = (c.reshape(-1, 1, 1, 1) for c in (alpha, sigma))
        target = predicted(self.basis.prediction, self.ideal.denoise(x_t, t).double(), x_t.double(), a, s)
        return u, els, self.basis.rows(target).to(x_t)
