"""One look for all figures: colours that mean the same model everywhere, sizes for a printed column, PNG and PDF."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

COLUMN, PAGE = 3.4, 6.9  # inches: one column and the full width of a two-column page
DPI = 220
GREY = "0.45"

# Okabe & Ito's colours, told apart by all readers. A model has one colour in every figure, and a network that of its theory.
COLOUR = {
    "ideal": "#000000",
    "equivariant": "#999999",
    "ls": "#D55E00",
    "els": "#0072B2",
    "literal": "#56B4E9",
    "top1_identity": "#CC79A7",
    "identity": "#E69F00",
    "full": "#009E73",
}
MARKER = {"ideal": "X", "equivariant": "P", "ls": "v", "els": "o", "literal": "s", "top1_identity": "^", "identity": "D", "full": "p"}
TITLE = {
    "ideal": "IS (ideal)",
    "equivariant": "ES (equivariant)",
    "ls": "LS (local)",
    "els": "ELS (CNN)",
    "literal": "literal attention",
    "top1_identity": "top-1 attention",
    "identity": "identity attention",
    "full": "full attention",
}
GOOD, BAD = "#009E73", "#D55E00"
RC = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


@contextmanager
def styled() -> Iterator[None]:
    """The common look, for what is drawn inside."""
    with plt.rc_context(RC):
        yield


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path.png`` and ``path.pdf``, atomically; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, options in (("png", {"dpi": DPI}), ("pdf", {"metadata": {"CreationDate": None}})):
        target = path.with_suffix(f".{kind}")
        partial = target.with_name(target.name + ".partial")
        figure.savefig(partial, format=kind, **options)
        written.append(partial.replace(target))
    plt.close(figure)
    return written


def picture(axes: Axes, image: Tensor, good: bool | None = None, **options) -> None:
    """An image with pixels in [-1, 1], framed green where ``good`` and orange, dashed, where not.

    States and samples may overshoot the range of a screen; they are cut off there, in the picture alone.
    """
    pixels = ((image.double().cpu().numpy().transpose(1, 2, 0) + 1) / 2).clip(0, 1)
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest", **options)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(good is not None)
        spine.set(color=GOOD if good else BAD, linewidth=2.2 if good else 1.4, linestyle="-" if good else (0, (2, 1)))


def frame(axes: Axes, y: float, x: float, height: float = 1, width: float = 1, **options) -> None:
    """A rectangle around pixels: row, column, and how many of each."""
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, **{"edgecolor": "#CC79A7", "linewidth": 1.5, **options}))


def row_title(axes: Axes, text: str, **options) -> None:
    """A title to the left of a row of pictures."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6, **options)


def ratio_axis(axes: Axes, ratios: list[float]) -> None:
    """A logarithmic axis of the noise-to-signal ratio, with plain numbers."""
    low, high = min(ratios), max(ratios)
    axes.set(xscale="log", xlabel=r"noise-to-signal ratio $\sigma_t/\alpha_t$", xlim=(low / 1.25, high * 1.25))
    ticks = [r for r in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low / 1.25 <= r <= high * 1.25]
    axes.set_xticks(ticks, [f"{r:g}" for r in ticks])
    axes.minorticks_off()


def letter(axes: Axes, text: str, title: str) -> None:
    """``(a) title`` above a panel."""
    axes.set_title(f"({text}) {title}")
