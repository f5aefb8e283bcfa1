r"""Solving the stationarity conditions: one noise level after another, one family after another.

At a level, a family is solved in three nested bases of ``n``, ``2n`` and ``4n`` random features, on as
many images in proportion. Each solve starts from the best of what is known: its own solution in the
smaller basis, its solution at the neighbouring noise level, the solutions of the families it contains,
and at the first level several random starts. The first level is the one with sigma/alpha nearest 1,
where attention has most to say; the others follow outwards.

The ridge ``ridge * s * ||theta||^2`` fixes the gauge of queries and keys, whose scale and rotation the loss
does not feel, and keeps functions from fitting the noise of a few images. Its scale ``s = E[l^2] / E[l]``,
with ``l`` the ELS loss of an image, makes it mean the same for every prediction type, and grows relative to
the loss where only rare images have any: with little to learn from, the solution stays close to ELS.
Families with values of their own, and so twice as many coefficients, get twice the ridge.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from theory.errors import InputError
from theory.noise import Schedule
from theory.stationarity.certificate import Certificate, certify
from theory.stationarity.equations import Head, Roles, printed, variation
from theory.stationarity.families import FAMILIES, SOFT, Family, family
from theory.stationarity.galerkin import Galerkin, flattened, padded
from theory.stationarity.level import Level
from theory.stationarity.optimise import ROUND, least_squares, quasi_newton

STAGES = 3  # bases of n, 2n and 4n random features
HELD_OUT = 16  # random features the solver never sees
SHARPER = (2.0, 8.0)  # inverse temperatures on the way to the argmax
RAMP = (0.25, 0.5, 0.75)  # strengths on the way from ELS
NOTHING = 1e-6  # share of the target's variance that is no loss at all
SELFISH = (4.0, 8.0, 16.0)  # lengths of queries with which pixels attend to hardly anything but their own content
SCOUT = 20  # iterations of each random start
FREE = 2  # times the ridge and the patience, for families with values of their own: twice the functions to fit to noise,
# and a solution of `identity` to leave first


@dataclass(frozen=True)
class Options:
    """How to solve. Everything here determines the numbers.

    Attributes:
        prediction: What the network outputs: ``"sample"``, ``"epsilon"`` or ``"score"``. It changes the optimum where
            values are tied to another role.
        strength: Strength ``lambda`` of the attention.
        beta: Inverse temperature of the attention.
        embedding: Numbers ``d`` in a query or key of the families where it is free.
        features: Random features of the largest basis, a multiple of 4.
        images: Noisy images to solve on; a quarter as many others are watched, to stop in time.
        fresh: Noisy images to judge by.
        iterations: Most iterations in each basis.
        starts: Random starts at the first level.
        ridge: Weight of the squared coefficients, relative to the ELS loss of an image; double where values are free.
        tolerance: Ten iterations that lower the loss by less than this share of the ELS loss are no progress.
        seed: Seed of everything random.
    """

    prediction: str = "sample"
    strength: float = 1.0
    beta: float = 1.0
    embedding: int = 8
    features: int = 64
    images: int = 4500
    fresh: int = 3000
    iterations: int = 100
    starts: int = 4
    ridge: float = 1e-3
    tolerance: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("features", self.features >= 4 and self.features % 4 == 0, "a positive multiple of 4"),
            ("images", self.images >= 100, "at least 100"),
            ("fresh", self.fresh >= 100, "at least 100"),
            ("iterations", self.iterations >= 1, "at least 1"),
            ("starts", self.starts >= 1, "at least 1"),
            ("embedding", self.embedding >= 1, "at least 1"),
            ("beta", 0 < self.beta < float("inf"), "a positive number"),
            ("strength", abs(self.strength) < float("inf"), "a finite number"),
            ("ridge", 0 <= self.ridge < float("inf"), "0 or a positive number"),
            ("tolerance", 0 <= self.tolerance < float("inf"), "0 or a positive number"),
        )
        for name, fit, expected in checks:
            if not fit:
                raise InputError(f"{name} {getattr(self, name)}", expected, "correct the option")

    @property
    def blocks(self) -> list[int]:
        """Random features in the nested bases; the last holds those never solved with."""
        return [self.features // 4, self.features // 2, self.features, self.features + HELD_OUT]


@dataclass(frozen=True)
class Solved:
    """A family at one level.

    Attributes:
        raw: Coefficients of the raw features of each class, functions side by side, with shape ``(F, width)``,
            in each of the nested bases.
        certificate: How far to trust the last.
        stages: The same in whitened functions, relative to ELS.
        printed: For the literal family, how far the printed and the exact condition are from zero (`printed_gap`).
    """

    raw: list[list[Tensor]]
    certificate: Certificate
    stages: list[list[Tensor]] = field(repr=False)
    printed: tuple[float, float] | None = None


def with_parents(names: tuple[str, ...]) -> list[Family]:
    """Families in the order they are solved, with those they start from.

    A hard family starts from its soft one, and one with free values from `identity`: from random starts alone
    it stays near ELS, behind a plateau.
    """
    soft = {family(name).name.removeprefix("top1_") for name in names}
    wanted = soft | set(names) | ({"identity"} if soft & {f.name for f in SOFT if f.free} else set())
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
    neighbour: dict[str, list[Tensor]] | None = None,
    report: Callable[[str, int, float], None] = lambda family, stage, loss: None,
) -> Iterator[tuple[str, Solved]]:
    """Solve families at a level, in order.

    Args:
        level: The level.
        families: As given by `with_parents`.
        options: How to solve.
        neighbour: Raw coefficients of each family at a level nearby.
        report: Told family, basis and loss after every evaluation.

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
        self.level, self.family, self.options, self.found, self.neighbour = level, chosen, options, found, neighbour
        self.report = report

    def head(self, **changes) -> Head:
        return Head(self.options.strength, self.options.beta, self.family.hard)._replace(**changes)

    def problem(self, stage: int, head: Head | None = None) -> Galerkin:
        """The Galerkin problem in one of the nested bases, with images in proportion."""
        sample = self.level.train[stage]
        ridge = self.options.ridge * self.level.scale * (FREE if self.family.free else 1)
        return Galerkin(self.family, head or self.head(), sample, self.level.columns[stage], self.options.embedding, ridge)

    def solve(self) -> Solved:
        stages, history, still = [], [], False
        for stage in range(STAGES):
            problem = self.problem(stage)
            theta = self.best(problem, self.candidates(problem, stage, stages))
            theta, losses, still = self.descend(problem, theta, stage, self.options.iterations)
            history.append(losses)
            stages.append([m.clone() for m in problem.matrices(theta)])
        return self.finished(stages, history, still)

    def best(self, problem: Galerkin, candidates: list[Tensor]) -> Tensor:
        """The candidate with the lowest loss on the watched images."""
        watched = problem.on(self.level.watch)
        return min(candidates, key=lambda c: float(watched.losses(c).double().mean()))

    def descend(self, problem: Galerkin, theta: Tensor, stage: int, iterations: int) -> tuple[Tensor, list[float], bool]:
        tolerance = self.options.tolerance * self.level.train_els_loss + NOTHING * self.level.variance
        report = lambda loss: self.report(self.family.name, stage, loss)  # noqa: E731
        patience = FREE if self.family.free else 1
        return quasi_newton(problem, theta, iterations, tolerance, problem.on(self.level.watch), report, patience)

    def finished(self, stages: list[list[Tensor]], history: list[list[float]], still: bool) -> Solved:
        contained = {name: self.found[name].certificate.losses for name in self.family.contains if name in self.found}
        problems = [self.problem(stage) for stage in range(STAGES)]
        certificate = certify(self.level, problems, stages, history, still, contained)
        raw = [self.level.raw(self.absolute(matrices, self.family, +1)) for matrices in stages]
        gap = printed_gap(problems[-1], flattened(stages[-1])) if self.family.name == "literal" else None
        return Solved(raw, certificate, stages, gap)

    def absolute(self, matrices: list[Tensor], chosen: Family, sign: int) -> list[Tensor]:
        """Coefficients with the ELS offset of ``h`` added (or, with sign -1, taken away)."""
        out = []
        for m, els in zip(matrices, self.level.els, strict=True):
            m = m.double().clone()
            start = self.columns(chosen)[chosen.ties.h].start
            m[:, start : start + els.shape[1]] += sign * els[: len(m)]
            out.append(m)
        return out

    def columns(self, chosen: Family) -> dict[str, slice]:
        """Where the functions of a family stand side by side."""
        place, out = 0, {}
        for name in chosen.functions:
            width = chosen.width(name, self.level.watch.target.shape[-1], self.options.embedding)
            out[name] = slice(place, place + width)
            place += width
        return out

    def candidates(self, problem: Galerkin, stage: int, stages: list[list[Tensor]]) -> list[Tensor]:
        """Everything known that a solve could start from."""
        flat = self.known(problem, stage, stages)
        if self.options.strength == 0:
            flat.append(torch.zeros(sum(problem.lengths)).to(problem.sample.target))  # ELS, the solution
        elif self.neighbour is None and not stages and not any(c in self.found for c in self.family.contains):
            flat += [*self.random_starts(problem), *self.ramped(problem)]
        return flat

    def known(self, problem: Galerkin, stage: int, stages: list[list[Tensor]]) -> list[Tensor]:
        """Its own solutions in the smaller basis and at the neighbouring level, those of the families it contains, and ELS."""
        sizes = problem.sizes
        found = []
        if stages:
            found.append(padded(stages[-1], sizes))
        if self.neighbour is not None:
            found.append(self.absolute(self.level.projected(self.neighbour, sizes), self.family, -1))
        found += [self.embedded(FAMILIES[c], self.found[c].stages[stage]) for c in self.family.contains if c in self.found]
        if found and self.family.free:
            found.append(self.silenced(found[-1]))
        flat = [flattened(matrices).to(problem.sample.target) for matrices in found]
        if not self.family.free and self.family.ties.q != self.family.ties.h:
            flat += [self.selfish(problem, radius) for radius in SELFISH]
        return flat

    def silenced(self, matrices: list[Tensor]) -> list[Tensor]:
        """ELS itself, with the queries and keys of a known solution."""
        out = [m.clone() for m in matrices]
        for name in (self.family.ties.h, self.family.ties.v):
            for m in out:
                m[:, self.columns(self.family)[name]] = 0
        return out

    def embedded(self, smaller: Family, matrices: list[Tensor]) -> list[Tensor]:
        """A solution of a family this one contains, written as one of this family."""
        source, played = self.columns(smaller), {}
        for mine, theirs in zip(self.family.ties, smaller.ties, strict=True):
            played.setdefault(mine, theirs)
        full = self.absolute(matrices, smaller, +1)
        return self.absolute([torch.cat([m[:, source[played[f]]] for f in self.family.functions], 1) for m in full], self.family, -1)

    def random_starts(self, problem: Galerkin) -> Iterator[Tensor]:
        """Short descents from queries and keys of several sizes; equal ones, so that like attends to like."""
        for number in range(self.options.starts):
            yield self.descend(problem, self.random_start(problem, 1.5 * 0.75**number, number), 0, SCOUT)[0]

    def random_start(self, problem: Galerkin, scale: float, number: int) -> Tensor:
        """Random queries and keys with entries of that size."""
        rng = np.random.default_rng((self.options.seed, number))
        parts = []
        for size, els in zip(problem.sizes, self.level.els, strict=True):
            embedding = torch.from_numpy(rng.standard_normal((size, self.options.embedding))) * scale / size**0.5
            value = torch.from_numpy(rng.standard_normal((size, els.shape[1]))) * 0.1 / size**0.5
            parts.append(torch.cat([self._start(f, embedding, value, els[:size].cpu()) for f in self.family.functions], 1))
        return flattened(parts).to(problem.sample.target)

    def selfish(self, problem: Galerkin, radius: float) -> Tensor:
        """Near ELS, for one function of both local part and value: ``c = ELS / 2``, and each pixel attends to its own content.

        Contents, as far as clusters tell them, get queries of equal length in random directions.
        """
        rng = np.random.default_rng(self.options.seed)
        raw = []
        for moments, columns in zip(self.level.moments, self.level.cluster_columns, strict=True):
            directions = torch.from_numpy(rng.standard_normal((columns.stop - columns.start, self.options.embedding))).to(moments)
            part = moments.new_zeros(len(moments), self.options.embedding)
            part[columns] = radius * directions / directions.norm(dim=1, keepdim=True)
            raw.append(part)
        embeddings = self.level.projected(raw, problem.sizes)
        parts = zip(embeddings, self.level.els, problem.sizes, strict=True)
        return flattened([torch.cat([self._start(f, u, els[:s], els[:s]) for f in self.family.functions], 1) for u, els, s in parts]).to(
            problem.sample.target
        )

    def _start(self, function: str, embedding: Tensor, value: Tensor, els: Tensor) -> Tensor:
        ties = self.family.ties
        if function == ties.h:
            return -els / 2 if function == ties.v else torch.zeros_like(els)  # c = ELS / 2: a pixel also reads itself
        return value if function == ties.v else embedding

    def ramped(self, problem: Galerkin) -> Iterator[Tensor]:
        """From ELS, with attention turned on step by step: for families without free queries."""
        if self.family.ties.q != self.family.ties.h:
            return
        theta = torch.zeros(sum(problem.lengths)).to(problem.sample.target)
        for share in RAMP:
            weaker = self.problem(0, self.head(strength=share * self.options.strength))
            theta = self.descend(weaker, theta, 0, SCOUT)[0]
        yield theta

    def harden(self) -> Solved:
        """Top-1 from the soft solution: sharper and sharper attention, then the argmax and its best values."""
        soft = self.found[self.family.name.removeprefix("top1_")]
        stages, history, still = [], [], False
        for stage in range(STAGES):
            theta = flattened(soft.stages[stage]).to(self.level.watch.target)
            for beta in SHARPER:
                sharper = self.problem(stage, self.head(beta=beta * self.options.beta, hard=False))
                theta = self.descend(sharper, theta, stage, ROUND)[0]
            problem = self.problem(stage)
            candidates = [theta, *self.known(problem, stage, stages)]
            theta, losses = self.best_values(problem, self.best(problem, candidates), stage)
            history.append(losses)
            stages.append([m.clone() for m in problem.matrices(theta)])
            still = True
        return self.finished(stages, history, still)

    def best_values(self, problem: Galerkin, theta: Tensor, stage: int) -> tuple[Tensor, list[float]]:
        """Least squares for the values with attention fixed; where values move the attention too, as far as it helps."""
        losses = [problem.evaluate(theta)[0]]
        moves = self.family.ties.q == self.family.ties.h
        for _ in range(5 if moves else 1):
            goal = least_squares(problem, theta)
            for step in (1.0, 0.5, 0.25, 0.125) if moves else (1.0,):
                trial = theta + step * (goal - theta)
                value = problem.evaluate(trial)[0]
                if value < losses[-1]:
                    break
            else:
                break
            theta = trial
            losses.append(value)
            self.report(self.family.name, stage, value)
        return theta, losses


def printed_gap(problem: Galerkin, theta: Tensor) -> tuple[float, float]:
    """How far the literal family's printed and exact conditions are from zero at a point.

    Returns:
        Norms of the projected printed and exact first variation, each relative to that of the local
        term ``r_p`` alone: 0 for a condition that holds, about 1 for one whose attention terms do not
        balance the local one at all.
    """

    def norm(term) -> float:
        return sum(float(m.double().square().sum()) for m in problem.tested(theta, term)) ** 0.5

    def only(z: Tensor) -> Roles:
        zero = torch.zeros_like(z)
        return Roles(z, zero, zero, zero)

    local = norm(lambda roles, output, residual: only(residual))
    as_printed = norm(lambda roles, output, residual: only(printed(roles.h, output, residual, problem.head)))
    exact = norm(lambda roles, output, residual: variation(roles, output, residual, problem.head))
    return as_printed / local, exact / local
