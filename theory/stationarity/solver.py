r"""Solving the stationarity conditions: one noise level after another, one family after another.

At a level, a family is solved in three stages, with a quarter, a half and all of its features and iterations
(`theory.stationarity.learned`). A stage starts from the better of what is known, on watched images: its own
previous stage, to which random features are added, and its solution of the same stage at the nearest solved noise
level; with neither, from random features and queries. It ends with the best of what it saw and of the solutions of
the families it contains. The first level is the one with sigma/alpha nearest 1, where attention has most to say;
the others follow outwards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from theory.errors import InputError, choices
from theory.noise import Schedule
from theory.stationarity.basis import PREDICTIONS
from theory.stationarity.certificate import Certificate, certify
from theory.stationarity.equations import Head, Output, Roles, printed, variation
from theory.stationarity.families import FAMILIES, Family, family
from theory.stationarity.galerkin import Galerkin
from theory.stationarity.learned import Draws, Model, Point, learn
from theory.stationarity.level import Level
from theory.stationarity.optimise import least_squares

STAGES = 3  # with a quarter, a half and all of the features and iterations
FIRST = 3  # times the steps where nothing is known
SHARPER = (2.0, 8.0)  # inverse temperatures on the way to the argmax
RIDGE = 1e-4  # of the target's variance: weight of squared values, with a hard head
NOTHING = 1e-6  # share of the target's variance that is no loss at all
LARGEST = 1e30  # strength and beta are numbers of float32, with room to spare
EXACT = 4000  # images for least squares and for the printed equation


@dataclass(frozen=True)
class Options:
    """How to solve. Everything here determines the numbers.

    Attributes:
        prediction: What the network outputs: ``"sample"``, ``"epsilon"`` or ``"score"``. It changes the optimum where
            values are tied to another role.
        strength: Strength ``lambda`` of the attention.
        beta: Inverse temperature of the attention.
        embedding: Numbers ``d`` in a query or key of the families where it is free.
        features: Learned features of a patch, a multiple of 4.
        iterations: Steps of Adam with all features; half as many with half of them, and a quarter with a quarter. Three
            times as many at the first level.
        images: Noisy images to solve on; an eighth as many others (at least 500) are watched, to choose the best.
        fresh: Noisy images to judge by.
        seed: Seed of everything random.
    """

    prediction: str = "sample"
    strength: float = 1.0
    beta: float = 1.0
    embedding: int = 32
    features: int = 64
    iterations: int = 300
    images: int = 12000
    fresh: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kind = getattr(self, f.name), {int: int, float: (int, float), str: str}[f.type]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"{f.name} {value!r}", f"a value of type {f.type.__name__}", "correct the option")
        checks = (
            ("prediction", self.prediction in PREDICTIONS, choices(PREDICTIONS)),
            ("features", self.features >= 4 and self.features % 4 == 0, "a positive multiple of 4"),
            ("iterations", self.iterations >= 1, "at least 1"),
            ("images", self.images >= 100, "at least 100"),
            ("fresh", self.fresh >= 100, "at least 100"),
            ("embedding", self.embedding >= 1, "at least 1"),
            ("beta", 0 < self.beta <= LARGEST, f"a positive number up to {LARGEST:g}"),
            ("strength", abs(self.strength) <= LARGEST, f"a number between -{LARGEST:g} and {LARGEST:g}"),
            ("seed", self.seed >= 0, "0 or more"),
        )
        for name, fit, expected in checks:
            if not fit:
                raise InputError(f"{name} {getattr(self, name)!r}", expected, "correct the option")

    @property
    def watch(self) -> int:
        """Images watched."""
        return max(500, self.images // 8)


@dataclass(frozen=True)
class Solved:
    """A family at one level.

    Attributes:
        stages: The solution with a quarter, a half and all of the features and iterations.
        certificate: How far to trust the last.
        printed: For the literal family, how much the printed equation misses (`printed_gap`).
    """

    stages: list[Point] = field(repr=False)
    certificate: Certificate
    printed: float | None = None


def with_parents(names: tuple[str, ...]) -> list[Family]:
    """Families in the order they are solved, with those they start from.

    A hard family starts from its soft one.
    """
    wanted = {family(name).name for name in names} | {name.removeprefix("top1_") for name in names}
    return [f for f in FAMILIES.values() if f.name in wanted]


def outwards(times: list[float], schedule: Schedule) -> list[int]:
    """Numbers of the levels in solving order: from sigma/alpha nearest 1 down, then from there up."""
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64))
    ratio = (sigma / alpha).log()
    order = ratio.argsort().tolist()
    first = order.index(int(ratio.abs().argmin()))
    return order[first::-1] + order[first + 1 :]


def before(order: list[int], place: int, times: list[float]) -> int | None:
    """The solved level nearest to that at ``order[place]``, or None for the first."""
    return min(order[:place], key=lambda i: abs(times[i] - times[order[place]])) if place else None


def solve_level(
    level: Level,
    families: list[Family],
    options: Options,
    neighbour: dict[str, list[Point]] | None = None,
    report: Callable[[str, int, float], None] = lambda family, stage, loss: None,
) -> Iterator[tuple[str, Solved]]:
    """Solve families at a level, in order.

    Args:
        level: The level.
        families: As given by `with_parents`.
        options: How to solve.
        neighbour: The stages of each family at a level nearby.
        report: Told family, stage and watched loss on the way.

    Yields:
        Each family's name and solution.
    """
    found: dict[str, Solved] = {}
    for chosen in families:
        work = _Work(level, chosen, options, found, (neighbour or {}).get(chosen.name), report)
        found[chosen.name] = work.harden() if chosen.hard else work.solve()
        yield chosen.name, found[chosen.name]


class _Work:
    """The solve of one family at one level."""

    def __init__(self, level, chosen, options, found, neighbour, report) -> None:
        self.level, self.family, self.options, self.found, self.report = level, chosen, options, found, report
        self.like = level.train.els
        self.neighbour = None if neighbour is None else [p.to(self.like) for p in neighbour]
        self.model = self.of(chosen)
        self.scale = level.train_els_loss + NOTHING * level.variance
        self.rng = np.random.default_rng((options.seed, list(FAMILIES).index(chosen.name)))

    def of(self, chosen: Family) -> Model:
        head = Head(self.options.strength, self.options.beta, chosen.hard)
        return Model(chosen, head, self.level.classes, self.like.shape[-1], self.options.embedding)

    def solve(self) -> Solved:
        stages, history = [], []
        for stage in range(STAGES):
            share = 2 ** (STAGES - 1 - stage)
            start = self.best(self.starts(stage, stages, self.options.features // share))
            steps = -(-self.iterations // share)
            point, losses = self.learned(self.model, start, steps, stage)
            stages.append(self.best([point, *self.contained(stage, point)]))
            history.append(losses)
        return self.finished(stages, history)

    @property
    def iterations(self) -> int:
        """Iterations of the last stage. Without attention the start is the solution: ELS."""
        if not self.options.strength:
            return 0
        return self.options.iterations * (FIRST if self.neighbour is None else 1)

    def learned(self, model: Model, start: Point, steps: int, stage: int) -> tuple[Point, list[float]]:
        level = self.level
        report = lambda loss: self.report(self.family.name, stage, loss)  # noqa: E731
        return learn(model, start, level.train, level.watch, steps, self.scale, level.unit, self.rng, report)

    def starts(self, stage: int, stages: list[Point], width: int) -> list[Point]:
        """What is known: its own smaller stage with room for more, and its neighbour; else something random."""
        known = [] if self.neighbour is None else [self.neighbour[stage]]
        if stages:
            known.append(self.model.grown(stages[-1], width, self.rng))
        return known or [self.model.start(self.level.basis.size, width, self.rng, self.like, self.level.unit)]

    def best(self, candidates: list[Point]) -> Point:
        """The one with the lowest loss on the watched images."""
        if len(candidates) == 1:
            return candidates[0]
        return min(candidates, key=lambda c: float(self.model.losses(c, self.level.watch).mean()))

    def contained(self, stage: int, point: Point) -> list[Point]:
        """Solutions of the families this one contains, as its own; ELS with the features of a point, where values can be nothing."""
        out = [self.embedded(self.of(FAMILIES[c]), self.found[c].stages[stage]) for c in self.family.contains if c in self.found]
        if self.family.free:
            silent = point.coefficients.clone()
            silent[..., self.model.columns()[self.family.ties.v]] = 0
            local = self.model.columns()[self.family.ties.h]
            silent[..., local] = 0
            silent[:, 1 : 1 + self.model.channels, local] = torch.eye(self.model.channels).to(silent)
            out.append(Point(point.net, silent))
        return out

    def embedded(self, smaller: Model, point: Point) -> Point:
        """A solution of a family this one contains, written as one of this family."""
        source, played = smaller.columns(), {}
        for mine, theirs in zip(self.family.ties, smaller.family.ties, strict=True):
            played.setdefault(mine, theirs)
        return Point(point.net, torch.cat([point.coefficients[..., source[played[f]]] for f in self.family.functions], -1))

    def finished(self, stages: list[Point], history: list[list[float]]) -> Solved:
        contained = {name: self.found[name].certificate.losses for name in self.family.contains if name in self.found}
        certificate = certify(self.level, self.model, stages, history, self.iterations, contained)
        gap = printed_gap(self.model, stages[-1], self.level) if self.family.name == "literal" else None
        return Solved(stages, certificate, gap)

    def harden(self) -> Solved:
        """Top-1 from the soft solution: sharper and sharper attention, then the argmax and its best values."""
        soft, stages, history = self.found[self.family.name.removeprefix("top1_")], [], []
        for stage in range(STAGES):
            point, losses = soft.stages[stage], []
            for beta in SHARPER:
                sharper = self.model.with_head(beta=beta * self.options.beta, hard=False)
                point, on_the_way = self.learned(sharper, point, -(-self.iterations // 2 ** (STAGES + 1 - stage)), stage)
                losses += on_the_way
            known = [] if self.neighbour is None else [self.neighbour[stage]]
            start = self.best([point, *known, *self.contained(stage, point)])
            point, more = self.best_values(start, stage)
            stages.append(self.best([point, *self.contained(stage, point)]))
            history.append([*losses, *more])
        return self.finished(stages, history)

    def best_values(self, point: Point, stage: int) -> tuple[Point, list[float]]:
        """Least squares for the values with attention fixed; where values move the attention too, as far as it helps."""
        judged = lambda p: float(self.model.losses(p, self.level.watch).mean())  # noqa: E731
        losses = [judged(point)]
        moves = self.family.ties.q == self.family.ties.h
        for _ in range(5 if moves else 1):
            problem = Galerkin(self.model, point, self.level.train.part(slice(EXACT)))
            goal = least_squares(problem, problem.theta, ridge=RIDGE * self.level.variance)
            for step in (1.0, 0.5, 0.25, 0.125):
                trial = problem.point([a + step * (b - a) for a, b in zip(problem.theta, goal, strict=True)])
                value = judged(trial)
                if value < losses[-1]:
                    break
            else:
                break
            point = trial
            losses.append(value)
            self.report(self.family.name, stage, value)
        return point, losses


def printed_gap(model: Model, point: Point, level: Level) -> float | None:
    """How much of the force of attention the printed equation misses at a solution of the literal family.

    The first variation is the local term ``r_p`` and what attention adds to it. Returned is the norm of the
    projected difference between the printed and the exact first variation, relative to that of what attention
    adds to the exact one: 0 if the print were right. None where attention adds nothing.
    """
    draws = level.train.part(slice(EXACT))
    problem, half = Galerkin(model, point, draws), len(draws.target) // 2

    def norms(draws: Draws) -> Tensor:
        """Both terms, flat."""
        return torch.stack([torch.cat([m.flatten() for m in problem.tested(problem.theta, term, draws)]) for term in (missed, added)])

    def only(z: Tensor) -> Roles:
        zero = torch.zeros_like(z)
        return Roles(z, zero, zero, zero)

    def added(roles: Roles, output: Output, residual: Tensor) -> Roles:
        exact = variation(roles, output, residual, model.head)
        return Roles(exact.h - residual, *exact[1:])

    def missed(roles: Roles, output: Output, residual: Tensor) -> Roles:
        exact = sum(variation(roles, output, residual, model.head))
        return only(printed(roles.h, output, residual, model.head) - exact)

    # The product of the means of independent halves: sampling noise does not add to it.
    wrong, attention = (norms(draws.part(slice(half))) * norms(draws.part(slice(half, 2 * half)))).sum(1).clamp(min=0).sqrt().tolist()
    return wrong / attention if attention > NOTHING * level.variance**0.5 else None
