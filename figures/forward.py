"""From data to noise: what the models are asked to undo."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import GREY, PAGE, picture, row_title
from theory.data import load
from theory.noise import CosineSchedule, Noise

TITLE = "From data to noise"
DATA = {"toy": ("toy", 3000), "digits": ("digits", 13), "photographs": ("photos:count=40,size=32", 22)}  # name, and which image
COLUMNS = 9


def compute(results: Results, effort: Effort) -> Numbers:
    """One image of each data set at times from 0 to 1, and the coefficients."""
    schedule, times = CosineSchedule(), torch.linspace(0, 1, COLUMNS, dtype=torch.float64)
    arrays = {}
    for title, (name, which) in DATA.items():
        image = load(name).images[which : which + 1]
        epsilon = Noise(1)(image)
        arrays[title] = torch.cat([schedule.perturb(image, t, epsilon) for t in times])
    fine = torch.linspace(0, 1, 201, dtype=torch.float64)
    arrays |= dict(zip(("alpha", "sigma"), schedule(fine), strict=True))
    ratios = [float(s / a) for a, s in zip(*schedule(times), strict=True)]
    return Numbers({"times": times.tolist(), "ratios": ratios, "schedule": schedule.name}, arrays)


def draw(numbers: Numbers) -> Figure:
    """Rows of pictures above the coefficients, on one time axis."""
    times, ratios = numbers.values["times"], numbers.values["ratios"]
    figure = plt.figure(figsize=(PAGE, 4.1), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.6, 1.35])
    grid = top.subplots(len(DATA), COLUMNS)
    for row, title in zip(grid, DATA, strict=True):
        for axes, image in zip(row, numbers.arrays[title], strict=True):
            picture(axes, image)
        row_title(row[0], title)
    for axes, t, ratio in zip(grid[0], times, ratios, strict=True):
        shown = f"{ratio:.2g}" if ratio < 100 else r"\infty"
        axes.set_title(f"$t={t:g}$\n" + rf"$\sigma_t/\alpha_t={shown}$", loc="center", fontweight="normal", fontsize=7)
    axes = bottom.subplots()
    fine = torch.linspace(0, 1, len(numbers.arrays["alpha"]))
    for name, style, where in (("alpha", "-", (0.03, 0.86)), ("sigma", "--", (0.03, 0.22))):
        axes.plot(fine, numbers.arrays[name], style, color="k")
        axes.text(*where, {"alpha": r"signal $\alpha_t$", "sigma": r"noise $\sigma_t$"}[name])
    for t in times:
        axes.axvline(t, color=GREY, linewidth=0.4, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="time $t$ (sampling runs from 1 to 0)", ylabel="coefficient")
    axes.set_title(rf"$x_t = \alpha_t x_0 + \sigma_t \epsilon$, {numbers.values['schedule']} schedule")
    return figure


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    return (
        "Noise is added to a clean picture until nothing else is left. A diffusion model learns to guess the clean picture from a noisy "
        "one, "
        "and makes new pictures by following its guesses from pure noise (right) back to t = 0 (left). All results on this page are "
        "about what "
        "a network guesses that cannot see the whole picture at once. The toy data (first row) has 5056 pictures of 4 x 6 pixels; "
        "what is special about them is shown below."
    )


if __name__ == "__main__":
    sys.exit(main())
