r"""Functions of a patch as a small network, learned with the family it serves.

At a pixel of a class, each function of a family is linear in 1, the ELS solution and ``w`` features

.. math:: z = \tanh(\mathrm{silu}(u W_1 + a) W_2 + b)

of what its patch tells (`theory.stationarity.basis`). The matrices ``W_1, W_2`` are shared by all classes, the
vectors ``a, b`` and the coefficients belong to one each. Features are bounded: nothing explodes outside the
training support.

A fixed basis can't do as well. A large patch has thousands of clean versions, and what a pixel can tell others
(on the toy: "the value below red is blue") is a function of all of them: on the toy's grid at sigma/alpha 1.08,
`full` reached .76 with 100 fixed functions of each class, .34 with 64 learned ones (2000 iterations).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from theory.stationarity.equations import Head, Roles, forward, loss
from theory.stationarity.families import Family
from theory.types import Float, Int

SHARP = 2.0  # size of queries at the start, and of keys equal to them: long enough that like attends to like, short enough to change
ADDRESS = 0.5  # size of keys at the start that are not equal to queries
FAINT = 0.1  # size of values at the start
PART = 500  # images evaluated at a time


class Net(NamedTuple):
    """Weights: ``first`` of shape ``(I, w)``, ``second`` ``(w, w)``, and of each class ``offset`` and ``shift``, ``(K, w)``."""

    first: Tensor
    offset: Tensor
    second: Tensor
    shift: Tensor

    @property
    def width(self) -> int:
        return len(self.second)

    def __call__(self, u: Float[Tensor, "*lead n P I"], classes: Int[Tensor, " P"]) -> Float[Tensor, "*lead n P w"]:
        """Features of pixels, from their coordinates and the numbers of their classes."""
        hidden = silu(_product(u, self.first) + self.offset.index_select(-2, classes).unsqueeze(-3))
        return torch.tanh(_product(hidden, self.second) + self.shift.index_select(-2, classes).unsqueeze(-3))


def _product(rows: Float[Tensor, "*lead n P a"], matrix: Float[Tensor, "*lead a b"]) -> Float[Tensor, "*lead n P b"]:
    """Rows times a matrix, all of a group in one product."""
    return (rows.flatten(-3, -2) @ matrix).unflatten(-2, rows.shape[-3:-1])


class Point(NamedTuple):
    """A member of a family at one level.

    Leading axes of all tensors, where there are any, number groups of images with a point each.

    Attributes:
        net: Its features.
        coefficients: Of each class, with shape ``(K, 1 + C + w, width)``: rows for 1, ELS and features, functions side by side.
    """

    net: Net
    coefficients: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to save."""
        return {name: x.contiguous().cpu() for name, x in (*self.net._asdict().items(), ("coefficients", self.coefficients))}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Point":
        """The inverse of `tensors`."""
        return cls(Net(*(tensors[name] for name in Net._fields)), tensors["coefficients"])

    def to(self, like: Tensor) -> "Point":
        """In the dtype of another tensor and on its device."""
        return Point(Net(*(x.to(like) for x in self.net)), self.coefficients.to(like))


@dataclass(frozen=True)
class Draws:
    """Noisy images as the solver sees them; pixels are in the order of the classes. A leading axis may number groups.

    Attributes:
        u: Coordinates of the patches, with shape ``(n, P, I)``.
        els: The ELS solution with shape ``(n, P, C)``.
        target: ``T`` with shape ``(n, P, C)``.
    """

    u: Tensor
    els: Tensor
    target: Tensor

    def part(self, rows: slice | Tensor) -> "Draws":
        pick = (lambda x: x[rows]) if isinstance(rows, slice) else (lambda x: x.index_select(0, rows))  # far quicker than x[rows]
        return Draws(pick(self.u), pick(self.els), pick(self.target))

    def parts(self) -> Iterator["Draws"]:
        return (self.part(slice(i, i + PART)) for i in range(0, len(self.target), PART))


class Model:
    """A family on a set of classes: from points and draws to values, outputs and losses.

    Args:
        family, head: What is solved.
        classes: Number of the class at each position, ascending.
        channels, embedding: Numbers in a colour, and in a query or key.
    """

    def __init__(self, family: Family, head: Head, classes: Int[Tensor, " P"], channels: int, embedding: int) -> None:
        self.family, self.head, self.classes, self.channels, self.embedding = family, head, classes, channels, embedding
        self.widths = [family.width(f, channels, embedding) for f in family.functions]
        self.counts = torch.bincount(classes).tolist()

    def with_head(self, head: Head) -> "Model":
        """The same with another head."""
        return Model(self.family, head, self.classes, self.channels, self.embedding)

    def basis(self, net: Net, draws: Draws) -> Float[Tensor, "*lead n P R"]:
        """1, ELS and features."""
        return torch.cat([torch.ones_like(draws.els[..., :1]), draws.els, net(draws.u, self.classes.to(draws.u.device))], -1)

    def roles(self, point: Point, draws: Draws) -> Roles:
        """Values of the roles at every pixel."""
        coefficients = point.coefficients.index_select(-3, self.classes.to(draws.u.device))
        values = (self.basis(point.net, draws).transpose(-3, -2) @ coefficients).transpose(-3, -2)
        return self.family.roles(dict(zip(self.family.functions, values.split(self.widths, -1), strict=True)))

    def loss(self, point: Point, draws: Draws) -> Float[Tensor, "*lead n"]:
        """Loss of each image, all at once and with gradients."""
        return loss(forward(self.roles(point, draws), self.head).out, draws.target)

    @torch.no_grad()
    def losses(self, point: Point, draws: Draws) -> Float[Tensor, " n"]:
        """Loss of each image, in float64."""
        return torch.cat([self.loss(point, part).double() for part in draws.parts()])

    def columns(self) -> dict[str, slice]:
        """Where the functions stand side by side."""
        stops = np.cumsum(self.widths).tolist()
        return {f: slice(stop - w, stop) for f, stop, w in zip(self.family.functions, stops, self.widths, strict=True)}

    def outputs(self) -> Float[Tensor, " width"]:
        """1 for numbers that are local parts or values, 0 for queries and keys alone."""
        ties = self.family.ties
        return torch.cat([torch.full((w,), float(f in (ties.h, ties.v))) for f, w in zip(self.family.functions, self.widths, strict=True)])

    def rates(self, unit: float) -> Float[Tensor, " width"]:
        """Natural size of each number a function returns: ``unit`` for outputs; queries and keys of that size have logits of about 1."""
        ties = self.family.ties
        sizes = [unit if f in (ties.h, ties.v) else (self.head.beta * self.embedding**0.5) ** -0.5 for f in self.family.functions]
        return torch.cat([torch.full((w,), size) for w, size in zip(self.widths, sizes, strict=True)])

    def features(self, inputs: int, width: int, rng: np.random.Generator, like: Tensor) -> Net:
        """Random ones."""

        def normal(*shape: int, size: float) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape) * size).to(like)

        classes = len(self.counts)
        return Net(
            normal(inputs, width, size=inputs**-0.5),
            normal(classes, width, size=0.5),
            normal(width, width, size=2 * width**-0.5),
            normal(classes, width, size=0.5),
        )

    def start(self, inputs: int, width: int, rng: np.random.Generator, like: Tensor, unit: float) -> Point:
        """Random features; a local part that alone is ELS; random queries; faint values.

        Keys that are not the queries are constants of a class: an address, by which pixels are found before what they hold is.
        On the toy's grid (sigma/alpha 1.2, 64 features, 60,000 images) `full` ends at .228 to .258 so, six times, and at
        .288 to .308 where keys begin as queries do, three times.

        Args:
            inputs, width: Number of coordinates and of features.
            rng: Source of everything random.
            like: A tensor of the precision and on the device to use.
            unit: Size of an output.
        """
        net, ties, rows = self.features(inputs, width, rng, like), self.family.ties, 1 + self.channels
        coefficients = like.new_zeros(len(net.shift), rows + width, sum(self.widths))
        queries = rng.standard_normal((width, self.embedding)) * (SHARP * width**-0.5)
        values = rng.standard_normal((width, self.channels)) * (FAINT * width**-0.5)
        addresses = rng.standard_normal((len(net.shift), self.embedding)) * ADDRESS
        for f, place in self.columns().items():
            if f == ties.h:
                coefficients[:, 1:rows, place] = self.share() * torch.eye(self.channels).to(like) / unit
            elif f == ties.k != ties.q:
                coefficients[:, 0, place] = torch.from_numpy(addresses).to(like)
            else:
                coefficients[:, rows:, place] = torch.from_numpy(values if f == ties.v else queries).to(like)
        return Point(net, coefficients * self.rates(unit).to(like))

    def share(self) -> float:
        """Share of ELS in the local part that makes ELS of the whole: a pixel that reads itself has it twice where values are tied."""
        ties, total = self.family.ties, 1 + self.head.strength
        return 1 / total if ties.h == ties.v and abs(total) > 0.1 else 1.0
