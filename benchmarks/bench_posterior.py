"""``python -m benchmarks.bench_posterior``: one score on photo crops, against plain torch and the machine's own sgemm.

Each case runs in a process of its own, so that its peak memory is its own, and measures in one go:

- **ours**: seconds of one score of one image (the second call; the first builds what is kept);
- **plain**: dense torch, the formula as written (differences, squares, sum, softmax), as a user would write it;
- **matmul**: dense torch with the expanded square and one matrix product, which is fast but loses digits at low noise;
- **sgemm**: the rate of a 2048 x 2048 x 2048 float32 product, the limit of anything made of matrix products.

Plain and matmul keep a dense matrix of logits, so they run on part of the training images, and are compared by pairs
(query patch against training patch) per second. ``gemm`` is the share of the sgemm rate that the logits alone
account for: ``2 d`` operations a pair, with ``d`` the numbers in a patch. Peak memory is the process's, torch included.
Pixels are jittered by 1e-4, since overlapping crops repeat patches and repeated patches would be merged.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from theory.data import ImageSet, load
from theory.machines import EquivariantLocal, Ideal
from theory.noise import CosineSchedule
from theory.patches import border_blocks, patch_rows, wrap

SIGMAS = (0.05, 0.3, 0.95)
PATCHES = (3, 7, 11, 17)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few images and cases, to see that it runs")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--patches", type=int, nargs="+", default=PATCHES, help="patch sizes")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="noise levels")
    arguments = parser.parse_args()
    patches, sigmas = arguments.patches, arguments.sigmas
    count, patches, sigmas, ideal = (20, (3,), (0.3,), 100) if arguments.smoke else (500, patches, sigmas, 5000)
    cases = [("els", border, k, sigma, count) for border in ("zeros", "circular") for k in patches for sigma in sigmas]
    cases += [("is", "-", 32, sigma, ideal) for sigma in sigmas]
    processes = multiprocessing.get_context("spawn")
    rows = []
    for case in track(cases, "measuring", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        with processes.Pool(1) as pool:
            rows.append(pool.apply(measure, case))
    Console(width=150).print(table(rows))
    report_misses(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": platform.processor(), "torch": torch.__version__, "rows": rows}, indent=1))


def measure(kind: str, border: str, patch_size: int, sigma: float, count: int) -> dict:
    """One case; returns a row of the table."""
    data = load("photos", count=count)
    jitter = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(1)) * 2e-4 - 1e-4
    data = ImageSet((data.images + jitter).clamp(-1, 1), data.name)
    schedule = CosineSchedule()
    t = float(schedule.time(sigma / (1 - sigma**2) ** 0.5))
    x = schedule.perturb(data.images[:1], t, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    machine = Ideal(data, schedule) if kind == "is" else EquivariantLocal(data, schedule, patch_size=patch_size, border=border)
    machine.score(x, t)
    seconds = min(timed(lambda: machine.score(x, t)) for _ in range(2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    pairs, work = size_of(kind, border, patch_size, count)
    gemm = sgemm()
    part = data.images[: 20 if kind == "els" else count]
    plain, matmul = (peer(kind, border, patch_size, x, part, schedule, t, direct) for direct in (True, False))
    return {
        "case": f"{kind.upper()} {border}", "patch": patch_size, "sigma": sigma, "images": count, "seconds": seconds,
        "pairs_per_second": pairs / seconds, "peak_mb": peak, "plain": plain, "matmul": matmul,
        "over_plain": pairs / seconds / plain, "over_matmul": pairs / seconds / matmul,
        "gemm_gflops": gemm / 1e9, "gemm_share": work / seconds / gemm,
    }  # fmt: skip


def size_of(kind: str, border: str, patch_size: int, count: int) -> tuple[int, float]:
    """Pairs in one score, and the floating-point operations of their logits."""
    if kind == "is":
        return count, count * 2 * 3 * 32 * 32
    if border == "circular":
        pairs = 1024 * 1024 * count
        return pairs, pairs * 2 * 3 * patch_size**2
    blocks = border_blocks(32, 32, (patch_size, patch_size))
    pixels = [b.shape[0] * b.shape[1] for b in blocks]
    dims = [3 * b.window[0] * b.window[1] for b in blocks]
    return count * sum(p * p for p in pixels), sum(2.0 * count * p * p * d for p, d in zip(pixels, dims, strict=True))


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sgemm(n: int = 2048) -> float:
    """Operations per second of a float32 matrix product."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    a @ b
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(5))


def peer(kind: str, border: str, patch_size: int, x, images, schedule, t: float, direct: bool) -> float:
    """Pairs per second of plain torch, on its largest block where the border makes several."""
    alpha, sigma = (float(c) for c in schedule(t))
    if kind == "is":
        queries, keys, values = x.flatten(1), images.flatten(1), images.flatten(1)
    else:
        size = (patch_size, patch_size)
        x, images = (wrap(x, size), wrap(images, size)) if border == "circular" else (x, images)
        block = max(border_blocks(*x.shape[-2:], size), key=lambda b: b.shape[0] * b.shape[1])
        queries, keys = patch_rows(x, block), patch_rows(images, block)
        values = keys.reshape(len(keys), 3, -1)[:, :, patch_size**2 // 2].contiguous()
    rows = max(1, 2**27 // keys.numel()) if direct else len(queries)  # differences of 512 MB at a time

    def posterior(q):
        if direct:
            distance = (q[:, None] - alpha * keys).square().sum(-1)
        else:
            distance = q.square().sum(1, keepdim=True) - 2 * alpha * (q @ keys.T) + alpha**2 * keys.square().sum(1)
        return torch.softmax(-distance / (2 * sigma**2), 1) @ values

    used = queries[: 4 * rows]
    posterior(used[:rows])
    seconds = timed(lambda: [posterior(q) for q in used.split(rows)])
    return len(used) * len(keys) / seconds


def table(rows: list[dict]) -> Table:
    shown = Table(title=f"One score of one 3x32x32 image, {torch.get_num_threads()} threads", title_justify="left")
    for name in (
        "case",
        "patch",
        "sigma",
        "images",
        "seconds",
        "pairs/s",
        "peak MB",
        "plain/s",
        "x plain",
        "x matmul",
        "sgemm GF/s",
        "gemm share",
    ):
        shown.add_column(name, justify="left" if name == "case" else "right")
    for r in rows:
        shown.add_row(
            r["case"], str(r["patch"]), f"{r['sigma']:g}", str(r["images"]), f"{r['seconds']:.3f}", f"{r['pairs_per_second']:.1e}",
            f"{r['peak_mb']:.0f}", f"{r['plain']:.1e}", f"{r['over_plain']:.1f}", f"{r['over_matmul']:.1f}",
            f"{r['gemm_gflops']:.0f}", f"{100 * r['gemm_share']:.0f}%",
        )  # fmt: skip
    return shown


def report_misses(rows: list[dict]) -> None:
    """Print every target that is missed: 10 x plain, half the sgemm rate from patch 7 on, under 1 GB."""
    misses = []
    for r in rows:
        name = f"{r['case']}, patch {r['patch']}, sigma {r['sigma']:g}"
        if r["over_plain"] < 10:
            misses.append(f"{name}: {r['over_plain']:.1f} x plain torch, aim 10")
        if r["case"] != "IS -" and r["patch"] >= 7 and r["gemm_share"] < 0.5:
            misses.append(f"{name}: {100 * r['gemm_share']:.0f}% of the sgemm rate, aim 50%")
        if r["peak_mb"] > 1000:
            misses.append(f"{name}: {r['peak_mb']:.0f} MB, aim 1000")
    print("\n".join(["missed:", *misses]) if misses else "all targets met")


if __name__ == "__main__":
    main()
