"""``python -m empirical.train``: train a network on noisy images.

Each step draws images, times and noise (`empirical.training.batches`) and takes an Adam step towards the clean images or their
posterior means (`empirical.training.learner`). The weight of a level moves the optimum of no network that is free at every level.
A run that was stopped and resumed ends with the same bytes as one that was not (`empirical.training.trainer`).
"""

import argparse
import math
import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from empirical.checkpoint import NAME, Checkpoint
from empirical.networks import NETWORKS
from empirical.networks.cnn import TRUNKS
from empirical.training.config import DECAYS, OPTIMISERS, PRECISIONS, TARGETS, Config
from empirical.training.loop import stop_signal, train
from empirical.training.memory import keep_freed_memory
from empirical.training.trainer import DivergedError, Trainer
from theory.commandline import Parser, console_of, default_out, find_device, guarded, live
from theory.data import SOURCES
from theory.errors import InputError
from theory.noise import SCHEDULES
from theory.patches import BORDERS
from theory.predictions import PREDICTIONS

__all__ = ["Config", "DivergedError", "Trainer", "main", "parser", "stop_signal", "train"]

RESUME = "the same command with --resume goes on from there"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser.of(
        "empirical.train",
        "Train a network on the noisy images of a data set. Stopped, by hand or by --minutes, it keeps what it has; "
        "--resume goes on, to the same weights as if it had never stopped.",
    )
    d = Config(dataset="", model="")
    p.add_argument("--dataset", required=True, help=f"data: {', '.join(SOURCES)}; parameters after a colon, as in toy:layout=strip")
    _add_network(p, d)
    _add_learning(p, d)
    _add_running(p, d)
    return p


def _add_network(p: Parser, d: Config) -> None:
    p.add_argument("--model", required=True, help=f"network: {', '.join(NETWORKS)}")
    p.add_argument("--prediction", default=d.prediction, help=f"what it outputs: {', '.join(PREDICTIONS)}")
    p.add_argument("--padding", default=d.padding, help=f"padding of its convolutions: {', '.join(BORDERS)}")
    p.add_argument("--hidden", type=int, help="channels inside; the network's own if not given")
    p.add_argument("--embedding", type=int, help="numbers in a query or key, for networks with one attention layer")
    p.add_argument("--layers", type=int, help="3x3 convolutions of a resnet, as network or trunk")
    p.add_argument("--trunk", help=f"below the head of networks but resnet and unet: {', '.join(TRUNKS)}; cnn if not given")
    p.add_argument("--attention", action="store_true", help="self-attention in a unet")
    p.add_argument("--conditional", action="store_true", help="tell the network the class of each image")
    p.add_argument("--start", type=Path, help="training directory of a network to begin with: its weights where name and shape agree")


def _add_learning(p: Parser, d: Config) -> None:
    p.add_argument(
        "--target", default=d.target, help=f"what it is trained towards: {', '.join(TARGETS)} (the mean of x_0 given x_t: less noise)"
    )
    p.add_argument("--schedule", default=d.schedule, help=f"noise schedule: {', '.join(SCHEDULES)}")
    p.add_argument("--steps", type=int, default=d.steps, help="training steps")
    p.add_argument("--batch", type=int, default=d.batch, help="images in a step")
    p.add_argument("--optimiser", default=d.optimiser, help=f"how weights move: {', '.join(OPTIMISERS)}")
    p.add_argument("--rate", type=float, default=d.rate, help="learning rate")
    p.add_argument("--decay", default=d.decay, help=f"learning rate over the steps: {', '.join(DECAYS)} (constant, then linear to 0)")
    p.add_argument("--focus", type=float, default=d.focus, help="share of the times drawn from the middle, where context says most")
    p.add_argument("--begin", type=float, help="sigma/alpha to begin at, from which other noise levels open; all at once if not given")
    p.add_argument("--average", type=float, default=d.average, help="decay of the averaged weights (EMA) in a step")
    p.add_argument("--clip", type=float, default=d.clip, help="largest norm of a gradient")
    p.add_argument("--precision", default=d.precision, help=f"arithmetic: {', '.join(PRECISIONS)} (the last two on CUDA only)")
    p.add_argument("--seed", type=int, default=d.seed, help="seed of weights, images, times and noise")


def _add_running(p: Parser, d: Config) -> None:
    p.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, to be resumed")
    p.add_argument("--compile", action="store_true", dest="compiled", help="compile the network")
    p.add_argument(
        "--no-graph", action="store_false", dest="graph", help="on CUDA: launch every operation of a step, instead of one captured graph"
    )
    p.add_argument("--every", type=int, default=d.every, help="steps between two evaluations and checkpoints")
    p.add_argument("--samples", type=int, default=d.samples, help="samples in an evaluation, where there is a rule to check")
    p.add_device()
    p.add_argument("--out", type=Path, help="output directory; runs/train/DATASET-MODEL-SEED if not given")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output directory")
    p.add_argument("--tensorboard", action="store_true", help="write a TensorBoard log too")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for diverged training, 2 for bad input, 130 when interrupted."""
    return guarded(
        lambda: _run(vars(parser().parse_args(argv))),
        "free space or choose another --out; --resume goes on",
        "the same command with --resume goes on from the last checkpoint",
    )


def _run(arguments: dict) -> int:
    keep_freed_memory()
    extras = {name: arguments.pop(name) for name in ("minutes", "compiled", "graph", "resume", "tensorboard")}
    if not extras["minutes"] > 0:  # written so that NaN counts as too few
        raise InputError(f"--minutes {extras['minutes']:g}", "a positive number", "leave it out to train to the end")
    device, out, start = arguments.pop("device"), arguments.pop("out"), arguments.pop("start")
    console = console_of(120)
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    config = Config(**arguments)
    out = out or Path("runs/train") / f"{default_out(config.dataset).name}-{config.model}-{config.seed}"
    try:
        with stop_signal() as stopped, live(console, *columns) as progress:
            begun = None if start is None else Checkpoint.load(start)
            trainer = train(config, out=out, start=begun, device=find_device(device), stopped=stopped, progress=progress, **extras)
    except DivergedError as error:
        print(f"error: training diverged at step {error}; lower --rate or --clip; {out} keeps the last good checkpoint", file=sys.stderr)
        return 1
    if trainer.done < config.steps:
        print(f"stopped at step {trainer.done} of {config.steps}, saved in {out}; {RESUME}", file=sys.stderr)
        return 130 if stopped() else 0
    console.print(f"written to {out}: {NAME}, log.jsonl, samples.png", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
