"""How far a numerical optimum can be trusted: everything measured on images that no solution was made from.

A loss on fresh images bounds the optimum of the family from above; nothing here proves it from below. What a certificate
can show is that nobody who tried got lower. So a solution is challenged by others of its family, on the same images:
another solve, from another start, with half the features and half the images; and whoever is asked to, such as trained
networks. One that lies below by more than `SIGMAS` standard errors refutes the solution.
"""

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from theory.metrics import Estimate
from theory.stationarity.galerkin import Galerkin
from theory.stationarity.learned import Model, Point
from theory.stationarity.level import Level

BATCHES = 30  # pieces of the fresh images, for the noise of a gradient
NEGLIGIBLE = 1e-4  # share of the target's variance that is no violation: some families reach what they contain only in a limit
SIGMAS = 3  # standard errors that count as a violation
AGREE = 0.02  # share of the ELS loss by which an independent solve may differ
FEWEST = 100  # steps below which nothing is proved


@dataclass(frozen=True)
class Challenge:
    """Someone else of the family on the same fresh images.

    Attributes:
        name: Who.
        independent: Whether it was solved from another start, without knowing the solution.
        loss: Its loss, per image and above the ideal one.
        below, stderr: By how much it lies below the solution, image by image, and the standard error.
    """

    name: str
    independent: bool
    loss: float
    below: float
    stderr: float

    @classmethod
    def of(cls, name: str, independent: bool, solution: Tensor, other: Tensor) -> "Challenge":
        """From the losses of both on each image."""
        gap = Estimate.of(solution - other)
        return cls(name, independent, float(other.double().mean()), gap.value, gap.stderr)


@dataclass(frozen=True)
class Certificate:
    """Evidence for one solution at one level. Losses are per image and above the ideal one.

    Attributes:
        loss_fresh, loss_stderr: Loss on fresh images.
        els_loss: Loss of ELS on the same images.
        gain, gain_stderr: By how much the loss lies below that of ELS, image by image.
        residual, residual_floor: What one whitened gradient step of the coefficients promises to gain on fresh
            images, and what sampling noise alone would make it seem to promise.
        heldout, heldout_floor: The same for random features that the solution does not have.
        challenges: Who tried to get lower.
        negligible: A difference of losses that is none.
        failures: What is wrong, in words; empty for a certificate that holds.
    """

    loss_fresh: float
    loss_stderr: float
    els_loss: float
    gain: float
    gain_stderr: float
    residual: float
    residual_floor: float
    heldout: float
    heldout_floor: float
    negligible: float
    challenges: list[Challenge]
    failures: list[str]
    losses: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def holds(self) -> bool:
        return not self.failures

    @property
    def refuting(self) -> list[Challenge]:
        """Challengers that lie below the solution beyond doubt."""
        return [c for c in self.challenges if not c.below <= SIGMAS * c.stderr + self.negligible]

    @property
    def apart(self) -> list[Challenge]:
        """Independent solves that ended elsewhere."""
        bound = AGREE * self.els_loss + self.negligible
        return [c for c in self.challenges if c.independent and not abs(c.below) <= bound + SIGMAS * c.stderr]

    @property
    def converged(self) -> bool:
        """Whether an independent solve agrees, and nobody lies below."""
        return self.holds and any(c.independent for c in self.challenges) and not self.refuting and not self.apart

    @property
    def best_known(self) -> float:
        """The lowest loss that anyone of the family has reached."""
        return min([self.loss_fresh, *(c.loss for c in self.challenges)])

    @property
    def status(self) -> str:
        """The verdict as a sentence."""
        value = f"loss {self.loss_fresh:.4f} ± {self.loss_stderr:.4f}"
        if not self.holds:
            return f"not certified: {'; '.join(self.failures)} ({value})"
        if self.converged:
            widest = max(abs(c.below) for c in self.challenges if c.independent)
            return f"converged: {value}; another start and half of everything change it by {widest:.2g}, and nobody lies below"
        if self.refuting:
            lowest = max(self.refuting, key=lambda c: c.below)
            return f"upper bound: {value}; {lowest.name} lies {lowest.below:.2g} ± {lowest.stderr:.1g} below"
        if self.apart:
            widest = max(self.apart, key=lambda c: abs(c.below))
            return f"upper bound: {value}; {widest.name} ended {-widest.below:.2g} ± {widest.stderr:.1g} above: more images would help"
        return f"upper bound: {value}; no other start has tried"

    def challenged(self, challenge: Challenge) -> "Certificate":
        """The same with one more challenger, or a new measurement of one."""
        others = [c for c in self.challenges if c.name != challenge.name]
        return Certificate(**{**vars(self), "challenges": [*others, challenge]})

    def asdict(self) -> dict:
        """As JSON values, with what follows from these."""
        out = {**asdict(self), "converged": self.converged, "best_known": self.best_known, "status": self.status}
        out.pop("losses")
        return _finite(out)

    @classmethod
    def of(cls, values: dict) -> "Certificate":
        """The inverse of `asdict`; None stands for what is not a number."""
        told = {k: math.nan if v is None else v for k, v in values.items() if k not in ("converged", "best_known", "status")}
        challenges = [Challenge(**{k: math.nan if v is None else v for k, v in c.items()}) for c in told.pop("challenges")]
        return cls(**told, challenges=challenges)


def _finite(value):
    """The same with None for what is not a finite number: JSON has no other way."""
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def certify(level: Level, model: Model, point: Point, steps: int, contained: dict[str, Tensor], others: dict[str, Tensor]) -> Certificate:
    """Judge a solution on the fresh images of a level.

    Args:
        level: The level.
        model: The family.
        point: The solution there.
        steps: How many steps led to it.
        contained: Losses, image by image, of solved families that this one contains.
        others: Losses of independent solves of the family.
    """
    losses, els = model.losses(point, level.fresh), level.els_losses
    fresh, gain = Estimate.of(losses), Estimate.of(els - losses)
    finite = bool(torch.isfinite(losses).all())
    residual, heldout = _residuals(level, model, point) if finite else ((math.nan, math.nan), (math.nan, math.nan))
    failures = [] if finite else ["the loss is not finite"]
    if steps < FEWEST and model.head.strength:
        failures.append(f"{steps} steps prove nothing, at least {FEWEST} do")
    for name, other in {**({"els": els} if contains_els(model) else {}), **contained}.items():
        excess = Estimate.of(losses - other)
        if excess.value > SIGMAS * excess.stderr + NEGLIGIBLE * level.variance:
            failures.append(f"above {name}, which it contains, by {excess.value:.2g} ± {excess.stderr:.1g}")
    challenges = [Challenge.of(name, True, losses, other) for name, other in others.items()]
    return Certificate(
        fresh.value, fresh.stderr, float(els.mean()), gain.value, gain.stderr, *residual, *heldout, level.negligible,
        challenges, failures, losses,
    )  # fmt: skip


def contains_els(model: Model) -> bool:
    """Whether the family has ELS in its closure.

    With tied values a pixel must be able to read itself alone, which is shown for embeddings longer than a
    colour, and must not cancel its own local part by doing so.
    """
    tied = model.family.ties.h == model.family.ties.v
    return "els" in model.family.contains and not (tied and (model.head.strength == -1 or model.embedding <= model.channels))


def _residuals(level: Level, model: Model, point: Point) -> tuple[tuple[float, float], tuple[float, float]]:
    """Squared projected gradient on fresh images and its noise floor: along the features, and along held-out ones."""
    problem = Galerkin(model, point, level.fresh, level.basis.heldout)
    count = len(level.fresh.target)
    width = -(-count // BATCHES)
    inside, outside = [], []
    for start in range(0, count - count % width, width):
        gradient = problem.gradient(problem.theta, level.fresh.part(slice(start, start + width)))
        inside.append(torch.cat([g[:n].flatten() for g, n in zip(gradient, problem.inside, strict=True)]))
        outside.append(torch.cat([g[n:].flatten() for g, n in zip(gradient, problem.inside, strict=True)]))
    return _gain(torch.stack(inside)), _gain(torch.stack(outside))


def _gain(gradients: Tensor) -> tuple[float, float]:
    if gradients.numel() == 0:  # every held-out direction was too rare to learn from
        return 0.0, 0.0
    return float(gradients.mean(0).square().sum()), float((gradients.var(0) / len(gradients)).sum())
