"""How far a numerical optimum can be trusted: everything measured on images the solver never saw."""

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from theory.metrics import Estimate
from theory.stationarity.galerkin import Galerkin
from theory.stationarity.learned import Model, Point
from theory.stationarity.level import Level, els_losses

BATCHES = 30  # pieces of the fresh images, for the noise of a gradient
NEGLIGIBLE = 1e-4  # share of the target's variance that is no violation: some families reach what they contain only in a limit
SIGMAS = 3  # standard errors that count as a violation
OPEN = 0.1  # share of the ELS loss that more images, or more features and iterations, may promise before it is said
FEWEST = 100  # iterations below which nothing is proved


@dataclass(frozen=True)
class Certificate:
    """Evidence for one solution. Losses are per image and above the ideal one.

    Attributes:
        loss_train: Loss on the images solved on, with calibrated targets.
        loss_fresh, loss_stderr: Loss on fresh images.
        els_loss: Loss of ELS on the same fresh images.
        gain, gain_stderr: By how much the loss lies below that of ELS, image by image.
        enriched: Fresh losses with a quarter, a half and all of the features and iterations.
        limit, limit_error: Their extrapolation to ever more, and its error; None where they do not fall.
        residual, residual_floor: What one whitened gradient step of the coefficients promises to gain on fresh
            images, and what sampling noise alone would make it seem to promise.
        heldout, heldout_floor: The same for random features that the solution does not have.
        converged: Whether the last doubling of features and iterations, and what it promises, is small against the ELS loss.
        failures: What is wrong, in words; empty for a certificate that holds.
        warnings: How far the loss, which bounds the optimum from above in any case, may be from it.
        history: Loss on the watched images on the way, in each stage.
    """

    loss_train: float
    loss_fresh: float
    loss_stderr: float
    els_loss: float
    gain: float
    gain_stderr: float
    enriched: list[float]
    limit: float | None
    limit_error: float | None
    residual: float
    residual_floor: float
    heldout: float
    heldout_floor: float
    converged: bool
    failures: list[str]
    warnings: list[str]
    history: list[list[float]]
    losses: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def holds(self) -> bool:
        return not self.failures

    @property
    def status(self) -> str:
        """The verdict as a sentence."""
        value = f"loss {self.loss_fresh:.4f} ± {self.loss_stderr:.4f}"
        if self.limit is not None:
            value += f", with ever more features and iterations {self.limit:.4f} ± {self.limit_error:.4f}"
        if not self.holds:
            return f"not certified: {'; '.join(self.failures)} ({value})"
        return f"certified upper bound: {'; '.join([value, *self.warnings])}"

    def asdict(self) -> dict:
        """As JSON values."""
        out = {**asdict(self), "status": self.status}
        out.pop("losses")
        return _finite(out)


def _finite(value):
    """The same with None for what is not a finite number: JSON has no other way."""
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def certify(
    level: Level,
    model: Model,
    stages: list[Point],
    history: list[list[float]],
    iterations: int,
    contained: dict[str, Tensor],
) -> Certificate:
    """Judge a solution on the fresh images of its level.

    Args:
        level: The level.
        model: The family.
        stages: The solution with a quarter, a half and all of the features and iterations.
        history: Losses on the way.
        iterations: Iterations of the last stage.
        contained: Fresh losses, image by image, of solved families that this one contains.
    """
    losses = [model.losses(point, level.fresh) for point in stages]
    last, els, els_loss = losses[-1], els_losses(level.fresh), float(els_losses(level.fresh).mean())
    train = float(model.losses(stages[-1], level.train).mean())
    fresh, gain = Estimate.of(last), Estimate.of(els - last)
    limit, error = extrapolated(losses)
    residual, heldout = _residuals(level, model, stages[-1])
    rivals = {**({"els": els} if contains_els(model) else {}), **contained}
    failures, warnings = ([], []) if torch.isfinite(last).all() else (["the loss is not finite"], [])
    if iterations < FEWEST and model.head.strength:
        failures.append(f"{iterations} iterations prove nothing, at least {FEWEST} do")
    for name, other in rivals.items():
        excess = Estimate.of(last - other)
        if excess.value > SIGMAS * excess.stderr + NEGLIGIBLE * level.variance:
            failures.append(f"above {name}, which it contains, by {excess.value:.2g} ± {excess.stderr:.1g}")
    margin = OPEN * els_loss + SIGMAS * fresh.stderr
    if fresh.value - train > margin:
        warnings.append(f"more images would help: loss {train:.4f} on those solved on")
    promise = max(losses[-2].mean() - last.mean(), fresh.value - limit if limit is not None else 0.0)
    converged = bool(promise <= margin)
    if not converged:
        warnings.append("more features and iterations would help")
    return Certificate(
        train, fresh.value, fresh.stderr, els_loss, gain.value, gain.stderr, [float(x.mean()) for x in losses], limit, error,
        *residual, *heldout, converged, failures, warnings, history, last,
    )  # fmt: skip


def contains_els(model: Model) -> bool:
    """Whether the family has ELS in its closure.

    With tied values a pixel must be able to read itself alone, which is shown for embeddings longer than a
    colour, and must not cancel its own local part by doing so.
    """
    tied = model.family.ties.h == model.family.ties.v
    return "els" in model.family.contains and not (tied and (model.head.strength == -1 or model.embedding <= model.channels))


def extrapolated(losses: list[Tensor]) -> tuple[float | None, float | None]:
    """Geometric extrapolation of the losses of three stages, each twice the last, and its error.

    The gains ``d_1, d_2`` of the two enrichments are taken to go on as a geometric series, with a ratio of at
    most .8, and no loss falls below 0, that of the ideal score. The error is what the series adds, or twice
    the standard error of ``d_2`` where that is larger. None where the last enrichment gained nothing: that tells
    nothing of the limit.
    """
    first, second = Estimate.of(losses[0] - losses[1]), Estimate.of(losses[1] - losses[2])
    value = float(losses[2].mean())
    if second.value <= 0:
        return None, None
    ratio = min(second.value / first.value, 0.8) if first.value > 0 else 0.8
    more = min(second.value * ratio / (1 - ratio), value)
    return value - more, max(more, 2 * second.stderr)


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
