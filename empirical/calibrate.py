r"""``python -m empirical.calibrate``: which patch a network looks at, at each noise level.

For every noise level and patch size, the ELS machine's scores are held against the network's on the same
noisy images, by their cosine (as in arXiv 2412.20292) and their mean squared difference. The size that
matches best, over the median of the images, makes the `PatchSchedule` of that network.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.progress import Progress
from rich.table import Table

from empirical.metrics import Median, cosine
from empirical.models import open_model
from theory.calibrated import FORMAT, save_patch_schedule
from theory.commandline import Parser, console_of, find_device, guarded, live
from theory.data import ImageSet, load
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.machines import EquivariantLocal
from theory.metrics import NoisyImages, noisy_images
from theory.patches import PatchSchedule
from theory.results import prepare_file, versions

CRITERIA = ("cosine", "mse")


def calibrate(
    network: Denoiser,
    data: ImageSet,
    sizes: list[int],
    *,
    border: str = "zeros",
    levels: int = 20,
    draws: int = 64,
    criterion: str = "cosine",
    label: int | None = None,
    seed: int = 0,
    rtol: float = 0.0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[PatchSchedule, dict]:
    """The patch size per noise level that best matches a network.

    Args:
        network: Any denoiser.
        data: The training set.
        sizes: Odd patch sizes to try.
        border: Border of the machine, as the network pads.
        levels: Noise levels, in the middle of equal intervals of t.
        draws: Noisy images at each level, every one with its own seed.
        criterion: ``"cosine"`` (largest) or ``"mse"`` (smallest).
        label: Class to condition both on.
        seed: Seed of images and noise.
        rtol: Share of a posterior's weight that the machines may leave out, as in `AnalyticDenoiser`; each size has an index.
        device: Where both are evaluated.
        progress: Where to show it.

    Returns:
        The schedule, and for every level ``t``, ``ratio``, and for every size the medians of ``cosine`` and
        ``mse`` over the images.

    Raises:
        InputError: If an option does not fit.
    """
    if criterion not in CRITERIA:
        raise InputError(f"criterion {criterion!r}", choices(CRITERIA), "choose one of these")
    if not sizes or levels < 1 or draws < 1:
        raise InputError(f"{len(sizes)} sizes, {levels} levels, {draws} draws", "at least one of each", "correct the options")
    shown = data.select(label)
    sizes = sorted(set(sizes))
    machine = EquivariantLocal(data, network.schedule, patch_size=sizes[0], border=border, rtol=rtol)
    task = progress.add_task("calibrating", total=levels) if progress else None
    chosen, records = [], []
    for t in ((i + 0.5) / levels for i in range(levels)):
        found = _matched(network, machine, noisy_images(shown, network.schedule, t, draws, seed, device), sizes, label)
        sign = -1 if criterion == "cosine" else 1
        chosen.append(min(found, key=lambda size: sign * found[size][criterion]["value"]))
        alpha, sigma = (float(c) for c in network.schedule(t))
        records.append({"t": t, "ratio": sigma / alpha, "best": chosen[-1], "sizes": {str(size): v for size, v in found.items()}})
        if progress:
            progress.advance(task)
    options = {"criterion": criterion, "border": border, "draws": draws, "seed": seed, "rtol": rtol}
    return PatchSchedule.of(chosen), {**options, "levels": records}


def _matched(network: Denoiser, machine: EquivariantLocal, noisy: NoisyImages, sizes: list[int], label: int | None) -> dict[int, dict]:
    """How well the machine of each patch size matches a network on the same noisy images of one level."""
    score = network.score(noisy.x_t, noisy.t, label)
    alpha, sigma = (float(c) for c in network.schedule(noisy.t))
    found = {}
    for size, posterior in zip(sizes, machine.sweep(noisy.x_t, noisy.t, sizes, label), strict=True):
        other = (alpha * posterior.mean - noisy.x_t) / sigma**2
        mse = (score - other).double().square().flatten(1).mean(1)
        found[size] = {"cosine": Median.of(cosine(score, other))._asdict(), "mse": Median.of(mse)._asdict()}
    return found


def table(report: dict) -> Table:
    """Cosine of every size at every level, the chosen one marked."""
    sizes = list(report["levels"][0]["sizes"])
    out = Table(title="Median cosine between scores of the network and of ELS, by patch size", title_justify="left")
    for column in ["t", "sigma/alpha", *sizes]:
        out.add_column(column, justify="right")
    for level in report["levels"]:
        cells = [f"{level['sizes'][s]['cosine']['value']:.4f}" + ("*" if int(s) == level["best"] else " ") for s in sizes]
        out.add_row(f"{level['t']:.3f}", f"{level['ratio']:.3f}", *cells)
    return out


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser.of(
        "empirical.calibrate", "Fit the patch size of the ELS machine to a trained network, level by level, and write a patch schedule."
    )
    p.add_argument("network", help="training directory or checkpoint")
    p.add_argument("--dataset", required=True, help="the training set")
    p.add_argument("--sizes", type=int, nargs="+", help="odd patch sizes; 3 up to the receptive field, or the image, if not given")
    p.add_argument("--border", help="border of ELS; the padding of the network if not given")
    p.add_argument("--levels", type=int, default=20, help="noise levels")
    p.add_argument("--draws", type=int, default=64, help="noisy images per level")
    p.add_argument("--criterion", default="cosine", help=f"what decides: {', '.join(CRITERIA)}")
    p.add_argument("--label", type=int, help="condition both on this class")
    p.add_argument("--rtol", type=float, default=0.0, help="share of a posterior's weight that may be left out; 0 for exact sums")
    p.add_argument("--seed", type=int, default=0, help="seed of images and noise")
    p.add_device()
    p.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return p


def default_sizes(network: Denoiser, data: ImageSet, border: str) -> list[int]:
    """Odd sizes from 3 to the receptive field, but none that says nothing new.

    With zeros, a patch of twice the image sees all of it from every pixel. Around a circular border a patch wider
    than the image would see pixels twice.
    """
    height, width = data.images.shape[-2:]
    widest = 2 * max(height, width) - 1 if border == "zeros" else min(height, width)
    field = getattr(network, "receptive_field", None)
    return list(range(3, max(3, min(widest, field or widest)) + 1, 2))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: _run(a), "choose another --out", "nothing was written")


def _run(a: argparse.Namespace) -> int:
    console, device = console_of(), find_device(a.device)
    prepare_file(a.out, FORMAT)
    data = load(a.dataset)
    network = open_model(a.network, data, device=device)
    border = a.border or getattr(getattr(network, "module", None), "padding", "zeros")
    options = {"levels": a.levels, "draws": a.draws, "criterion": a.criterion, "label": a.label, "seed": a.seed, "rtol": a.rtol}
    with live(console) as progress:
        schedule, report = calibrate(
            network, data, a.sizes or default_sizes(network, data, border), border=border, **options, device=device, progress=progress
        )
    source = {"network": a.network, "data": {"name": data.name, "fingerprint": data.fingerprint}, "versions": versions(), **report}
    save_patch_schedule(a.out, schedule, source)
    console.print(table(report))
    console.print(f"written to {a.out}; use it as --patch-size {a.out} or equivariant_local:schedule={a.out}", highlight=False)
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
