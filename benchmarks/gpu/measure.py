"""One case, measured on one device."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.gpu.about import exponentials
from benchmarks.gpu.case import PEERS, Case
from benchmarks.gpu.exact import exact_means
from benchmarks.gpu.listed import listed
from benchmarks.gpu.rows import explained, row
from theory.captured import Captured
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import MACHINES
from theory.noise import CosineSchedule

SCHEDULE = CosineSchedule()
BOUND = 2e-5  # error that the package promises in float32, for pixels in [-1, 1]
ENOUGH = 1.0  # seconds of repetitions
REPEATS = (2, 9)  # at least and at most
PLACES = 12  # pixels at which errors are measured
MANY = 20_000  # training images above which errors are measured at the first two of these only
JITTER = 1e-4  # of pixels, since overlapping crops repeat patches and repeated patches would be merged


@lru_cache(maxsize=2)
def crops(count: int, side: int, channels: int) -> ImageSet:
    """Photo crops without equal patches."""
    data = load("photos", count=count, size=side)
    images = data.images if channels == 3 else data.images.mean(1, keepdim=True)
    jitter = (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) - 1) * JITTER
    return ImageSet((images + jitter).clamp(-1, 1), data.name)


def images_of(case: Case) -> ImageSet:
    """The training images of a case."""
    return crops(case.images, case.side, case.channels)


def measure(case: Case, device: torch.device) -> dict:
    """The row of a case.

    The first call, which compiles and builds what is kept, is told apart as ``first``; ``seconds`` is the median of the calls after it and
    ``best`` the fastest, the device having finished each. ``error`` is the largest of the last call's at `PLACES` pixels of the first and
    the last noisy image, against float64 over all candidates (`exact_means`). On a card ``of_exponentials`` is the share of what it could
    do if there were nothing to do but the exponential of each pair.

    Raises:
        Exception: Whatever the engine raises, but an `InputError` of a named engine: that is a row with the status ``refused``.
    """
    data = images_of(case)
    t, x = noisy(case)
    x = x.to(device)
    try:
        run = _function(case, data, t, x)
        first, _ = timed(run, device)
    except InputError as refusal:
        if case.engine in ("auto", *PEERS):
            raise
        return row("scores", case.name, "refused", str(refusal), **asdict(case))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, mean = repeated(run, device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    error = _error(case, mean, device)
    middle = statistics.median(seconds)
    numbers = {"seconds": middle, "best": min(seconds), "repeats": len(seconds), "first": first, "pairs": case.pairs, "peak_mb": peak}
    limit = exponentials(device)
    if limit:
        numbers["of_exponentials"] = case.pairs / middle / limit
    return row(
        "scores", case.name, *_judged(case, error), **asdict(case), **numbers, pairs_per_second=case.pairs / middle, error=_finite(error)
    )


def noisy(case: Case) -> tuple[float, Tensor]:
    """The time and the noisy images ``(B, C, H, W)`` of a case, always the same."""
    t = float(SCHEDULE.time(case.sigma / math.sqrt(1 - case.sigma**2)))
    clean = images_of(case).images[: case.batch]
    return t, SCHEDULE.perturb(clean, t, torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)))


def repeated(run: Callable[[], Tensor], device: torch.device) -> tuple[list[float], Tensor]:
    """Seconds of several calls, and the last result: few of a slow one, more of a fast one."""
    seconds: list[float] = []
    while len(seconds) < REPEATS[0] or (len(seconds) < REPEATS[1] and sum(seconds) < ENOUGH):
        taken, mean = timed(run, device)
        seconds.append(taken)
    return seconds, mean


def timed(run: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds until the device has finished, and the result."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - start, result


def forget(device: torch.device) -> None:
    """Give back what the last case left in memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _function(case: Case, data, t: float, x: Tensor) -> Callable[[], Tensor]:
    if case.engine in PEERS:
        return listed(case, data.images.to(x), x, *(float(c) for c in SCHEDULE(t)))
    patch = {"patch_size": case.patch, "border": case.border} if case.patch else {}
    machine = MACHINES[case.machine](data, SCHEDULE, engine=case.engine, rtol=case.rtol, **patch)
    if not case.graph:
        return lambda: machine(x, t).mean
    captured = Captured(lambda x: machine(x, t).mean, x, None if x.device.type == "cuda" else lambda call: call)
    return lambda: captured(x)


def places(case: Case) -> Tensor:
    """Rows and columns of pixels: two corners, an edge, the centre, and others."""
    side, last = case.side, case.side - 1
    some = torch.tensor([[0, 0], [side // 2, side // 2], [last, last], [0, side // 2]])
    found = torch.cat([some, torch.randint(side, (PLACES - len(some), 2), generator=torch.Generator().manual_seed(0))])
    return found[:2] if case.images > MANY else found


@lru_cache(maxsize=1)
def _exact(case: Case, device: torch.device) -> Tensor:
    """The means of a case, whatever its engine."""
    t, x = noisy(case)
    images, x = images_of(case).images.to(device).double(), x[[0, -1]].to(device).double()
    return exact_means(case.machine, case.border, case.patch, images, x, places(case), *(float(c) for c in SCHEDULE(t)))


def _error(case: Case, mean: Tensor, device: torch.device) -> float:
    at = places(case).to(device)
    found = mean[[0, -1]][:, :, at[:, 0], at[:, 1]].transpose(1, 2)
    return float((found - _exact(replace(case, engine="", rtol=0.0, graph=False), device)).abs().max())


def _judged(case: Case, error: float) -> tuple[str, str]:
    """Status and message: peers may be as wrong as they are, as long as they are numbers."""
    if not math.isfinite(error):
        return "failed", "the result has pixels that are not finite"
    if case.engine not in PEERS and error > BOUND:
        return "failed", f"error {error:.1e} above {BOUND:g}"
    return "ok", ""


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def failure(case: Case, error: BaseException) -> dict:
    """The row of a case that raised."""
    return row("scores", case.name, "failed", explained(error), **asdict(case))
