"""``python -m empirical.reproduce STUDY``: train the networks, compute their theories, and hold one against the other.

``toy``: the five models of arXiv 2506.17324 over several seeds, against the theory of each and of every other.
``digits``: ResNet and UNet with zero and circular padding, against calibrated ELS, LS and IS, as in table 2
of arXiv 2412.20292.
``digits-attention``: networks of one trunk with and without attention over several seeds, against the theories of both and all others.
``field``: every analytic denoiser against ResNet, UNet and attention on three data sets: agreement, seconds and memory.

Everything lands in one directory: ``train/`` with the checkpoints, ``theory/`` with the solutions,
``samples.safetensors`` with the first samples of every model, all from the same noise, and ``report.json``.
An interrupted run goes on where it was when the command is repeated.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from empirical.study.attention import ATTENTION, attention, attention_tables
from empirical.study.digits import DIGITS, digits, digits_tables
from empirical.study.field import FIELD, field, field_tables
from empirical.study.job import FORMAT, SAMPLES, Job, Scale
from empirical.study.tables import toy_tables
from empirical.study.toy import TOY, toy
from empirical.train import DivergedError, stop_signal
from empirical.training.memory import keep_freed_memory
from theory.commandline import Parser, console_of, find_device, guarded, live
from theory.errors import InputError, choices
from theory.lock import writing
from theory.results import prepare_file, read_json, write_json

STUDIES = {
    "toy": (toy, toy_tables, "toy", TOY),
    "digits": (digits, digits_tables, "digits", DIGITS),
    "field": (field, field_tables, "", FIELD),
    "digits-attention": (attention, attention_tables, "digits", ATTENTION),
}
SOLVING = ("toy", "digits-attention")  # studies with theories of attention, and with several networks of a kind


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser.of(
        "empirical.reproduce",
        "Train networks, compute their theories, and write how well theory predicts network. "
        "Stopped, it goes on where it was when the command is repeated.",
    )
    p.add_argument("study", choices=list(STUDIES), help="what to reproduce")
    p.add_argument("--budget", type=float, default=1.0, help="1 for everything (hours on 2 cores), .01 for a smoke run")
    p.add_argument("--steps", type=int, help="training steps, of those that need most; by the budget if not given")
    p.add_argument("--seeds", type=int, help="networks of each kind (toy, digits-attention); by the budget if not given")
    names = "; ".join(f"{study}: {', '.join(options[3])}" for study, options in STUDIES.items())
    p.add_argument("--models", nargs="+", metavar="NAME", help=f"only some, and those they start from; {names}")
    p.add_argument("--dataset", help="another data set of the same kind, such as toy:layout=strip or mnist5k")
    p.add_argument("--solved", type=Path, metavar="DIR", help="take the theories of attention from solutions saved in a directory (same)")
    p.add_argument("--target", default="posterior", help="trained towards: clean, or posterior (the mean of x_0 given x_t)")
    p.add_argument("--rate", type=float, default=4e-3, help="learning rate")
    p.add_argument("--batch", type=int, default=128, help="images in a training step; most networks of the toy take half")
    p.add_device()
    p.add_argument("--out", type=Path, help="output directory; runs/reproduce-STUDY if not given")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    out = a.out or Path("runs") / f"reproduce-{a.study}"
    return guarded(
        lambda: _alone(a, out),
        "free space or choose another --out; the same command goes on",
        f"the same command goes on from what {out} holds",
    )


def _alone(a: argparse.Namespace, out: Path) -> int:
    """The work, under the lock on its directory; the parts in ``train`` and ``theory`` have locks of their own."""
    if out.is_file():
        raise InputError(f"--out {out}, a file", "a directory", "choose another --out")
    with writing(out):
        return _run(a, out)


def _require_own(out: Path, study: str) -> None:
    """Refuse a directory in which another study, or something else, has its report."""
    prepare_file(out / "report.json", FORMAT)
    if (out / "report.json").exists() and read_json(out / "report.json").get("study") != study:
        raise InputError(f"--out {out}, with another study", "a directory of this study, or a new one", "choose another --out")


def _run(a: argparse.Namespace, out: Path) -> int:
    console = console_of()
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    study, tables, dataset, models = STUDIES[a.study]
    chosen = list(dict.fromkeys(a.models or models))
    for name in chosen:
        if name not in models:
            raise InputError(f"--models {name}", choices(models), "choose some of these")
    if a.study not in SOLVING and a.seeds is not None:
        raise InputError(f"--seeds {a.seeds} with {a.study}", "no --seeds: one network of each kind is trained", "leave it out")
    if a.study not in SOLVING and a.solved is not None:
        raise InputError(f"--solved {a.solved} with {a.study}", "no --solved: no theory of attention is needed", "leave it out")
    if a.batch < 1:
        raise InputError(f"--batch {a.batch}", "at least 1", "correct the option")
    keep_freed_memory()
    scale, device = Scale.of(a.study, a.budget, a.steps, a.seeds), find_device(a.device)
    if a.solved is not None:
        scale = replace(scale, theory={**scale.theory, "solved": str(a.solved)})
    _require_own(out, a.study)
    with stop_signal() as stopped, live(console, *columns) as progress:
        job = Job(out, scale, device, a.dataset or dataset, chosen, a.target, a.rate, a.batch, stopped, progress)
        try:
            report = study(job)
        except DivergedError as error:
            print(f"error: training diverged at step {error}; lower --rate; {out} keeps what is finished", file=sys.stderr)
            return 1
    write_json(out / "report.json", report)
    for table in tables(report):
        console.print(table)
    console.print(f"written to {out}: report.json, {SAMPLES}, train/" + (", theory/" if a.study in SOLVING else ""), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
