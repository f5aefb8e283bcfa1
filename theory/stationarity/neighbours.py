"""What the levels of a solution take over from their neighbours.

What a patch tells changes with the noise; the functions of it hardly do.
"""

from collections.abc import Callable

import numpy as np

from theory.predictions import units
from theory.stationarity.curve import Curve, moved
from theory.stationarity.learned import Model, Net, Point
from theory.stationarity.watched import Watched, mean_loss

REACH = 4  # knots on either side whose functions a level may take over


def lowest(losses: list[float]) -> int:
    """The number of the first of the lowest; a loss that is no number is the highest."""
    return int(np.argmin(np.nan_to_num(losses, nan=np.inf)))


def lent(watched: Watched, model: Model, points: list[Point], counts: list[int]) -> list[Point]:
    """At every knot that has images, the lowest of its own functions and those of its neighbours, up to `REACH` away.

    A neighbour may have found better ones, above all where images that matter are rare.
    """
    unit, out = watched.units.tolist(), list(points)
    for knot in (i for i, count in enumerate(counts) if count):
        near = sorted(range(max(0, knot - REACH), min(len(points), knot + REACH + 1)), key=lambda i: abs(i - knot))
        given = [moved(model, points[i], unit[i], unit[knot]) if i != knot else points[knot] for i in near]
        out[knot] = given[lowest([watched.loss(model, p, knot) for p in given])]
    return out


def bridged(
    watched: Watched, model: Model, points: list[Point], within: tuple[float, float], silent: Callable[[Point], Point] | None = None
) -> list[Point]:
    """Outward from the first knot (`Watched.first`), what loses least at a level and halfway to the one before it.

    Candidates are the functions of the level, those of the one before it, and these ``silent``, if that is given: ELS with the same
    features. Two levels may do equally well by unlike functions; what is interpolated between these does not. Between functions and
    the same ones silent the output is interpolated, where values are free, and a loss is convex in that.
    """
    s, unit, out = watched.s, watched.units, list(points)
    counts, first = watched.levels.weights(watched.t) / unit.square(), watched.first
    outward = [(i, i + 1) for i in reversed(range(first))] + [(i, i - 1) for i in range(first + 1, len(points))]
    for knot, inner in ((i, j) for i, j in outward if within[0] <= float(s[i].exp()) <= within[1]):
        pair, group = [knot, inner], watched.halfway(knot, inner)
        middle = units(watched.source.basis.prediction, *watched.source.schedule(group.t))
        count = float(watched.levels.weights(group.t) / middle.square())

        def cost(point: Point) -> float:
            mixed = Curve(model, [point, out[inner]], s[pair], unit[pair]).at(s[pair].mean()[None], middle, point.coefficients)  # noqa: B023
            between = mean_loss(model, Point(Net(*(x[0] for x in mixed.net)), mixed.coefficients[0]), group)  # noqa: B023
            return float(counts[knot]) * watched.loss(model, point, knot) + count * between  # noqa: B023

        before = moved(model, out[inner], float(unit[inner]), float(unit[knot]))
        given = [out[knot], before, *([silent(before)] if silent else [])]
        out[knot] = given[lowest([cost(p) for p in given])]
    return out
