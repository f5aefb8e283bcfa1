r"""Losses of a solved score and of its challengers on the same fresh images.

With losses :math:`\ell_i` of the solution and :math:`\ell'_i` of a challenger on image ``i``, it lies below by

.. math:: \frac1n \sum_i (\ell_i - \ell'_i) \pm \frac{1}{\sqrt n}\, \mathrm{std}_i (\ell_i - \ell'_i).

Beyond three standard errors (and what is negligible, `theory.stationarity.certificate`) a member of the family refutes the solution;
whoever is no member (`empirical.members`) is shown, and refutes nothing.
"""

from collections.abc import Mapping

import torch
from rich.progress import Progress
from torch import Tensor

from empirical.challenging.places import Place, places
from empirical.members import standing
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.machines import Ideal
from theory.metrics import Estimate
from theory.results import versions
from theory.stationarity import SolvedScore
from theory.stationarity.certificate import SIGMAS, Challenge
from theory.stationarity.fresh import Source
from theory.stationarity.level import Level

FORMAT = "empirical.challenge/1"
MOST = 10**9  # images
Device = str | torch.device


@torch.no_grad()
def challenge(
    solution: SolvedScore,
    challengers: Mapping[str, Denoiser],
    *,
    ratios: list[float] | None = None,
    fresh: int | None = None,
    device: Device = "cpu",
    progress: Progress | None = None,
) -> dict:
    """Hold a solved score against others on the same fresh images.

    Args:
        solution: The solved score.
        challengers: Denoisers of the same data and schedule by name.
        ratios: As in `places`.
        fresh: Noisy images at each ratio, at least 100; by default as many as its certificates have.
        device: Where all are evaluated; networks are there already.
        progress: Where to show it.

    Returns:
        What is written as JSON: ``challengers.<name>`` with ``outside`` (why it is not of the family, or empty), ``independent`` and
        ``note``; and ``levels``, a list with ``ratio``, ``t``, ``knot``, ``seed``, ``loss`` and ``stderr`` of the solution, ``els_loss``,
        ``negligible``, ``challengers.<name>`` (``loss``, ``stderr``, ``below``, ``below_stderr``, ``lower``), ``lowest``, the member that
        lies below by most, or None, ``verdict`` in words, and ``certified``, the loss that the certificate has on the same images, or
        None; ``refuted`` where there is such a one at any ratio.

    Raises:
        InputError: If a challenger has another noise schedule, a number does not fit, or a loss is not finite.
    """
    own = solution.setting.options.fresh
    fresh = own if fresh is None else fresh
    if not 100 <= fresh <= MOST:
        raise InputError(f"fresh {fresh}", f"100 to {MOST}", "correct the option")
    where = places(solution, ratios)
    _require_schedule(solution, challengers)
    told = {name: standing(solution, model) for name, model in challengers.items()}
    members = [name for name, s in told.items() if not s.outside]
    source = _source(solution, device)
    task = progress.add_task("challenging", total=len(where)) if progress else None
    levels = []
    for place in where:
        level = Level.of(source, place.t, fresh, place.seed)
        mine = _losses("the solution", solution, level, place)
        losses = {name: _losses(f"challenger {name!r}", model, level, place) for name, model in challengers.items()}
        certified = None if place.knot is None or fresh != own else solution.certificates[place.knot]["loss_fresh"]
        levels.append({**_measured(place, level, mine, losses, members), "certified": certified})
        if progress:
            progress.advance(task)
    return {
        "format": FORMAT,
        "config": {"ratios": ratios, "fresh": fresh, "seed": solution.setting.options.seed},
        "data": {"name": solution.data.name, "fingerprint": solution.data.fingerprint},
        "versions": versions(),
        "solution": _described(solution),
        "challengers": {name: s._asdict() for name, s in told.items()},
        "levels": levels,
        "refuted": any(x["lowest"] for x in levels),
    }


def _require_schedule(solution: SolvedScore, challengers: Mapping[str, Denoiser]) -> None:
    for name, model in challengers.items():
        if model.schedule.name != solution.schedule.name:
            raise InputError(
                f"challenger {name!r} with the {model.schedule.name} schedule",
                f"{solution.schedule.name}, that of the solution",
                "leave it out",
            )


def _described(solution: SolvedScore) -> dict:
    """What a report says of the solution itself."""
    setting = solution.setting
    return {
        "family": setting.family,
        "patch_size": list(setting.patch_size),
        "border": setting.border,
        "schedule": setting.schedule,
        "times": list(setting.times),
        "options": vars(setting.options),
    }


def _source(solution: SolvedScore, device: Device) -> Source:
    """Where the certificate's images come from (`theory.stationarity.run.Plan.source`)."""
    ideal = Ideal(solution.data, solution.schedule, memory=solution.memory)
    return Source(solution.data, solution.schedule, solution.basis, ideal, torch.float32, torch.device(device))


def _losses(name: str, model: Denoiser, level: Level, place: Place) -> Tensor:
    """Loss of a model on each image, in the units of what the solution predicts."""
    losses = level.losses(model.denoise(level.x_t, place.t))
    if not losses.isfinite().all():
        raise InputError(f"{name}, whose loss is not finite at sigma/alpha {place.ratio:.3f}", "numbers", "leave it or that ratio out")
    return losses


def _measured(place: Place, level: Level, mine: Tensor, losses: dict[str, Tensor], members: list[str]) -> dict:
    """What a report says of a noise level."""
    own, found = Estimate.of(mine), {}
    for name, theirs in losses.items():
        c = Challenge.of(name, False, mine, theirs)
        lower = c.below > SIGMAS * c.stderr + level.negligible
        found[name] = {"loss": c.loss, "stderr": Estimate.of(theirs).stderr, "below": c.below, "below_stderr": c.stderr, "lower": lower}
    lowest = max((n for n in members if found[n]["lower"]), key=lambda n: found[n]["below"], default=None)
    if lowest:
        verdict = f"{lowest} lies below by {found[lowest]['below']:.2g} ± {found[lowest]['below_stderr']:.1g}"
    else:
        verdict = "nobody below" if members else "nobody of the family tried"
    return {
        **vars(place),
        "seed": list(place.seed),
        "loss": own.value,
        "stderr": own.stderr,
        "els_loss": float(level.els_losses.mean()),
        "negligible": level.negligible,
        "challengers": found,
        "lowest": lowest,
        "verdict": verdict,
    }
