"""How far the solved attention scores can be trusted: loss against images seen, challengers, and residuals."""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, GREY, MARKER, PAGE, letter, ratio_axis
from figures.style import TITLE as MODEL
from theory.noise import schedule

TITLE = "How far the solution can be trusted"
FAMILIES = ("identity", "full")
STYLES = ("-", "--", "-.", ":")
LEAST = 0.05  # loss of ELS below which rare images decide
SHOWN = (0.53, 0.81, 1.2, 1.83)  # noise-to-signal ratios whose descent is drawn


def compute(results: Results, effort: Effort) -> Numbers:
    """Descents and certificates of the solved families."""
    values = {}
    for name in FAMILIES:
        solution = results.report("toy-grid", f"theory/attention/{name}.json")
        times = solution["setting"]["times"]
        noise = schedule(solution["setting"]["schedule"])
        keys = ("els_loss", "loss_fresh", "loss_stderr", "residual", "residual_floor", "challenges", "converged", "best_known")
        values[name] = {
            "ratios": [float(noise(t)[1] / noise(t)[0]) for t in times],
            **{key: solution["descent"][key] for key in ("history", "images")},
            "features": solution["setting"]["options"]["features"],
            **{key: [c[key] for c in solution["certificates"]] for key in keys},
        }
    return Numbers({"families": values})


def draw(numbers: Numbers) -> Figure:
    """Loss against images seen; losses of challengers as shares of that of ELS; residuals against the noise level."""
    families = numbers.values["families"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 3.0), layout="constrained", width_ratios=[1.15, 1.15, 1])
    for name, told in families.items():
        colour = COLOUR[name]
        for ratio, style in zip(SHOWN, STYLES, strict=True):
            images, losses = _descent(told, ratio)
            left.plot(images, losses, style, color=colour)
            left.plot(images[-1], told["loss_fresh"][_nearest(told, ratio)], MARKER[name], color=colour, markersize=4)
            for loss in _networks(told, _nearest(told, ratio)):
                left.axhline(loss, color=colour, linewidth=0.6, alpha=0.5, linestyle=style)
        seen = [i for i, els in enumerate(told["els_loss"]) if els > LEAST]
        share = lambda x, els=told["els_loss"], seen=seen: [x[i] / els[i] for i in seen]  # noqa: E731
        ratios = [told["ratios"][i] for i in seen]
        errors = 3 * np.array(share(told["loss_stderr"]))
        middle.errorbar(ratios, share(told["loss_fresh"]), yerr=errors, color=colour, marker=MARKER[name], capsize=2, label=MODEL[name])
        for independent, style in ((True, ":"), (False, "x")):
            for kind in {c["name"] for x in told["challenges"] for c in x if c["independent"] == independent}:
                losses = [next((c["loss"] for c in x if c["name"] == kind), np.nan) for x in told["challenges"]]
                middle.plot(ratios, share(losses), style, color=colour)
        right.plot(told["ratios"], _visible(told["residual"]), color=colour, marker=MARKER[name])
        right.plot(told["ratios"], _visible(told["residual_floor"]), color=colour, linestyle=":")
    for ratio, style in zip(SHOWN, STYLES, strict=True):
        left.plot([], [], color="k", linestyle=style, label=rf"$\sigma_t/\alpha_t={ratio:.2f}$")
    left.set(xscale="log", yscale="log", ylim=(0.004, 3), xlabel="noisy images seen at the level", ylabel="loss above the ideal score's")
    left.legend(fontsize=6, loc="lower left", handlelength=2.6)
    if _others(families):
        middle.plot([], [], color="k", linestyle=":", label="another start")
    middle.plot([], [], color="k", linestyle="none", marker="x", label="trained networks")
    middle.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
    middle.set(ylim=(0, 1.1), ylabel="loss over that of ELS")
    middle.legend(fontsize=6, loc="upper right", bbox_to_anchor=(1, 0.9))
    right.set(yscale="log", ylabel="promised gain of a step")
    right.plot([], [], color="k", label="residual")
    right.plot([], [], color="k", linestyle=":", label="noise floor")
    right.legend(fontsize=6.5)
    for axes in (middle, right):
        ratio_axis(axes, sorted({r for told in families.values() for r in told["ratios"]}))
    for axes, mark, title in ((left, "a", "descent"), (middle, "b", "challengers"), (right, "c", "residual")):
        letter(axes, mark, title)
    return figure


def _others(families: dict) -> bool:
    """Whether somebody went down from another start."""
    return any(c["independent"] for told in families.values() for level in told["challenges"] for c in level)


def _nearest(told: dict, ratio: float) -> int:
    """The knot at a level."""
    return int(np.abs(np.log(np.array(told["ratios"]) / ratio)).argmin())


def _descent(told: dict, ratio: float) -> tuple[list[float], list[float]]:
    """Images seen at a level and losses there, on the way."""
    own = told["history"][_nearest(told, ratio)]
    return [h["images"] for h in own], [h["loss"] for h in own]


def _networks(told: dict, level: int) -> list[float]:
    """Losses of trained networks at a level."""
    return [c["loss"] for c in told["challenges"][level] if not c["independent"]]


def _visible(values: list[float]) -> np.ndarray:
    """Values for a logarithmic axis, without those that are zero up to rounding."""
    return np.where(np.array(values) > 1e-7, values, np.nan)


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    families = numbers.values["families"]
    full = families["full"]
    below = [r for r, best, loss in zip(full["ratios"], full["best_known"], full["loss_fresh"], strict=True) if best < 0.98 * loss]
    converged = "; ".join(f"{MODEL[name]}: {sum(f['converged'])} of {len(f['converged'])} levels" for name, f in families.items())
    lower = f"Somebody lies below full attention by more than 2% at {len(below)} levels. " if below else ""
    other = "dotted: a second descent from another start, with fewer pictures; " if _others(families) else ""
    return (
        "The attention score has no formula: it is found by descent on noisy pictures that are drawn fresh, with functions of a patch "
        f"and of the noise built from learned features ({full['features']}). "
        "(a) Its loss on the way, at noise levels where attention has most to say, over "
        f"{full['images'] / 1e6:.2g} million pictures in all, each used two to four times; it begins at a noisy level, and spreads "
        "from there, each level from the functions of the one inside of it; markers: on the certificate's pictures; thin horizontal "
        "lines: trained networks, that with full attention after 47 million. "
        f"(b) Where it ends, with three standard errors, as a share of the loss of ELS; {other}crosses: the networks. "
        f"A level counts as converged where the second descent agrees and nobody lies below ({converged}). {lower}"
        "(c) What one more whitened gradient step promises on fresh pictures, beside what sampling noise alone would make it seem "
        "(dotted). Every loss is an upper bound on the optimum."
    )


if __name__ == "__main__":
    sys.exit(main())
