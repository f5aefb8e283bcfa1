"""Theory above network, from the same noise: what each model makes of the toy data."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, PAGE, picture, row_title
from figures.toymodels import POSTER_ROWS
from theory.metrics import Proportion

TITLE = "Theory and network, sample by sample"
COLUMNS = 14
SEED = 0  # of the network


def compute(results: Results, effort: Effort) -> Numbers:
    """The first samples of each theory and network, which obey the rule, and which are the same."""
    samples, rule = results.samples("toy-grid"), results.data("toy-grid").rule
    values, arrays = {}, {}
    for network, theory, _ in POSTER_ROWS:
        pair = samples[f"theory.{theory}"], samples[f"network.{network}-{SEED}"]
        codes = [rule.decode(x) for x in pair]
        same = ((codes[0] == codes[1]) & (codes[0] >= 0)).all(1)
        for kind, x in zip(("theory", "network"), pair, strict=True):
            arrays[f"{kind}.{network}"] = x[:COLUMNS]
            arrays[f"{kind}.{network}.good"] = rule.consistent(x[:COLUMNS])
        arrays[f"same.{network}"] = same[:COLUMNS]
        els = rule.decode(samples["theory.els"])
        values[network] = {
            "els": float(((els == codes[1]) & (els >= 0)).all(1).double().mean()),
            "same": Proportion.of(same)._asdict(),
            "theory": float(rule.consistent(pair[0]).double().mean()),
            "network": float(rule.consistent(pair[1]).double().mean()),
            "count": len(same),
        }
    return Numbers(values, arrays)


def draw(numbers: Numbers) -> Figure:
    """Two rows a model: theory above network."""
    figure = plt.figure(figsize=(PAGE, 6.4), layout="constrained")
    parts = figure.subfigures(len(POSTER_ROWS), 1, hspace=0.02)
    for part, (network, theory, title) in zip(parts, POSTER_ROWS, strict=True):
        told = numbers.values[network]
        part.suptitle(
            f"{title}: same eight colours in {100 * told['same']['value']:.0f}% of {told['count']} samples "
            f"[{100 * told['same']['low']:.0f}, {100 * told['same']['high']:.0f}]"
            + ("" if theory == "els" else f"; with ELS in {100 * told['els']:.0f}%"),
            x=0.005, ha="left", fontsize=8.5, fontweight="bold", color=COLOUR[theory],
        )  # fmt: skip
        grid = part.subplots(2, COLUMNS)
        for row, kind in zip(grid, ("theory", "network"), strict=True):
            good = numbers.arrays[f"{kind}.{network}.good"]
            for axes, image, mark in zip(row, numbers.arrays[f"{kind}.{network}"], good.tolist(), strict=True):
                picture(axes, image, good=bool(mark))
            row_title(row[0], f"{kind}\n{100 * told[kind]:.0f}% consistent", fontsize=7)
        for axes, same in zip(grid[1], numbers.arrays[f"same.{network}"].tolist(), strict=True):
            axes.set_xlabel("same" if same else "other", fontsize=6.5, labelpad=1.5, color="k" if same else GREY)
    return figure


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    full, cnn = numbers.values["attention"], numbers.values["cnn"]
    return (
        "Every column starts from the same noise. Theory: the best score under each network's constraints, solved from the data and not "
        "from any "
        "network "
        "(top-1: the best found). Network: one trained network of that kind (the table above averages over seeds). The first noises, not "
        "chosen. Green frames: the sample obeys the rule, each pixel taken for the nearest of the four colours; thin orange ones: it "
        "does not. "
        f"Where both make the same eight colours it says 'same': for the CNN {100 * cnn['same']['value']:.0f}% of the samples, with full "
        f"attention {100 * full['same']['value']:.0f}%. The theory of a plain CNN (ELS) agrees with the network with full attention in "
        f"{100 * full['els']:.0f}% only: it takes attention in the theory. (How the ideal score does is in the next figure.)"
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
