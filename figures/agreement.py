"""How well theory predicts each single sample of a network: against the next best theory, and the ideal score."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from empirical.compare import varying
from empirical.metrics import Median, r2_pearson
from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, PAGE, letter

TITLE = "Sample by sample: the right theory against the others"
SEED = 0  # of the toy networks
JITTER = 0.004
TIE = 1e-3  # difference of r2 that counts as none


def compute(results: Results, effort: Effort) -> Numbers:
    """r2 of every sample of a network with its theory and with two others."""
    values, arrays = {}, {}
    toy, digits = results.samples("toy-grid"), results.samples("digits")
    cells = varying(results.data("toy-grid"))
    for network, own in (("identity", "identity"), ("attention", "full")):
        truth = toy[f"network.{network}-{SEED}"]
        others = {name: toy[f"theory.{name}"] for name in (own, "els", "ideal")}
        title = {"identity": "toy, identity attention", "full": "toy, full attention"}[own]
        _add(values, arrays, network, title, own, truth[..., cells][:, :, None], {k: x[..., cells][:, :, None] for k, x in others.items()})
    for network in sorted({name.split(".")[0] for name in digits}, reverse=True):
        others = {name: digits[f"{network}.{name}"] for name in ("els", "ls", "ideal")}
        title = "digits, " + network.replace("resnet", "ResNet").replace("unet", "UNet").replace("-", ", ")
        _add(values, arrays, network, title, "els", digits[f"{network}.network"], others)
    return Numbers(values, arrays)


def _add(values: dict, arrays: dict, key: str, title: str, own: str, truth: torch.Tensor, others: dict[str, torch.Tensor]) -> None:
    found = {name: r2_pearson(truth, x) for name, x in others.items()}
    values[key] = {"title": title, "own": own, "medians": {name: Median.of(x)._asdict() for name, x in found.items()}, "count": len(truth)}
    arrays |= {f"{key}.{name}": x for name, x in found.items()}


def draw(numbers: Numbers) -> Figure:
    """A scatter a network: its theory upwards, the others to the right."""
    keys = list(numbers.values)
    columns = 2
    rows = -(-len(keys) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(PAGE * 0.92, 3.1 * rows), layout="constrained", squeeze=False)
    for axes, key, mark in zip(grid.flat, keys, "abcdefgh", strict=False):
        _scatter(axes, numbers, key)
        letter(axes, mark, numbers.values[key]["title"])
    for axes in grid.flat[len(keys) :]:
        axes.axis("off")
    return figure


def _scatter(axes: Axes, numbers: Numbers, key: str) -> None:
    told, short = numbers.values[key], {"ideal": "IS", "els": "ELS", "ls": "LS", "identity": "identity theory", "full": "full theory"}
    own = numbers.arrays[f"{key}.{told['own']}"]
    shake = torch.randn(2, len(own), generator=torch.Generator().manual_seed(0)) * JITTER
    for name, median in told["medians"].items():
        if name == told["own"]:
            axes.axhline(median["value"], color=COLOUR[name], linewidth=0.8)
            axes.text(0.02, median["value"] - 0.015, f"median {median['value']:.3f}", color=COLOUR[name], fontsize=6.5, va="top")
            continue
        other, colour = numbers.arrays[f"{key}.{name}"], COLOUR[name]
        closer, further = (100 * float((a > b + TIE).double().mean()) for a, b in ((own, other), (other, own)))
        axes.plot(
            other + shake[0], own + shake[1], "o" if name == "ideal" else "^", color=colour, alpha=0.4, markersize=2.4, markeredgewidth=0,
            label=f"{short[name]}: median {median['value']:.3f}; own closer {closer:.0f}%, further {further:.0f}%",
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle="--")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set(xlabel="$r^2$ with another score", ylabel=f"$r^2$ with {short[told['own']]}")
    axes.legend(loc="lower right", fontsize=5.8, handletextpad=0.2, borderaxespad=0.2, markerscale=1.6)


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    parts = [f"{t['title']}: {t['medians'][t['own']]['value']:.3f}" for t in numbers.values.values()]
    return (
        "Each dot is one sample of a trained network; its height is the squared correlation of its pixels with the sample its theory "
        "makes from the same noise, "
        "and its place to the right that with another score's sample. Above the diagonal the theory of this network is closer; legends "
        "say how often it is closer, and further, and the rest are ties. "
        f"Medians with the network's own theory: {'; '.join(parts)}. On the toy data only the pixels that vary count, and samples differ "
        "by whole colours: "
        "many dots lie on each other (they are spread by .004 to show). The best full attention is itself close to the ideal score "
        "(four of five of its samples are training pictures), so that IS is nearly as close to that network as its own theory; ELS is "
        "not. On digits the theory is ELS with patch sizes fitted to the "
        "network."
    )


if __name__ == "__main__":
    sys.exit(main())
