"""``python -m benchmarks.bench_posterior``: one score of photo crops, against other code and the machine's own limits.

Each case runs in a process of its own, so that its peak memory is its own, and measures in one go:

- **ours**: pairs of patches per second of one score (the second call; the first builds what is kept), and its
  largest error on a part of the data, against float64 by another way (a sum over listed patches);
- the **peers** of `benchmarks.peers`, on 64 of the same queries and 20,000 keys, at the middle noise level;
- **sweeps**: seconds of all patch sizes from the smallest to the largest in one pass, beside those of each by itself;
- **exp**: how many float32 exponentials torch computes in a second, in the cache: one is needed for each pair;
- **sgemm**: the rate of a float32 matrix product, the limit of the ideal score.

Pixels are jittered by 1e-4, since overlapping crops repeat patches and repeated patches would be merged.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.peers import PEERS
from theory.data import ImageSet, load
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.noise import CosineSchedule
from theory.patches import border_blocks, patch_rows, wrap

SIGMAS = (0.02, 0.1, 0.3, 0.6, 0.98)
PATCHES = (3, 5, 9, 13, 17)
QUERIES, KEYS = 64, 20_000  # of a peer
SHARE = 0.25  # of the exponentials torch computes in a second, to be reached in pairs
GROWTH = 1.5  # cost at the largest patch over that at the smallest, at most
TOGETHER = 2.0  # time of all patch sizes over that of the dearest, at most
GEMM = 0.8  # share of the sgemm rate that the ideal score is to reach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few images and cases, to see that it runs")
    parser.add_argument("--images", type=int, default=500, help="training images 3x32x32")
    parser.add_argument("--patches", type=int, nargs="+", default=PATCHES, help="patch sizes")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="noise levels")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="what to compare with")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--plot", type=Path, help="also draw pairs per second against the patch size")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        kind, *rest = json.loads(arguments.case)
        print(json.dumps(measure_sweep(*rest) if kind == "sweep" else measure(kind, *rest)))
        return
    count, patches, sigmas, peers = arguments.images, arguments.patches, arguments.sigmas, arguments.peers
    if arguments.smoke:
        count, patches, sigmas, peers = 20, (3,), (0.3,), ["plain", "matmul", "attention"]
    middle = sorted(sigmas)[len(sigmas) // 2]  # the time of a peer does not depend on the noise
    levels = [(k, s, peers if s == middle else []) for k in patches for s in sigmas]
    cases = [(f"els {border}", k, s, count, others) for border in ("circular", "zeros") for k, s, others in levels]
    cases += [("ls circular", k, 0.3, count, []) for k in (patches[0], patches[-1])]
    cases += [("es", 32, 0.3, count, []), ("is", 32, 0.3, 100 if arguments.smoke else 50_000, [])]
    sizes = list(range(patches[0], max(patches) + 1, 2)) if len(patches) > 1 else [3, 5]
    sweeps = [("sweep", border, sizes, s, count) for border in ("circular", "zeros") for s in sorted({min(sigmas), max(sigmas)})]
    rows = [apart(case) for case in track(cases + sweeps, "measuring", console=Console(stderr=True), disable=not sys.stderr.isatty())]
    rows, sweeps = rows[: len(cases)], rows[len(cases) :]
    Console(width=180).print(table(rows, peers))
    report(rows, sweeps)
    if arguments.out:
        about = {"machine": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        arguments.out.write_text(json.dumps({**about, "rows": rows, "sweeps": sweeps}, indent=1) + "\n")
    if arguments.plot:
        plot(rows, peers, arguments.plot)


def apart(case: tuple) -> dict:
    """`measure` in an interpreter of its own, which also ends as one: PyKeOps saves its cache then."""
    command = [sys.executable, "-m", "benchmarks.bench_posterior", "--case", json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(case: str, patch_size: int, sigma: float, count: int, peers: list[str]) -> dict:
    """One case; returns a row of the table."""
    kind, _, border = case.partition(" ")
    data, schedule = jittered(count), CosineSchedule()
    t = float(schedule.time(sigma / (1 - sigma**2) ** 0.5))
    batch = 64 if kind == "is" else 1
    noise = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = schedule.perturb(data.images[:batch], t, noise)
    exp, gemm = exponentials(), sgemm()
    run = machine(kind, border, patch_size, data, schedule)
    run.score(x, t)
    seconds = min(timed(lambda: run.score(x, t)) for _ in range(3))
    row = {"case": case, "patch": patch_size, "sigma": sigma, "images": count, "seconds": seconds, "exp": exp, "gemm": gemm}
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    row["pairs"] = pairs(kind, border, patch_size, count) * batch / seconds
    row["error"] = error(kind, border, patch_size, data, schedule, x[:1], t)
    row["peers"] = {name: peer(name, border, patch_size, x, data.images, schedule, t) for name in peers}
    return row


def measure_sweep(border: str, sizes: list[int], sigma: float, count: int) -> dict:
    """Seconds of all patch sizes in one pass, and of each by itself."""
    data, schedule = jittered(count), CosineSchedule()
    t = float(schedule.time(sigma / (1 - sigma**2) ** 0.5))
    x = schedule.perturb(data.images[:1], t, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    runs = {k: machine("els", border, k, data, schedule) for k in sizes}
    sweep = runs[sizes[0]].sweep
    alone = {}
    for k, run in runs.items():
        run(x, t)
        alone[k] = min(timed(lambda run=run: run(x, t)) for _ in range(3))
    sweep(x, t, sizes)
    return {"border": border, "sigma": sigma, "sweep": min(timed(lambda: sweep(x, t, sizes)) for _ in range(3)), "alone": alone}


def jittered(count: int) -> ImageSet:
    """Photo crops without equal patches."""
    data = load("photos", count=count)
    jitter = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(1)) * 2e-4 - 1e-4
    return ImageSet((data.images + jitter).clamp(-1, 1), data.name)


def machine(kind: str, border: str, patch_size: int, data: ImageSet, schedule: CosineSchedule, **options):
    if kind in ("is", "es"):
        return {"is": Ideal, "es": Equivariant}[kind](data, schedule, **options)
    return {"els": EquivariantLocal, "ls": Local}[kind](data, schedule, patch_size=patch_size, border=border, **options)


def error(kind: str, border: str, patch_size: int, data: ImageSet, schedule: CosineSchedule, x, t: float) -> float:
    """Largest error of a posterior mean on a few images, against float64 sums over listed candidates."""
    few = ImageSet(data.images[: 4 if kind in ("els", "es") else 50], "few")
    mean = machine(kind, border, patch_size, few, schedule)(x, t).mean
    exact = machine(kind, border, patch_size, few, schedule, engine="stream")(x.double(), t).mean
    return float((mean - exact).abs().max())


def pairs(kind: str, border: str, patch_size: int, count: int) -> int:
    """Pairs of candidates in one score of one image."""
    if kind in ("is", "ls", "es"):
        return count * (1 if kind == "is" else 1024)
    blocks = border_blocks(32, 32, (patch_size, patch_size)) if border == "zeros" else []
    return count * (sum((b.shape[0] * b.shape[1]) ** 2 for b in blocks) or 1024**2)


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def exponentials() -> float:
    """Float32 exponentials per second in the caches of all cores, at the best of several sizes."""
    return max(_exponentials(torch.rand(n) * -50, max(1, 2**23 // n)) for n in (2**12, 2**15, 2**16, 2**18) for _ in range(3))


def _exponentials(x, repeats: int) -> float:
    out = torch.empty_like(x)
    return x.numel() * repeats / timed(lambda: [torch.exp(x, out=out) for _ in range(repeats)])


def sgemm(n: int = 2048) -> float:
    """Operations per second of a float32 matrix product."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    a @ b
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(5))


def peer(name: str, border: str, patch_size: int, x, images, schedule, t: float) -> dict:
    """Pairs per second of a peer on some queries and keys of the largest border class, and its error against float64."""
    alpha, sigma = (float(c) for c in schedule(t))
    size = (patch_size, patch_size)
    x, images = (wrap(x, size), wrap(images[:20], size)) if border == "circular" else (x, images)
    block = max(border_blocks(*x.shape[-2:], size), key=lambda b: b.shape[0] * b.shape[1])
    queries, keys = patch_rows(x, block), patch_rows(images[: 1 + KEYS // block.shape[0] ** 2], block)[:KEYS]
    queries = queries[:: max(1, len(queries) // QUERIES)].contiguous()
    values = keys.reshape(len(keys), 3, -1)[:, :, patch_size**2 // 2].contiguous()
    found = PEERS[name](queries, keys, values, alpha, sigma)
    seconds = min(timed(lambda: PEERS[name](queries, keys, values, alpha, sigma)) for _ in range(2))
    exact = PEERS["plain"](queries.double(), keys.double(), values.double(), alpha, sigma)
    return {"pairs": len(queries) * len(keys) / seconds, "error": float((found - exact).abs().max())}


def table(rows: list[dict], peers: list[str]) -> Table:
    shown = Table(title=f"Scores of 3x32x32 images, {torch.get_num_threads()} threads; pairs per second", title_justify="left")
    for name in ("case", "patch", "sigma", "images", "seconds", "pairs/s", "of exp", "error", "peak MB", *(f"{p} (error)" for p in peers)):
        shown.add_column(name, justify="left" if name == "case" else "right")
    for r in rows:
        others = (r["peers"].get(p) for p in peers)
        shown.add_row(
            r["case"], str(r["patch"]), f"{r['sigma']:g}", str(r["images"]), f"{r['seconds']:.3f}", f"{r['pairs']:.1e}",
            f"{100 * r['pairs'] / r['exp']:.0f}%", f"{r['error']:.0e}", f"{r['peak_mb']:.0f}",
            *(f"{o['pairs']:.1e} ({o['error']:.0e})" if o else "" for o in others),
        )  # fmt: skip
    return shown


def report(rows: list[dict], sweeps: list[dict]) -> None:
    """Print the limits of the machine, and every aim that is missed."""
    exp, gemm = (max(r[name] for r in rows) for name in ("exp", "gemm"))
    print(f"limits measured: {exp:.2e} exponentials/s, {gemm / 1e9:.0f} GF/s sgemm")
    misses = []
    for r in rows:
        if r["case"].startswith("els") and r["pairs"] < SHARE * r["exp"]:
            misses.append(f"{r['case']}, patch {r['patch']}, sigma {r['sigma']:g}: {r['pairs'] / r['exp']:.2f} of exp, aim {SHARE}")
        if r["case"] == "is":
            share = r["pairs"] * 2 * 3072 / r["gemm"]
            print(f"ideal score, {r['images']} images, batch 64: {100 * share:.0f}% of the sgemm rate")
            misses += [f"ideal score: {share:.2f} of sgemm, aim {GEMM}"] if share < GEMM else []
    for border in ("circular", "zeros"):
        for sigma in sorted({r["sigma"] for r in rows}):
            times = {r["patch"]: r["seconds"] for r in rows if r["case"] == f"els {border}" and r["sigma"] == sigma}
            if len(times) > 1:
                growth = times[max(times)] / times[min(times)]
                print(f"els {border}, sigma {sigma:g}: a score at patch {max(times)} costs {growth:.2f} x that at {min(times)}")
                misses += [f"els {border}, sigma {sigma:g}: growth {growth:.2f}, aim {GROWTH}"] if growth > GROWTH else []
    for s in sweeps:
        dearest, total, what = max(s["alone"].values()), sum(s["alone"].values()), f"els {s['border']}, sigma {s['sigma']:g}"
        together = s["sweep"] / dearest
        print(f"{what}: {len(s['alone'])} patch sizes in one pass cost {together:.2f} x the dearest, {s['sweep'] / total:.2f} x one by one")
        misses += [f"{what}: all sizes {together:.2f} x the dearest, aim {TOGETHER}"] if together > TOGETHER else []
    print("\n".join(["missed:", *misses]) if misses else "all aims met")


def plot(rows: list[dict], peers: list[str], path: Path) -> None:
    """Pairs per second against the patch size, of the equivariant local score and its peers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axes, border in zip(figure.subplots(1, 2, sharey=True), ("circular", "zeros"), strict=True):
        chosen = [r for r in rows if r["case"] == f"els {border}"]
        sizes = sorted({r["patch"] for r in chosen})
        at = [[r for r in chosen if r["patch"] == k] for k in sizes]
        beside = [next(r["peers"] for r in group if r["peers"] or not peers) for group in at]
        axes.fill_between(sizes, *([f(r["pairs"] for r in group) for group in at] for f in (min, max)), alpha=0.4, label="this package")
        for name in peers:
            axes.plot(sizes, [found[name]["pairs"] for found in beside], marker=".", label=name)
        axes.axhline(max(r["exp"] for r in rows), color="0.4", ls="--", lw=0.8)
        axes.annotate("exponentials of torch", (sizes[-1], max(r["exp"] for r in rows)), ha="right", va="bottom", fontsize=8)
        axes.set(yscale="log", xlabel="patch size (pixels)", title=f"border: {border}", xticks=sizes)
    figure.axes[0].set_ylabel("pairs of patches per second")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
