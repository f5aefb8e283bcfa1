"""Samples of the ELS machine as patch mosaics: the training image every pixel was copied from."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import PAGE, picture
from theory.data import ImageSet, load
from theory.machines import EquivariantLocal
from theory.provenance import Provenance, provenance
from theory.sampling import DDIM, initial_noise

TITLE = "A sample is a mosaic of training patches"
SOURCES = 6  # training images shown
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
STUDIES = {"digits": "digits, 8 x 8", "photos": "photographs"}


def compute(results: Results, effort: Effort) -> Numbers:
    """One sample of each data set, and where each of its pixels comes from."""
    size, crops = effort(16, 32), effort(60, 500)
    digits = load("digits")
    jobs = {
        "digits": (ImageSet(digits.images[: effort(600, 1797)], "digits"), [5, 5, 7], 0),
        "photos": (load(f"photos:count={crops},size={size}"), [7, 7, 9, 11], 4),
    }
    values, arrays = {}, {}
    for name, (data, sizes, seed) in jobs.items():
        machine = EquivariantLocal(data, patch_size=sizes, border="zeros")
        steps = effort(30, 60)
        run = DDIM(machine, steps)(
            initial_noise(machine.schedule, (1, *data.images.shape[1:]), seed, device=effort.device), trajectory=True
        )
        t = float(run.times[-2])
        found = Provenance(*(x.cpu() for x in provenance(machine, run.trajectory[-2], t)))
        sample = run.images[0].cpu()
        image, pixel = found.image[0], found.pixel[0]
        rebuilt = data.images[image, :, pixel[..., 0], pixel[..., 1]].permute(2, 0, 1)
        numbers, counts = image.unique(return_counts=True)
        top = numbers[counts.argsort(descending=True, stable=True)][:SOURCES]
        arrays |= {
            f"{name}.sample": sample, f"{name}.image": image, f"{name}.pixel": pixel, f"{name}.pieces": found.pieces()[0],
            f"{name}.top": top, f"{name}.sources": data.images[top],
        }  # fmt: skip
        values[name] = {
            "images": len(data),
            "used": len(numbers),
            "pieces": len(found.pieces().unique()),
            "pixels": image.numel(),
            "copied": float((rebuilt - sample).square().mean().sqrt()),
            "weight": float(found.weight.median()),
        }
    return Numbers(values, arrays)


def draw(numbers: Numbers) -> Figure:
    """For each data set: the sample, its pieces, and the images most of it comes from."""
    figure = plt.figure(figsize=(PAGE, 3.5), layout="constrained")
    for part, (name, title) in zip(figure.subfigures(len(STUDIES), 1), STUDIES.items(), strict=True):
        _study(part, {k.split(".")[1]: x for k, x in numbers.arrays.items() if k.startswith(f"{name}.")}, numbers.values[name], title)
    return figure


def _study(figure: SubFigure, arrays: dict[str, Tensor], told: dict, title: str) -> None:
    figure.suptitle(
        f"{title}: {told['pixels']} pixels in {told['pieces']} pieces from {told['used']} of {told['images']} images",
        x=0.005, ha="left", fontsize=8.5, fontweight="bold",
    )  # fmt: skip
    axes = figure.subplots(1, 2 + SOURCES, width_ratios=[1.5, 1.5] + [1] * SOURCES)
    picture(axes[0], arrays["sample"])
    axes[0].set_title("sample", loc="center", fontweight="normal", fontsize=7.5)
    colours = {int(n): to_rgb(c) for n, c in zip(arrays["top"], PALETTE, strict=False)}
    height, width = arrays["image"].shape
    tinted = np.array([[colours.get(int(n), (0.82, 0.82, 0.82)) for n in row] for row in arrays["image"]])
    axes[1].imshow(tinted, interpolation="nearest")
    axes[1].set(xticks=[], yticks=[])
    _borders(axes[1], arrays["pieces"])
    axes[1].set_title("its pieces", loc="center", fontweight="normal", fontsize=7.5)
    for panel, number, source in zip(axes[2:], arrays["top"].tolist(), arrays["sources"], strict=False):
        mine = arrays["image"] == number
        used = torch.zeros(height, width, dtype=torch.bool)
        used[arrays["pixel"][mine][:, 0], arrays["pixel"][mine][:, 1]] = True
        picture(panel, torch.where(used, source, 0.35 * source + 0.35 if source.shape[0] == 1 else 0.3 * source))
        for y, x in used.nonzero().tolist():
            panel.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=colours[number], linewidth=6 / height))
        for spine in panel.spines.values():
            spine.set(visible=True, color=colours[number], linewidth=2, linestyle="-")
        panel.set_xlabel(f"{int(mine.sum())} pixels", fontsize=6, labelpad=2)
    for panel in axes[2 + len(arrays["top"]) :]:
        panel.axis("off")


def _borders(axes, pieces: Tensor) -> None:
    """Lines between pixels of different pieces."""
    height, width = pieces.shape
    for y in range(height):
        for x in range(width):
            if x + 1 < width and pieces[y, x] != pieces[y, x + 1]:
                axes.plot([x + 0.5] * 2, [y - 0.5, y + 0.5], color="k", linewidth=0.7)
            if y + 1 < height and pieces[y, x] != pieces[y + 1, x]:
                axes.plot([x - 0.5, x + 0.5], [y + 0.5] * 2, color="k", linewidth=0.7)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    d = numbers.values["digits"]
    return (
        "The ELS machine, the best a convolutional network can be, copies each pixel from the training patch that looks most like "
        "its surroundings. Coloured: the six training pictures that most pixels come from, and the pixels taken (framed); grey pieces "
        "come from others. "
        "A piece is what was copied from one picture with one shift; lines are drawn between pieces. "
        f"The digit is built from {d['pieces']} pieces of {d['used']} pictures; putting the pieces together gives the "
        f"sample back to {d['copied']:.1g} (root mean square, of a range of 2)."
    )


if __name__ == "__main__":
    sys.exit(main())
