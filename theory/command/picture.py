"""The summary picture of the command line: losses, samples from shared noise, and what they obey."""

from pathlib import Path

import matplotlib
import numpy as np
from torch import Tensor

from theory.command.tables import standing
from theory.command.view import View
from theory.data import ImageSet

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe & Ito's colours, told apart by all readers.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
MARKERS = "osD^vP*X"
LINES = ["-", "--", "-."]
PIXEL = "#CC79A7"
GOOD, BAD = "#009E73", "#D55E00"
COLUMNS = 12
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def title(name: str, report: dict | None = None) -> str:
    """``equivariant_local`` as a reader knows it: ``equivariant local``; with a word on what a solution is."""
    family = None if report is None else report["attention"].get(name)
    return name.replace("_", " ") + ("" if family is None else f" ({standing(family)})")


def draw(path: Path, report: dict, samples: dict[str, Tensor], data: ImageSet, marks: dict[str, Tensor], view: View | None = None) -> None:
    """Draw the summary of a report.

    Args:
        path: The PNG to write.
        report: The report, as written to ``report.json``.
        samples: Samples of each machine from the same initial noise.
        data: The training set.
        marks: Whether each sample is consistent (or, without a rule, a copy), for each machine.
        view: What attention does at one pixel, if anything was solved.
    """
    columns = min(COLUMNS, *(len(s) for s in samples.values()))
    height, width = data.images.shape[-2:]
    row = min(11 / columns, 1.0) * min(height / width, 1)
    rows = len(samples) + 1
    with plt.rc_context(STYLE):
        heights = [3.5, 2.4 * (view is not None), rows * (row + 0.05) + 0.4]
        figure = plt.figure(figsize=(12, sum(heights)), layout="constrained")
        top, *middle, bottom = figure.subfigures(2 + (view is not None), 1, height_ratios=[h for h in heights if h])
        left, right = top.subplots(1, 2, width_ratios=[1.35, 1])
        _losses(left, report)
        _shares(right, report)
        if view is not None:
            _attention(middle[0], view)
        _gallery(bottom, samples, data, marks, columns, report)
        partial = path.with_name(path.name + ".partial")
        figure.savefig(partial, dpi=150, format="png")
        plt.close(figure)
    partial.replace(path)


def _models(report: dict) -> dict[str, dict]:
    """Machines and solved families."""
    return report["machines"] | report["attention"]


def _losses(axes, report: dict) -> None:
    ratio = [level["sigma"] / level["alpha"] for level in report["levels"]]
    models = _models(report)
    shown = {name: m for name, m in models.items() if max(m["excess"]) > 1e-9}
    for i, (name, machine) in enumerate(models.items()):
        if name in shown:
            axes.errorbar(
                ratio,
                machine["excess"],
                yerr=[2 * e for e in machine["excess_stderr"]],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle=LINES[i % len(LINES)],  # models may coincide: both must show; and no colour repeats with the same line
                markersize=8 - 1.5 * min(i, 3),
                linewidth=2.4 - 0.4 * min(i, 3),
                capsize=2,
                label=title(name, report),
            )
    axes.set(xscale="log", xlabel=r"noise-to-signal ratio $\sigma_t / \alpha_t$", ylabel="squared error per image")
    axes.set_title(f"{report['data']['name']}: denoising loss above the ideal one (± 2 standard errors)")
    ticks = [r for r in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if min(ratio) <= r <= max(ratio)]
    axes.set_xticks(ticks, [f"{r:g}" for r in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    if shown:
        axes.legend(ncols=1 + (len(shown) > 6), fontsize="small" if len(shown) > 6 else None)
    else:
        axes.text(0.5, 0.5, "ideal machine only", transform=axes.transAxes, ha="center")


def _shares(axes, report: dict) -> None:
    kind = "consistency" if report["baseline"] is not None else "memorised"
    names = list(report["samples"])
    values = np.array([report["samples"][n][kind] for n in names]) * 100
    bounds = np.array([[report["samples"][n][f"{kind}_{end}"] for n in names] for end in ("low", "high")]) * 100
    axes.barh(
        range(len(names)),
        values,
        xerr=np.clip([values - bounds[0], bounds[1] - values], 0, None),
        color=[COLOURS[list(_models(report)).index(n) % len(COLOURS)] for n in names],
        capsize=3,
        height=0.6,
    )
    baseline = 100 * (report["baseline"] or 0)
    for i, (value, high) in enumerate(zip(values, bounds[1], strict=True)):
        axes.text(max(high, baseline) + 2, i, f"{value:.1f}%", va="center")
    axes.set_yticks(range(len(names)), [title(n, report) for n in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 118), xticks=range(0, 101, 20))
    if kind == "consistency":
        axes.axvline(baseline, color="0.3", linestyle="--", linewidth=1, label=f"random colours, {baseline:.1f}%")
        axes.legend(loc="lower right")
        axes.set_title("Samples that obey the rule")
        axes.set_xlabel("consistent samples (%, 95% interval)")
    else:
        axes.set_title("Samples that copy a training image")
        axes.set_xlabel("memorised samples (%, 95% interval)")


def _attention(figure, view: View) -> None:
    """One pixel's attention over the image, and the prediction as local part and context."""
    figure.suptitle(
        f"Attention of one pixel (framed), {title(view.name)}, t = {view.t:.2f}: prediction = local part + context, "
        "beside the best from the patch alone and the exact posterior mean",
        x=0.005, ha="left", fontsize=10, fontweight="bold",
    )  # fmt: skip
    axes = figure.subplots(1, 7)
    images = [view.x_t, None, view.local, view.context, view.local + view.context, view.els, view.exact]
    titles = ["noisy image", "attention", "local part", "context (grey: none)", "prediction", "from the patch alone", "exact"]
    for a, image, name in zip(axes, images, titles, strict=True):
        if image is None:
            shown = a.imshow(view.attention.numpy(), cmap="viridis", vmin=0)
            a.set(xticks=[], yticks=[])
            figure.colorbar(shown, ax=a, shrink=0.8)
        else:
            _image(a, image)
        y, x = view.pixel
        a.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=PIXEL, linewidth=2))
        a.set_title(name, loc="center", fontweight="normal", fontsize=9)


def _gallery(figure, samples: dict[str, Tensor], data: ImageSet, marks: dict[str, Tensor], columns: int, report: dict) -> None:
    meaning = "consistent" if data.rule is not None else "copy of a training image"
    figure.suptitle(
        f"Samples; each column starts from the same noise  (frame: green solid = {meaning}, orange dashed = not)",
        x=0.005, ha="left", fontsize=10, fontweight="bold",
    )  # fmt: skip
    grid = figure.subplots(len(samples) + 1, columns, squeeze=False)
    for axes, image in zip(grid[0], data.draw(columns, seed=1), strict=True):
        _image(axes, image)
    for row, (name, images) in zip(grid[1:], samples.items(), strict=True):
        for axes, image, mark in zip(row, images, marks[name], strict=False):
            _image(axes, image, good=bool(mark))
    for axes, name in zip(grid[:, 0], ["training data", *(title(n, report) for n in samples)], strict=True):
        axes.set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", labelpad=8)


def _image(axes, image: Tensor, good: bool | None = None) -> None:
    pixels = ((image.float().cpu().numpy().transpose(1, 2, 0) + 1) / 2).clip(0, 1)  # samples may overshoot slightly
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(good is not None)
        spine.set(color=GOOD if good else BAD, linewidth=2.5 if good else 1.5, linestyle="-" if good else "--")
