"""How far a numerical optimum can be trusted: everything measured on images the solver never saw."""

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from theory.metrics import Estimate
from theory.stationarity.galerkin import Galerkin, flattened, padded
from theory.stationarity.level import Level

BATCHES = 30  # pieces of the fresh images, for the noise of a gradient
NEGLIGIBLE = 1e-4  # share of the target's variance that is no violation: some families reach what they contain only in a limit
SIGMAS = 3  # standard errors that count as a violation
OPEN = 0.1  # share of the ELS loss that more images or features may promise before it is said


@dataclass(frozen=True)
class Certificate:
    """Evidence for one solution. Losses are per image and above the ideal one.

    Attributes:
        loss_train: Loss on the images solved on, with calibrated targets.
        loss_fresh, loss_stderr: Loss on fresh images.
        els_loss: Loss of ELS on the same fresh images.
        gain, gain_stderr: By how much the loss lies below that of ELS, image by image.
        enriched: Fresh losses in the nested bases of n, 2n and 4n random features.
        limit, limit_error: Their extrapolation to ever more features, and its error.
        residual, residual_floor: What one whitened gradient step within the basis promises to gain on fresh
            images, and what sampling noise alone would make it seem to promise.
        heldout, heldout_floor: The same for random directions outside the basis.
        converged: Whether the last iterations left the loss where it was.
        failures: What is wrong, in words; empty for a certificate that holds.
        warnings: How far the loss, which bounds the optimum from above in any case, may be from it.
        history: Loss on the watched images at the start and after every ten iterations, in each basis.
    """

    loss_train: float
    loss_fresh: float
    loss_stderr: float
    els_loss: float
    gain: float
    gain_stderr: float
    enriched: list[float]
    limit: float
    limit_error: float
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
        value = f"loss {self.loss_fresh:.4f} ± {self.loss_stderr:.4f}, with ever more features {self.limit:.4f} ± {self.limit_error:.4f}"
        if not self.holds:
            return f"not certified: {'; '.join(self.failures)} ({value})"
        return f"certified upper bound: {'; '.join([value, *self.warnings])}"

    def asdict(self) -> dict:
        """As JSON values."""
        out = asdict(self)
        out.pop("losses")
        return {**out, "status": self.status}


def certify(
    level: Level,
    problems: list[Galerkin],
    stages: list[list[Tensor]],
    history: list[list[float]],
    converged: bool,
    contained: dict[str, Tensor],
) -> Certificate:
    """Judge a solution on the fresh images of its level.

    Args:
        level: The level.
        problems: The Galerkin problems of the nested bases.
        stages: The solution in each of them.
        history: Losses on the way.
        converged: Whether the last solve stood still.
        contained: Fresh losses, image by image, of solved families that this one contains.
    """
    losses = [p.on(level.fresh).losses(flattened(matrices)).double() for p, matrices in zip(problems, stages, strict=True)]
    last, els = losses[-1], level.fresh_els_losses
    train = float(problems[-1].losses(flattened(stages[-1])).double().mean())
    fresh, gain = Estimate.of(last), Estimate.of(els - last)
    limit, error = extrapolated(losses)
    residual, heldout = _residuals(problems[-1], level, stages[-1])
    family = problems[-1].family
    rivals = {**({"els": els} if "els" in family.contains else {}), **contained}
    failures = [] if torch.isfinite(last).all() else ["the loss is not finite"]
    if not converged:
        failures.append("still falling when its iterations ran out")
    els_loss = float(els.mean())
    for name, other in rivals.items():
        excess = Estimate.of(last - other)
        if excess.value > SIGMAS * excess.stderr + NEGLIGIBLE * level.variance:
            failures.append(f"above {name}, which it contains, by {excess.value:.2g} ± {excess.stderr:.1g}")
    warnings = []
    if fresh.value - train > OPEN * els_loss + SIGMAS * fresh.stderr:
        warnings.append(f"more images would help: loss {train:.4f} on those solved on")
    if fresh.value - limit > OPEN * els_loss + SIGMAS * fresh.stderr:
        warnings.append("more features would help")
    return Certificate(
        train, fresh.value, fresh.stderr, els_loss, gain.value, gain.stderr, [float(x.mean()) for x in losses], limit, error,
        *residual, *heldout, converged, failures, warnings, history, last,
    )  # fmt: skip


def extrapolated(losses: list[Tensor]) -> tuple[float, float]:
    """Geometric extrapolation of the losses in bases of n, 2n and 4n functions, and its error.

    The gains ``d_1, d_2`` of the two enrichments are taken to go on as a geometric series, with a ratio of at
    most .8, and no loss falls below 0, that of the ideal score. The error is what the series adds, or twice
    the standard error of ``d_2`` where that is larger.
    """
    first, second = Estimate.of(losses[0] - losses[1]), Estimate.of(losses[1] - losses[2])
    value = float(losses[2].mean())
    if second.value <= 0:
        return value, max(2 * second.stderr, -second.value)
    ratio = min(second.value / first.value, 0.8) if first.value > 0 else 0.8
    more = min(second.value * ratio / (1 - ratio), value)
    return value - more, max(more, 2 * second.stderr)


def _residuals(problem: Galerkin, level: Level, matrices: list[Tensor]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Squared projected gradient on fresh images and its noise floor: within the basis, and in held-out directions."""
    sizes = level.columns[-1]
    theta = flattened(padded(matrices, sizes))
    count = len(level.fresh.target)
    width = -(-count // BATCHES)
    inside, outside = [], []
    for start in range(0, count - count % width, width):
        part = problem.on(level.fresh.part(slice(start, start + width)), sizes)
        gradient = part.matrices(part.evaluate(theta)[1].double())
        inside.append(flattened([g[: len(m)] for g, m in zip(gradient, matrices, strict=True)]))
        outside.append(flattened([g[len(m) :] for g, m in zip(gradient, matrices, strict=True)]))
    return _gain(torch.stack(inside)), _gain(torch.stack(outside))


def _gain(gradients: Tensor) -> tuple[float, float]:
    if gradients.numel() == 0:  # every held-out direction was too rare to learn from
        return 0.0, 0.0
    return float(gradients.mean(0).square().sum()), float((gradients.var(0) / len(gradients)).sum())
