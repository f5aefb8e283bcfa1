r"""Solving a family: descents from independent starts, and the lowest is the solution.

A soft family starts from random features and queries, keys that are addresses, a local part that alone is ELS and faint values
(`theory.stationarity.learned`): at the noisiest level where ELS loses much, from several such points, of which the lowest goes on.
From there it spreads outward, each level from the functions of the one inside of it, and at last every level is polished by itself
(`theory.stationarity.descent`). A hard family starts from the solution of its soft one, whose attention is sharpened before the
argmax takes its place, whose derivative is then that of the softmax; then each level goes on, sharp, from the lowest of what it and its
neighbours found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.stationarity.certificate import Certificate, certify
from theory.stationarity.curve import moved
from theory.stationarity.descent import BEGINNING, IMAGES, POLISHING, Descent, Pace, Pools, Range, Task
from theory.stationarity.equations import Head
from theory.stationarity.families import FAMILIES, Family, family
from theory.stationarity.fresh import Source
from theory.stationarity.gap import printed_gap
from theory.stationarity.learned import Model, Point
from theory.stationarity.level import Level
from theory.stationarity.members import embedded, silent_of
from theory.stationarity.neighbours import bridged, lent, lowest
from theory.stationarity.options import EVERYWHERE, Options
from theory.stationarity.parallel import Stopped, side_by_side
from theory.stationarity.watched import COUNT, Watched

SHARPER = 30.0  # by how much attention is sharpened on the way to the argmax
SOFTENED = 0.95  # share of the steps of a hard family that take the softmax
AGAIN = 0.6  # share of the images of a hard family with which its levels, and what they lent each other, go on sharp
STARTS = 2  # random points to begin with
FIRST, SPREAD = 0.3, 0.4  # shares of the images: of the first level from all its starts, and of the others on the way outward
GOING_ON = Pace(POLISHING.batch, POLISHING.passes, 3e-4)  # where a solution goes on, with few images
MANY = 100_000  # images of a level with which it can afford the rate of polishing


class Ended(NamedTuple):
    """What one descent ended with: a point, losses on the way, and how many images, steps and seconds it took."""

    point: Point
    history: list[dict]
    images: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """Points of a family at all knots.

    Attributes:
        points: The point at each knot.
        history: Of each knot, images seen there and losses then.
        images: Fresh images seen, of all descents.
        steps: How many steps these took.
        seconds: How long they took.
    """

    points: list[Point] = field(repr=False)
    history: tuple[list[dict], ...] = ()
    images: int = 0
    steps: int = 0
    seconds: float = 0.0

    def counting(self, ended: Ended) -> "Found":
        """The same after one more descent, whatever it led to."""
        return replace(self, images=self.images + ended.images, steps=self.steps + ended.steps, seconds=self.seconds + ended.seconds)

    def at(self, knot: int, ended: Ended, point: Point) -> "Found":
        """The same after a descent at a knot, with what is taken from it."""
        points, history = list(self.points), [list(h) for h in self.history or [[]] * len(self.points)]
        before = history[knot][-1]["images"] if history[knot] else 0
        history[knot] += [{**h, "images": before + h["images"]} for h in ended.history]
        points[knot] = point
        return replace(self.counting(ended), points=points, history=tuple(history))


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


Run = Callable[[str, Descent, Stopped], Ended]


class Piece(NamedTuple):
    """What the descents of a start have in common: a name to keep them by, the family, a seed, and how a hard head is reached."""

    name: str
    model: Model
    seed: tuple[int, ...]
    sharper: float = 1.0
    rising: float = 0.0
    softened: float = 0.0

    @property
    def sharp(self) -> "Piece":
        """The same from a start that was found with sharp attention."""
        return self._replace(rising=0.0, seed=(*self.seed, 1), name=f"{self.name}-sharp")

    def named(self, name: str, phase: int, number: int) -> "Piece":
        """One of them."""
        return self._replace(name=f"{self.name}-{name}", seed=(*self.seed, phase, number))


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
        self.watched = Watched(source, times, options.seed, min(COUNT, options.fresh))

    @property
    def levels(self) -> Range:
        return self.watched.levels

    def model(self, chosen: Family) -> Model:
        o = self.options
        basis = self.source.basis
        return Model(chosen, Head(o.strength, o.beta, chosen.hard), basis.classes.to(self.source.device), basis.shape[0], o.embedding)

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
        within = self.within if chosen.name in self.starts else EVERYWHERE
        everyone = [replace(f, points=self.quiet(model, f.points, within)) for f in (*ended, *others)]
        best = min(everyone, key=lambda f: self.watched.total(model, f.points))
        place = next(i for i, f in enumerate(everyone) if f is best)
        own = place % len(ended) if place < 2 * len(ended) else None  # the start it comes from
        best = replace(best, points=bridged(self.watched, model, best.points, within, silent_of(model)))
        return [best, *(f for i, f in enumerate(everyone[: len(ended)]) if i != own)]

    def begun(self, chosen: Family, number: int, options: Options, found: dict[str, list[Found]]) -> Found:
        """What a descent starts from: what is given, the soft family's of the same number, or nothing."""
        if number == 0 and chosen.name in self.starts:
            return self.starts[chosen.name]
        if not chosen.hard:
            return Found([self.start(self.model(chosen), options, number)] * len(self.times))
        parents = found[chosen.name.removeprefix("top1_")]
        return Found(parents[min(number, len(parents) - 1)].points)

    def descended(self, chosen: Family, number: int, options: Options, start: Found) -> Found:
        """Down from a start."""
        seed = (self.options.seed, 3 + number, list(FAMILIES).index(chosen.name))
        piece = Piece(f"{chosen.name}-{number + 1}", self.model(chosen), seed)
        if chosen.hard:
            piece = piece._replace(sharper=SHARPER, rising=SOFTENED, softened=SOFTENED)
        if number == 0 and chosen.name in self.starts:
            piece = piece._replace(seed=(*seed, start.steps), rising=0.0)
            return self.polished(piece, options.images, start, GOING_ON, self.within)
        if chosen.hard:
            images = options.images // 2  # half of the way is behind it
            sharpened = self.polished(piece, (1 - AGAIN) * images, start, BEGINNING)
            return self.polished(piece.sharp, AGAIN * images, sharpened, POLISHING)
        starts = [self.start(piece.model, options, number, again) for again in range(STARTS)]
        spread = self.spread(piece, options.images, start, starts)
        return self.polished(piece, (1 - FIRST - SPREAD) * options.images, spread, POLISHING)

    def spread(self, piece: "Piece", images: float, start: Found, starts: list[Point]) -> Found:
        """Outward from a first level (`Watched.first`): there the lowest of what several starts lead to, then at each level from the
        functions of the one inside of it. The two sides go side by side.
        """
        out, middle, unit = start, self.watched.first, self.watched.units.tolist()
        each = images * (FIRST if len(self.times) > 1 else FIRST + SPREAD) / len(starts)

        def begin(number: int, stopped: Stopped) -> Ended:
            return self.down(piece.named(f"start-{number + 1}", 0, number), middle, each, starts[number], BEGINNING, stopped)

        tried = self.together(begin, range(len(starts)))
        best = tried[lowest([self.watched.loss(piece.model, e.point, middle) for e in tried])]
        for ended in tried:
            out = out.at(middle, ended, ended.point) if ended is best else out.counting(ended)
        shares = self.watched.shares(EVERYWHERE)
        rest = max(1e-300, sum(shares) - shares[middle])
        for distance in range(1, len(self.times)):
            sides = {middle + sign * distance: middle + sign * (distance - 1) for sign in (-1, 1)}
            sides = {knot: inner for knot, inner in sides.items() if 0 <= knot < len(self.times)}
            given = {k: moved(piece.model, out.points[i], unit[i], unit[k]) for k, i in sides.items()}

            def beside(knot: int, stopped: Stopped) -> Ended:
                count = SPREAD * images * shares[knot] / rest
                return self.down(piece.named(f"spread-{knot + 1}", 1, knot), knot, count, given[knot], BEGINNING, stopped)  # noqa: B023

            for knot, ended in zip(sides, self.together(beside, list(sides)), strict=True):
                out = self.kept(piece.model, out, knot, given[knot], ended)
        return out

    def polished(self, piece: "Piece", images: float, start: Found, pace: Pace, within: tuple[float, float] = EVERYWHERE) -> Found:
        """Each level by itself.

        Only those ``within`` a range of ``sigma / alpha``. Before and after it a level may take over what its neighbours have.
        """
        counts = [round(images * share) for share in self.watched.shares(within)]
        out = start = replace(start, points=lent(self.watched, piece.model, start.points, counts))
        knots = [knot for knot, count in enumerate(counts) if count >= IMAGES]  # enough for a step

        def descend(knot: int, stopped: Stopped) -> Ended:
            own = POLISHING if pace == GOING_ON and counts[knot] >= MANY else pace
            return self.down(piece.named(f"level-{knot + 1}", 2, knot), knot, counts[knot], start.points[knot], own, stopped)

        for knot, ended in zip(knots, self.together(descend, knots), strict=True):
            out = self.kept(piece.model, out, knot, start.points[knot], ended)
        return replace(out, points=lent(self.watched, piece.model, out.points, counts))

    def kept(self, model: Model, found: Found, knot: int, start: Point, ended: Ended) -> Found:
        """After a descent at a knot, as long as that is lower on the watched images: it may end above a start that was low."""
        ends = [start, ended.point]
        return found.at(knot, ended, ends[lowest([self.watched.loss(model, p, knot) for p in ends])])

    def down(self, piece: "Piece", knot: int, images: float, start: Point, pace: Pace, stopped: Stopped) -> Ended:
        """One descent at one level."""
        pools = Pools.of(round(images))
        task = Task(piece.model, self.source, self.levels, self.times[knot], pools, pace, *piece[2:])
        return self.run(piece.name, Descent(task, start, self.watched.at(knot)), stopped)

    def together(self, work: Callable[[int, Stopped], Ended], items: Sequence[int]) -> list[Ended]:
        """Descents side by side, one a core."""
        return side_by_side(work, items, torch.get_num_threads() if self.source.device.type == "cpu" else 1)

    def start(self, model: Model, options: Options, number: int, again: int = 0) -> Point:
        """Random functions."""
        rng = np.random.default_rng((self.options.seed, number, list(FAMILIES).index(model.family.name), again))
        like = torch.zeros(1, dtype=self.source.dtype, device=self.source.device)
        return model.start(self.source.basis.size, options.features, rng, like, 1.0)

    def quiet(self, model: Model, points: list[Point], within: tuple[float, float] = EVERYWHERE) -> list[Point]:
        """The same, and ELS, or what comes near it, at knots where that is lower, of those within a range of ``sigma / alpha``.

        Without attention ELS is the optimum itself.
        """
        silent = silent_of(model)
        if silent is None:
            return points
        if not model.head.strength:
            return [silent(p) for p in points]
        loss = lambda point, knot: self.watched.loss(model, point, knot)  # noqa: E731
        inside = [within[0] <= ratio <= within[1] for ratio in self.watched.s.exp().tolist()]
        given = [[p, silent(p)] if here else [p] for p, here in zip(points, inside, strict=True)]
        return [several[lowest([loss(p, i) for p in several])] for i, several in enumerate(given)]

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
