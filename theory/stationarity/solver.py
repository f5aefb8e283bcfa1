r"""Solving a family: descents from independent starts, and the lowest is the solution.

A soft family starts from random features, a local part that alone is ELS, queries equal to keys and faint values
(`theory.stationarity.learned`), the same at every level. It goes down on fresh images (`theory.stationarity.descent`) over all
levels together, which leaves the plateau of ELS and gives all levels the same features, and then at each level by itself, where
most is gained. A hard family starts from the solution of its soft one, whose attention is sharpened before the argmax takes its
place, whose derivative is then that of the softmax.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from theory.stationarity.certificate import Certificate, certify
from theory.stationarity.curve import Curve, moved, units
from theory.stationarity.descent import GROUPS, IMAGES, MANY, Descent, Pools, Range, Task
from theory.stationarity.equations import Head
from theory.stationarity.families import FAMILIES, Family, family
from theory.stationarity.fresh import Groups, Source
from theory.stationarity.gap import printed_gap
from theory.stationarity.learned import Draws, Model, Net, Point
from theory.stationarity.level import Level
from theory.stationarity.options import EVERYWHERE, Options
from theory.stationarity.parallel import Stopped, side_by_side

SHARPER = 4.0  # by how much attention is sharpened on the way to the argmax
SOFTENED = 0.25  # share of the steps of a hard family that take the softmax
TOGETHER, ALONE = 0.4, 0.6  # shares of the images
ALONE_RATE, ON_RATE = 1e-3, 3e-4  # of Adam: after all levels together, and where a solution goes on
WATCHED = 1000  # images of each knot that progress is told from, and starts are compared by
REACH = 4  # knots on either side whose functions a level may take over


@dataclass(frozen=True)
class Found:
    """What one descent ended with.

    Attributes:
        points: The point at each knot.
        history: Images seen, times of knots, and the losses there then.
        images: Fresh images seen.
        steps: How many steps were taken.
        seconds: How long they took.
        alone: The same for the descent of each knot by itself.
    """

    points: list[Point] = field(repr=False)
    history: list[dict]
    images: int
    steps: int
    seconds: float
    alone: tuple[list[dict], ...] = ()


@dataclass(frozen=True)
class Solved:
    """A family, solved.

    Attributes:
        best: The lowest of the descents.
        certificates: Of each knot.
        printed: For the literal family, how much the printed equation misses at each knot (`printed_gap`).
        clusters: Those of the basis (`LocalBasis.clusters`).
    """

    best: Found
    certificates: list[Certificate]
    printed: list[float | None]
    clusters: list[Tensor] = field(repr=False)


Run = Callable[[str, Descent, Stopped], Found]


def with_parents(names: tuple[str, ...]) -> list[Family]:
    """Families in the order they are solved, with those they start from.

    A hard family starts from its soft one.
    """
    wanted = {family(name).name for name in names} | {name.removeprefix("top1_") for name in names}
    return [f for f in FAMILIES.values() if f.name in wanted]


class Solver:
    """Solves families, in the order of `with_parents`.

    Args:
        source: Where noisy images come from.
        times: The knots, ascending.
        options: How to solve.
        run: Takes a descent to its end, by name; gives up where it is told to (`theory.stationarity.parallel`).
        judge: Images to judge by at a knot, by its number.
        starts: What the first descent of a family goes on from, each level by itself; the others start from nothing.
        within: Range of ``sigma / alpha`` in which these go on; elsewhere they stay as they are.
    """

    def __init__(
        self,
        source: Source,
        times: tuple[float, ...],
        options: Options,
        run: Run,
        judge: Callable[[int], Level],
        starts: Mapping[str, Found] | None = None,
        within: tuple[float, float] = EVERYWHERE,
    ) -> None:
        self.source, self.times, self.options, self.run, self.judge, self.starts = source, times, options, run, judge, starts or {}
        self.within = within
        self._levels: Range | None = None
        self._watched: Groups | None = None

    def model(self, chosen: Family) -> Model:
        o = self.options
        basis = self.source.basis
        return Model(chosen, Head(o.strength, o.beta, chosen.hard), basis.classes.to(self.source.device), basis.shape[0], o.embedding)

    @property
    def levels(self) -> Range:
        if self._levels is None:
            self._levels = Range.of(self.source, self.times[0], self.times[-1], (self.options.seed, 1))
        return self._levels

    @property
    def watched(self) -> Groups:
        """Images that progress is told from, and starts are compared by."""
        if self._watched is None:
            times, count = torch.tensor(self.times, dtype=torch.float64), min(WATCHED, self.options.fresh)
            self._watched = self.source.groups(times, count, (self.options.seed, 2), self.levels.surplus_at(times))
        return self._watched

    def solve(self, chosen: Family, found: dict[str, list[Found]]) -> list[Found]:
        """The lowest of a family's descents, of their starts and of the families it contains; then the descents from other starts, which
        alone are independent of it.

        Args:
            chosen: The family.
            found: Those of the families before it.
        """
        model = self.model(chosen)
        options = [self.options, self.options.halved][: 1 + self.options.challenge]
        ended, others = [], []
        for number, o in enumerate(options):
            start = self.begun(chosen, number, o, found)
            ended.append(self.descended(chosen, number, o, start))
            others.append(replace(ended[-1], points=start.points))
        others += [self.embedded(model, found[c][0], c) for c in chosen.contains if c in found]
        everyone = [replace(f, points=self.quiet(model, f.points)) for f in (*ended, *others)]
        best = min(everyone, key=lambda f: self.total(model, f.points))
        place = next(i for i, f in enumerate(everyone) if f is best)
        own = place % len(ended) if place < 2 * len(ended) else None  # the start it comes from
        best = replace(best, points=self.bridged(model, best.points, self.within if chosen.name in self.starts else EVERYWHERE))
        return [best, *(f for i, f in enumerate(everyone[: len(ended)]) if i != own)]

    def begun(self, chosen: Family, number: int, options: Options, found: dict[str, list[Found]]) -> Found:
        """What a descent starts from: what is given, the soft family's of the same number, or nothing."""
        if number == 0 and chosen.name in self.starts:
            return self.starts[chosen.name]
        if not chosen.hard:
            return Found(self.start(self.model(chosen), options, number), [], 0, 0, 0.0)
        parents = found[chosen.name.removeprefix("top1_")]
        return Found(parents[min(number, len(parents) - 1)].points, [], 0, 0, 0.0)

    def descended(self, chosen: Family, number: int, options: Options, start: Found) -> Found:
        """Down from a start: all levels together, unless that is given, then each by itself."""
        name, given = f"{chosen.name}-{number + 1}", number == 0 and chosen.name in self.starts
        images = options.images // 2 if chosen.hard and not given else options.images  # half the way of a hard family is behind it
        seed = (self.options.seed, 3 + number, list(FAMILIES).index(chosen.name))
        first = Pools.of(round((TOGETHER if len(self.times) > 1 else 1) * images))
        task = Task(self.model(chosen), self.source, self.levels, self.times, first, (*seed, 0))
        if given:
            task = replace(task, seed=(*seed, start.steps), rate=ON_RATE)
            return self.apart(name, task, images, start, self.within)
        if chosen.hard:
            task = replace(task, sharper=SHARPER, softened=SOFTENED, opening=0.0)
        together = self.run(name, Descent(task, start.points, self.watched), lambda: False)
        task = replace(task, rate=ALONE_RATE)
        return self.apart(name, task, ALONE * images, together) if len(self.times) > 1 else together

    def apart(self, name: str, task: Task, images: float, start: Found, within: tuple[float, float] = EVERYWHERE) -> Found:
        """Each level by itself, as long as that is lower on the watched images: a descent may end above a start that was low.

        As many at a time as there are cores; only those ``within`` a range of ``sigma / alpha``. Before and after it a level may take
        over what its neighbours have.
        """
        counts = [round(images * share) for share in self.shares(within)]
        start = replace(start, points=self.lent(task.model, start.points, counts))
        out = replace(start, points=list(start.points), alone=tuple(list(a) for a in start.alone or [[]] * len(self.times)))
        knots = [knot for knot, count in enumerate(counts) if count >= GROUPS * IMAGES]  # enough for a step

        def descend(knot: int, stopped: Stopped) -> Found:
            pools, t, seed = Pools.of(counts[knot], MANY), self.times[knot], (*task.seed[:-1], 1 + task.seed[-1], knot)
            by_itself = replace(task, levels=self.levels.at(t), times=(t,), pools=pools, seed=seed, softened=0.0, opening=0.0)
            descent = Descent(by_itself, [start.points[knot]], self.watched.part(torch.tensor([knot])))
            return self.run(f"{name}-level-{knot + 1}", descent, stopped)

        cores = torch.get_num_threads() if self.source.device.type == "cpu" else 1
        for knot, found in zip(knots, side_by_side(descend, knots, cores), strict=True):
            ends = [self.loss(task.model, p, knot) for p in (start.points[knot], found.points[0])]
            out.points[knot] = found.points[0] if ends[1] < ends[0] or not np.isfinite(ends[0]) else start.points[knot]
            before = out.alone[knot][-1]["images"] if out.alone[knot] else 0
            out.alone[knot].extend({**h, "images": before + h["images"]} for h in found.history)
            out = replace(out, images=out.images + found.images, steps=out.steps + found.steps, seconds=out.seconds + found.seconds)
        return replace(out, points=self.lent(task.model, out.points, counts))

    def bridged(self, model: Model, points: list[Point], within: tuple[float, float]) -> list[Point]:
        """Outward from where ELS loses most, the functions of a level or those of the one before it, whichever lose less there and halfway.

        Two levels may do equally well by unlike functions; what is interpolated between these does not.
        """
        alpha, sigma = self.source.schedule(torch.tensor(self.times, dtype=torch.float64))
        s, unit, out = (sigma / alpha).log(), units(self.options.prediction, alpha, sigma), list(points)
        counts = self.levels.weights(self.watched.t) / unit.square()
        peak = int(self.levels.els_at(self.watched.t).argmax())
        outward = [(i, i + 1) for i in reversed(range(peak))] + [(i, i - 1) for i in range(peak + 1, len(points))]
        for knot, inner in ((i, j) for i, j in outward if within[0] <= float(s[i].exp()) <= within[1]):
            pair, group = [knot, inner], self.halfway(knot, inner)
            middle = units(self.options.prediction, *self.source.schedule(group.t))
            count = float(self.levels.weights(group.t) / middle.square())

            def cost(point: Point) -> float:
                mixed = Curve(model, [point, out[inner]], s[pair], unit[pair]).at(s[pair].mean()[None], middle, point.coefficients)  # noqa: B023
                between = mean_loss(model, Point(Net(*(x[0] for x in mixed.net)), mixed.coefficients[0]), group)  # noqa: B023
                return float(counts[knot]) * self.loss(model, point, knot) + count * between  # noqa: B023

            given = [out[knot], moved(model, out[inner], float(unit[inner]), float(unit[knot]))]
            out[knot] = given[int(np.argmin(np.nan_to_num([cost(p) for p in given], nan=np.inf)))]
        return out

    def halfway(self, knot: int, other: int) -> Groups:
        """Images to watch between two knots."""
        alpha, sigma = self.source.schedule(self.watched.t[[knot, other]])
        t = self.source.schedule.time((sigma / alpha).log().mean().exp())[None]
        count = self.watched.counts.shape[1]
        return self.source.groups(t, count, (self.options.seed, 2, 1 + min(knot, other)), self.levels.surplus_at(t))

    def lent(self, model: Model, points: list[Point], counts: list[int]) -> list[Point]:
        """At every knot that has images, the lowest of its own functions and those of its neighbours, up to `REACH` away.

        What a patch tells changes with the noise; the functions of it hardly do. A neighbour may have found better ones, above all
        where images that matter are rare.
        """
        alpha, sigma = self.source.schedule(torch.tensor(self.times, dtype=torch.float64))
        unit = units(self.options.prediction, alpha, sigma).tolist()
        out = list(points)
        for knot in (i for i, count in enumerate(counts) if count):
            near = sorted(range(max(0, knot - REACH), min(len(points), knot + REACH + 1)), key=lambda i: abs(i - knot))
            given = [moved(model, points[i], unit[i], unit[knot]) if i != knot else points[knot] for i in near]
            losses = [self.loss(model, p, knot) for p in given]
            out[knot] = given[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]
        return out

    def shares(self, within: tuple[float, float] = EVERYWHERE) -> list[float]:
        """Share of the images that each knot within a range gets for itself: as the root of what the loss of ELS counts there.

        In proportion to it, levels where ELS loses little got too few to learn anything.
        """
        counts = (self.levels.weights(self.watched.t) * self.levels.els_at(self.watched.t)).sqrt()
        alpha, sigma = self.source.schedule(self.watched.t)
        counts = counts.where((sigma >= within[0] * alpha) & (sigma <= within[1] * alpha), 0.0)
        return (counts / counts.sum().clamp(min=1e-300)).tolist()

    def start(self, model: Model, options: Options, number: int) -> list[Point]:
        """Random functions, the same at every knot."""
        rng = np.random.default_rng((self.options.seed, number, list(FAMILIES).index(model.family.name)))
        like = torch.zeros(1, dtype=self.source.dtype, device=self.source.device)
        return [model.start(self.source.basis.size, options.features, rng, like, 1.0)] * len(self.times)

    def loss(self, model: Model, point: Point, knot: int) -> float:
        """Loss on the images that are watched at a knot."""
        return mean_loss(model, point, self.watched.part(torch.tensor([knot])))

    def watch(self, knot: int) -> Draws:
        """What is watched at a knot."""
        draws = self.watched.draws
        return Draws(draws.u[knot], draws.els[knot], draws.target[knot])

    def total(self, model: Model, points: list[Point]) -> float:
        """Watched losses of all knots, each as it counts in a descent; infinite where one is not finite."""
        alpha, sigma = self.source.schedule(self.watched.t)
        unit = units(self.options.prediction, alpha, sigma)
        losses = torch.tensor([self.loss(model, p, i) for i, p in enumerate(points)], dtype=torch.float64)
        value = float((losses / unit.square() * self.levels.weights(self.watched.t)).sum())
        return value if np.isfinite(value) else np.inf

    def quiet(self, model: Model, points: list[Point]) -> list[Point]:
        """The same, and ELS at knots where that is lower and values can be nothing: the features stay, and nothing uses them.

        Without attention ELS is the optimum itself.
        """
        if not model.head.strength:
            return [silenced(model, p) for p in points]
        if not model.family.free:
            return points
        silent = [silenced(model, p) for p in points]
        lower = [self.loss(model, a, i) < self.loss(model, b, i) for i, (a, b) in enumerate(zip(silent, points, strict=True))]
        return [a if yes else b for a, b, yes in zip(silent, points, lower, strict=True)]

    def embedded(self, model: Model, smaller: Found, name: str) -> Found:
        """A solution of a family that this one contains, written as one of this family."""
        theirs = self.model(FAMILIES[name])
        return replace(smaller, points=[embedded(model, theirs, p) for p in smaller.points])

    def certify(self, found: dict[str, list[Found]], report: Callable[[int], None] = lambda knot: None) -> dict[str, Solved]:
        """Judge all families at all knots on the same fresh images."""
        certificates: dict[str, list[Certificate]] = {name: [] for name in found}
        gaps: dict[str, list[float | None]] = {name: [] for name in found}
        for knot in range(len(self.times)):
            level = self.judge(knot)
            for name, (best, *others) in found.items():
                model = self.model(FAMILIES[name])
                contained = {c: certificates[c][knot].losses for c in model.family.contains if c in found}
                tried = {f"solve {i + 2}": model.losses(f.points[knot], level.fresh) for i, f in enumerate(others)}
                certificates[name].append(certify(level, model, best.points[knot], best.steps, contained, tried))
                gaps[name].append(printed_gap(model, best.points[knot], level) if name == "literal" else None)
            report(knot)
        clusters = self.source.basis.clusters
        return {name: Solved(found[name][0], certificates[name], gaps[name], clusters) for name in found}


def mean_loss(model: Model, point: Point, group: Groups) -> float:
    """Mean loss over the images of one group, as they count."""
    losses = model.losses(point, Draws(*(x[0] for x in vars(group.draws).values())))
    return float((losses * group.counts[0].to(losses)).mean())


def silenced(model: Model, point: Point) -> Point:
    """ELS with the features of a point, where values can be nothing or do not count."""
    silent = point.coefficients.clone()
    if model.family.free:
        silent[..., model.columns()[model.family.ties.v]] = 0
    local = model.columns()[model.family.ties.h]
    silent[..., local] = 0
    silent[:, 1 : 1 + model.channels, local] = torch.eye(model.channels).to(silent)
    return Point(point.net, silent)


def embedded(model: Model, smaller: Model, point: Point) -> Point:
    """A member of a family that another contains, written as one of that."""
    source, played = smaller.columns(), {}
    for mine, theirs in zip(model.family.ties, smaller.family.ties, strict=True):
        played.setdefault(mine, theirs)
    return Point(point.net, torch.cat([point.coefficients[..., source[played[f]]] for f in model.family.functions], -1))
