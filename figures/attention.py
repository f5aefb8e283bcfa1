"""What attention adds: a local guess, and values of the pixels that are attended to."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch.nn.functional import pad

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import PAGE, frame, picture
from theory.machines import EquivariantLocal, Ideal
from theory.metrics import noisy_images

TITLE = "Local guess plus context"
FAMILY = "full"
CANDIDATES = 256  # noisy images among which the example is chosen
CONTEXT = 4  # attended pixels whose patches are shown
RATIOS = (0.3, 0.6, 1.0, 1.6, 2.5)  # noise-to-signal ratios of the rows
MIDDLE = 2


def compute(results: Results, effort: Effort) -> Numbers:
    """One clean image with one noise at several levels: attention of one pixel, and its guess taken apart.

    Image and pixel are those, of `CANDIDATES`, where attention improves the guess most at the middle level.
    """
    solution = results.solution("toy-grid", FAMILY)
    data, schedule, setting = solution.data, solution.schedule, solution.setting
    els_machine = EquivariantLocal(data, schedule, patch_size=setting.patch_size, border=setting.border)
    times = [float(schedule.time(r)) for r in RATIOS]
    arrays: dict[str, list] = {name: [] for name in ("x_t", "local", "context", "els", "exact", "attention")}
    chosen = None
    for t in (times[MIDDLE], *times):
        noisy = noisy_images(data, schedule, t, CANDIDATES, 7, effort.device)
        if chosen is None:
            split, els = solution.split(noisy.x_t, t), els_machine.denoise(noisy.x_t, t)
            exact = Ideal(data, schedule).denoise(noisy.x_t, t)
            gain = (els - exact).square().sum(1) - (split.local + split.context - exact).square().sum(1)
            image, pixel = divmod(int(gain.flatten().argmax()), gain[0].numel())
            chosen = slice(image, image + 1)
            continue
        x_t = noisy.x_t[chosen]
        split = solution.split(x_t, t)
        found = (x_t, split.local, split.context, els_machine.denoise(x_t, t), Ideal(data, schedule).denoise(x_t, t))
        for name, x in zip(arrays, found, strict=False):
            arrays[name].append(x[0])
        arrays["attention"].append(split.attention[0, pixel].reshape(x_t.shape[-2:]))
        clean = noisy.x_0[chosen][0]
    values = {"ratios": list(RATIOS), "pixel": list(divmod(pixel, data.images.shape[-1])), "patch": list(setting.patch_size)}
    return Numbers(values, {name: torch.stack(x) for name, x in arrays.items()} | {"clean": clean})


def draw(numbers: Numbers) -> Figure:
    """The sum at one level, and attention at all of them."""
    figure = plt.figure(figsize=(PAGE, 5.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.75, 4.4])
    ratio = numbers.values["ratios"][MIDDLE]
    top.suptitle(
        rf"(a) The guess at one pixel (framed), $\sigma_t/\alpha_t={ratio:g}$: what its own patch tells, plus the pixels it attends to",
        x=0.005, ha="left", fontsize=8.5, fontweight="bold",
    )  # fmt: skip
    _sum(top, numbers)
    bottom.suptitle("(b) The same picture and noise at five noise levels", x=0.005, ha="left", fontsize=8.5, fontweight="bold")
    _levels(bottom, numbers)
    return figure


def _sum(figure, numbers: Numbers) -> None:
    y, x = numbers.values["pixel"]
    part = {name: array[MIDDLE] for name, array in numbers.arrays.items() if name != "clean"}
    weights, order = part["attention"].flatten().sort(descending=True)
    axes = figure.subplots(1, 5 + CONTEXT, width_ratios=[1.25, 0.9, 0.9] + [0.9] * CONTEXT + [0.9, 0.9])
    picture(axes[0], part["x_t"])
    frame(axes[0], y, x)
    _swatch(axes[1], part["local"][:, y, x], "local guess")
    _swatch(axes[2], part["context"][:, y, x], "+ context")
    kh, kw = numbers.values["patch"]
    padded = pad(part["x_t"], (kw // 2, kw // 2, kh // 2, kh // 2), value=float("nan"))
    for panel, weight, place in zip(axes[3:], weights.tolist(), order.tolist(), strict=False):
        v, u = divmod(place, part["attention"].shape[1])
        picture(panel, padded[:, v : v + kh, u : u + kw].nan_to_num(1.0))
        frame(panel, kh // 2, kw // 2, linewidth=1.0)
        panel.set_title(f"row {v + 1}, column {u + 1}", loc="center", fontweight="normal", fontsize=6)
        panel.set_xlabel(f"{100 * weight:.0f}%", fontsize=7.5, labelpad=1)
    rest = weights[CONTEXT:].sum()
    axes[3].set_ylabel(f"attends to\n(others {100 * rest:.0f}%)", fontsize=6.5, labelpad=2)
    _swatch(axes[-2], (part["local"] + part["context"])[:, y, x], "= guess")
    _swatch(axes[-1], part["exact"][:, y, x], "best possible")
    axes[0].set_title("noisy picture", loc="center", fontweight="normal", fontsize=7)


def _swatch(axes, colour, title: str) -> None:
    picture(axes, colour[:, None, None].expand(3, 1, 1))
    axes.set_title(title, loc="center", fontweight="normal", fontsize=7)
    axes.set_xlabel("(" + ", ".join(f"{c:.1f}" for c in colour.tolist()) + ")", fontsize=6, labelpad=1)


def _levels(figure, numbers: Numbers) -> None:
    ratios, (y, x) = numbers.values["ratios"], numbers.values["pixel"]
    names = ["x_t", "attention", "local", "context", "guess", "els", "exact"]
    titles = [
        "noisy picture", "attention of\nthe framed pixel", "local guess", "context\n(grey: nothing)", "local + context",
        "without attention\n(ELS)", "best possible\n(ideal)",
    ]  # fmt: skip
    arrays = numbers.arrays | {"guess": numbers.arrays["local"] + numbers.arrays["context"]}
    grid = figure.subplots(len(ratios), len(names))
    high = float(numbers.arrays["attention"].max())
    for i, row in enumerate(grid):
        for axes, name in zip(row, names, strict=True):
            if name == "attention":
                shown = axes.imshow(arrays[name][i].numpy(), cmap="viridis", vmin=0, vmax=high)
                axes.set(xticks=[], yticks=[])
            else:
                picture(axes, arrays[name][i])
            frame(axes, y, x)
        row[0].set_ylabel(r"$\sigma_t/\alpha_t$" + f"\n{ratios[i]:g}", rotation=0, ha="right", va="center", labelpad=6)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, loc="center", fontweight="normal", fontsize=7)
    bar = figure.colorbar(shown, ax=grid[:, 1], location="left", shrink=0.5, pad=0.02)
    bar.set_label("attention weight", fontsize=7)


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    return (
        "One attention layer on top of a convolutional network: its guess at a pixel is what the pixel's 5 x 5 patch tells, plus an "
        "average of what "
        "other patches say, weighted by how well they match (poster figure 3). The best such score has no closed form; this is the "
        "numerical "
        "solution of its stationarity condition, not a trained network. (a) Colours as numbers (red, green, blue in [-1, 1]). "
        "Here: full attention; others are in docs/attention-theory. Dark pixels can be attended to as well: their patches show pairs "
        "too. "
        "(b) In the middle, other pairs tell the code and set the guess right where ELS, which can't look, guesses a blue value; at "
        "low noise the "
        "patch is enough, and at high noise no one can tell. Only the sum of both parts is determined: what a pixel knows itself may sit "
        "in either, "
        "as at low noise, where attention rests on one place. The last two columns are the best without attention and without any "
        "constraint: at 1.6 this solution is between them."
    )


if __name__ == "__main__":
    sys.exit(main())
