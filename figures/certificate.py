"""How far the solved attention scores can be trusted: convergence, and residuals against their noise."""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, MARKER, PAGE, letter, ratio_axis
from theory.noise import CosineSchedule

TITLE = "How far the solution can be trusted"
FILE = "attention-128.json"  # benchmarks/attention_convergence.py
FAMILIES = {"identity": "identity attention", "full": "full attention"}


def compute(results: Results, effort: Effort) -> Numbers:
    """Certificates of every level, and consistency after each enrichment."""
    report, schedule = results.report("toy-grid", FILE), CosineSchedule()
    ratios = [float(schedule(t)[1] / schedule(t)[0]) for t in report["times"]]
    keys = (
        "enriched", "limit", "limit_error", "els_loss", "loss_train", "loss_fresh", "loss_stderr",
        "residual", "residual_floor", "heldout", "heldout_floor",
    )  # fmt: skip
    values = {
        name: {
            **{key: [c[key] for c in report["families"][name]["certificates"]] for key in keys},
            "samples": report["families"][name]["samples"],
            "failures": sum(len(c["failures"]) for c in report["families"][name]["certificates"]),
        }
        for name in FAMILIES
    }
    features, iterations = report["options"]["features"], report["options"]["iterations"]
    return Numbers({"ratios": ratios, "families": values, "features": features, "iterations": iterations})


def draw(numbers: Numbers) -> Figure:
    """Loss against effort, consistency against effort, residuals against the noise level."""
    v = numbers.values
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.9), layout="constrained", width_ratios=[1.2, 1, 1.2])
    efforts = [v["features"] // 4, v["features"] // 2, v["features"]]
    shown = [i for i, r in enumerate(v["ratios"]) if 0.5 < r < 2]
    for name, title in FAMILIES.items():
        told, colour = v["families"][name], COLOUR[name]
        for i, style in zip(shown, ("-", "--", "-."), strict=False):
            left.plot(efforts, told["enriched"][i], style, color=colour, marker=MARKER[name])
            if told["limit"][i] is not None:
                left.errorbar(
                    efforts[-1] * 1.75,
                    told["limit"][i],
                    yerr=told["limit_error"][i],
                    color=colour,
                    fmt=MARKER[name],
                    markerfacecolor="w",
                    capsize=2,
                    alpha=0.9,
                )
        share = np.array([[100 * s[k] for k in ("consistency", "low", "high")] for s in told["samples"]])
        middle.errorbar(
            efforts,
            share[:, 0],
            yerr=[share[:, 0] - share[:, 1], share[:, 2] - share[:, 0]],
            color=colour,
            marker=MARKER[name],
            capsize=2,
            label=title,
        )
        right.plot(v["ratios"], _visible(told["residual"]), color=colour, marker=MARKER[name])
        right.plot(v["ratios"], _visible(told["residual_floor"]), color=colour, linestyle=":", marker=MARKER[name], markerfacecolor="w")
    left.plot([], [], "k", linestyle="none", marker="o", markerfacecolor="w", label="extrapolated")
    for i, style in zip(shown, ("-", "--", "-."), strict=False):
        left.plot([], [], color="k", linestyle=style, label=rf"$\sigma_t/\alpha_t={v['ratios'][i]:.2f}$")
    for axes in (left, middle):
        axes.set(xscale="log", xlabel="features of a patch")
        axes.set_xticks(efforts, [str(e) for e in efforts])
        axes.minorticks_off()
    left.set_xticks([*efforts, efforts[-1] * 1.75], [*map(str, efforts), r"$\infty$"])
    left.set(ylim=(0, 1.6), ylabel="loss above the ideal score's")
    left.legend(fontsize=6, loc="upper right", handlelength=3)
    middle.set(ylim=(0, 100), ylabel="consistent samples (%)")
    middle.axhline(7.7, color=GREY, linestyle="--", linewidth=0.8)
    middle.text(efforts[0], 9, "random colours", fontsize=6, color=GREY)
    middle.legend(fontsize=6.5, loc="upper left")
    right.set(yscale="log", ylim=(5e-7, 1), ylabel="promised gain of a step")
    right.plot([], [], color="k", label="residual")
    right.plot([], [], color="k", linestyle=":", marker="o", markerfacecolor="w", label="noise floor")
    right.legend(fontsize=6.5)
    ratio_axis(right, v["ratios"])
    for axes, mark, title in ((left, "a", "loss, fresh images"), (middle, "b", "consistency"), (right, "c", "residual")):
        letter(axes, mark, title)
    return figure


def _visible(values: list[float]) -> np.ndarray:
    """Values for a logarithmic axis, without those that are zero up to rounding."""
    return np.where(np.array(values) > 1e-7, values, np.nan)


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values
    full = v["families"]["full"]
    shares = " / ".join(f"{100 * s['consistency']:.1f}" for s in full["samples"])
    return (
        "The attention score has no formula: it is solved on 40,000 noisy pictures, with functions of a patch built from features that "
        "are learned, and judged on fresh ones. "
        f"(a) Its loss falls, where it is not yet level, as features and iterations double twice, up to {v['features']} and "
        f"{v['iterations']}; hollow: extrapolated "
        "to ever more, with its error. "
        f"(b) The share of samples that obey the rule moves with it: {shares}% for full attention. The last step is small beside the "
        "first for full attention, but not yet nothing: a solved score is an "
        "upper bound on the optimum, and is reported as one. (c) What one more whitened gradient step promises on fresh pictures is near "
        "what sampling noise alone would make it "
        "seem (dotted) in the middle; a few times that, but small, at the ends. Certificates that failed: "
        f"{sum(f['failures'] for f in v['families'].values())}."
    )


if __name__ == "__main__":
    sys.exit(main())
