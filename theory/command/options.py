"""The options of the main job, and its command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from theory.calibrated import patch_schedule, published
from theory.commandline import Parser
from theory.data import SOURCES
from theory.errors import InputError, choices
from theory.machines import MACHINES
from theory.machines.base import MEMORY
from theory.noise import SCHEDULES
from theory.patches import BORDERS, PatchSchedule, PatchSize
from theory.predictions import PREDICTIONS
from theory.sampling import SAMPLERS
from theory.stationarity import DEFAULT, FAMILIES, Options
from theory.stationarity.options import QUALITIES

CHEAP = ("ideal", "local", "equivariant_local")  # candidates of the equivariant machine are all shifts of all images


@dataclass(frozen=True)
class Config:
    """What to compute. Everything here determines the numbers, and is saved with them."""

    dataset: str
    machines: tuple[str, ...] = CHEAP
    families: tuple[str, ...] | None = None
    start: str | None = None
    within: tuple[float, ...] | None = None
    solved: str | None = None
    reference: tuple[str, ...] = ()
    prediction: str = Options.prediction
    strength: float = Options.strength
    beta: float = Options.beta
    embedding: int = Options.embedding
    quality: str = "quick"
    features: int | None = None
    images: int | None = None
    refinement: int | None = None
    challenge: bool | None = None
    fresh: int | None = None
    patch_size: str | None = None
    border: str = "zeros"
    label: int | None = None
    schedule: str = "cosine"
    levels: int = 8
    draws: int = 1000
    samples: int | None = None
    sampler: str = "ddim"
    steps: int = 50
    seed: int = 0
    dtype: str = "float32"
    rtol: float = 0.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser.of(
        "theory.solve",
        "Compute the closed-form scores of a data set and solve for the best score of a CNN with attention: "
        "denoising loss per noise level, samples from shared noise, what rule they obey and what they memorise. "
        "Exits with 1 when the certificate of a solved score fails.",
    )
    d = Config(dataset="")
    p.add_argument(
        "--dataset", required=True, help=f"data: {', '.join(SOURCES)}; parameters after a colon, as in toy:layout=strip or npz:FILE"
    )
    p.add_argument(
        "--machines",
        nargs="+",
        default=d.machines,
        metavar="NAME",
        help=f"machines: {', '.join(MACHINES)}, or all; options after a colon, as in nearest:count=9 or equivariant_local:group=flip",
    )
    p.add_argument(
        "--families",
        nargs="*",
        metavar="NAME",
        help=f"attention networks to solve: {', '.join(FAMILIES)}, all, or nothing; "
        f"{' '.join(DEFAULT)} where there is a rule to check, else none, if not given",
    )
    p.add_argument("--start", metavar="DIR", help="go on from the solutions that a directory has of these families; others start anew")
    p.add_argument("--within", nargs=2, type=float, metavar="R", help="range of sigma/alpha in which these go on; elsewhere they stay")
    p.add_argument("--solved", metavar="DIR", help="take these families from solutions saved in a directory instead of solving")
    p.add_argument("--reference", nargs="+", default=d.reference, metavar="PATH", help="measure saved solutions too, such as DIR/full")
    p.add_argument("--prediction", default=d.prediction, help=f"what attention networks predict: {', '.join(PREDICTIONS)}")
    p.add_argument("--strength", type=float, default=d.strength, metavar="LAMBDA", help="strength lambda of the attention")
    p.add_argument("--beta", type=float, default=d.beta, help="inverse temperature of the attention")
    p.add_argument("--embedding", type=int, default=d.embedding, metavar="D", help="numbers in a query or key")
    p.add_argument("--quality", default=d.quality, help=f"how much to put into solving: {', '.join(QUALITIES)}; chooses what follows")
    p.add_argument("--features", type=int, help="learned features of a patch")
    p.add_argument("--images", type=int, help="fresh noisy images to solve on, over all levels together")
    p.add_argument("--refinement", type=int, help="how often the intervals between levels are halved for the knots of the functions")
    p.add_argument(
        "--challenge", action=argparse.BooleanOptionalAction, default=None, help="solve again from another start, with half of everything"
    )
    p.add_argument("--fresh", type=int, help="other noisy images of each level, to judge solutions by")
    p.add_argument(
        "--patch-size",
        help="odd number, HEIGHTxWIDTH, a comma-separated list over equal intervals of t, a published schedule such as "
        "MNIST_ResNet_zeros, or a file of empirical.calibrate; the data's own if not given",
    )
    p.add_argument("--border", default=d.border, help=f"border of local machines: {', '.join(BORDERS)}")
    p.add_argument("--label", type=int, help="restrict the training set to one class")
    p.add_argument("--schedule", default=d.schedule, help=f"noise schedule: {', '.join(SCHEDULES)}")
    p.add_argument("--levels", type=int, default=d.levels, help="noise levels at which the loss is measured")
    p.add_argument("--draws", type=int, default=d.draws, help="noisy images per level")
    p.add_argument("--samples", type=int, help="samples of each machine; 2000 where there is a rule to check, else 100, if not given")
    p.add_argument("--sampler", default=d.sampler, help=f"sampler: {', '.join(SAMPLERS)}")
    p.add_argument("--steps", type=int, default=d.steps, help="sampling steps")
    p.add_argument("--seed", type=int, default=d.seed, help="seed of all random numbers")
    p.add_argument("--dtype", default=d.dtype, help="precision: float32 or float64")
    p.add_device()
    p.add_argument("--memory", type=int, default=MEMORY >> 20, help="working memory in MB")
    p.add_argument("--rtol", type=float, default=d.rtol, help="share of a posterior's weight that may be left out; 0 for exact sums")
    p.add_argument("--out", type=Path, help="output directory; runs/ and the data set if not given")
    p.add_argument("--resume", action="store_true", help="continue an interrupted run of the same options")
    return p


def parse_patch_size(text: str) -> PatchSize:
    """``5``, ``3x1``, several of these separated by commas, a published schedule's name or a file of one."""
    if text in published() or text.endswith(".json"):
        return patch_schedule(text)
    try:
        sizes = [tuple(int(n) for n in part.split("x")) for part in text.split(",")]
    except ValueError:
        expected = f"sizes such as 5, 3x1 or 3,5,7, a .json file, or one of {choices(published())}"
        raise InputError(f"--patch-size {text!r}", expected, "correct the option") from None
    return PatchSchedule.of([size[0] if len(size) == 1 else size for size in sizes])
