"""``python -m figures.make``: all figures and the gallery page ``index.html``."""

import argparse
import sys
import time
from importlib import import_module

from figures import gallery
from figures.command import Effort, make, options
from figures.numbers import Numbers
from figures.results import Results
from figures.toymodels import POSTER_ROWS
from theory.commandline import find_device, guarded
from theory.errors import InputError, choices
from theory.lock import writing
from theory.plain import PlainConsole

# In the order of the story.
FIGURES = (
    "forward", "machines", "mosaic", "locality", "toy", "attention",
    "consistency", "samples", "agreement", "digits_attention", "field", "loss", "training", "certificate", "equation",
)  # fmt: skip
STUDIES = ("toy-grid", "digits", "digits-attention", "field/digits")  # that all of them need
TITLE = "What a diffusion model can't see, and what it makes of it"


def intro(results: Results) -> str:
    """The question, what was done, and the main table, as HTML."""
    rows = results.report("toy-grid")["rows"]
    head = "".join(f"<th>{m.title}</th>" for m in POSTER_ROWS)

    def line(title: str, cells: list[str]) -> str:
        return f"<tr><td>{title}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"

    picked = [rows[m.network] for m in POSTER_ROWS]
    own = [row["agreement"][row["theory_name"]]["label_agreement"] for row in picked]
    els, ideal = ([row["agreement"][name]["label_agreement"] for row in picked] for name in ("els", "ideal"))
    lines = (
        line("networks of the poster, consistent samples", [f"{row['poster']:.1f}%" for row in picked]),
        line("our theory predicts", [f"{100 * row['theory']['value']:.1f}%" for row in picked]),
        line("our networks, mean of seeds", [f"{100 * row['network']['mean']:.1f}%" for row in picked]),
        line("single samples: same eight colours as their own theory", [f"{100 * a:.0f}%" for a in own]),
        line(
            "... as another seed of the same network",
            [f"{100 * row['twins']['label_agreement']:.0f}%" if row["twins"] else "" for row in picked],
        ),
        line("... as ELS, the theory without attention", [f"{100 * a:.0f}%" for a in els]),
        line("... as the ideal score, which replays training pictures", [f"{100 * a:.0f}%" for a in ideal]),
    )
    return (
        "<p>A diffusion model trained perfectly would only replay its training pictures. Real ones make new pictures, because the "
        "network can't compute the perfect "
        "answer: a convolutional network, for one, sees only a patch around each pixel. The best answer it <em>can</em> compute is known "
        "in closed form "
        '(<a href="https://arxiv.org/abs/2412.20292">Kamb &amp; Ganguli</a>): the equivariant local score, ELS. With a self-attention '
        "layer on top "
        '(<a href="https://arxiv.org/abs/2506.17324">Finn, Keller, Theodosis &amp; Ba</a>: the poster) there is no closed form, only a '
        "condition that the best answer "
        "meets. Here it is solved numerically. Then networks are trained, and every sample of a network is compared with the sample that "
        "its theory, which "
        "is solved from the data and not fitted to a network, makes from the same noise. (On digits one number a noise level is fitted: "
        "the patch "
        "size.)</p>"
        "<p>The attention layer adds to each pixel an average over all others, out<sub>x</sub> = h<sub>x</sub> + &Sigma;<sub>y</sub> "
        "softmax<sub>y</sub>(&lang;q<sub>x</sub>, k<sub>y</sub>&rang;) v<sub>y</sub>. Full: q, k, v and h are functions of the patch. "
        "Identity: "
        "q and k are one function, h and v another. Literal: all four are one function with as many numbers as the output. Top-1: only "
        "the best matching pixel counts. Theory solves for these functions.</p>"
        f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"
        "<p>Consistent: the picture obeys the rule of the toy data (figure 5); all 5056 pictures that do are training pictures, so that "
        "the ideal score always obeys it. Eight colours drawn at random do in 7.7% of cases (the "
        "poster, on its own version of the data: 5.4%). "
        "Theory is an upper bound of the loss that was solved for, not fitted to any network; for top-1 it is the best score found, not "
        "a proven optimum.</p>"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = options("python -m figures.make", __doc__)
    p.add_argument(
        "--only", nargs="+", metavar="NAME", default=list(FIGURES), help=f"some of {', '.join(FIGURES)}; others stay on the page"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: _alone(a), "choose another --out", f"what {a.out} holds is whole; --only NAME makes the rest")


def _alone(a: argparse.Namespace) -> int:
    with writing(a.out):
        return _run(a)


def _run(a: argparse.Namespace) -> int:
    console, results, done, effort = PlainConsole(), Results(a.results), [], Effort(a.scale, find_device(a.device))
    for name in a.only:
        if name not in FIGURES:
            raise InputError(f"--only {name}", choices(FIGURES), "choose some of these")
    results.require(*STUDIES[: None if set(a.only) >= set(FIGURES) else 1])
    for name in FIGURES:
        module = import_module(f"figures.{name}")
        if name in a.only:
            start = time.perf_counter()
            done.append((module, make(module, results, effort, a.out, a.redraw)))
            console.print(f"{name}: {module.TITLE} ({time.perf_counter() - start:.0f} s)", highlight=False)
        elif (a.out / f"{name}.png").exists():  # made before: it stays on the page
            done.append((module, Numbers.load(a.out / "numbers" / name)))
    page = gallery.write(a.out, done, TITLE, intro(results))
    console.print(f"written to {a.out}: PNG and PDF of {', '.join(n for n in FIGURES if n in a.only)}; open {page}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
