"""``python -m empirical.challenge``: hold a solved score against whoever may lie below it.

A loss on fresh images bounds the optimum of a family from above, and nothing bounds it from below; so others try. Solution and
challengers are evaluated on the same fresh noisy images, at the solved levels (the images of the solution's certificate), between
them and beyond (`empirical.challenging.report`).
"""

import argparse
import sys
from pathlib import Path

import torch

from empirical.challenging.places import places
from empirical.challenging.report import FORMAT, challenge
from empirical.challenging.tables import table, verdicts
from empirical.challenging.update import challenged, changed
from empirical.compare import titles
from empirical.models import open_model
from theory.commandline import Parser, console_of, find_device, guarded, live
from theory.data import load
from theory.errors import InputError
from theory.results import prepare_file, write_json
from theory.stationarity import SolvedScore


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser.of(
        "empirical.challenge",
        "Hold a solved score against trained networks, other solutions and machines, on the same fresh noise. "
        "Exits with 1 when one of its family lies below it.",
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
    p.add_device()
    p.add_argument("--out", type=Path, help="JSON file to write")
    p.add_argument("--update", action="store_true", help="write the challenges at solved levels into the solution's certificates")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 when the solution is refuted, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: _run(a), "choose another --out", "nothing was written")


def _run(a: argparse.Namespace) -> int:
    console, device = console_of(), find_device(a.device)
    if a.out is not None:
        prepare_file(a.out, FORMAT)
    names = dict(zip(titles(a.challengers), a.challengers, strict=True))
    data = load(a.dataset)
    solution = SolvedScore.load(a.solution, data)
    _require(a, solution)
    opened = {name: open_model(spec, data, solution.schedule, device) for name, spec in names.items()}
    with live(console) as progress:
        report = challenge(solution, opened, ratios=a.ratios, fresh=a.fresh, device=device, progress=progress)
    report["solution"]["path"] = a.solution
    for name, told in report["challengers"].items():
        told["model"] = names[name]
    report["updated"] = a.update and _update(a.solution, solution, report, names)
    if a.out is not None:
        write_json(a.out, report)
    console.print(table(report))
    for line in [*verdicts(report), *_written(a, solution, report["updated"])]:
        console.print(line, highlight=False, markup=False)
    return int(report["refuted"])


def _require(a: argparse.Namespace, solution: SolvedScore) -> None:
    """Refuse to challenge a solution by itself, or to update certificates with numbers that are not theirs, before anything is computed."""
    if any(Path(spec).resolve() == Path(a.solution).resolve() for spec in a.challengers):
        raise InputError(f"challenger {a.solution}, which is the solution itself", "somebody else", "leave it out")
    if not a.update:
        return
    fresh = solution.setting.options.fresh
    if a.fresh not in (None, fresh):
        raise InputError(f"--update with --fresh {a.fresh}", f"{fresh}, as the solution was certified on", "leave out --fresh, or --update")
    if all(place.knot is None for place in places(solution, a.ratios)):
        raise InputError("--update with no solved level among --ratios", "at least one", "leave out --ratios, or --update")


def _update(path: str, solution: SolvedScore, report: dict, names: dict[str, str]) -> bool:
    """Write the challenges of the family's members into the certificates; returns whether there are any."""
    if all(told["outside"] for told in report["challengers"].values()):
        return False
    if changed(report):
        raise InputError(changed(report), "the same", "update with the threads (OMP_NUM_THREADS), device and versions it was solved with")
    solution.certificates = challenged(solution, report, names)
    solution.save(path)
    return True


def _written(a: argparse.Namespace, solution: SolvedScore, updated: bool) -> list[str]:
    """What became of the files, in words."""
    lines = []
    if updated:
        converged = sum(c["converged"] for c in solution.certificates)
        lines.append(f"certificates in {a.solution} updated: converged at {converged} of {len(solution.certificates)} levels")
    elif a.update:
        lines.append("certificates are as they were")
    return [*lines, *([f"written to {a.out}"] if a.out is not None else [])]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
