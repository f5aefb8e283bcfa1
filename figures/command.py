"""The command line every figure shares: compute, save the numbers, draw, save the picture."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from figures.numbers import Numbers
from figures.results import COMMITTED, Results
from figures.style import save, styled
from theory.commandline import Parser, find_device, guarded
from theory.lock import writing

OUT = Path("figures/out")
SCALES = ("smoke", "paper")


@dataclass(frozen=True)
class Effort:
    """How much to compute: ``smoke`` for a look (seconds), ``paper`` for print (minutes); and on which device."""

    scale: str
    device: torch.device

    def __call__(self, smoke: int, paper: int) -> int:
        """One of two numbers."""
        return {"smoke": smoke, "paper": paper}[self.scale]


def options(prog: str, description: str) -> argparse.ArgumentParser:
    """The options all figures have."""
    p = Parser(prog=prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--from", dest="results", type=Path, default=COMMITTED, help="directory with results of empirical.reproduce")
    p.add_argument("--scale", choices=SCALES, default="smoke", help="how much is computed: smoke in seconds, paper for print")
    p.add_argument("--out", type=Path, default=OUT, help="output directory")
    p.add_argument("--device", default="auto", help="where to compute: auto, cpu or cuda")
    p.add_argument("--redraw", action="store_true", help="draw from the numbers of the last run instead of computing them")
    return p


def make(module: ModuleType, results: Results, effort: Effort, out: Path, redraw: bool = False) -> Numbers:
    """Compute and draw one figure; returns what it was drawn from, on the CPU.

    Raises:
        InputError: If results are missing.
    """
    name = name_of(module)
    numbers = Numbers.load(out / "numbers" / name) if redraw else computed(module, results, effort)
    if not redraw:
        numbers.save(out / "numbers" / name)
    with styled():
        save(module.draw(numbers), out / name)
    return numbers


def computed(module: ModuleType, results: Results, effort: Effort) -> Numbers:
    """The numbers of a figure, without drawing it, on the CPU."""
    with torch.no_grad():
        found = module.compute(results, effort)
    told = str(results.path.relative_to(COMMITTED.parent)) if results.path.is_relative_to(COMMITTED.parent) else str(results.path)
    arrays = {name: x.cpu() for name, x in found.arrays.items()}
    return Numbers(found.values, arrays, {"figure": name_of(module), "scale": effort.scale, "results": told})


def name_of(module: ModuleType) -> str:
    """The figure's name: that of its module, also when run as ``python -m``."""
    return Path(module.__file__).stem


def main(argv: list[str] | None = None) -> int:
    """``python -m figures.NAME``; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    module = sys.modules["__main__"]
    a = options(f"python -m figures.{name_of(module)}", module.__doc__).parse_args(argv)

    def run() -> int:
        with writing(a.out):
            make(module, Results(a.results), Effort(a.scale, find_device(a.device)), a.out, a.redraw)
        print(f"written to {a.out}: {name_of(module)}.png, {name_of(module)}.pdf")
        return 0

    return guarded(run, "choose another --out", "nothing was finished")
