"""The toy data: a rule about pairs of colours that no 5 x 5 window can see."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import BAD, GOOD, PAGE, frame, picture
from theory.data import load
from theory.data.toy import obeys

TITLE = "The toy data and its rule"
NAMES = "RGBY"
# Keys, then values: three that obey the rule, and three that do not.
CONSISTENT = ((0, 0, 1, 2, 3, 3, 1, 0), (0, 1, 2, 3, 1, 2, 3, 0), (2, 3, 2, 3, 0, 1, 0, 1))
BROKEN = ((0, 0, 1, 2, 3, 1, 2, 0), (0, 1, 2, 3, 1, 1, 3, 0), (2, 3, 2, 1, 0, 1, 0, 1))
WHY = {
    (0, 0, 1, 2, 3, 1, 2, 0): "red has\ntwo values",
    (0, 1, 2, 3, 1, 1, 3, 0): "red, green\nshare a value",
    (2, 3, 2, 1, 0, 1, 0, 1): "yellow, green\nshare a value",
}


def compute(results: Results, effort: Effort) -> Numbers:
    """Pictures of given colours, whether they obey the rule, and how many there are."""
    data = load("toy")
    cells = torch.tensor(CONSISTENT + BROKEN)
    values = {
        "obeys": obeys(cells).tolist(),
        "images": len(data),
        "random": data.rule.baseline,
        "patch": list(data.patch_size),
        "cells": data.rule._cells,
    }
    return Numbers(values, {"images": data.rule.render(cells), "cells": cells})


def draw(numbers: Numbers) -> Figure:
    """The structure beside examples of both kinds."""
    images, flags = numbers.arrays["images"], numbers.values["obeys"]
    figure = plt.figure(figsize=(PAGE, 2.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.45, 3])
    axes = left.subplots()
    picture(axes, images[1])
    for i, (y, x) in enumerate(numbers.values["cells"]):
        colour = "k" if int(numbers.arrays["cells"][1, i]) == 3 else "w"
        axes.text(x, y, "key" if i < 4 else "value", color=colour, ha="center", va="center", fontsize=6)
    for y, x in numbers.values["cells"][:4]:
        frame(axes, y, x, 2, 1, edgecolor="w", linewidth=1.2)
    kh, kw = numbers.values["patch"]
    frame(axes, -2, -2, kh, kw, edgecolor="#CC79A7", linewidth=1.8, linestyle="--", clip_on=False)
    axes.text(2.7, -1.6, "5 x 5 pixels:\nwhat the top left\npixel sees", color="#CC79A7", fontsize=6.5, va="center")
    axes.set(xlim=(-2.7, 5.2), ylim=(5.6, -2.7))
    axes.set_title("(a) four pairs, key above value")
    right.suptitle("(b) Equal keys, equal values; different keys, different values", x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    grid = right.subplots(1, 6)
    for axes, image, good, cells in zip(grid, images, flags, numbers.arrays["cells"].tolist(), strict=True):
        picture(axes, image, good=good)
        axes.set_title("consistent" if good else "inconsistent", loc="center", fontsize=7.5, color=GOOD if good else BAD)
        pairs = ", ".join(sorted({f"{NAMES[k]}→{NAMES[v]}" for k, v in zip(cells[:4], cells[4:], strict=True)}))
        axes.set_xlabel(_wrapped(pairs) + ("" if good else "\n" + WHY[tuple(cells)]), fontsize=6.5)
    return figure


def _wrapped(text: str) -> str:
    parts = text.split(", ")
    return ", ".join(parts[:2]) + (",\n" + ", ".join(parts[2:]) if len(parts) > 2 else "\n")


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values
    return (
        "Each picture shows four pairs of coloured pixels: a key and, below it, its value. Over one picture the pairs follow one code: "
        "equal keys have "
        "equal values and different keys different ones. No pair can tell the code alone, and a network that sees 5 x 5 pixels sees at a "
        "coloured pixel one "
        "pair: it "
        "must look further. That is what attention can do, so that the share of its samples that obey the rule says how much it does it. "
        f"Outside the picture it sees zeros. {v['images']} pictures obey the rule, and all are training pictures; of eight colours drawn "
        f"at random {100 * v['random']:.2f}% do."
    )


if __name__ == "__main__":
    sys.exit(main())
