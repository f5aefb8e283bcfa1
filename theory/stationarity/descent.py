r"""Descent on fresh images at one noise level.

A step takes a batch of noisy images and goes down the mean of

.. math:: \frac{\sum_x \|\mathrm{out}_x - T_x\|^2}{L_{\mathrm{ELS}}(t) + 0.02 \max_t L_{\mathrm{ELS}}(t)}

(losses of posterior means). ``T`` is the exact posterior mean, so that the loss has no noise but that of the images.

From nothing, *steps* are what counts: on the toy's grid at sigma/alpha 1.2, with keys that began as queries, 100,000 images end
``full`` at .274 when each is used twice and at .22 to .24 when four times, 200,000 used twice at .220; in steps of 64 images at
.220, of 256 at .244.
Late, new images count alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.errors import InputError
from theory.predictions import units
from theory.soap import Soap
from theory.stationarity.choice import surplus
from theory.stationarity.curve import Layout
from theory.stationarity.equations import Head
from theory.stationarity.fresh import Groups, Source
from theory.stationarity.learned import Draws, Model, Net, Point
from theory.types import Float

IMAGES = 256  # images that are drawn together, of more that are chosen from
POOL = 19  # times as many are kept at once
WARM = 200  # steps over which the rate rises; fewer in a short descent
FLAT = 0.5  # share of the steps after which the rate falls to nothing
CLIP = 3.0  # norm of the gradient
AVERAGE = 800  # steps over which weights are averaged; a tenth of all in a short descent
FLOOR = 0.02  # share of the largest ELS loss that is added to that of a level
PILOT = (32, 256)  # levels, and images of each, that the ELS loss is estimated from

CHECKS = 20  # looks at the watched images
NOTHING = 1e-6  # share of the target's mean square that is no loss at all


class Pace(NamedTuple):
    """How a descent goes: images of a step (a divisor of `IMAGES`), how often each is used, and the rate of `theory.soap`."""

    batch: int
    passes: int
    rate: float


BEGINNING = Pace(64, 4, 6e-3)  # from nothing
POLISHING = Pace(256, 2, 1e-3)  # from what is good already


class Pools(NamedTuple):
    """How fresh images come: ``count`` pools of ``groups`` times `IMAGES`, each drawn at once."""

    count: int
    groups: int

    @classmethod
    def of(cls, images: int) -> "Pools":
        """For about so many images: at least those of a group, and whole pools."""
        groups = max(1, min(POOL, images // IMAGES))
        return cls(max(1, round(images / (IMAGES * groups))), groups)

    @property
    def images(self) -> int:
        """All images."""
        return self.count * self.groups * IMAGES


@dataclass(frozen=True)
class Range:
    """The noise levels that are solved, and how much ELS loses at them.

    Attributes:
        times: Equally spaced, ascending, in float64 on the CPU.
        els: Loss of ELS there, of the posterior mean.
        surplus: How many images to draw there for each that is learned from (`theory.stationarity.choice`).
        negligible: A loss that is none.
    """

    times: Float[Tensor, " L"]
    els: Float[Tensor, " L"]
    surplus: Float[Tensor, " L"]
    negligible: float = 0.0

    @classmethod
    def of(cls, source: Source, low: float, high: float, seed: tuple[int, ...]) -> "Range":
        """Measured on a few images of each level."""
        levels, count = PILOT
        times = torch.linspace(low, high, levels if high > low else 1, dtype=torch.float64)
        draws = source.groups(times, count, seed).draws
        losses = (draws.els - draws.target).double().square().sum((-2, -1)).cpu()
        mean = source.data.images.double().square().flatten(1).sum(1)
        negligible = NOTHING * float(mean @ source.data.weights / source.data.weights.sum())
        negligible = negligible or NOTHING  # black images alone: there is no size to compare with
        unit = units(source.basis.prediction, *source.schedule(times))
        return cls(times, losses.mean(1) / unit.square(), surplus(losses), negligible)

    def at(self, t: float) -> "Range":
        """That of a single level."""
        here = torch.tensor([t], dtype=torch.float64)
        return Range(here, self.els_at(here), self.surplus_at(here), self.negligible)

    def els_at(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Loss of ELS, of the posterior mean, linear between the levels where it was measured."""
        return torch.from_numpy(np.interp(t.numpy(), self.times.numpy(), self.els.numpy()))

    def surplus_at(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How many images to draw for each that is learned from, likewise."""
        return torch.from_numpy(np.interp(t.numpy(), self.times.numpy(), self.surplus.numpy()))

    def weights(self, t: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """What a loss of the posterior mean counts at these times."""
        return 1 / (self.els_at(t) + FLOOR * self.els.max() + self.negligible)


@dataclass(frozen=True)
class Task:
    """What is descended on.

    Attributes:
        model: The family.
        source: Where fresh images come from.
        levels: How much ELS loses at every noise level.
        t: The noise level.
        pools: How many images there are.
        pace: How they are used.
        seed: Seed of everything random.
        sharper: By how much attention is sharpened before a hard head's argmax takes its place.
        rising: Share of the steps over which it is; 0 for a start that was found with sharp attention.
        softened: Share of the steps before the argmax; 0 for a soft head, which stays as it is.
    """

    model: Model
    source: Source
    levels: Range
    t: float
    pools: Pools
    pace: Pace
    seed: tuple[int, ...]
    sharper: float = 1.0
    rising: float = 0.0
    softened: float = 0.0

    @property
    def steps(self) -> int:
        """All of them."""
        return self.pools.images // self.pace.batch * self.pace.passes

    def head(self, share: float) -> Head:
        """The head after a share of the steps."""
        head = self.model.head
        if not head.hard:
            return head
        beta = head.beta * self.sharper ** min(1.0, share / self.rising if self.rising else 1.0)
        return head._replace(beta=beta, hard=share >= self.softened, through=True)


class Descent:
    """A family on its way down.

    Args:
        task: What to do.
        start: Where to begin.
        watched: A group of images that progress is told from; nothing is learned from these.
    """

    def __init__(self, task: Task, start: Point, watched: Groups) -> None:
        self.task, self.layout = task, Layout.of(start)
        self.watched = watched.together()
        self.step, self.history, self.learner = 0, [], task.model
        like, here = start.coefficients, torch.tensor([task.t], dtype=torch.float64)
        self.unit = float(units(task.source.basis.prediction, *task.source.schedule(here)))
        self._scale = self._natural(like) * (1 + (self.unit - 1) * self.layout.scaling(task.model).to(like))
        self._weight = float(task.levels.weights(here))
        self.theta = (self.layout.flat(start) / self._scale).requires_grad_(True)
        self.average = self.theta.detach().clone()
        self.lowest = self.average.clone()
        self.parts = self._parts(self.theta.detach())
        self.soap = Soap([{"params": self.parts, "lr": like.new_zeros(())}])

    def _natural(self, like: Tensor) -> Float[Tensor, " N"]:
        """Natural size of each number, in which one rate of learning fits all, under the head of the first step."""
        model = self.task.model.with_head(self.task.head(0.0))
        ones = self.layout.point(like.new_ones(sum(s.numel() for s in self.layout.shapes)))
        return self.layout.flat(Point(ones.net, ones.coefficients * model.rates(1.0).to(like)))

    def _parts(self, numbers: Float[Tensor, " N"]) -> list[Tensor]:
        """The tensors of a point, in the memory of these numbers."""
        net, coefficients = self.layout.point(numbers)
        return [*net, coefficients]

    def point(self, theta: Float[Tensor, " N"] | None = None) -> Point:
        """The functions of these numbers; of their average where none are given."""
        return self.layout.point((self.average if theta is None else theta) * self._scale)

    def loss(self, theta: Float[Tensor, " N"], draws: Draws) -> Float[Tensor, " n"]:
        """Loss of each image, of the posterior mean, under the head of the moment."""
        return self.learner.loss(self.point(theta), draws) / self.unit**2

    def run(self, after: Callable[[], None] = lambda: None) -> Point:
        """Take the steps that are left.

        Args:
            after: Called after every pool, when `tensors` holds all there is to go on from.

        Returns:
            The averaged point where it lost least on the watched images. A descent through an argmax follows a gradient that is not
            that of its loss, and may end above where it has been.
        """
        while self.step < self.task.steps:
            self._pool(self.step * self.task.pools.count // self.task.steps)
            after()
        net, coefficients = self.point(self.lowest)
        return Point(Net(*(x.clone() for x in net)), coefficients.clone())

    @torch.enable_grad()
    def _pool(self, number: int) -> None:
        """All passes through one pool."""
        seed, (count, groups), pace = (*self.task.seed, number), self.task.pools, self.task.pace
        rng = np.random.default_rng((*seed, 0))
        times = torch.full((groups,), self.task.t, dtype=torch.float64)
        draws, counts = self.task.source.groups(times, IMAGES, (*seed, 1), self.task.levels.surplus_at(times)).together()
        self.learner = self.task.model.with_head(self.task.head(number / count))
        for _ in range(pace.passes):
            for rows in torch.from_numpy(rng.permutation(groups * IMAGES)).split(pace.batch):
                self._step(draws.part(rows.to(counts.device)), counts.index_select(0, rows.to(counts.device)))
        if (number + 1) * CHECKS // count > number * CHECKS // count:
            self._watch()

    def _step(self, draws: Draws, counts: Float[Tensor, " n"]) -> None:
        value = (self.loss(self.theta, draws) * counts).mean() * self._weight
        self.theta.grad = None
        value.backward()
        torch.nn.utils.clip_grad_norm_([self.theta], CLIP)
        for part, gradient in zip(self.parts, self._parts(self.theta.grad), strict=True):
            part.grad = gradient
        self.soap.param_groups[0]["lr"].fill_(self.task.pace.rate * self._rate())
        self.soap.prepare(self.step)
        self.soap.step()
        self.step += 1
        with torch.no_grad():
            self.average.lerp_(self.theta, 1 / min(AVERAGE, self.step, max(1, self.task.steps // 10)))

    def _rate(self) -> float:
        """Share of the rate at this step: it rises, stays, and falls to nothing."""
        steps = self.task.steps
        return min(1.0, (self.step + 1) / min(WARM, steps / 10), (1 - self.step / steps) / (1 - FLAT))

    @torch.no_grad()
    def _watch(self) -> None:
        self.learner = self.task.model
        draws, counts = self.watched
        loss = float((self.loss(self.average, draws) * counts).double().mean())
        if all(loss < h["loss"] for h in self.history):
            self.lowest.copy_(self.average)
        self.history.append({"images": self.step * self.task.pace.batch // self.task.pace.passes, "loss": loss})

    def tensors(self) -> dict[str, Tensor]:
        """All that `restore` needs beside the step and the history."""
        moments = {f"{i}.{name}": x for i, part in enumerate(self.parts) for name, x in self.soap.state[part].items()}
        return {"theta": self.theta.detach(), "average": self.average, "lowest": self.lowest, **moments}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int, history: list[dict]) -> None:
        """Go on from what `tensors` gave at that step.

        Raises:
            InputError: If another version gave it.
        """
        mine = self.tensors()
        if {name: x.shape for name, x in mine.items()} != {name: x.shape for name, x in tensors.items()}:
            raise InputError("a descent that another version was on", "one of this version", "leave out --resume to start anew")
        for name, x in mine.items():
            x.copy_(tensors[name])
        self.step, self.history = step, list(history)
