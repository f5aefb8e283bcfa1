r"""Descent on fresh images, over all noise levels at once.

The functions of a family at all levels are one object: every number of a `Point` is piecewise linear in
``log(sigma / alpha)`` between knots, the sum of a part that all knots share and one of its own. A step takes a few groups
of fresh images, each at a random level, and goes down the mean of

.. math:: \frac{\sum_x \|\mathrm{out}_x - T_x\|^2}{L_{\mathrm{ELS}}(t) + 0.02 \max_t L_{\mathrm{ELS}}(t)}

(losses of posterior means). ``T`` is the exact posterior mean, so that the loss has no noise but that of the images. Two
things keep the descent off the plateau where attention has learned nothing: the floor under the weight, without which
single steps at low noise outweigh all others, and the range of levels, which opens from where ELS loses most.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.stationarity.choice import surplus
from theory.stationarity.curve import Layout, hats, units
from theory.stationarity.equations import Head
from theory.stationarity.fresh import Groups, Source
from theory.stationarity.learned import Model, Net, Point
from theory.types import Float

GROUPS = 8  # groups of a step
IMAGES = 32  # images of a group
POOL = 19  # steps that one pass through a pool takes, at most
PASSES = 4  # times a pool is used
MANY = 100_000  # images that are enough to use each but half as often: what counts then is new ones, at equal cost
RATE = 3e-3  # of Adam
BETAS = (0.9, 0.99)
WARM = 200  # steps over which the rate rises; fewer in a short descent
FLAT = 0.5  # share of the steps after which the rate falls to nothing
CLIP = 3.0  # norm of the gradient
AVERAGE = 800  # steps over which weights are averaged; a tenth of all in a short descent
FLOOR = 0.02  # share of the largest ELS loss that is added to that of a level
OPENING = 0.6  # share of the steps until all levels are open
FIRST = 0.05  # share of the levels that are open at the start
PILOT = (32, 256)  # levels, and images of each, that the ELS loss is estimated from

CHECKS = 20  # looks at the watched images
NOTHING = 1e-6  # share of the target's mean square that is no loss at all

MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}  # as torch names them


class Pools(NamedTuple):
    """How fresh images are used up: ``count`` pools, each drawn at once and used ``passes`` times, in ``steps`` steps each."""

    count: int
    steps: int
    passes: int = PASSES

    @classmethod
    def of(cls, images: int, many: float = math.inf) -> "Pools":
        """For about so many images: at least those of a step, and whole pools; from ``many`` on they are used half as often."""
        steps = max(1, min(POOL, images // (GROUPS * IMAGES)))
        return cls(max(1, round(images / (GROUPS * IMAGES * steps))), steps, PASSES // 2 if images >= many else PASSES)

    @property
    def total(self) -> int:
        """All steps of a descent."""
        return self.count * self.steps * self.passes

    @property
    def images(self) -> int:
        """All images."""
        return self.count * self.steps * GROUPS * IMAGES


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

    def open(self, share: float) -> tuple[float, float]:
        """Lowest and highest open time after a share of the opening."""
        low, high = float(self.times[0]), float(self.times[-1])
        peak, reach = float(self.times[int(self.els.argmax())]), min(1.0, max(FIRST, share))
        return peak + (low - peak) * reach, peak + (high - peak) * reach

    def weights(self, t: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """What a loss of the posterior mean counts at these times."""
        return 1 / (self.els_at(t) + FLOOR * self.els.max() + self.negligible)


@dataclass(frozen=True)
class Task:
    """What is descended on.

    Attributes:
        model: The family.
        source: Where fresh images come from.
        levels: The noise levels.
        times: The knots, ascending.
        pools: How many images there are, and steps.
        seed: Seed of everything random.
        sharper: By how much attention is sharpened before a hard head's argmax takes its place.
        softened: Share of the steps in which it has not; 0 for a soft head, which stays as it is.
        rate: Of Adam.
        opening: Share of the steps until all levels are open; 0 where they are from the start.
    """

    model: Model
    source: Source
    levels: Range
    times: tuple[float, ...]
    pools: Pools
    seed: tuple[int, ...]
    sharper: float = 1.0
    softened: float = 0.0
    rate: float = RATE
    opening: float = OPENING

    def head(self, share: float) -> Head:
        """The head after a share of the steps."""
        head = self.model.head
        if not head.hard:
            return head
        beta = head.beta * self.sharper ** min(1.0, share / self.softened if self.softened else 1.0)
        return head._replace(beta=beta, hard=share >= self.softened, through=True)


class Descent:
    """A family on its way down.

    Args:
        task: What to do.
        start: The point at each knot to begin with.
        watched: Groups at the knots that progress is told from; nothing is learned from these.
    """

    def __init__(self, task: Task, start: list[Point], watched: Groups) -> None:
        self.task, self.watched, self.layout = task, watched, Layout.of(start[0])
        self.step, self.history, self.learner = 0, [], task.model
        like = start[0].coefficients
        self._scaling = self.layout.scaling(task.model).to(like)
        self._rates = self._natural(like)
        alpha, sigma = task.source.schedule(torch.tensor(task.times, dtype=torch.float64))
        self._knots = (sigma / alpha).log()
        numbers = torch.stack([self.layout.flat(p) for p in start]) / self._scale(units(self.prediction, alpha, sigma).to(like))
        shared = numbers.mean(0, keepdim=True)
        # A single knot shares with nobody: two parts that add would learn at twice the rate.
        self.theta = (torch.cat([shared, numbers - shared]) if len(start) > 1 else numbers).requires_grad_(True)
        self.average = self.theta.detach().clone()
        self.adam = torch.optim.Adam([self.theta], lr=task.rate, betas=BETAS, fused=True)

    @property
    def prediction(self) -> str:
        return self.task.source.basis.prediction

    def _natural(self, like: Tensor) -> Float[Tensor, " N"]:
        """Natural size of each number, in which one rate of learning fits all."""
        ones = self.layout.point(like.new_ones(sum(s.numel() for s in self.layout.shapes)))
        return self.layout.flat(Point(ones.net, ones.coefficients * self.task.model.rates(1.0).to(like)))

    def _scale(self, unit: Float[Tensor, " n"]) -> Float[Tensor, "n N"]:
        """What numbers are multiplied with at levels of these units."""
        return self._rates * (1 + (unit[:, None] - 1) * self._scaling)

    def at(self, theta: Tensor, t: Float[Tensor, " G"]) -> tuple[Point, Tensor]:
        """The points at these times, and the unit of an output there."""
        alpha, sigma = self.task.source.schedule(t)
        own = hats(self._knots, (sigma / alpha).log())
        weights = (torch.cat([torch.ones_like(own[:, :1]), own], 1) if len(theta) > 1 else own).to(theta)
        unit = units(self.prediction, alpha, sigma).to(theta)
        numbers = weights @ theta
        scale = self._rates if self.prediction == "sample" else self._scale(unit)
        return self.layout.point(numbers * scale), unit

    def loss(self, theta: Tensor, groups: Groups) -> Float[Tensor, "G n"]:
        """Loss of each image, of the posterior mean, under the head of the moment."""
        point, unit = self.at(theta, groups.t)
        return self.learner.loss(point, groups.draws) / unit.square()[:, None]

    def run(self, after: Callable[[], None] = lambda: None) -> list[Point]:
        """Take the steps that are left.

        Args:
            after: Called after every pool, when `tensors` holds all there is to go on from.

        Returns:
            The averaged point at each knot.
        """
        while self.step < self.task.pools.total:
            self._pool(self.step // (self.task.pools.steps * self.task.pools.passes))
            after()
        return self.points()

    @torch.enable_grad()
    def _pool(self, number: int) -> None:
        """All passes through one pool."""
        seed, (count, steps, passes) = (*self.task.seed, number), self.task.pools
        share = number / count
        rng = np.random.default_rng((*seed, 0))
        low, high = self.task.levels.open(share / self.task.opening if self.task.opening else 1.0)
        places = (np.arange(GROUPS)[:, None] + rng.random((GROUPS, steps))) / GROUPS
        times = torch.from_numpy(low + (high - low) * places.flatten())
        groups = self.task.source.groups(times, IMAGES, (*seed, 1), self.task.levels.surplus_at(times))
        self.learner = self.task.model.with_head(self.task.head(share))
        for _ in range(passes):
            order = rng.permuted(np.arange(GROUPS * steps).reshape(GROUPS, steps), axis=1)
            for rows in torch.from_numpy(np.ascontiguousarray(order.T)):
                self._step(groups.part(rows))
        if (number + 1) * CHECKS // count > number * CHECKS // count:
            self._watch()

    def _step(self, groups: Groups) -> None:
        if len(self.task.times) == 1:
            groups = groups.together()  # all at one level, with the same functions
        weights = self.task.levels.weights(groups.t).to(self.theta)
        value = ((self.loss(self.theta, groups) * groups.counts).mean(1) * weights).mean()
        self.adam.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_([self.theta], CLIP)
        self.adam.param_groups[0]["lr"] = self.task.rate * self._rate()
        self.adam.step()
        self.step += 1
        with torch.no_grad():
            self.average.lerp_(self.theta, 1 / min(AVERAGE, self.step, max(1, self.task.pools.total // 10)))

    def _rate(self) -> float:
        """Share of the rate at this step: it rises, stays, and falls to nothing."""
        steps = self.task.pools.total
        return min(1.0, (self.step + 1) / min(WARM, steps / 10), (1 - self.step / steps) / (1 - FLAT))

    @torch.no_grad()
    def _watch(self) -> None:
        self.learner = self.task.model
        parts = [self.watched.part(torch.tensor([i])) for i in range(len(self.watched.t))]
        losses = torch.cat([self.loss(self.average, part) * part.counts for part in parts])
        images, times = self.step // self.task.pools.passes * GROUPS * IMAGES, list(self.task.times)
        self.history.append({"images": images, "times": times, "losses": losses.double().mean(1).tolist()})

    def points(self) -> list[Point]:
        """The averaged point at each knot."""
        point, _ = self.at(self.average, torch.tensor(self.task.times, dtype=torch.float64))
        return [Point(Net(*(x[i].clone() for x in point.net)), point.coefficients[i].clone()) for i in range(len(self.task.times))]

    def tensors(self) -> dict[str, Tensor]:
        """All that `restore` needs beside the step and the history."""
        moments = self.adam.state.get(self.theta, {})
        moments = {name: moments[key] for name, key in MOMENTS.items()} if moments else {}
        return {"theta": self.theta.detach(), "average": self.average, **moments}

    def restore(self, tensors: dict[str, Tensor], step: int, history: list[dict]) -> None:
        """Go on from what `tensors` gave at that step."""
        with torch.no_grad():
            self.theta.copy_(tensors["theta"])
            self.average.copy_(tensors["average"])
        if step:
            moments = {key: tensors[name].to(self.theta) for name, key in MOMENTS.items()}
            self.adam.state[self.theta] = {"step": torch.tensor(float(step)), **moments}
        self.step, self.history = step, list(history)
