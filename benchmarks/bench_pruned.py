"""``python -m benchmarks.bench_pruned``: what leaving candidates out gains, and whether its bound holds.

For photo crops 3x32x32, each number of training images, patch size and noise level:

- **exact**: seconds of one exact score (ELS, zero borders), float32;
- **pruned**: seconds of one with ``rtol``, by the same machine as a user makes it, whichever way it takes;
- **share**: how much of the posterior weight it says it left out, at most;
- **error**: how far the mean really is from that of an exact float64 sum, in units of the range of the pixels: to be below **share**,
  up to float32 rounding.

The index is built once and its time told apart. With ``--jitter`` pixels are moved by up to 1e-4, so that no two patches are equal:
overlapping crops of the same photographs repeat many, and equal candidates are stored once.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bench_posterior import jittered, timed
from theory.data import ImageSet, load
from theory.engines.pruned import store
from theory.engines.pruned.engine import forest
from theory.machines import EquivariantLocal

GAINS = ((0.2, 30.0), (0.5, 5.0), (1.0, 1 / 1.1))  # up to this sigma, at least this gain over the exact sum at the most images
GROWTH = 0.8  # largest exponent of the cost in the number of images, at the lowest noise
ROUNDING = 1e-5  # of float32, in units of the range


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few images and cases, to see that it runs")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000], help="numbers of training images")
    parser.add_argument("--patches", type=int, nargs="+", default=[3, 5, 9, 17], help="patch sizes")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.02, 0.1, 0.2, 0.5, 0.98], help="noise levels")
    parser.add_argument("--rtol", type=float, default=1e-4, help="share of the weight that may be left out")
    parser.add_argument("--jitter", action="store_true", help="make all patches different")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--plot", type=Path, help="also draw the gain against the noise level")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.images, arguments.patches, arguments.sigmas = [20, 100], [3], [0.02, 0.5]
    cases = [(n, k) for n in arguments.images for k in arguments.patches]
    rows = []
    for count, window in track(cases, "measuring", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        data = jittered(count) if arguments.jitter else load("photos", count=count)
        rows += measure(data, window, arguments.sigmas, arguments.rtol)
    Console(width=130).print(table(rows, arguments.rtol))
    report(rows)
    if arguments.out:
        about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rtol": arguments.rtol, "jitter": arguments.jitter}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


def measure(data: ImageSet, window: int, sigmas: list[float], rtol: float) -> list[dict]:
    """One number of images and patch size; a row for each noise level."""
    exact, pruned = (EquivariantLocal(data, patch_size=window, rtol=r) for r in (0.0, rtol))
    truth = EquivariantLocal(data, patch_size=window, engine="windows")
    test = load("photos", count=1, seed=5).images
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {store.VARIABLE: folder}):
        build = timed(lambda: forest(pruned.case(None, (window, window), data.images)))
        stored = sum(file.stat().st_size for file in Path(folder).iterdir())
        rows = []
        for sigma in sigmas:
            t = float(exact.schedule.time(sigma / math.sqrt(1 - sigma**2)))
            x = exact.schedule.perturb(test, t, noise)
            pruned(x, t)
            row = {"images": len(data), "patch": window, "sigma": sigma, "build": build, "index_mb": stored / 1e6}
            row["exact"] = timed(lambda x=x, t=t: exact(x, t))
            row["pruned"] = min(timed(lambda x=x, t=t: pruned(x, t)) for _ in range(3))
            found = pruned(x, t)
            row["share"] = float(found.skipped.max())
            row["ess"] = float(found.ess.median())
            row["error"] = float((found.mean - truth(x.double(), t).mean).abs().max()) / 2
            rows.append(row)
    return rows


def table(rows: list[dict], rtol: float) -> Table:
    shown = Table(
        title=f"ELS scores of 3x32x32 images, zero borders, rtol {rtol:g}, {torch.get_num_threads()} threads", title_justify="left"
    )
    names = ("images", "patch", "sigma", "exact s", "pruned s", "gain", "share", "error", "ess", "index s", "index MB")
    for name in names:
        shown.add_column(name, justify="right")
    for r in rows:
        shown.add_row(
            str(r["images"]), str(r["patch"]), f"{r['sigma']:g}", f"{r['exact']:.2f}", f"{r['pruned']:.3f}",
            f"{r['exact'] / r['pruned']:.1f}",
            f"{r['share']:.1e}", f"{r['error']:.1e}", f"{r['ess']:.1f}", f"{r['build']:.1f}", f"{r['index_mb']:.0f}",
        )  # fmt: skip
    return shown


def report(rows: list[dict]) -> None:
    """Print how the cost grows, and every aim that is missed."""
    misses, most = [], max(r["images"] for r in rows)
    for r in rows:
        what = f"{r['images']} images, patch {r['patch']}, sigma {r['sigma']:g}"
        if r["error"] > r["share"] + ROUNDING:
            misses.append(f"{what}: error {r['error']:.1e} above the bound {r['share']:.1e}")
        aim = next(gain for sigma, gain in GAINS if r["sigma"] <= sigma)
        gain = r["exact"] / r["pruned"]
        if r["images"] == most and gain < aim:
            misses.append(f"{what}: {gain:.1f} times faster, aim {aim:.2g}")
    lowest = min(r["sigma"] for r in rows)
    for window in sorted({r["patch"] for r in rows}):
        few, many = (next(r for r in rows if (r["images"], r["patch"], r["sigma"]) == (n, window, lowest)) for n in _ends(rows))
        if few is not many:
            growth = math.log(many["pruned"] / few["pruned"]) / math.log(many["images"] / few["images"])
            print(f"patch {window}, sigma {lowest:g}: cost grows as images^{growth:.2f}")
            misses += [f"patch {window}: growth {growth:.2f}, aim {GROWTH}"] if growth > GROWTH else []
    print("\n".join(["missed:", *misses]) if misses else "all aims met")


def _ends(rows: list[dict]) -> tuple[int, int]:
    counts = [r["images"] for r in rows]
    return min(counts), max(counts)


def plot(rows: list[dict], path: Path) -> None:
    """Gain over the exact sum against the noise level, at the most images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.5, 2.8), layout="constrained")
    axes = figure.subplots()
    most = max(r["images"] for r in rows)
    for window in sorted({r["patch"] for r in rows}):
        chosen = sorted((r["sigma"], r["exact"] / r["pruned"]) for r in rows if r["images"] == most and r["patch"] == window)
        axes.plot(*zip(*chosen, strict=True), marker=".", label=f"{window} x {window}")
    axes.axhline(1, color="0.4", ls="--", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel=r"noise level $\sigma_t$", ylabel="times faster than the exact sum")
    axes.set_title(f"{most} photo crops", fontsize=9)
    axes.legend(title="patch", fontsize=7, title_fontsize=7)
    figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
