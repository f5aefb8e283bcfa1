"""The share of samples that obey the rule: poster, theory and networks side by side."""

import sys

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, COLUMN, GREY
from figures.toymodels import MODELS

TITLE = "How often samples obey the rule"


def compute(results: Results, effort: Effort) -> Numbers:
    """Consistency of every theory, of every network, and as the poster prints it."""
    report = results.report("toy-grid")
    rows = {name: report["rows"][name] for name, *_ in MODELS}
    values = {
        name: {"poster": row["poster"], "theory": row["theory"], "seeds": row["network"]["seeds"], "mean": row["network"]["mean"]}
        for name, row in rows.items()
    }
    return Numbers({"models": values, "random": report["random"], "samples": report["scale"]["samples"]})


def draw(numbers: Numbers) -> Figure:
    """One row a model."""
    figure, axes = plt.subplots(figsize=(1.35 * COLUMN, 2.7), layout="constrained")
    for i, (network, theory, _) in enumerate(MODELS):
        told, colour = numbers.values["models"][network], COLOUR[theory]
        low, value, high = (100 * told["theory"][k] for k in ("low", "value", "high"))
        first = i == 0
        axes.barh(i, value, height=0.34, color=colour, alpha=0.35, label="theory (95% interval)" if first else None)
        axes.errorbar(value, i, xerr=[[value - low], [high - value]], color=colour, capsize=2.5, fmt="|", markersize=9)
        seeds = [100 * s for s in told["seeds"]]
        label = f"networks ({len(seeds)} seeds)" if first else None
        axes.plot(seeds, [i + 0.3] * len(seeds), "o", markerfacecolor="w", markeredgecolor=colour, label=label)
        if told["poster"] is not None:
            axes.plot(told["poster"], i - 0.3, "D", color="k", markersize=3.5, label="poster" if first else None)
        axes.text(104, i, f"{value:.1f}", va="center", ha="right", fontsize=7, color=colour)
        axes.text(123, i, f"{100 * told['mean']:.1f}", va="center", ha="right", fontsize=7)
        axes.text(140, i, "" if told["poster"] is None else f"{told['poster']:.1f}", va="center", ha="right", fontsize=7)
    for x, text in ((104, "theory"), (123, "network"), (140, "poster")):
        axes.text(x, -0.75, text, ha="right", fontsize=7, fontweight="bold")
    random = 100 * numbers.values["random"]
    axes.axvline(random, color=GREY, linestyle="--", linewidth=0.9, label=f"random colours ({random:.1f}%)")
    axes.set_yticks(range(len(MODELS)), [m.title for m in MODELS])
    axes.set(xlim=(0, 140), ylim=(len(MODELS) - 0.4, -0.6), xticks=range(0, 101, 20))
    axes.set_xlabel("consistent samples (%)", x=0.3)
    axes.spines["bottom"].set_bounds(0, 100)
    axes.legend(loc="upper center", bbox_to_anchor=(0.35, -0.24), ncols=2, fontsize=6.5)
    return figure


def _above(told: dict) -> str:
    """How many networks lie above the interval of their theory."""
    return f"{sum(seed > told['theory']['high'] for seed in told['seeds'])} of {len(told['seeds'])}"


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values["models"]
    return (
        f"Share of {numbers.values['samples']} samples in which equal keys have equal values and different keys different ones. Bars: "
        "the best score "
        "under each network's constraints, computed without training; circles: trained networks, one a seed; diamonds: what the poster "
        "(arXiv 2506.17324) prints for its networks, on its own version of the data, with 5.4% for random colours. A convolutional "
        "network does no better than random "
        f"colours, as ELS predicts ({100 * v['cnn']['theory']['value']:.1f}% against {100 * v['cnn']['mean']:.1f}%); attention as the "
        "formula "
        "of the paper reads, colours attending to colours (literal), does not help at all; attention between embeddings does; a full "
        "head "
        f"does most ({100 * v['attention']['theory']['value']:.1f}% predicted, {100 * v['attention']['mean']:.1f}% found by "
        "networks that training has not finished, see the losses below). Literal attention can't be switched off: its values are its "
        "output, so that its optimum is worse than a CNN's. "
        "Intervals count samples; how far more effort moves a bar is in 'How far the solution can be trusted'. "
        f"Above the interval of their theory lie {_above(v['top1'])} top-1 and {_above(v['identity'])} identity networks: functions of "
        "like losses may obey the rule more or less often."
    )


if __name__ == "__main__":
    sys.exit(main())
