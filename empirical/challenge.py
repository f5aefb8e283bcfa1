r"""``python -m empirical.challenge``: hold a solved score against whoever may lie below it.

A loss on fresh images bounds the optimum of a family from above, and nothing bounds it from below; so others try. Solution
and challengers are evaluated on the same fresh noisy images, at the solved levels (the images of the solution's certificate), between
them and beyond. With losses :math:`\ell_i` of the solution and :math:`\ell'_i` of a challenger on image ``i``, it lies below by

.. math:: \frac1n \sum_i (\ell_i - \ell'_i) \pm \frac{1}{\sqrt n}\, \mathrm{std}_i (\ell_i - \ell'_i).

Beyond three standard errors (and what is negligible, `theory.stationarity.certificate`) a member of the family refutes the solution;
whoever is no member (`empirical.members`) is shown, and refutes nothing.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from empirical.compare import titles
from empirical.members import standing
from empirical.models import open_model
from theory.commandline import Parser, find_device, guarded
from theory.data import load
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.machines import Ideal
from theory.metrics import Estimate
from theory.plain import PlainConsole
from theory.results import prepare_file, versions, write_json
from theory.stationarity import SolvedScore
from theory.stationarity.certificate import SIGMAS, Certificate, Challenge
from theory.stationarity.fresh import Source
from theory.stationarity.level import Level

FORMAT = "empirical.challenge/1"
ENDS = (0.1, 10.0)  # sigma / alpha that is tried beside the levels
SAME = 1e-6  # relative difference of two ratios that are one
OFF = 1_000_000  # first number of the seeds of images between the levels: none of the solver's
AGREE = 1e-3  # relative difference from a certificate's loss, on its own images, that rounding may make
MOST = 10**9  # images
Device = str | torch.device


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
    for name, model in challengers.items():
        if model.schedule.name != solution.schedule.name:
            raise InputError(
                f"challenger {name!r} with the {model.schedule.name} schedule",
                f"{solution.schedule.name}, that of the solution",
                "leave it out",
            )
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
    setting, options = solution.setting, solution.setting.options
    return {
        "format": FORMAT,
        "config": {"ratios": ratios, "fresh": fresh, "seed": options.seed},
        "data": {"name": solution.data.name, "fingerprint": solution.data.fingerprint},
        "versions": versions(),
        "solution": {
            "family": setting.family,
            "patch_size": list(setting.patch_size),
            "border": setting.border,
            "schedule": setting.schedule,
            "times": list(setting.times),
            "options": vars(options),
        },
        "challengers": {name: s._asdict() for name, s in told.items()},
        "levels": levels,
        "refuted": any(x["lowest"] for x in levels),
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


def challenged(solution: SolvedScore, report: dict, names: Mapping[str, str]) -> list[dict]:
    """The certificates of a solution with the members of a report as challengers, at the solved levels that it has.

    Args:
        solution: What was challenged.
        report: Of `challenge`.
        names: What certificates call each challenger.

    Returns:
        A certificate for each level, as JSON values; those of other levels are as they were.
    """
    certificates = list(solution.certificates)
    for level in report["levels"]:
        if level["knot"] is None:
            continue
        certificate = Certificate.of(certificates[level["knot"]])
        for name, told in report["challengers"].items():
            if not told["outside"]:
                m = level["challengers"][name]
                certificate = certificate.challenged(Challenge(names[name], told["independent"], m["loss"], m["below"], m["below_stderr"]))
        certificates[level["knot"]] = certificate.asdict()
    return certificates


def changed(report: dict) -> str:
    """Where the solution's loss is not that of its certificate on the same images, in words; empty if nowhere."""
    for x in report["levels"]:
        c = x["certified"]
        if c is not None and abs(x["loss"] - c) > AGREE * c + x["negligible"]:
            return f"the solution has loss {x['loss']:.4f} at sigma/alpha {x['ratio']:.3f}, and {c:.4f} in its certificate"
    return ""


def table(report: dict) -> Table:
    """Losses of the solution and of each challenger at each ratio, and the verdict there."""
    unit = {"sample": "", "epsilon": " (of epsilon, as it is predicted)", "score": " (of the score, as it is predicted)"}
    loss = f"loss{unit[report['solution']['options']['prediction']]} per image above the ideal one"
    out = Table(
        title=f"{report['solution']['family']}, challenged: {loss}, on {report['config']['fresh']} fresh images", title_justify="left"
    )
    for column in ("sigma/alpha", "ELS", "solution"):
        out.add_column(column, justify="right")
    out.add_column("challenger")
    for column in ("its loss", "below by"):
        out.add_column(column, justify="right")
    out.add_column("verdict")
    for level in report["levels"]:
        head = [f"{level['ratio']:.3f}{' *' if level['knot'] is not None else '  '}", f"{level['els_loss']:.4f}"]
        head.append(f"{level['loss']:.4f} ± {level['stderr']:.4f}")
        for i, (name, m) in enumerate(level["challengers"].items()):
            cells = [_title(report, name), f"{m['loss']:.4f} ± {m['stderr']:.4f}", f"{m['below']:+.4f} ± {m['below_stderr']:.4f}"]
            out.add_row(
                *([""] * 3 if i else head), *cells, "" if i else escape(level["verdict"]), end_section=i + 1 == len(level["challengers"])
            )
    out.caption = "*: a solved level; below by: loss of the solution less that of the challenger, image by image"
    out.caption_justify = "left"
    return out


def _title(report: dict, name: str) -> str:
    return escape(name) + (" (not of the family)" if report["challengers"][name]["outside"] else "")


def verdicts(report: dict) -> list[str]:
    """Sentences: who is not of the family and why, what to know of members, and whether the solution stands."""
    lines = []
    for name, told in report["challengers"].items():
        if told["outside"]:
            lines.append(f"{name}: not of the family ({told['outside']}): shown, but left out of verdict and certificates")
        elif told["note"]:
            lines.append(f"{name}: of the family but for {told['note']}")
    if changed(report):
        lines.append(f"{changed(report)}: the same images, but other coordinates; compare with the threads and versions it was solved with")
    below = [x for x in report["levels"] if x["lowest"]]
    count = len(report["levels"])
    if below:
        worst = max(below, key=lambda x: x["challengers"][x["lowest"]]["below"])
        lines.append(f"refuted at {len(below)} of {count} ratios: at sigma/alpha {worst['ratio']:.3f} {worst['verdict']}")
    elif all(told["outside"] for told in report["challengers"].values()):
        lines.append("no challenger is of the family: nobody tried")
    else:
        lines.append(f"nobody of the family lies below at any of {count} ratios")
    return lines


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m empirical.challenge",
        description="Hold a solved score against trained networks, other solutions and machines, on the same fresh noise. "
        "Exits with 1 when one of its family lies below it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("solution", metavar="SOLUTION", help="solved score, such as runs/toy/attention/full")
    p.add_argument("--dataset", required=True, help="the training set all belong to")
    p.add_argument("--challengers", nargs="+", required=True, metavar="MODEL", help="training directories, solutions or machines")
    p.add_argument(
        "--ratios",
        nargs="+",
        type=float,
        metavar="R",
        help="noise levels sigma/alpha; if not given, the solved ones, their geometric midpoints, .1 and 10",
    )
    p.add_argument("--fresh", type=int, help="noisy images at each ratio; if not given, as many as the solution was certified on")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--out", type=Path, help="JSON file to write")
    p.add_argument("--update", action="store_true", help="write the challenges at solved levels into the solution's certificates")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 when the solution is refuted, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: _run(a), "choose another --out", "nothing was written")


def _run(a: argparse.Namespace) -> int:
    console = PlainConsole(width=None if sys.stdout.isatty() else 150)
    device = find_device(a.device)
    if a.out is not None:
        prepare_file(a.out, FORMAT)
    names = dict(zip(titles(a.challengers), a.challengers, strict=True))
    data = load(a.dataset)
    solution = SolvedScore.load(a.solution, data)
    if any(Path(spec).resolve() == Path(a.solution).resolve() for spec in a.challengers):
        raise InputError(f"challenger {a.solution}, which is the solution itself", "somebody else", "leave it out")
    if a.update:
        _require_update(a, solution)
    opened = {name: open_model(spec, data, solution.schedule, device) for name, spec in names.items()}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        report = challenge(solution, opened, ratios=a.ratios, fresh=a.fresh, device=device, progress=progress)
    report["solution"]["path"] = a.solution
    for name, told in report["challengers"].items():
        told["model"] = names[name]
    members = [name for name, told in report["challengers"].items() if not told["outside"]]
    report["updated"] = bool(a.update and members)
    if report["updated"]:
        if changed(report):
            raise InputError(
                changed(report), "the same", "update with the threads (OMP_NUM_THREADS), device and versions it was solved with"
            )
        solution.certificates = challenged(solution, report, names)
        solution.save(a.solution)
    if a.out is not None:
        write_json(a.out, report)
    console.print(table(report))
    for line in verdicts(report):
        console.print(line, highlight=False, markup=False)
    if a.update:
        console.print(_saved(solution, a.solution) if members else "certificates are as they were", highlight=False, markup=False)
    if a.out is not None:
        console.print(f"written to {a.out}", highlight=False, markup=False)
    return int(report["refuted"])


def _require_update(a: argparse.Namespace, solution: SolvedScore) -> None:
    """Refuse to update certificates with numbers that are not theirs, before anything is computed."""
    fresh = solution.setting.options.fresh
    if a.fresh not in (None, fresh):
        raise InputError(f"--update with --fresh {a.fresh}", f"{fresh}, as the solution was certified on", "leave out --fresh, or --update")
    if all(place.knot is None for place in places(solution, a.ratios)):
        raise InputError("--update with no solved level among --ratios", "at least one", "leave out --ratios, or --update")


def _saved(solution: SolvedScore, path: str) -> str:
    converged = sum(c["converged"] for c in solution.certificates)
    return f"certificates in {path} updated: converged at {converged} of {len(solution.certificates)} levels"


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
