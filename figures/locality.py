"""What a trained network looks at: its patch size against the noise, and its measured receptive field."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import GREY, PAGE, frame, letter
from theory.calibrated import published

TITLE = "How far trained networks look"
PUBLISHED = ("MNIST_ResNet_zeros", "MNIST_ResNet_circular", "CIFAR10_ResNet_zeros_conditional", "CelebA_ResNet_zeros")
COLOURS = {"zeros": "#0072B2", "circular": "#D55E00"}


def compute(results: Results, effort: Effort) -> Numbers:
    """Calibrated and published patch sizes, and the sensitivity of the central pixel."""
    report = results.report("digits")
    networks = {
        name: {
            "sizes": row["patch_sizes"], "field": row["receptive_field"], "t": row["sensitivity"]["t"],
            "cosine": [level["sizes"][str(level["best"])]["cosine"]["value"] for level in row["calibration"]["levels"]],
        }
        for name, row in report["rows"].items()
    }  # fmt: skip
    arrays = {name: torch.tensor(row["sensitivity"]["pixels"]) for name, row in report["rows"].items()}
    known = published()
    return Numbers({"networks": networks, "published": {name: [s[0] for s in known[name].sizes] for name in PUBLISHED}}, arrays)


def draw(numbers: Numbers) -> Figure:
    """Patch sizes on the left, receptive fields on the right."""
    networks = numbers.values["networks"]
    figure = plt.figure(figsize=(PAGE, 2.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.65, 1.2 * len(networks)])
    axes = left.subplots()
    for (name, sizes), style in zip(numbers.values["published"].items(), ((0, (1, 1)), (0, (3, 1)), (0, (5, 2)), "-."), strict=True):
        axes.stairs(
            sizes, torch.linspace(0, 1, len(sizes) + 1), baseline=None, color=GREY, linestyle=style, linewidth=0.9, label=_title(name)
        )
    for i, (name, told) in enumerate(networks.items()):
        sizes = [s + 0.25 * i for s in told["sizes"]]  # so that equal sizes show
        axes.stairs(
            sizes,
            torch.linspace(0, 1, len(sizes) + 1),
            baseline=None,
            color=COLOURS[name.split("-")[1]],
            linewidth=2,
            label=f"digits, {_title(name)}",
        )
    axes.set(xlabel="time $t$", ylabel="patch size (pixels)", xlim=(0, 1), ylim=(0, None))
    axes.set_yticks(range(3, 20, 4))
    axes.legend(fontsize=6, loc="upper left")
    letter(axes, "a", "patch that ELS needs to match")
    panels = right.subplots(1, len(networks), squeeze=False)[0]
    for panel, (name, told) in zip(panels, networks.items(), strict=True):
        seen = numbers.arrays[name]
        shown = panel.imshow(seen.clamp(min=1e-4).numpy(), cmap="viridis", norm=LogNorm(1e-3, 1))
        height, width = seen.shape
        y, x, size = height // 2, width // 2, told["sizes"][min(int(told["t"] * len(told["sizes"])), len(told["sizes"]) - 1)]
        for side, colour, style in ((told["field"], "w", "--"), (size, "#CC79A7", "-")):
            frame(panel, y - side // 2, x - side // 2, side, side, edgecolor=colour, linestyle=style, linewidth=1.4, clip_on=True)
        panel.set(xticks=[], yticks=[])
        panel.set_xlabel(f"{_title(name)}, $t={told['t']:.2f}$", fontsize=7)
    letter(panels[0], "b", "what the central pixel depends on")
    bar = right.colorbar(shown, ax=panels, shrink=0.75)
    bar.set_label("change of the guess per change of a pixel", fontsize=6.5)
    return figure


def _title(name: str) -> str:
    return name.replace("resnet", "ResNet").replace("unet", "UNet").replace("-", ", ").replace("_conditional", "").replace("_", " ")


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    parts = [f"{_title(n)}: {min(t['cosine']):.3f} to {max(t['cosine']):.3f}" for n, t in numbers.values["networks"].items()]
    fields = " and ".join(str(t["field"]) for t in numbers.values["networks"].values())
    return (
        "The patch size at which the score of the ELS machine is closest in direction to that of a trained network, level by level. "
        "Colours: our networks on 8 x 8 digits; grey: schedules "
        "published with arXiv 2412.20292, for images of 28 to 32 pixels. Networks look close by at low noise and further at high noise "
        "(all but one of the published ones up to the end); ours can't look further than the 7 pixels their layers see. "
        f"Median cosine of both scores at the chosen sizes: {'; '.join(parts)}. (b) How much the guess at the central pixel changes with "
        "each pixel it is shown (root mean "
        f"square over noisy digits, logarithmic): dashed, the receptive field of {fields} pixels that the layers allow; solid, the "
        "calibrated patch."
    )


if __name__ == "__main__":
    sys.exit(main())
