"""At which noise levels a solved score is challenged, and on which images."""

import math
from dataclasses import dataclass

from theory.errors import InputError
from theory.stationarity import SolvedScore

ENDS = (0.1, 10.0)  # sigma / alpha that is tried beside the levels
SAME = 1e-6  # relative difference of two ratios that are one
OFF = 1_000_000  # first number of the seeds of images between the levels: none of the solver's


@dataclass(frozen=True)
class Place:
    """A noise level at which a solution is challenged.

    Attributes:
        ratio, t: ``sigma / alpha`` and time.
        knot: Number of the solved level; None between these.
        seed: Seed of the images there: at a solved level that of its certificate, elsewhere a function of the ratio.
    """

    ratio: float
    t: float
    knot: int | None
    seed: tuple[int, ...]


def places(solution: SolvedScore, ratios: list[float] | None = None) -> list[Place]:
    """Where to challenge a solution, ascending and each once.

    Args:
        solution: A solved score.
        ratios: Values of ``sigma / alpha``; by default its levels, their geometric midpoints, and .1 and 10 where the
            schedule reaches these.

    Raises:
        InputError: If a ratio is not positive, or the schedule does not reach it.
    """
    schedule, seed = solution.schedule, solution.setting.options.seed
    knots = [_ratio(solution, t) for t in solution.setting.times]
    if ratios is None:
        low, high = (_ratio(solution, t) for t in (0.0, 1.0))
        between = [math.sqrt(a * b) for a, b in zip(sorted(knots)[:-1], sorted(knots)[1:], strict=True)]
        ratios = [*knots, *between, *(r for r in ENDS if low <= r <= high)]
    out: list[Place] = []
    for ratio in sorted(ratios, key=lambda r: (math.isnan(r), r)):
        if not 0 < ratio < math.inf:
            raise InputError(f"ratio {ratio:g}", "a positive number", "give sigma/alpha")
        if out and math.isclose(out[-1].ratio, ratio, rel_tol=SAME):
            continue
        at = [i for i, k in enumerate(knots) if math.isclose(k, ratio, rel_tol=SAME)]
        if at:
            out.append(Place(knots[at[0]], solution.setting.times[at[0]], at[0], (seed, 0, at[0])))
        else:
            out.append(Place(ratio, float(schedule.time(ratio)), None, (seed, OFF, round(ratio / SAME))))
    if not out:
        raise InputError("no ratio", "at least one", "name some, or leave out --ratios")
    return out


def _ratio(solution: SolvedScore, t: float) -> float:
    alpha, sigma = (float(c) for c in solution.schedule(t))
    return sigma / alpha if alpha else math.inf
