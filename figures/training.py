"""Consistency and loss over the training steps of every network, beside what the theory predicts."""

import sys

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, PAGE, letter
from figures.toymodels import MODELS

TITLE = "What training finds, and when"


def compute(results: Results, effort: Effort) -> Numbers:
    """Loss and sampled consistency at every evaluation of every network, and what the theory predicts."""
    report = results.report("toy-grid")
    curves = {}
    for network, _, _ in MODELS:
        for seed in range(report["scale"]["seeds"]):
            history = report["curves"][f"{network}-{seed}"]
            curves[f"{network}-{seed}"] = {key: [r[key] for r in history] for key in ("step", "loss", "consistency")}
    theory = {network: report["rows"][network]["theory"] for network, _, _ in MODELS}
    values = {"curves": curves, "theory": theory, "seeds": report["scale"]["seeds"], "random": report["random"]}
    return Numbers(values | {"watched": report["scale"]["watched"], "starts": {m: t["start"] for m, t in report["training"].items()}})


def draw(numbers: Numbers) -> Figure:
    """Consistency of all networks, and the loss of those with attention."""
    v = numbers.values
    last = max(curve["step"][-1] for curve in v["curves"].values()) / 1000
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 3.0), layout="constrained")
    for network, theory, title in MODELS:
        colour, told = COLOUR[theory], v["theory"][network]
        for seed in range(v["seeds"]):
            curve = v["curves"][f"{network}-{seed}"]
            label = title if seed == 0 else None
            steps = [s / 1000 for s in curve["step"]]
            left.plot(steps, [100 * c for c in curve["consistency"]], color=colour, linewidth=0.9)
            right.plot(steps, curve["loss"], color=colour, linewidth=0.9, label=label)
        if network in ("cnn", "identity", "attention"):  # the others lie on these
            left.axhspan(100 * told["low"], 100 * told["high"], color=colour, alpha=0.2, linewidth=0)
            left.text(1.01 * last, 100 * told["value"], "theory", color=colour, fontsize=6.5, va="center")
    left.set(xlabel="training step (thousands)", ylabel="consistent samples (%)", ylim=(0, 100), xlim=(0, last))
    right.set(xlabel="training step (thousands)", ylabel="training loss per image", yscale="log", xlim=(0, last))
    right.legend(loc="upper right", fontsize=6.5)
    letter(left, "a", f"each line a network ({v['seeds']} seeds)")
    letter(right, "b", "loss of the steps")
    right.grid(axis="y", which="both", linewidth=0.3, color=GREY, alpha=0.4)
    return figure


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values
    last = [100 * v["curves"][f"attention-{seed}"]["consistency"][-1] for seed in range(v["seeds"])]
    return (
        "At all noise levels at once, a network with attention stays where a CNN ends for thousands of steps. Full attention begins at "
        "one level (sigma/alpha 1.2), where attention is soft and soon found; the others open between a tenth and a quarter of the "
        "steps. Identity starts from a trunk that has learned to denoise its 5 x 5 patch (whose steps are not counted) and leaves the "
        "level of the CNN within a few thousand steps, top-1 from the identity network, to which it adds the hard choice, and "
        "at one level, as full attention; CNN and literal attention start from nothing. "
        f"Full attention ends at {', '.join(f'{x:.0f}%' for x in last)} ({v['watched']} samples of 20 steps each; "
        "figure 'How often samples obey the rule' has 2000 of 50) and would still rise. Bands: what the theory predicts "
        "for the best of each kind. (b) Mean squared error per picture against the exact posterior mean, averaged over "
        "the noise levels of training, half of which are from the middle."
    )


if __name__ == "__main__":
    sys.exit(main())
