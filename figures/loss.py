"""Denoising loss of theories and networks above the best possible, and the gap between them."""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, MARKER, PAGE, letter, ratio_axis
from figures.toymodels import MODELS

TITLE = "The loss: networks lie above the best of their kind"


def compute(results: Results, effort: Effort) -> Numbers:
    """Loss above that of the ideal score for every theory and network, and each network's gap to its theory."""
    report = results.report("toy-grid")
    seeds = range(report["scale"]["seeds"])
    first = report["comparisons"][f"{MODELS[0].network}-0"]
    ratios = [level["ratio"] for level in first["pairs"]["els"]["levels"]]
    values = {"ratios": ratios, "theory": {}, "network": {}, "gap": {}, "draws": first["config"]["draws"]}
    for network, theory, _ in MODELS:
        mine = [report["comparisons"][f"{network}-{seed}"] for seed in seeds]
        told = mine[0]["models"][theory]
        values["theory"][theory] = {"excess": told["excess"], "stderr": told["excess_stderr"]}
        values["network"][network] = [c["models"]["network"]["excess"] for c in mine]
        levels = [[level["gap"] for level in c["pairs"][theory]["levels"]] for c in mine]
        values["gap"][network] = {
            "value": [[g["value"] for g in c] for c in levels],
            "stderr": [[g["stderr"] for g in c] for c in levels],
            "below": [any(c[i]["below"] for c in levels) for i in range(len(ratios))],
        }
    return Numbers(values)


def draw(numbers: Numbers) -> Figure:
    """Losses above, gaps below, on one axis of the noise level."""
    v = numbers.values
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(0.72 * PAGE, 4.6), layout="constrained", sharex=True, height_ratios=[1.5, 1])
    for network, theory, title in MODELS:
        told, style = v["theory"][theory], {"color": COLOUR[theory], "marker": MARKER[theory]}
        top.errorbar(v["ratios"], told["excess"], yerr=2 * np.array(told["stderr"]), label=title, capsize=1.5, **style)
        top.plot(v["ratios"], np.mean(v["network"][network], 0), linestyle=":", markerfacecolor="w", linewidth=1, **style)
        gap = v["gap"][network]
        error = 2 * np.mean(gap["stderr"], 0) / len(gap["stderr"]) ** 0.5
        bottom.errorbar(v["ratios"], np.mean(gap["value"], 0), yerr=error, capsize=1.5, linestyle=":", markerfacecolor="w", **style)
        for ratio, value, below in zip(v["ratios"], np.mean(gap["value"], 0), gap["below"], strict=True):
            if below:
                bottom.annotate(
                    "below", (ratio, value), (7, 0), textcoords="offset points", ha="left", va="center", fontsize=6.5, color=COLOUR[theory]
                )
    top.plot([], [], color="k", label="solid: theory")
    top.plot([], [], color="k", linestyle=":", marker="o", markerfacecolor="w", label="dotted: networks, mean")
    top.set(ylabel="loss above the ideal score's", ylim=(0, None))
    letter(top, "a", r"squared error per image, above the best possible")
    top.legend(loc="upper right")
    bottom.axhline(0, color=GREY, linewidth=0.8)
    bottom.set_ylabel("network - theory")
    letter(bottom, "b", "what training has left to gain")
    ratio_axis(bottom, v["ratios"])
    return figure


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    gap = numbers.values["gap"]["attention"]["value"]
    worst = np.mean(gap, 0).max()
    return (
        "What a model pays, per picture of 24 pixels, for not seeing or not understanding all of it: its mean squared error above that "
        "of the ideal score, against the noise. "
        "Solid: the best of each kind, solved. Dotted, hollow: trained networks, mean over seeds. Bars: two standard errors "
        f"({numbers.values['draws']} noisy pictures a level). (b) A network can't lie below the optimum of its kind; how far it lies "
        "above says how much training "
        f"has left. The largest gap is {worst:.2f}, of full attention. Literal attention is worse than none, since it can't be switched "
        "off. Top-1 attention is marked 'below' where "
        "networks beat the best score "
        "found for it by more than three standard errors: a hard choice has no stationarity condition to solve."
    )


if __name__ == "__main__":
    sys.exit(main())
