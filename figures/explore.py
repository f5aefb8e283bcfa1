"""``python -m figures.explore``: a page on which every pixel of a sample tells where it comes from.

Writes one HTML file that needs nothing else: no server, no network. With ``--serve`` the page comes from a small server on this machine
instead, which computes what no file can hold: any sample, any noise level, and what the models make of an image of your own.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from figures.command import OUT
from figures.explorer import page, serve
from figures.explorer.models import default_models, open_models
from figures.explorer.session import Session
from figures.explorer.trace import Plan
from theory.commandline import Parser, default_out, find_device, guarded
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.plain import PlainConsole

SMALL = 100  # pixels of an image of which much can be shown
MOST = 10**4  # samples that are measured


class Size(NamedTuple):
    """How much is shown where nobody says."""

    samples: int
    steps: int
    levels: int
    top: int
    draws: int

    @classmethod
    def of(cls, data: ImageSet) -> "Size":
        """From the number of pixels, such that the page stays well below its limit and takes minutes at most."""
        return FEW_PIXELS if data.images[0, 0].numel() <= SMALL else MANY_PIXELS


FEW_PIXELS = Size(samples=12, steps=50, levels=25, top=6, draws=200)
MANY_PIXELS = Size(samples=2, steps=25, levels=8, top=5, draws=2)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m figures.explore", description=__doc__.split(": ", 1)[1], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--dataset", default="toy", help="training set: toy, digits, mnist5k, photos:..., folder:DIR,size=32 (default: toy)")
    p.add_argument(
        "--models", nargs="+", metavar="MODEL",
        help="two or more: machines (ideal, equivariant_local:patch_size=5), solved scores (runs/toy/attention/full), training directories "
        "(default: the machines, and for toy the committed solution and network)",
    )  # fmt: skip
    for name, what in {
        "samples": "samples on the page",
        "steps": "sampling steps (DDIM)",
        "levels": "noise levels at which the page stops",
        "top": "training patches of each pixel",
        "draws": "samples that the numbers under the pictures are measured on",
    }.items():
        told = f"{what} (default: {getattr(FEW_PIXELS, name)}; {getattr(MANY_PIXELS, name)} for images of more than {SMALL} pixels)"
        p.add_argument(f"--{name}", type=int, help=told)
    p.add_argument("--seed", type=int, default=0, help="seed of the initial noise (default: 0)")
    p.add_argument("--device", default="auto", help="where to compute: auto, cpu or cuda (default: auto)")
    p.add_argument("--out", type=Path, help=f"the file to write (default: {OUT}/explorer-DATASET.html)")
    p.add_argument("--serve", action="store_true", help="serve the page on this machine instead, and compute on demand")
    p.add_argument("--port", type=int, default=8000, help="port of the server; 0 for a free one (default: 8000)")
    p.add_argument("--host", default=serve.HOST, help=f"address the server listens on; others than {serve.HOST} let other machines in")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    given = sys.argv[1:] if argv is None else argv
    a = parser().parse_args(given)
    return guarded(lambda: _run(a, given), "choose another --out", "nothing was written")


@torch.no_grad()
def _run(a: argparse.Namespace, given: list[str]) -> int:
    console = PlainConsole(stderr=True, width=None if sys.stderr.isatty() else 160)
    started = time.perf_counter()
    _check(a)
    out = a.out or OUT / f"explorer-{default_out(a.dataset).name}.html"
    if a.serve:
        serve.check(a.host, a.port)
    else:
        page.require_own(out)
    data = load(a.dataset)
    size = Size(
        *(default if asked is None else asked for asked, default in ((getattr(a, n), d) for n, d in Size.of(data)._asdict().items()))
    )
    device = find_device(a.device)
    shown = open_models(a.models or default_models(data), data, device)
    plan = Plan(size.steps, min(size.levels, size.steps), size.top)
    session = Session(a.dataset, data, shown, plan, a.seed, device, given)
    if a.serve:
        return serve.serve(session, a.host, a.port, size.draws, console)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("following samples", total=session.pieces() + len(shown))
        tick = lambda: progress.advance(task)  # noqa: E731
        content = session.first(size.samples, size.draws, served=False, tick=tick)
    written = page.write(out, content)
    _tell(console, session, size, out, written, time.perf_counter() - started)
    return 0


def _check(a: argparse.Namespace) -> None:
    for name, least, most in (
        ("samples", 1, 1000),
        ("steps", 1, 1000),
        ("levels", 1, 1000),
        ("top", 1, 100),
        ("draws", 2, MOST),
        ("seed", 0, 2**62),
    ):
        value = getattr(a, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"--{name} {value}", f"{least} to {most}", "correct the option")


def _tell(console: Console, session: Session, size: Size, out: Path, written: int, seconds: float) -> None:
    names = ", ".join(m.name for m in session.shown)
    console.print(
        f"{session.data.name}: {size.samples} samples of {names} at {len(session.plan.told())} noise levels, "
        f"{size.top} patches of each pixel; "
        f"numbers from {size.draws} samples",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print(
        f"written to {out}: {written / 1e6:.1f} MB in {seconds:.0f} s; open it in a browser", highlight=False, markup=False, soft_wrap=True
    )


if __name__ == "__main__":
    sys.exit(main())
