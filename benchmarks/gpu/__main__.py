"""``python -m benchmarks.gpu``: one command, a few minutes on one card, and a table of how fast and how exact everything is there.

In this order, each with its share of ``--minutes`` and what the ones before it left over:

- **scores**: the kernels of windows at all sizes they are for, then every machine by every engine, beside a
  float32 matrix product with a softmax and torch's fused attention, with errors;
- **train**: 500 steps of every network on the toy data;
- **compare**: one of these networks against the score of a CNN;
- **solve**: the main job, ``theory.solve --dataset toy``, at a small size;
- **tests**: those marked ``cuda``.

Parts run in processes of their own: what fails there, hangs, or finds no time is a row that says so, and the rest goes on. The result is
written after each part, to ``results/gpu.json``. Exit code 0 if nothing failed or was stopped, 1 if something was, 2 for bad input or where
there is no CUDA. ``--device cpu --smoke --out FILE`` runs everything at a tiny size, to see that it runs.
"""

import argparse
import functools
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.gpu import jobs, sizes
from benchmarks.gpu.about import about
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.command import ROOT
from benchmarks.gpu.rows import BAD, explained, row
from benchmarks.gpu.scores import scores
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import remarks, table
from theory.commandline import Parser, guarded
from theory.errors import InputError
from theory.results import prepare_file, write_json

FORMAT = "benchmarks.gpu/1"
OUT = ROOT / "results" / "gpu.json"
SHARES = {"scores": 190.0, "train": 60.0, "compare": 10.0, "solve": 40.0, "tests": 60.0}
MARGIN = 0.95  # of the minutes is given away; the rest is for starting and printing

Part = Callable[[Sizes, str, Path, float], list[dict]]
PARTS: dict[str, Part] = {
    "scores": lambda sizes, *rest: scores(sizes.cases, *rest),
    "train": jobs.train,
    "compare": jobs.compare,
    "solve": jobs.solve,
    "tests": jobs.tests,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="python -m benchmarks.gpu", description=__doc__.split("\n\n")[0])
    p.add_argument("--minutes", type=float, default=6.0, help="time for all parts together")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="run these only; the others are listed as not run")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for trying out")
    p.add_argument("--smoke", action="store_true", help="tiny, to see that it runs")
    p.add_argument("--out", type=Path, help="JSON file to write; results/gpu.json if not given, on a card and at full size alone")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 if something failed, 2 for bad input or without CUDA, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: run(a), "choose another --out", "what the finished parts measured is kept in the JSON file")


def run(a: argparse.Namespace) -> int:
    """Run the parts, write the JSON after each, print the table.

    Raises:
        InputError: Without CUDA, for a time that is none, or for a file that can't be written.
    """
    out = checked(a)
    console = Console(width=None if sys.stdout.isatty() else 160)
    report = {"format": FORMAT, **about(a.device), "smoke": a.smoke, "minutes": a.minutes, "complete": False, "rows": []}
    size = sizes.smoke() if a.smoke else sizes.full()
    budget = Budget(MARGIN * a.minutes, {name: SHARES[name] for name in PARTS if name in a.parts})
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        for name, part in PARTS.items():
            if name in a.parts:
                work = functools.partial(part, size, a.device, Path(folder), budget.take(name))
                report["rows"] += attempt(name, work)
            else:
                report["rows"].append(row(name, "all", "not run", "not among --parts"))
            write_json(out, report)
    report["complete"] = True
    write_json(out, report)
    console.print(table(report["rows"], report["card"]["name"]))
    for told in remarks(report["rows"]):
        console.print(told, highlight=False, markup=False)
    console.print(f"written to {out}", highlight=False, markup=False)
    return int(any(r["status"] in BAD for r in report["rows"]))


def attempt(name: str, work: Callable[[], list[dict]]) -> list[dict]:
    """The rows of a part, or one that says what went wrong in it."""
    try:
        return work()
    except Exception as error:
        return [row(name, "all", "failed", explained(error))]


def checked(a: argparse.Namespace) -> Path:
    """The file to write, if the options fit.

    Raises:
        InputError: If they don't.
    """
    if a.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device", "one that torch can use", "run on a machine with a card, or try --device cpu --smoke --out FILE")
    if not 0 < a.minutes < float("inf"):
        raise InputError(f"--minutes {a.minutes:g}", "a positive number", "leave it out for 6")
    if a.out is None and (a.smoke or a.device != "cuda"):
        raise InputError("no --out for a trial", "a file: results/gpu.json is for full runs on a card", "add --out FILE")
    out = a.out or OUT
    prepare_file(out, FORMAT)
    return out


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started is ended with it
    sys.exit(main())
