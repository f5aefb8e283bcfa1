"""From a data set to solved attention scores at all levels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType

import torch

from theory.data.imageset import ImageSet
from theory.errors import InputError
from theory.machines import Ideal
from theory.noise import CosineSchedule, Schedule
from theory.patches import PatchSchedule, PatchSize, Size
from theory.stationarity.basis import LocalBasis
from theory.stationarity.families import DEFAULT, Family
from theory.stationarity.learned import Point
from theory.stationarity.level import Level, make_level
from theory.stationarity.solution import MEMORY, Setting, SolvedScore
from theory.stationarity.solver import STAGES, Options, Solved, before, outwards, solve_level, with_parents

SEED = 1000  # far from the seeds of other draws
DEFAULTS = Options()
Report = Callable[[int, str, int, float], None]  # level, family, stage, loss
Found = dict[str, list[Point]]  # the stages of each family


@dataclass(frozen=True)
class Plan:
    """What to solve.

    Attributes:
        data, schedule: Training set and noise.
        names: Families; those they start from are solved too (`with_parents`).
        times: Noise levels.
        patch_size: Height and width of what a pixel sees.
        border: ``"zeros"`` or ``"circular"``.
        options: How to solve.
        dtype, device: Precision and place of the work.
        memory: Working memory in bytes, beyond the features.
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

    @property
    def families(self) -> list[Family]:
        """Everything that is solved, in order."""
        return with_parents(self.names)

    @property
    def order(self) -> list[int]:
        """Numbers of the levels in the order they are solved."""
        return outwards(list(self.times), self.schedule)

    def levels(self, saved: Callable[[int], Found | None], report: Report = lambda *_: None) -> Iterator[tuple[int, dict[str, Solved]]]:
        """Solve the levels that are not saved yet.

        Args:
            saved: What was found at a level, or None where it is still to be solved.
            report: Told level, family, stage and watched loss on the way.

        Yields:
            Number and solutions of each newly solved level. They must be known to
            ``saved`` when the next one is asked for.
        """
        make = None
        for place, number in enumerate(self.order):
            if saved(number) is not None:
                continue
            make = make or self._maker()
            near = before(self.order, place, list(self.times))
            neighbour = None if near is None else saved(near)

            def told(name: str, stage: int, loss: float, at: int = number) -> None:
                report(at, name, stage, loss)

            yield number, dict(solve_level(make(self.times[number]), self.families, self.options, neighbour, told))

    def _maker(self) -> Callable[[float], Level]:
        """What prepares a level: basis and exact targets are made once."""
        o = self.options
        basis = LocalBasis(self.data, self.patch_size, self.border, o.prediction, o.seed, self.memory)
        ideal = Ideal(self.data, self.schedule, memory=self.memory)
        options = {"images": o.images, "watch": o.watch, "fresh": o.fresh, "seed": o.seed + SEED}
        return lambda t: make_level(basis, self.data, self.schedule, ideal, t, **options, dtype=self.dtype, device=self.device)

    def solution(self, name: str, found: list[Found], certificates: list[dict], stage: int = STAGES - 1) -> SolvedScore:
        """The solved score of a family, from what was found at all levels; ``stage`` chooses how far enriched."""
        setting = Setting(name, list(self.times), self.patch_size, self.border, self.schedule.name, self.options)
        points = [Point.of(level[name][stage].tensors()) for level in found]
        return SolvedScore(self.data, setting, points, certificates, self.schedule, self.memory)


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
    report: Report = lambda *_: None,
) -> dict[str, SolvedScore]:
    """Solve the attention score of a data set.

    Args:
        data: The training set.
        schedule: The noise; the cosine schedule by default.
        families: Names of `FAMILIES`.
        times: Noise levels; by default 8 over equal intervals of t.
        patch_size: What a pixel sees (one size); the data set's own by default.
        border, options, dtype, device, memory: As in `Plan`.
        report: Told level, family, stage and watched loss on the way.

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
    found: dict[int, Found] = {}
    certificates: dict[int, dict[str, dict]] = {}
    for number, solved in plan.levels(found.get, report):
        found[number] = {name: s.stages for name, s in solved.items()}
        certificates[number] = {name: s.certificate.asdict() for name, s in solved.items()}
    levels = range(len(plan.times))
    return {f.name: plan.solution(f.name, [found[i] for i in levels], [certificates[i][f.name] for i in levels]) for f in plan.families}


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
