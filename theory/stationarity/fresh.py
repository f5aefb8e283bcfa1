r"""Fresh noisy images at random noise levels, in groups that share a level, with exact targets.

A solver that sees the same noisy images again and again fits these. Here they come in pools, each used a few times and then
replaced. A pool is reproducible from its number alone, so that an interrupted solve goes on with the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.machines import Ideal
from theory.noise import Schedule
from theory.predictions import predicted
from theory.stationarity.basis import LocalBasis
from theory.stationarity.choice import chosen
from theory.stationarity.learned import Draws
from theory.types import Float, Images

BATCH = 2000  # images evaluated at a time


def _batches(counts: list[int]) -> Iterator[slice]:
    """Groups of so many images in batches of at most `BATCH`, or of one group."""
    start = total = 0
    for i, count in enumerate(counts):
        if i > start and total + count > BATCH:
            yield slice(start, i)
            start, total = i, 0
        total += count
    yield slice(start, len(counts))


class Groups(NamedTuple):
    """Noisy images in groups that share a noise level.

    Attributes:
        draws: What their patches tell, and their targets; ``u`` has shape ``(G, n, P, I)`` and so on.
        t: Time of each group, in float64.
        counts: What each image counts in a mean over its group.
    """

    draws: Draws
    t: Float[Tensor, " G"]
    counts: Float[Tensor, "G n"]

    def together(self) -> tuple[Draws, Float[Tensor, " n"]]:
        """All images and what they count, without the groups."""
        return Draws(*(x.flatten(0, 1) for x in vars(self.draws).values())), self.counts.flatten()

    def part(self, rows: Tensor) -> "Groups":
        """Some of the groups."""
        there = rows.to(self.draws.u.device)
        return Groups(self.draws.part(there), self.t.index_select(0, rows.to(self.t.device)), self.counts.index_select(0, there))


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

    def groups(self, t: Float[Tensor, " G"], count: int, seed: tuple[int, ...], surplus: Float[Tensor, " G"] | None = None) -> Groups:
        """``count`` images for each of some times.

        Args:
            t: Times, in float64 on the CPU.
            count: Images of a group.
            seed: Seed of images, noise and choice.
            surplus: How many images to draw for each that is kept (`theory.stationarity.choice`); all are kept if None.
        """
        drawn = [count] * len(t) if surplus is None else (count * surplus).round().int().tolist()
        times = t.repeat_interleave(torch.tensor(drawn))
        x_t, starts = self.noisy(times, seed), np.cumsum([0, *drawn])
        uniform = np.random.default_rng((*seed, 1)).random(len(t))
        kept, counts = [], []
        for some in _batches(drawn):
            rows = slice(starts[some.start], starts[some.stop])
            told = self.told(x_t[rows], times[rows])
            losses = (told.els - told.target).double().square().sum((-2, -1)).cpu().split(drawn[some])
            picked = [chosen(x, count, u) for x, u in zip(losses, uniform[some].tolist(), strict=True)]
            offsets = torch.from_numpy(starts[some] - starts[some.start])
            kept.append(told.part(torch.cat([r + o for (r, _), o in zip(picked, offsets, strict=True)]).to(told.u.device)))
            counts.extend(c for _, c in picked)
        draws = Draws(*(torch.cat(x).unflatten(0, (len(t), count)) for x in zip(*(vars(k).values() for k in kept), strict=True)))
        return Groups(draws, t, torch.stack(counts).to(draws.u))

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
