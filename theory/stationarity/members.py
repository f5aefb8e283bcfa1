"""Members of a family that are known: ELS, what comes near it, and members of the families it contains."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from theory.stationarity.certificate import contains_els
from theory.stationarity.learned import Model, Point

APART = 40.0  # logits that leave nothing of a weight


def silent_of(model: Model) -> Callable[[Point], Point] | None:
    """What makes ELS of a point, or what comes near it, with the same features that nothing uses; None where the family has it not."""
    if model.family.free or not model.head.strength:
        return lambda point: silenced(model, point)
    return (lambda point: reading_itself(model, point)) if contains_els(model) else None


def silenced(model: Model, point: Point) -> Point:
    """ELS with the features of a point, where values can be nothing or do not count."""
    silent = point.coefficients.clone()
    if model.family.free:
        silent[..., model.columns()[model.family.ties.v]] = 0
    local = model.columns()[model.family.ties.h]
    silent[..., local] = 0
    silent[:, 1 : 1 + model.channels, local] = torch.eye(model.channels).to(silent)
    return Point(point.net, silent)


def reading_itself(model: Model, point: Point) -> Point:
    """Near ELS with the features of a point, where values are tied: a pixel attends to those of its class and colour alone.

    Queries and keys are a direction of each class, and the ELS solution; ``C + 1`` times as long squared as that, so that no colour in
    [-1, 1] outweighs a class. Of pixels that these don't tell apart each reads all.
    """
    columns, c, ties = model.columns(), model.channels, model.family.ties
    classes, room = len(point.net.shift), model.embedding - c
    code = torch.eye(classes, room) if room >= classes else _directions(classes, room)
    length = (APART / model.head.beta) ** 0.5
    out = torch.zeros_like(point.coefficients)
    out[:, 1 : 1 + c, columns[ties.h]] = model.share() * torch.eye(c).to(out)
    place = columns[ties.q]  # and of the keys, which are the same
    out[:, 1 : 1 + c, place.start : place.start + c] = length * torch.eye(c).to(out)
    out[:, 0, place.start + c : place.stop] = length * (1 + c) ** 0.5 * code.to(out)
    return Point(point.net, out)


def _directions(count: int, dimension: int) -> Tensor:
    """Unit vectors, more than there are dimensions."""
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((count, dimension)))
    return vectors / vectors.norm(dim=1, keepdim=True)


def embedded(model: Model, smaller: Model, point: Point) -> Point:
    """A member of a family that another contains, written as one of that."""
    source, played = smaller.columns(), {}
    for mine, theirs in zip(model.family.ties, smaller.family.ties, strict=True):
        played.setdefault(mine, theirs)
    return Point(point.net, torch.cat([point.coefficients[..., source[played[f]]] for f in model.family.functions], -1))
