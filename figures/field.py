"""Every analytic denoiser against three networks on digits: how well it predicts their samples, and what a sample costs."""

import sys

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import GREY, PAGE, letter

TITLE = "The field: every analytic denoiser, held against three networks"
STUDY = "field/digits"
NETWORKS = {
    "digits-resnet": ("ResNet", "#0072B2", "o"),
    "digits-unet": ("UNet", "#D55E00", "s"),
    "digits-attention": ("UNet with attention", "#009E73", "D"),
}
APART = 0.22  # of two networks in a row


def compute(results: Results, effort: Effort) -> Numbers:
    """Median agreement with its interval, and seconds a sample, of every machine."""
    report = results.report(STUDY)
    rows = {name: report["rows"][name] for name in NETWORKS}
    some = next(iter(rows.values()))
    agreement = {m: {name: row["pairs"][m]["r2_pearson"] for name, row in rows.items()} for m in report["machines"]}
    seconds = {m: some["models"][m]["seconds"] for m in report["machines"]}
    copies = {m: some["models"][m]["memorised"]["value"] for m in report["machines"]}
    return Numbers({"agreement": agreement, "seconds": seconds, "copies": copies, "scale": report["scale"], "data": some["data"]["name"]})


def draw(numbers: Numbers) -> Figure:
    """Agreement on the left, seconds on the right, one row a machine, the best on top."""
    v = numbers.values
    names = sorted(v["agreement"], key=lambda m: sum(x["value"] for x in v["agreement"][m].values()))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(0.92 * PAGE, 0.27 * len(names) + 0.9), layout="constrained", sharey=True, width_ratios=[2, 1]
    )
    for i, (network, (title, colour, marker)) in enumerate(NETWORKS.items()):
        for y, name in enumerate(names):
            told = v["agreement"][name][network]
            bar = [[told["value"] - told["low"]], [told["high"] - told["value"]]]
            left.errorbar(
                told["value"], y + (1 - i) * APART, xerr=bar, color=colour, marker=marker, markersize=3.4, linewidth=1, linestyle="",
                label=title if y == 0 else None,
            )  # fmt: skip
    for y, name in enumerate(names):
        right.plot(v["seconds"][name], y, "o", color="k", markersize=3.4)
    for axes in (left, right):
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(names) - 0.4)
        for y in range(len(names)):
            axes.axhline(y, color=GREY, linewidth=0.3, alpha=0.4, zorder=0)
    left.set(xlim=(0, 1), xlabel="$r^2$ with samples of the network, median and 95% interval")
    right.set(xscale="log", xlabel="seconds a sample, one thread")
    left.legend(loc="lower right")
    letter(left, "a", "how well it predicts each network")
    letter(right, "b", "what a sample costs")
    return figure


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values
    best = {network: max(v["agreement"], key=lambda m: v["agreement"][m][network]["value"]) for network in NETWORKS}
    told = "; ".join(f"{NETWORKS[n][0]}: {m}, {v['agreement'][m][n]['value']:.3f}" for n, m in best.items())
    return (
        f"All machines of this package on {v['data']}, from the noise the networks start from ({v['scale']['sampling']} steps, "
        f"{v['scale']['steps']} training steps each; no machine is calibrated to a network, local ones have the patch size of the data). "
        f"Closest to each network: {told}. The ResNet sees 7 x 7 pixels, "
        "the UNets see everything. Rows are ordered by the mean over networks; none is left out."
    )


if __name__ == "__main__":
    sys.exit(main())
