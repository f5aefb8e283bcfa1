r"""Posteriors from distances over sets of coordinates: a pass over the training images, some of them side by side at a time.

Squares are taken relative to ``sigma^2``, which shifts all logits of an output alike and keeps them small where the noisy image is
near the data. Where members of sets are added one by one, a sum that has left an image less than ``e^-60`` of the largest weight is not
finished: together such images hold less than a rounding error. Nearest images come first, so that most sums end early at low noise.

On the CPU `together` does all of that in one compiled pass, which leaves out weights below ``eps / N`` of the largest, ``N`` being the
number of images and ``eps`` the rounding error of the work. `Pass` is for what has no such pass: other devices, and sums over patches of
weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from theory.centred import Centred
from theory.engines.masked.sets import Sets
from theory.engines.state import State, rescale
from theory.engines.training import Training
from theory.types import Coefficients, Float, Images, TrainingImages

WIDTH = {"cpu": 64, "cuda": 1024}  # training images side by side; on the CPU, `kernel.WIDTH`
PIECE = 2**22  # numbers of images read at a time to order them
TRIAL = 8  # the block by which it is decided whether sums end early enough: later ones are further away, and end earlier
CUT = 60.0  # exponent below the largest that is not worth finishing a sum for
LEAST = -80.0  # exponent that is taken for smaller ones, which would be slow to add
TOLERANCE = 4e-4  # estimated error of a float32 logit that is used as it is


@dataclass(frozen=True)
class Masked:
    """What is compared: training images of a class, under sets of their coordinates.

    Attributes:
        training: The training images.
        label: Their class, or None for all.
        sets: Of the numbers of an image, channel by channel; or of its pixels, whose channels then count together.
        pixels: Whether they are of pixels.
    """

    training: Training
    label: int | None
    sets: Sets
    pixels: bool = False

    def pieces(self, query: Float[Tensor, " D"], alpha: float, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All training images, those nearest to a noisy image first, some at a time: rows to take them from, which, and log-weights."""
        double = query.dtype == torch.float64
        images = self.training.exact(self.label, query) if double else self.training.centred(self.label, query)[0]
        log_weights = self.training.own(self.label)[1].to(query)
        order = self._order(images, query, alpha) if len(images) > width else torch.arange(len(images))
        for some in order.split(width):
            held = not isinstance(images, Centred)
            yield (
                (images.flatten(1), some, log_weights[some])
                if held
                else (images[some].flatten(1), torch.arange(len(some)), log_weights[some])
            )

    def blocks(self, query: Float[Tensor, " D"], alpha: float) -> Iterator[tuple[Tensor, Tensor]]:
        """All training images, those nearest to a noisy image first: keys ``(D, n)`` and log-weights ``(n,)``, in the precision and
        place of the query, filled up with images of weight zero."""
        double = query.dtype == torch.float64
        images = self.training.exact(self.label, query) if double else self.training.centred(self.label, query)[0]
        log_weights = self.training.own(self.label)[1].to(query)
        width = WIDTH.get(query.device.type, WIDTH["cuda"])
        order = self._order(images, query, alpha) if len(images) > width else torch.arange(len(images))
        for some in order.split(width):
            keys, weights = images[some].flatten(1).T.contiguous(), log_weights[some.to(log_weights.device)]
            if query.device.type == "cpu" and (missing := width - len(some)):
                keys, weights = pad(keys, (0, missing)), pad(weights, (0, missing), value=-torch.inf)
            yield keys, weights

    def _order(self, images: TrainingImages, query: Tensor, alpha: float) -> Tensor:
        """Numbers of the images, those nearest to a noisy image first, as near as rounding tells."""
        step = max(1, PIECE // images[:1].numel())
        distances = []
        for start in range(0, len(images), step):
            rows = images[start : start + step].flatten(1)
            key = "norms", self.label, query.dtype, query.device, start
            distances.append(alpha * self.training.kept(key, lambda rows=rows: rows.square().sum(1)) - 2 * (rows @ query))
        return torch.cat(distances).argsort(stable=True).to("cpu" if isinstance(images, Centred) else query.device)

    @property
    def channels(self) -> int:
        """Numbers that a member of a set stands for."""
        return self.training.data.images.shape[1] if self.pixels else 1

    @cached_property
    def numbers(self) -> Float[Tensor, " M"]:
        """Numbers of an image that each set holds, float64."""
        return self.channels * self.sets.held


class Settled(NamedTuple):
    """A noisy image, in the precision it takes, and what came of it.

    Attributes:
        query: Centred and flattened.
        level: ``alpha`` and ``sigma``.
        state: Of all outputs, one group.
    """

    query: Float[Tensor, " D"]
    level: tuple[float, float]
    state: State


class Pass:
    """One noisy image, centred and flattened, on its way through the training images."""

    def __init__(self, masked: Masked, query: Float[Tensor, " D"], alpha: float, sigma: float) -> None:
        self.masked, self.query, self.alpha, self.sigma = masked, query, alpha, sigma
        self.early = query.device.type == "cpu"
        self.added = self.met = 0
        self.heaviest = float(masked.training.own(masked.label)[1].max())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of all blocks, keys ``(D, n)``, logits ``(M, n)``, and the largest so far ``(M,)``; logits are too large by half the numbers of
        their sets."""
        sets, scale = self.masked.sets, 2 * self.sigma**2
        top = torch.full((sets.count,), -torch.inf, dtype=self.query.dtype, device=self.query.device)
        for keys, log_weights in self.masked.blocks(self.query, self.alpha):
            squares = self._squares(keys)
            if self.early:
                sums, added = sets.bounded(squares, (self.heaviest + CUT - top) * scale, self.masked.channels * self.sigma**2)
                self._count(added)
            else:
                sums = sets.sums(squares)
            logits = sums.mul_(-1 / scale).add_(log_weights)
            top = torch.maximum(top, logits.amax(1))
            yield keys, logits, top

    def _squares(self, keys: Float[Tensor, "D n"]) -> Float[Tensor, "J n"]:
        away = torch.sub(self.query[:, None], keys, alpha=self.alpha)
        squares = torch.addcmul(away.new_full((1, 1), -(self.sigma**2)), away, away)
        return squares.reshape(self.masked.channels, -1, squares.shape[1]).sum(0) if self.masked.pixels else squares

    def _count(self, added: int) -> None:
        """Give up ending early where it does not pay."""
        self.added, self.met = self.added + added, self.met + 1
        if self.met == TRIAL:
            self.early = added <= self.masked.sets.cost


@torch.no_grad()
def settled(masked: Masked, x: Images, alpha: Coefficients, sigma: Coefficients, carried: bool = False) -> Iterator[Settled]:
    """Each noisy image with the state of all its outputs.

    Args:
        masked: What is compared.
        x: Noisy images ``(B, C, H, W)``; their dtype is the precision of the work.
        alpha, sigma: Coefficients of each, ``(B,)``, float64.
        carried: Whether the numbers of training images are averaged, one for each set.
    """
    shifted = masked.training.shifted(masked.label, x, alpha).flatten(1)
    for query, a, s in zip(shifted, alpha.tolist(), sigma.tolist(), strict=True):
        found = Settled(query.to(x), (a, s), _summed(masked, query.to(x), a, s, carried))
        if x.dtype == torch.float32 and _rounding(masked, found) > TOLERANCE:
            found = Settled(query, (a, s), _summed(masked, query, a, s, carried))
        yield found


def sum_masked(masked: Masked, x: Images, alpha: Coefficients, sigma: Coefficients, carried: bool = False) -> State:
    """The state of one group of ``B M`` queries, image by image; arguments of `settled`."""
    return State.joined([found.state for found in settled(masked, x, alpha, sigma, carried)])


def _summed(masked: Masked, query: Tensor, alpha: float, sigma: float, carried: bool) -> State:
    if query.device.type == "cpu" and not masked.pixels:  # a second pass over pixels takes sums as this first one does
        return _together(masked, query, alpha, sigma, carried)
    empty = State.empty(1, masked.sets.count, 1, query.device)
    top, total, square, weighted = (v[0].reshape(-1) for v in (empty.max, empty.sum, empty.square, empty.weighted))
    for keys, logits, highest in Pass(masked, query, alpha, sigma):
        higher = highest.double()
        scale, top = rescale(top[None], higher[None])[0], higher
        weights = logits.sub_(highest[:, None]).clamp_(min=LEAST).exp_()
        total = total * scale + weights.sum(1, dtype=torch.float64)
        square = square * scale**2 + _inner(weights, weights)
        weighted = weighted * scale + _inner(weights, keys) if carried else weighted
    numbers = masked.numbers.to(query.device)
    return State(*(v[None] for v in (top - numbers / 2, total, square)), weighted[None, :, None])


def _together(masked: Masked, query: Tensor, alpha: float, sigma: float, carried: bool) -> State:
    from theory.engines.masked import together  # loads the compiler

    log_weights = masked.training.own(masked.label)[1]
    cut = math.log(len(log_weights) / torch.finfo(query.dtype).eps)
    pieces = masked.pieces(query, alpha, together.BLOCKS * together.LANES)
    state = together.met(masked.sets, pieces, query, (alpha, sigma), float(log_weights.max()), cut, carried)
    return State(state.max - masked.numbers / 2, state.sum, state.square, state.weighted)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """``sum_n a_mn b_mn``, in float64 where a great many are added."""
    return torch.einsum("mn,mn->m", a, b) if a.shape[1] <= WIDTH["cpu"] else (a * b).sum(1, dtype=torch.float64)


def _rounding(masked: Masked, found: Settled) -> float:
    """Estimate of the largest error of a largest logit: of differences rounded once, and of sums of squares relative to ``sigma^2``, all of
    whose partial sums are taken to be as large as the last one, or as numbers of that many directions scatter."""
    unit, numbers, (alpha, sigma) = torch.finfo(torch.float32).eps / 2, masked.numbers.to(found.query.device), found.level
    distance = (-2 * found.state.max[0]).clamp(min=0)  # over sigma^2
    rounded = (float(found.query.abs().max()) + 2 * alpha) * distance.sqrt() / sigma
    additions = masked.sets.cost / masked.sets.count
    terms = (max(additions, masked.sets.ways.additions) if found.query.device.type == "cpu" and not masked.pixels else additions) ** 0.5
    return unit * float((rounded + terms * ((distance - numbers).abs() / 2 + numbers.sqrt())).max())
