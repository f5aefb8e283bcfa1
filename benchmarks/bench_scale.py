"""``python -m benchmarks.bench_scale``: scores of whole data sets, one noisy image and many, and what a second process gains.

For each data set, machine and batch of noisy images, at sigma .3 and in a process of its own:

- **seconds** of a score of the whole batch (the second call; the first builds what is kept), and **s/image**;
- **pairs/s**: candidates met in a second, and what share that is of the exponentials torch computes in the same process (one is needed for
  each pair; Fourier transforms and merged candidates go below the cost of a pair each, and may exceed it);
- **of memory**: bytes of candidates read in a second, once for the logits and once for the mean, as a share of what copying a large
  array reaches: the limit of the ideal score of a single image.

Below the table: how the cost grows with the number of photo crops, and two processes of one thread each against one of one thread.
Cases expected to take longer than ``--limit`` are named, not run.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bench_posterior import exponentials, machine, timed
from theory.data import load
from theory.engines.windows.layout import layout
from theory.meetings import same_class
from theory.noise import CosineSchedule
from theory.patches import border_blocks

SETS = ("digits", "mnist5k", "photos:count=500", "photos:count=5000", "photos:count=50000")
MACHINES = (("els", 3), ("els", 17), ("ls", 3), ("ls", 17), ("es", 0), ("is", 0))  # zero borders, and the patch size
BATCHES = (1, 64)
SIGMA = 0.3
GAIN = 1.7  # of two processes over one, at least
RATE = 2e8  # pairs per second, to tell beforehand what a case takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few cases, to see that it runs")
    parser.add_argument("--sets", nargs="+", default=SETS, help="data sets")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="noisy images at a time")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a score may be expected to take")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--plot", type=Path, help="also draw seconds against the number of photo crops")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        row = measure(*json.loads(arguments.case))
        if int(os.environ.get("RANK", 0)) == 0:
            print(json.dumps(row))
        return
    sets, batches, kinds = arguments.sets, arguments.batches, MACHINES
    if arguments.smoke:
        sets, batches, kinds = ["photos:count=20", "photos:count=60"], [2], (("els", 3), ("is", 0))
    cases = [(name, kind, patch, batch, False) for name in sets for kind, patch in kinds for batch in batches]
    slow = {case: seconds for case in cases if (seconds := expected(*case[:4])) > arguments.limit}
    cases = [case for case in cases if case not in slow]
    rows = [apart(case) for case in track(cases, "measuring", console=Console(stderr=True), disable=not sys.stderr.isatty())]
    second = ("photos:count=60" if arguments.smoke else "photos:count=500", "els", 3, 1, True)
    one, two = apart(second, threads=1), apart(second, processes=2, threads=1)
    Console(width=130).print(table(rows))
    report(rows, slow, one["seconds"] / two["seconds"])
    if arguments.out:
        about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "one process": one, "two processes": two}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


def apart(case: tuple, processes: int = 0, threads: int | None = None) -> dict:
    """`measure` in an interpreter of its own, or in several that share the data."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    command = [sys.executable, *launcher, "-m", "benchmarks.bench_scale", "--case", json.dumps(case)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(found.stdout.splitlines()[-1])


def measure(name: str, kind: str, patch: int, batch: int, alone: bool) -> dict:
    """One case; returns a row of the table."""
    several = "RANK" in os.environ
    if several:
        torch.distributed.init_process_group("gloo")
    data, schedule = load(name), CosineSchedule()
    t = float(schedule.time(SIGMA / math.sqrt(1 - SIGMA**2)))
    generator = torch.Generator().manual_seed(0)
    clean = data.images[torch.randint(len(data), (batch,), generator=generator)]
    x = schedule.perturb(clean, t, torch.randn(clean.shape, generator=generator))
    run = machine(kind, "zeros", patch, data, schedule, distributed=several)
    run.score(x, t)
    seconds = min(timed(lambda: run.score(x, t)) for _ in range(3 if alone else 1))
    row = {"data": name, "images": len(data), "case": kind, "patch": patch, "batch": batch, "seconds": seconds}
    row["pairs"] = batch * pairs(kind, patch, data.images.shape) / seconds
    if several:
        torch.distributed.destroy_process_group()
        return row
    row["exp"], row["copy"] = exponentials(), copying()
    row["bytes"] = 2 * data.images.nbytes / seconds
    return row


def pairs(kind: str, patch: int, shape: torch.Size) -> int:
    """Pairs of queries and candidates in a score of one image."""
    count, _, height, width = shape
    if kind != "els":
        return count * (1 if kind == "is" else height * width)
    return count * sum(math.prod(block.shape) ** 2 for block in border_blocks(height, width, (patch, patch)))


def copying(numbers: int = 2**26) -> float:
    """Bytes per second that are read and written to copy a large array."""
    a = torch.ones(numbers)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(timed(lambda: b.copy_(a)) for _ in range(3))


def expected(name: str, kind: str, patch: int, batch: int) -> float:
    """Seconds that a score is likely to take."""
    count, side = {"digits": (1797, 8), "mnist5k": (5000, 28)}.get(name) or (int(name.partition("=")[2]), 32)
    if kind == "els":
        return batch * count * layout(same_class((side, side), (patch, patch))).cost * 1e-9 / torch.get_num_threads()
    transforms = 30 if kind == "es" else 1  # of a pixel, in units of a pair
    return batch * pairs(kind, patch, torch.Size((count, 1, side, side))) * transforms / RATE


def table(rows: list[dict]) -> Table:
    shown = Table(title=f"Scores of whole data sets, sigma {SIGMA:g}, {torch.get_num_threads()} threads", title_justify="left")
    for name in ("data", "images", "machine", "batch", "seconds", "s/image", "pairs/s", "of exp", "of memory"):
        shown.add_column(name, justify="left" if name in ("data", "machine") else "right")
    for r in rows:
        name, each = r["data"].partition(":")[0], r["seconds"] / r["batch"]
        shown.add_row(
            name, str(r["images"]), label(r), str(r["batch"]), f"{r['seconds']:.3f}", f"{each:.4f}",
            f"{r['pairs']:.1e}", f"{100 * r['pairs'] / r['exp']:.0f}%", f"{100 * r['bytes'] / r['copy']:.0f}%" if r["case"] == "is" else "",
        )  # fmt: skip
    return shown


def label(row: dict) -> str:
    return f"{row['case']} {row['patch']}" if row["patch"] else row["case"]


def report(rows: list[dict], slow: dict[tuple, float], gain: float) -> None:
    """Print how the cost grows, what was not run, and what a second process gains."""
    for (kind, batch), chosen in series(rows).items():
        if len(chosen) > 1:
            few, many = chosen[0], chosen[-1]
            growth = math.log(many["seconds"] / few["seconds"]) / math.log(many["images"] / few["images"])
            print(f"{kind}, batch {batch}: cost grows as images^{growth:.2f} from {few['images']} to {many['images']} crops")
    for (name, kind, patch, batch, _), seconds in slow.items():
        print(f"not run: {name}, {kind} {patch}, batch {batch}, about {seconds:.0f} s a score")
    print(f"two processes of one thread are {gain:.2f} times as fast as one" + ("" if gain >= GAIN else f": missed, aim {GAIN}"))


def series(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows of photo crops by machine and batch, fewest images first."""
    found: dict[tuple, list[dict]] = {}
    for r in sorted((r for r in rows if r["data"].startswith("photos")), key=lambda r: r["images"]):
        found.setdefault((label(r), r["batch"]), []).append(r)
    return found


def plot(rows: list[dict], path: Path) -> None:
    """Seconds for each noisy image against the number of photo crops."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3), layout="constrained")
    panels = figure.subplots(1, len({r["batch"] for r in rows}), sharey=True, squeeze=False)[0]
    for axes, batch in zip(panels, sorted({r["batch"] for r in rows}), strict=True):
        for (kind, of), chosen in series(rows).items():
            if of == batch:
                axes.plot([r["images"] for r in chosen], [r["seconds"] / batch for r in chosen], marker=".", label=kind)
        axes.set(xscale="log", yscale="log", xlabel="training images 3x32x32", title=f"batch {batch}")
    panels[0].set_ylabel("seconds for a noisy image")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
