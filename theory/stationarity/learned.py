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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from theory.stationarity.equations import Head, Roles, forward, loss
from theory.stationarity.families import Family
from theory.types import Float, Int

RATE = 3e-3  # of Adam
SHARP = 2.0  # size of queries and keys at the start: long enough that like attends to like, short enough to change
FAINT = 0.1  # size of values at the start
BATCH = 64  # images of a step
CLIP = 3.0  # norm of the gradient of the loss in units of that of ELS
FLAT = 0.5  # share of the steps at full rate, before it falls to nothing
CHECKS = 4  # looks at the watched images
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

    def __call__(self, u: Float[Tensor, "n P I"], classes: Int[Tensor, " P"]) -> Float[Tensor, "n P w"]:
        """Features of pixels, from their coordinates and the numbers of their classes."""
        return torch.tanh(silu(u @ self.first + self.offset.index_select(0, classes)) @ self.second + self.shift.index_select(0, classes))


class Point(NamedTuple):
    """A member of a family at one level.

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
    """Noisy images as the solver sees them; pixels are in the order of the classes.

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

    def calibrated(self, classes: Int[Tensor, " P"]) -> "Draws":
        """The same draws, their target freed of what is known to be sampling error.

        ``E[T - ELS | Phi] = 0``: whatever of ``T - ELS`` is linear in the coordinates of a class and in ELS is error.
        """
        target = self.target.clone()
        for number in classes.unique():
            here = classes == number
            rows = torch.cat([torch.ones_like(self.els[:, here, :1]), self.els[:, here], self.u[:, here]], -1).flatten(0, 1).double()
            gap = (self.target - self.els)[:, here]
            units = rows.square().mean(0).sqrt()
            rows = rows[:, units > 0] / units[units > 0]
            moments = rows.T @ rows
            share = torch.linalg.pinv(moments, hermitian=True, rtol=1e-9) @ (rows.T @ gap.flatten(0, 1).double())
            target[:, here] -= (rows @ share).unflatten(0, gap.shape[:2]).to(target)
        return Draws(self.u, self.els, target)


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

    def with_head(self, **changes) -> "Model":
        """The same with another strength, inverse temperature or hardness."""
        return Model(self.family, self.head._replace(**changes), self.classes, self.channels, self.embedding)

    def basis(self, net: Net, draws: Draws) -> Float[Tensor, "n P R"]:
        """1, ELS and features."""
        return torch.cat([torch.ones_like(draws.els[..., :1]), draws.els, net(draws.u, self.classes.to(draws.u.device))], -1)

    def roles(self, point: Point, draws: Draws) -> Roles:
        """Values of the roles at every pixel."""
        coefficients = point.coefficients.index_select(0, self.classes.to(draws.u.device))
        values = torch.bmm(self.basis(point.net, draws).transpose(0, 1), coefficients).transpose(0, 1)
        return self.family.roles(dict(zip(self.family.functions, values.split(self.widths, -1), strict=True)))

    def loss(self, point: Point, draws: Draws) -> Float[Tensor, " n"]:
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
        """Random features; a local part that alone is ELS; queries equal to keys; faint values.

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
        for f, place in self.columns().items():
            if f == ties.h:
                coefficients[:, 1:rows, place] = self.share() * torch.eye(self.channels).to(like) / unit
            else:
                coefficients[:, rows:, place] = torch.from_numpy(values if f == ties.v else queries).to(like)
        return Point(net, coefficients * self.rates(unit).to(like))

    def share(self) -> float:
        """Share of ELS in the local part that makes ELS of the whole: a pixel that reads itself has it twice where values are tied."""
        ties, total = self.family.ties, 1 + self.head.strength
        return 1 / total if ties.h == ties.v and abs(total) > 0.1 else 1.0

    def grown(self, point: Point, width: int, rng: np.random.Generator) -> Point:
        """The same functions with room for more: the new features are random, and nothing uses them yet."""
        old, w = point.net, point.net.width
        first, offset, second, shift = self.features(len(old.first), width, rng, old.first)
        first[:, :w], offset[:, :w], shift[:, :w] = old.first, old.offset, old.shift
        second[:w, :w], second[w:, :w] = old.second, 0  # old features do not see new units
        room = point.coefficients.new_zeros(len(old.shift), width - w, sum(self.widths))
        return Point(Net(first, offset, second, shift), torch.cat([point.coefficients, room], 1))


@torch.enable_grad()
def learn(
    model: Model,
    point: Point,
    draws: Draws,
    watched: Draws,
    steps: int,
    scale: float,
    unit: float,
    rng: np.random.Generator,
    report: Callable[[float], None] = lambda loss: None,
) -> tuple[Point, list[float]]:
    """Adam on features and coefficients together, on random batches with exact targets.

    Args:
        model: The family.
        point: Where to start.
        draws, watched: Images to learn from, and others to judge by.
        steps: Number of steps.
        scale: The loss of ELS.
        unit: Size of an output.
        rng: Order of the images.
        report: Called with the watched loss at each check.

    Returns:
        The point that is best on the watched images, the start included, and the losses there on the way.
    """
    rates = model.rates(unit).to(point.coefficients)  # units in which one rate of learning fits all
    flat, assembled = _flat(Point(point.net, point.coefficients / rates))  # one tensor: its step costs far less than that of five
    optimiser = torch.optim.Adam([flat.requires_grad_(True)], lr=RATE, betas=(0.9, 0.99), fused=True)
    best, history = point, [float(model.losses(point, watched).mean())]
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (1 - step / steps) / (1 - FLAT))
        rows = torch.from_numpy(rng.integers(len(draws.target), size=BATCH)).to(draws.target.device)
        net, scaled = assembled(flat)
        value = model.loss(Point(net, scaled * rates), draws.part(rows)).mean() / scale
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(flat, CLIP)
        optimiser.step()
        if (step + 1) * CHECKS // steps > step * CHECKS // steps:
            net, scaled = assembled(flat.detach().clone())
            now = Point(net, scaled * rates)
            history.append(float(model.losses(now, watched).mean()))
            report(history[-1])
            if history[-1] < min(history[:-1]):
                best = now
    return best, history


def _flat(point: Point) -> tuple[Float[Tensor, " n"], Callable[[Tensor], Point]]:
    """All numbers of a point in one new vector, and the way back."""
    tensors = [*point.net, point.coefficients]
    shapes, sizes = [x.shape for x in tensors], [x.numel() for x in tensors]

    def assembled(flat: Tensor) -> Point:
        *net, coefficients = (x.view(shape) for x, shape in zip(flat.split(sizes), shapes, strict=True))
        return Point(Net(*net), coefficients)

    return torch.cat([x.detach().flatten() for x in tensors]), assembled
