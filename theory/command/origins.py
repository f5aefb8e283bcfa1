"""``python -m theory.provenance``: where one pixel of one sample comes from, as a table."""

import argparse
import sys
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from theory.candidates import Candidates, candidates
from theory.commandline import Parser, find_device, guarded
from theory.data import ImageSet, load
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.plain import PlainConsole
from theory.sampling import DDIM, initial_noise
from theory.specification import open_theory, patch_machine
from theory.stationarity import SolvedScore


class Pixel(NamedTuple):
    """What is known of a pixel.

    Attributes:
        t: Time of the noisy image.
        x_t: The noisy pixel, with shape ``(C,)``.
        guess: The model's guess of the clean one, with shape ``(C,)``.
        found: Candidates of that pixel alone: all fields with batch, height and width 1.
        local, context: For solved scores, the guess as a sum: what its own patch tells, and what attention adds; ``(C,)``.
        attention: For solved scores, how much it attends to each pixel, with shape ``(H, W)``.
    """

    t: float
    x_t: Tensor
    guess: Tensor
    found: Candidates
    local: Tensor | None = None
    context: Tensor | None = None
    attention: Tensor | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m theory.provenance",
        description="Where a pixel of a sample comes from: the training patches its posterior weighs most, and what it attends to. "
        "python -m figures.explore shows the same for all pixels.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument(
        "model", metavar="MODEL", help="a machine, such as equivariant_local:patch_size=5, or a solution (runs/toy/attention/full)"
    )
    p.add_argument("--dataset", required=True, help="the training set it belongs to")
    p.add_argument("--pixel", required=True, help="row and column from 0, as in 4,2")
    p.add_argument("--seed", type=int, default=0, help="seed of the initial noise")
    p.add_argument("--sample", type=int, default=0, help="number of the sample, from 0")
    p.add_argument(
        "--t", type=float, help="time of the noisy image that is asked about, in (0, 1]: the nearest step; the last one if not given"
    )
    p.add_argument("--steps", type=int, default=50, help="sampling steps (DDIM)")
    p.add_argument("--top", type=int, default=8, help="patches that are shown")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: _run(a), "free space", "nothing was written")


@torch.no_grad()
def _run(a: argparse.Namespace) -> int:
    for name, least in (("seed", 0), ("sample", 0), ("top", 1)):
        if getattr(a, name) < least:
            raise InputError(f"--{name} {getattr(a, name)}", f"at least {least}", "correct the option")
    data = load(a.dataset)
    place = _place(a.pixel, data)
    model = open_theory(a.model, data)
    told = pixel_of(model, data, place, seed=a.seed, sample=a.sample, t=a.t, steps=a.steps, top=a.top, device=find_device(a.device))
    console = PlainConsole(width=None if sys.stdout.isatty() else 120)
    alpha, sigma = (float(c) for c in model.schedule(told.t))
    console.print(
        f"{a.model} on {a.dataset}, seed {a.seed}, sample {a.sample}, t = {told.t:g} (sigma/alpha {sigma / alpha:.3g}), "
        f"row {place[0]}, column {place[1]}: noisy {_numbers(told.x_t)}, guess {_numbers(told.guess)}",
        highlight=False, markup=False,
    )  # fmt: skip
    console.print(patches(told, data, solved=isinstance(model, SolvedScore)))
    console.print(remainder(told), highlight=False)
    if told.attention is not None:
        console.print(attended(told, a.top))
        console.print(parts(told, a.top), highlight=False)
    return 0


def pixel_of(
    model: Denoiser, data: ImageSet, place: tuple[int, int], *, seed: int = 0, sample: int = 0, t: float | None = None,
    steps: int = 50, top: int = 8, device: str | torch.device = "cpu",
) -> Pixel:  # fmt: skip
    """Sample a model, and ask where a pixel comes from.

    Args:
        model: A machine or solved score.
        data: Its training set.
        place: Row and column.
        seed, sample: Which initial noise.
        t: Time; the nearest step is taken, and the last one if None.
        steps: Steps of DDIM.
        top: Patches.
        device: Where to compute.

    Raises:
        InputError: If the time is not in (0, 1].
    """
    if t is not None and not 0 < t <= 1:
        raise InputError(f"--t {t:g}", "a time in (0, 1]", "leave it out for the finished sample")
    noise = initial_noise(model.schedule, (sample + 1, *data.images.shape[1:]), seed, device=device)[sample:]
    run = DDIM(model, steps)(noise, trajectory=True)
    step = steps - 1 if t is None else int((run.times[:-1] - t).abs().argmin())
    time, x_t = float(run.times[step]), run.trajectory[step]
    found = candidates(patch_machine(model, data), x_t, time, top)
    (y, x), split = place, model.split(x_t, time) if isinstance(model, SolvedScore) else None
    guess = split.local + split.context if split else model.denoise(x_t, time)
    apart = [] if split is None else [split.local[0, :, y, x], split.context[0, :, y, x]]
    apart += [] if split is None else [split.attention[0, y * x_t.shape[-1] + x].reshape(x_t.shape[-2:])]
    here = Candidates(*(field[:, y : y + 1, x : x + 1] for field in found))
    return Pixel(time, x_t[0, :, y, x], guess[0, :, y, x], here, *apart)


def patches(told: Pixel, data: ImageSet, solved: bool = False) -> Table:
    """The training patches behind a pixel, heaviest first."""
    title = "What its own patch looks like" if solved else "The training patches it is made of"
    out = Table(title=f"{title}: equal ones together", title_justify="left")
    for name in ("weight", "so far", "image", "row", "column", "alike", "pixel"):
        out.add_column(name, justify="right")
    chosen, so_far = data.select().images, 0.0
    image, weight, count = (x[0, 0, 0].tolist() for x in (told.found.image, told.found.weight, told.found.count))
    for n, (y, x), w, alike in zip(image, told.found.pixel[0, 0, 0].tolist(), weight, count, strict=True):
        if n < 0:
            break
        so_far += w
        out.add_row(_percent(w), _percent(so_far), str(n), str(y), str(x), f"{alike:,}", _numbers(chosen[n, :, y, x]))
    return out


def remainder(told: Pixel) -> str:
    """What the table of patches leaves out, and where the mosaic takes the pixel from."""
    y, x = told.found.place[0, 0, 0].tolist()
    return (
        f"left out: {_percent(float(told.found.rest))}; effective number of training patches: {float(told.found.effective):,.4g}; "
        f"in the mosaic of fewest images: image {int(told.found.mosaic)}, row {y}, column {x}"
    )


def attended(told: Pixel, top: int) -> Table:
    """The pixels that a pixel attends to, and its guess as a sum."""
    out = Table(title="The pixels it attends to", title_justify="left")
    for name in ("weight", "row", "column"):
        out.add_column(name, justify="right")
    weights, places = told.attention.flatten().sort(descending=True, stable=True)
    for w, place in zip(weights[:top].tolist(), places[:top].tolist(), strict=True):
        out.add_row(_percent(w), *map(str, divmod(place, told.attention.shape[1])))
    return out


def parts(told: Pixel, top: int) -> str:
    """The guess as a sum, and the attention that the table leaves out."""
    rest = float(told.attention.flatten().sort(descending=True).values[top:].sum())
    return f"left out: {_percent(rest)}; guess = own patch {_numbers(told.local)} + others {_numbers(told.context)}"


def _place(text: str, data: ImageSet) -> tuple[int, int]:
    height, width = data.images.shape[-2:]
    try:
        y, x = (int(n) for n in text.split(","))
    except ValueError:
        raise InputError(f"--pixel {text!r}", "a row and a column, as in 4,2", "correct the option") from None
    if not (0 <= y < height and 0 <= x < width):
        raise InputError(f"--pixel {text}", f"a row from 0 to {height - 1} and a column from 0 to {width - 1}", "correct the option")
    return y, x


def _numbers(colour: Tensor) -> str:
    return "(" + ", ".join(f"{c:.2f}" for c in colour.tolist()) + ")"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
