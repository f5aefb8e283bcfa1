"""``python -m benchmarks.bench_field``: sums under masks (`pca_local`) beside plain torch, in one run.

Plain torch is the published formula over all images at once: the filter, the mask, squares times the mask, a softmax, a weighted mean.
Seconds are those of the processor on one thread (`time.process_time`), of one noisy image, the best of some calls; masks are found once for
a noise level and are told apart.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from theory.data import load
from theory.machines import PcaLocal
from theory.plain import PlainConsole

RATIOS = (0.02, 0.1, 0.3, 0.6, 1.0, 2.0, 3.0)  # sigma / alpha
PIECE = 512  # images plain torch takes at a time, as published


def timed(work: Callable[[], Any], calls: int) -> tuple[float, Any]:
    """The least time of some calls, and what the last one gave."""
    best = float("inf")
    for _ in range(calls):
        start = time.process_time()
        out = work()
        best = min(best, time.process_time() - start)
    return best, out


def plain_mask(directions: Tensor, variances: Tensor, alpha: float, sigma: float, threshold: float) -> Tensor:
    """As published, without a word of ours."""
    shrunk = alpha**2 * variances / (sigma**2 + alpha**2 * variances)
    filters = directions @ torch.diag(shrunk) @ directions.T
    ratio = filters / filters.diagonal()[:, None]
    return (ratio.abs() >= threshold * ratio.abs().max()).to(filters)


def plain(x: Tensor, images: Tensor, mask: Tensor, alpha: float, sigma: float) -> Tensor:
    """The published formula, with one softmax over all images."""
    logits = [-((x - alpha * part) ** 2 @ mask) / (2 * sigma**2) for part in images.split(PIECE)]
    return (torch.cat(logits).softmax(0) * images).sum(0)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_field", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="photo crops of 3x32x32 pixels")
    parser.add_argument("--smoke", action="store_true", help="small, to see that it runs")
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    data = load("photos:count=60,size=8" if a.smoke else f"photos:count={a.count}")
    start = time.process_time()
    machine = PcaLocal(data, memory=2**30)
    model = machine.fitted(None)
    setup, images = time.process_time() - start, data.images.flatten(1)
    table = Table(title=f"pca_local, {data.name}: CPU seconds of one score; set-up once {setup:.1f} s", title_justify="left")
    for column in (
        "sigma/alpha",
        "members of a set",
        "masks, once a level",
        "score",
        "plain: mask",
        "plain: score",
        "times faster",
        "with mask",
        "error",
    ):
        table.add_column(column, justify="right")
    for ratio in RATIOS[:: 3 if a.smoke else 1]:
        t = machine.schedule.time(ratio)
        alpha, sigma_t = (float(c) for c in machine.schedule(t))
        x = machine.schedule.perturb(data.images[:1], t, torch.randn(data.images[:1].shape, generator=torch.Generator().manual_seed(0)))
        found, masks = timed(lambda alpha=alpha, sigma_t=sigma_t: machine.masks(None, alpha, sigma_t), 1)
        machine.denoise(x, t)
        ours, mean = timed(lambda x=x, t=t: machine.denoise(x, t), 3)
        given = model.directions.float(), model.variances.float(), alpha, sigma_t, machine.threshold
        masking, mask = timed(lambda given=given: plain_mask(*given), 1)
        theirs, other = timed(lambda x=x, mask=mask, a=alpha, s=sigma_t: plain(x.flatten(1), images, mask, a, s), 2)
        error = float((mean.flatten() - other).abs().max())
        cells = (ours, masking, theirs)
        table.add_row(
            f"{ratio:g}", f"{masks.size[0] / masks.count:.0f}", f"{found:.2f}", *(f"{c:.3f}" for c in cells),
            f"{theirs / ours:.1f}", f"{(theirs + masking) / ours:.1f}", f"{error:.0e}",
        )  # fmt: skip
    PlainConsole(width=150).print(table)
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
