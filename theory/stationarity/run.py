"""From a data set to solved attention scores at all levels."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import NamedTuple

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.errors import InputError
from theory.machines import Ideal
from theory.noise import CosineSchedule, Schedule
from theory.patches import PatchSchedule, PatchSize, Size
from theory.stationarity.basis import LocalBasis
from theory.stationarity.curve import refined
from theory.stationarity.descent import Descent
from theory.stationarity.families import DEFAULT, Family
from theory.stationarity.fresh import Source
from theory.stationarity.level import Level
from theory.stationarity.options import EVERYWHERE, Options
from theory.stationarity.parallel import Stopped, StoppedError
from theory.stationarity.solution import MEMORY, Setting, SolvedScore
from theory.stationarity.solver import Ended, Found, Solved, Solver, with_parents

DEFAULTS = Options()
SAME = 1e-9  # relative difference of times that are one


class Progress(NamedTuple):
    """How far a solve is.

    Attributes:
        task: What is done: a descent, as ``full-1``, or ``certificates``.
        share: How much of it is done.
        history: Of a descent, images seen and losses so far.
    """

    task: str
    share: float
    history: list[dict]


class Kept(NamedTuple):
    """A descent on its way, as it is kept.

    Attributes:
        tensors: All numbers.
        step, history, seconds: Where it is, what it saw, and how long it took.
    """

    tensors: dict[str, Tensor]
    step: int
    history: list[dict]
    seconds: float


class Store:
    """Where descents are kept on their way; this one keeps nothing."""

    def load(self, name: str) -> Kept | None:
        """What was kept of a descent."""
        return None

    def save(self, name: str, kept: Callable[[], Kept], last: bool) -> None:
        """Keep a descent, if it is time to; ``last`` where it ends or stops."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Plan:
    """What to solve.

    Attributes:
        data, schedule: Training set and noise.
        names: Families; those they start from are solved too (`with_parents`).
        times: Noise levels: knots of the functions, at which solutions are certified; with those between them (``options.refinement``),
            and those of ``starts``.
        patch_size: Height and width of what a pixel sees.
        border: ``"zeros"`` or ``"circular"``.
        options: How to solve.
        dtype, device: Precision and place of the work.
        memory: Working memory in bytes, beyond the features.
        starts: Solutions that the first descent of their family goes on from, each level by itself. All functions of a run are written in
            the coordinates of these.
        within: Range of ``sigma / alpha`` in which they go on, and get knots between the levels; elsewhere they stay as they are.
    """

    data: ImageSet
    schedule: Schedule
    names: tuple[str, ...]
    times: tuple[float, ...]
    patch_size: Size
    border: str = "zeros"
    options: Options = DEFAULTS
    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"
    memory: int = MEMORY
    starts: tuple[SolvedScore, ...] = ()
    within: tuple[float, float] = EVERYWHERE

    def __post_init__(self) -> None:
        _require(self.data, ImageSet, "theory.data.load gives one")
        _require(self.schedule, Schedule, "theory.noise.schedule gives one")
        _require(self.options, Options, "pass Options(...)")
        if isinstance(self.names, str):
            raise InputError(f"families {self.names!r}", "a tuple of names", f"pass ({self.names!r},)")
        if not self.names or not self.times:
            raise InputError("no family or no noise level", "at least one of each", "name them")
        if len(set(self.times)) < len(self.times) or not all(isinstance(t, float | int) and 0 < t <= 1 for t in self.times):
            raise InputError(f"times {self.times}", "distinct numbers in (0, 1]", "correct the times")
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype {self.dtype}", "torch.float32 or torch.float64", "choose one of these")
        with_parents(self.names)
        if self.within != EVERYWHERE:
            self._require_within(*self.within)
        for start in self.starts:
            self.require_same(start)
            self._require_start(start)

    def require_same(self, solution: SolvedScore) -> None:
        """Refuse a solution of another problem.

        Raises:
            InputError: If receptive field, border, schedule, prediction, strength or temperature differ.
        """
        mine = Setting(solution.setting.family, [], self.patch_size, self.border, self.schedule.name, self.options)
        for name in ("patch_size", "border", "schedule"):
            self._same(solution, name, getattr(solution.setting, name), getattr(mine, name))
        for name in ("prediction", "strength", "beta"):
            self._same(solution, name, getattr(solution.setting.options, name), getattr(self.options, name))
        self._same(solution, "data", solution.data.fingerprint, self.data.fingerprint)

    def _require_within(self, low: float, high: float) -> None:
        if not 0 <= low < high:  # written so that NaN is refused
            raise InputError(f"a range of sigma/alpha from {low:g} to {high:g}", "an ascending one of positive numbers", "correct it")
        if not self.starts:
            raise InputError("a range of sigma/alpha without a start", "solutions to go on from", "give a start, or leave it out")
        alpha, sigma = self.schedule(torch.tensor(self.knots, dtype=torch.float64))
        ratios = (sigma / alpha).tolist()
        if not any(low <= r <= high for r in ratios):
            expected = f"one of {', '.join(f'{r:.3g}' for r in ratios)} in it"
            raise InputError(f"a range of sigma/alpha from {low:g} to {high:g}", expected, "widen it, or raise the refinement")

    def _require_start(self, start: SolvedScore) -> None:
        for name in ("features", "embedding"):
            self._same(start, name, getattr(start.setting.options, name), getattr(self.options, name))
        clusters, others = self.starts[0].basis.clusters, start.basis.clusters
        if not all(torch.equal(a, b) for a, b in zip(clusters, others, strict=True)):
            raise InputError(f"solutions of {start.setting.family} in other coordinates", "those of one run", "go on from one at a time")

    @staticmethod
    def _same(solution: SolvedScore, name: str, given: object, expected: object) -> None:
        if given != expected:
            found = f"a solution of {solution.setting.family} with {name} {given}"
            raise InputError(found, f"{name} {expected}", "solve anew, or correct the option")

    @property
    def families(self) -> list[Family]:
        """Everything that is solved, in order."""
        return with_parents(self.names)

    @property
    def knots(self) -> tuple[float, ...]:
        """The noise levels and, in the range that is solved, those between them; and the knots of starts. Ascending."""
        times = torch.tensor(sorted(self.times), dtype=torch.float64)
        alpha, sigma = self.schedule(times)
        s = refined((sigma / alpha).log(), self.options.refinement)
        new = self.schedule.time(s.exp())
        new[:: 2**self.options.refinement] = times  # without rounding
        low, high = self.within
        inside = new[(s.exp() >= low) & (s.exp() <= high)].tolist()
        kept = [*self.times, *(t for start in self.starts for t in start.setting.times)]
        return tuple(sorted({*kept, *(t for t in inside if not any(math.isclose(t, k, rel_tol=SAME) for k in kept))}))

    def source(self) -> Source:
        """Where noisy images come from."""
        o = self.options
        clusters = self.starts[0].basis.clusters if self.starts else None
        basis = LocalBasis(self.data, self.patch_size, self.border, o.prediction, o.seed, self.memory, clusters)
        ideal = Ideal(self.data, self.schedule, memory=self.memory)
        return Source(self.data, self.schedule, basis, ideal, self.dtype, torch.device(self.device))

    def solve(self, store: Store | None = None, report: Report = lambda progress: None) -> dict[str, Solved]:
        """Solve all families.

        Args:
            store: Where descents are kept on their way, and taken from.
            report: Told how far it is, again and again; descents may run side by side.
        """
        source, knots, told = self.source(), self.knots, _one_at_a_time(report)
        judge = lambda knot: Level.of(source, knots[knot], self.options.fresh, (self.options.seed, 0, knot))  # noqa: E731
        run = lambda name, descent, stopped: _run(name, descent, store or Store(), told, stopped)  # noqa: E731
        solver = Solver(source, knots, self.options, run, judge, self._beginnings(source), self.within)
        found: dict[str, list[Found]] = {}
        for chosen in self.families:
            found[chosen.name] = solver.solve(chosen, found)
        return solver.certify(found, lambda knot: report(Progress("certificates", (knot + 1) / len(knots), [])))

    def _beginnings(self, source: Source) -> dict[str, Found]:
        return {s.setting.family: self._begun(s, source) for s in self.starts}

    def _begun(self, start: SolvedScore, source: Source) -> Found:
        """A solution as where a descent is."""
        like = torch.zeros(1, dtype=source.dtype, device=source.device)
        d = start.descent
        points = [p.to(like) for p in start.points_at(self.knots)]
        own = dict(zip(start.setting.times, d.get("history", []), strict=False))
        history = tuple(own.get(t, []) for t in self.knots)
        return Found(points, history, d.get("images", 0), d.get("steps", 0), d.get("solve_seconds", 0.0))

    def solution(self, name: str, solved: Solved) -> SolvedScore:
        """The solved score of a family."""
        setting = Setting(name, list(self.knots), self.patch_size, self.border, self.schedule.name, self.options)
        best = solved.best
        descent = {
            "history": list(best.history),
            "images": best.images,
            "steps": best.steps,
            "solve_seconds": best.seconds,
            "printed": solved.printed,
        }
        certificates = [c.asdict() for c in solved.certificates]
        return SolvedScore(self.data, setting, best.points, certificates, solved.clusters, descent, self.schedule, self.memory)


def _one_at_a_time(report: Report) -> Report:
    """The same for several threads."""
    lock = threading.Lock()

    def told(progress: Progress) -> None:
        with lock:
            report(progress)

    return told


def _run(name: str, descent: Descent, store: Store, report: Report, stopped: Stopped) -> Ended:
    """Take a descent to its end, from where it was left; told to stop, it is kept where it is."""
    kept = store.load(name)
    before = 0.0
    if kept is not None:
        descent.restore(kept.tensors, kept.step, kept.history)
        before = kept.seconds
    start = time.perf_counter()

    def now() -> Kept:
        return Kept(descent.tensors(), descent.step, descent.history, before + time.perf_counter() - start)

    def after() -> None:
        gives_up = stopped()
        store.save(name, now, gives_up or descent.step >= descent.task.steps)
        if gives_up:
            raise StoppedError
        report(Progress(name, descent.step / descent.task.steps, descent.history))

    point = descent.run(after)
    return Ended(point, descent.history, descent.task.pools.images, descent.step, before + time.perf_counter() - start)


def solve(
    data: ImageSet,
    schedule: Schedule | None = None,
    families: tuple[str, ...] = DEFAULT,
    *,
    times: tuple[float, ...] | None = None,
    patch_size: PatchSize | None = None,
    border: str = "zeros",
    options: Options | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    memory: int = MEMORY,
    report: Report = lambda progress: None,
) -> dict[str, SolvedScore]:
    """Solve the attention score of a data set.

    Args:
        data: The training set.
        schedule: The noise; the cosine schedule by default.
        families: Names of `FAMILIES`.
        times: Noise levels; by default 8 over equal intervals of t.
        patch_size: What a pixel sees (one size); the data set's own by default.
        border, options, dtype, device, memory: As in `Plan`.
        report: Told how far it is.

    Returns:
        A denoiser for each family, with its certificates; see ``certified``.

    Raises:
        InputError: If an argument is not fit to use.
    """
    _require(data, ImageSet, "theory.data.load gives one")
    times = tuple((i + 0.5) / 8 for i in range(8)) if times is None else times
    _require(times, tuple | list, "pass (0.5,) for one level")
    size = one_size(patch_size or data.patch_size)
    plan = Plan(
        data, schedule or CosineSchedule(), families, tuple(times), size, border, options or DEFAULTS, dtype, device, memory,
    )  # fmt: skip
    return {name: plan.solution(name, solved) for name, solved in plan.solve(report=report).items()}


def _require(value: object, kind: type | UnionType, advice: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{value!r:.60}", f"{getattr(kind, '__name__', kind)}", advice)


def one_size(patch_size: PatchSize) -> Size:
    """The size of a constant patch: an attention network has one receptive field."""
    sizes = PatchSchedule.of(patch_size).sizes
    if len(sizes) > 1:
        remedy = "give one patch size, or solve for no family (--families without names)"
        raise InputError(f"{len(sizes)} patch sizes for an attention network", "one", remedy)
    return sizes[0]
