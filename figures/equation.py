"""The stationarity condition as printed, and the exact one: forces against measured changes of the loss."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, PAGE, letter, ratio_axis
from theory.data import load
from theory.machines import EquivariantLocal
from theory.metrics import noisy_images
from theory.stationarity.equations import Head, Roles, forward, loss, printed, variation

TITLE = "The equation of the poster, and the exact one"
RATIO = 1.0
STEP = 1e-4  # of the central difference


def compute(results: Results, effort: Effort) -> Numbers:
    """Derivatives of the loss along random directions: predicted by both equations, and measured.

    At the ELS machine's output, with literal attention (all roles one function ``z``), in float64. The measured
    derivative is a central difference of the loss itself and knows neither equation.
    """
    data = load("toy")
    machine = EquivariantLocal(data, patch_size=data.patch_size)
    t = float(machine.schedule.time(RATIO))
    noisy = noisy_images(data, machine.schedule, t, effort(200, 1000), 3, effort.device)
    x_t = noisy.x_t.double()
    z = machine.denoise(x_t, t).flatten(2).mT
    target = data.rule.posterior_mean(x_t, *machine.schedule(t)).flatten(2).mT
    head, generator = Head(), torch.Generator().manual_seed(0)

    def total(values: torch.Tensor) -> torch.Tensor:
        return loss(forward(Roles(values, values, values, values), head).out, target)

    roles = Roles(z, z, z, z)
    output = forward(roles, head)
    residual = output.out - target
    exact, told = sum(variation(roles, output, residual, head)), printed(z, output, residual, head)
    direction = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z)
    measured = (total(z + STEP * direction) - total(z - STEP * direction)) / (2 * STEP)
    # What the local part contributes is beyond dispute: the rest is the force of attention.
    measured = measured - 2 * (residual * direction).flatten(1).sum(1)
    along = {name: 2 * ((force - residual) * direction).flatten(1).sum(1) for name, force in (("exact", exact), ("printed", told))}
    spread = float(measured.std())
    report = results.report("toy-grid", "theory/report.json")
    families = {
        name: [(r, p) for r, p in zip(f["ratios"], f["printed"], strict=True) if p is not None] for name, f in report["attention"].items()
    }
    values = {
        "error": {name: float((x - measured).square().mean().sqrt()) / spread for name, x in along.items()},
        "missed": {name: missed for name, missed in families.items() if missed},
        "ratio": RATIO,
    }
    return Numbers(values, {"measured": measured, **along})


def draw(numbers: Numbers) -> Figure:
    """Predicted against measured change, and the share of attention's force that is missed."""
    v, arrays = numbers.values, numbers.arrays
    figure, (left, right) = plt.subplots(1, 2, figsize=(0.9 * PAGE, 2.9), layout="constrained")
    reach = 1.1 * float(max(arrays[k].abs().max() for k in ("measured", "printed")))
    left.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=0.7)
    for name, colour, mark, label in (("printed", "#D55E00", "^", "as printed"), ("exact", "#0072B2", "o", "exact")):
        left.plot(
            arrays["measured"], arrays[name], mark, color=colour, alpha=0.6, markersize=2.8, markeredgewidth=0,
            label=f"{label}: error {_share(v['error'][name])}",
        )  # fmt: skip
    left.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    left.set(xlabel="change of the loss by attention, measured", ylabel="predicted")
    left.legend(loc="upper left", markerscale=1.6)
    letter(left, "a", rf"a random change of the score, $\sigma_t/\alpha_t={v['ratio']:g}$")
    for name, missed in v["missed"].items():
        right.plot([r for r, _ in missed], [100 * m for _, m in missed], "o-", color=COLOUR[name], label=f"{name} attention")
    right.axhline(100, color=GREY, linewidth=0.8, linestyle="--")
    ratios = sorted({r for missed in v["missed"].values() for r, _ in missed})
    right.text(max(ratios), 102, "100%: as wrong as\nleaving attention out", fontsize=6.5, color=GREY, va="bottom", ha="right")
    right.set(ylim=(0, None), ylabel="force of attention got wrong (%)")
    right.legend(loc="lower right")
    ratio_axis(right, ratios)
    letter(right, "b", "at the solution, by noise level")
    return figure


def _share(error: float) -> str:
    return f"{100 * error:.0f}%" if error > 1e-3 else f"{error:.0e}"


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    error = numbers.values["error"]
    return (
        "The best attention score is where no small change lowers the loss. The condition printed in arXiv 2506.17324 (in the reading "
        "whose dimensions fit) leaves out "
        "how a pixel's own attention changes, and has one factor at the wrong place. (a) How the loss changes through attention when the "
        "score is changed at random, one dot a picture: measured by changing "
        "it (across) and predicted (up). The exact condition predicts it to numerical accuracy "
        f"({error['exact']:.0e} of the spread), the printed one is off by {100 * error['printed']:.0f}% of it. (b) The condition itself "
        "is about the average force over "
        "all pictures in which a pixel sees the same patch, where most of it cancels and errors do not: at the solution the printed "
        "condition gets up to "
        f"{100 * max(m for missed in numbers.values['missed'].values() for _, m in missed):.0f}% of attention's force wrong. All "
        "results here solve the exact one; both are written out in docs/attention-theory."
    )


if __name__ == "__main__":
    sys.exit(main())
