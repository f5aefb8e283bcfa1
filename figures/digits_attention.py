"""Where attention changes the optimum on real images, by how much, and whether networks do it."""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, MARKER, PAGE, frame, letter, picture, ratio_axis
from figures.style import TITLE as NAMES

STUDY = "digits-attention"
TITLE = "Attention on real images"
THEORIES = ("els", "full")
NETWORK = {"markerfacecolor": "w", "linestyle": ":", "linewidth": 1}
GUESSES = ("els", "full", "network", "ideal")


def compute(results: Results, effort: Effort) -> Numbers:
    """Losses of theories and networks at every level, and attention and guesses at one pixel of one noisy image."""
    report, samples = results.report(STUDY), results.samples(STUDY)
    values = {
        "data": report["data"]["name"],
        "patch": report["patch"],
        "ratios": report["ratios"],
        "draws": report["scale"]["draws"],
        "images": report["images"]["full"],
        "steps": report["scale"]["steps"],
        "theories": {name: report["losses"][name] for name in THEORIES},
        "networks": {name: [x["excess"] for x in row["losses"]] for name, row in report["rows"].items()},
        "handover": report["handover"],
        "maps": next(iter(report["maps"].values())),
        "example": report["example"],
    }
    return Numbers(values, {name: x for name, x in samples.items() if name.startswith("example.")})


def draw(numbers: Numbers) -> Figure:
    """Losses, the share that attention takes, where networks part from theory, and attention of one pixel in theory and network."""
    figure = plt.figure(figsize=(PAGE, 4.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.6, 1.5])
    left, middle, right = top.subplots(1, 3)
    _losses(left, middle, numbers.values)
    _handover(right, numbers.values)
    _example(bottom, numbers)
    return figure


def _losses(left, right, v: dict) -> None:
    ratios, els = v["ratios"], np.array(v["theories"]["els"]["excess"])
    for name in THEORIES:
        told, style = v["theories"][name], {"color": COLOUR[name], "marker": MARKER[name]}
        left.errorbar(ratios, told["excess"], yerr=2 * np.array(told["stderr"]), label=f"theory: {NAMES[name]}", capsize=1.5, **style)
    seen = els > 0.01 * els.max()  # a share of next to nothing says nothing
    taken = lambda less, more: 100 * (1 - np.array(less) / np.array(more))[seen]  # noqa: E731
    means = {name: np.mean(losses, 0) for name, losses in v["networks"].items()}
    for model, theory in (("local", "els"), ("attention", "full")):
        if model in means:
            label = "networks " + {"local": "without attention", "attention": "with attention"}[model]
            left.plot(ratios, means[model], label=label, **NETWORK, color=COLOUR[theory], marker=MARKER[theory])
    shown = np.array(ratios)[seen]
    right.plot(shown, taken(v["theories"]["full"]["excess"], els), color=COLOUR["full"], marker=MARKER["full"], label="theory")
    if len(means) == 2:
        style = {"color": COLOUR["full"], "marker": MARKER["full"], **NETWORK}
        right.plot(shown, taken(means["attention"], means["local"]), label="networks", **style)
    left.set(ylabel="loss above the ideal score's", ylim=(0, 1.5 * max(els.max(), *(m.max() for m in means.values()))))
    right.set(ylabel="% of the loss without attention", ylim=(min(0, right.get_ylim()[0]), 100))
    left.legend(loc="upper right", fontsize=6)
    right.legend(loc="upper left", fontsize=6)
    letter(left, "a", "loss per image")
    letter(right, "b", "attention takes off")
    for axes in (left, right):
        ratio_axis(axes, ratios)


def _handover(axes, v: dict) -> None:
    """Agreement of samples that a network begins and its theory ends, over the level at which it hands over."""
    for model, theory in (("local", "els"), ("attention", "full")):
        if levels := v["handover"].get(model):
            told = [[x["network_above"][n] for x in levels] for n in ("value", "low", "high")]
            style = {"color": COLOUR[theory], "marker": MARKER[theory], **NETWORK}
            label = {"local": "without attention", "attention": "with attention"}[model]
            spread = np.abs(np.array(told[1:]) - told[0])
            axes.errorbar([x["ratio"] for x in levels], told[0], yerr=spread, label=label, capsize=1.5, **style)
    axes.set(ylabel="$r^2$ with theory, network above ratio", ylim=(None, 1.005))
    axes.legend(loc="lower right", fontsize=6)
    letter(axes, "c", "where they part")
    ratio_axis(axes, [x["ratio"] for x in next(iter(v["handover"].values()))])


def _example(figure, numbers: Numbers) -> None:
    place, arrays = numbers.values["example"], numbers.arrays
    panels = figure.subplots(1, 4 + len(GUESSES))
    ratio = numbers.values["ratios"][place["level"]]
    figure.suptitle(
        rf"(d) One noisy image, $\sigma_t/\alpha_t={ratio:.2f}$: what the framed pixel attends to, and guesses of all",
        x=0.005, ha="left", fontsize=8.5, fontweight="bold",
    )  # fmt: skip
    high = max(float(arrays[f"example.attention.{n}"].max()) for n in ("full", "network"))
    shown = [("clean", "clean", None), ("noisy", "noisy", None), ("attention.full", "attention:\ntheory", high)]
    shown += [("attention.network", "attention:\nnetwork", high)]
    shown += [(f"mean.{n}", {"els": "guess: ELS", "full": "full", "network": "network", "ideal": "ideal"}[n], None) for n in GUESSES]
    for axes, (name, title, limit) in zip(panels, shown, strict=True):
        if limit is None:
            picture(axes, arrays[f"example.{name}"])
        else:
            axes.imshow(arrays[f"example.{name}"].numpy(), cmap="viridis", vmin=0, vmax=limit)
            axes.set(xticks=[], yticks=[])
        frame(axes, *place["pixel"])
        axes.set_title(title, loc="center", fontweight="normal", fontsize=7)


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values
    gain = [a - b for a, b in zip(v["theories"]["els"]["excess"], v["theories"]["full"]["excess"], strict=True)]
    best = int(np.argmax(gain))
    share = 100 * gain[best] / v["theories"]["els"]["excess"][best]
    maps = v["maps"][v["example"]["level"]]
    return (
        f"{v['data']}, networks of one residual trunk that sees {v['patch']} x {v['patch']} pixels, with and without one attention layer "
        f"(dotted, mean over seeds, {v['steps']:,} steps), and their theories (solid): ELS without attention, and full attention, solved "
        f"on {v['images']:,} fresh images: an upper bound on its optimum. (a) Squared error per image above that of the ideal score. (b) "
        "The share of it that attention takes off, in theory (of the loss of ELS) and in networks (of that of the network without): theory "
        f"takes most off at a noise-to-signal ratio of {v['ratios'][best]:.2f}, {share:.0f}%. (c) Agreement of samples with "
        "those of the theory, where the network makes their noisy part, above that ratio, and the theory the rest (95% "
        "intervals): what they disagree on is decided below. (d) The image and pixel "
        "where attention improves the guess of the theory most. Weights of network and "
        f"theory between different pixels correlate by {maps['correlation']:.2f} at that level ({maps['null']:.2f} on different images)."
    )


if __name__ == "__main__":
    sys.exit(main())
