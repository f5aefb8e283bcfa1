r"""Exact posteriors of the windows of noisy images over the windows of training images, on the CPU.

All pairs of windows of a noisy and a training image are met shift by shift (`kernel`), without a
matrix of patches and at a cost that hardly grows with the window. Work is cut into pieces of a
fixed number of training images, whatever the number of threads, and the pieces are merged in their
order: the result is the same on any number of cores.

In float32 the error of a logit is estimated from above once the largest is known; images where it
exceeds `TOLERANCE` are computed again in float64.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import local

import numpy as np
import torch
from torch import Tensor

from theory.engines.lanes import LANES
from theory.engines.state import State
from theory.engines.windows import kernel
from theory.engines.windows.layout import Layout, bordered, together
from theory.engines.windows.rounding import TOLERANCE, bound, scaled
from theory.types import Coefficients, Images, TrainingImages

PIECE = 4e6  # nanoseconds of work for one thread at a time
NUMBERS = 2**22  # pixels of training images that it reads at a time
SUMS = 7.0  # units of roundoff that sums of boxes put into a logit (`theory.engines.windows.rounding.bound`)


def sum_windows(
    x: Images,
    alpha: Coefficients,
    sigma: Coefficients,
    images: TrainingImages,
    log_weights: Tensor,
    exact: TrainingImages,
    layouts: Sequence[Layout],
    memory: int,
) -> list[State]:
    """The states of every pixel of every noisy image after all windows, of each size; differences of pixels are taken once for all.

    Args:
        x: Centred noisy images ``(B, C, H, W)``, float64.
        alpha, sigma: Coefficients of each noisy image, with shape ``(B,)``, float64.
        images: Centred training images ``(N, C, H', W')``; their dtype is the precision of the work.
        log_weights: Log-weight of each training image and window, with shape ``(N,)``.
        exact: The same images in float64, before centring rounded them: those of images that are summed again.
        layouts: Which windows meet, for each size of the window; all of one border.
        memory: Bytes that may be used: cores stay idle where their working memory does not fit, but for one.

    Returns:
        For each layout the state of one group of ``B H W`` queries, image by image and pixel by pixel.
    """
    present = log_weights > -math.inf
    if not bool(present.all()):
        images, exact, log_weights = images[present], exact[present], log_weights[present]
    pixels = math.prod(layouts[0].shape)
    if len(images) == 0:
        return [State.empty(1, len(x) * pixels, images.shape[1], images.device) for _ in layouts]
    step = _step(layouts, math.prod(images.shape[1:]), memory)
    reading = 2 * min(step, len(images)) * math.prod(images.shape[1:])  # wrapped
    needed = 8 * (kernel.room(images.shape[1], layouts[0].shape, np.array([layout.window for layout in layouts])) + reading)
    cores = max(1, min(torch.get_num_threads(), memory // needed))
    threads = ThreadPoolExecutor(cores)
    try:
        states = _run(threads, x, alpha, sigma, images, log_weights, layouts, images.dtype, step)
        for state, layout in zip(states, layouts, strict=True) if images.dtype == torch.float32 else ():
            rough = (bound(x, alpha, sigma, images, state.max.reshape(len(x), -1), SUMS) > TOLERANCE).nonzero()[:, 0]
            if len(rough):
                (again,) = _run(threads, x[rough], alpha[rough], sigma[rough], exact, log_weights, [layout], torch.float64, step)
                state.put((rough[:, None] * pixels + torch.arange(pixels)).flatten(), again)
    finally:
        threads.shutdown(cancel_futures=True)  # an interrupted run does not finish its queue first
    return states


def _step(layouts: Sequence[Layout], numbers: int, memory: int) -> int:
    """Training images of so many numbers that are summed at a time, whatever the number of cores."""
    most = min(PIECE / sum(layout.cost for layout in layouts), min(NUMBERS, memory / 64) / numbers)
    return max(1, int(most) // LANES) * LANES


def _run(
    threads,
    x: Images,
    alpha: Tensor,
    sigma: Tensor,
    images: TrainingImages,
    log_weights: Tensor,
    layouts: Sequence[Layout],
    dtype: torch.dtype,
    step: int,
) -> list[State]:
    """All pieces of ``step`` training images, merged in their order; some noisy images at a time."""
    batch = max(1, int(PIECE / (sum(layout.cost for layout in layouts) * min(step, len(images)))))
    costs = (-log_weights.double() / math.log(2)).to(dtype).split(step)
    widest = [max(layouts, key=lambda layout, axis=axis: layout.window[axis]) for axis in (0, 1)]
    images_scaled, factors, unfit = scaled(x, alpha, sigma, dtype)
    queries = bordered(images_scaled, widest[0].query_rows, widest[1].query_cols).contiguous()
    tables = together([layout.rows for layout in layouts]), together([layout.cols for layout in layouts])
    windows = np.array([layout.window for layout in layouts])
    bits = math.log2(len(images)) - math.log2(torch.finfo(dtype).eps / 4)
    cuts = np.array([bits + math.log2(float(layout.partners.max())) for layout in layouts], queries.numpy().dtype)
    kept = local()  # working memory of each thread

    def piece(task: tuple[int, int]) -> list[State]:
        b, i = task
        if not hasattr(kept, "rooms"):
            kept.rooms = kernel.rooms(cuts.dtype, queries.shape[1], layouts[0].shape, windows)
        some = queries[b : b + batch]
        best = np.empty((len(layouts), len(some), *layouts[0].shape))
        sums = np.empty((*best.shape[:2], 2 + queries.shape[1], *best.shape[2:]))
        keys = kernel.side_by_side(images[i * step : (i + 1) * step].to(dtype).contiguous().numpy(), layouts[0].wrapped)
        kernel.sum_windows(
            some.numpy(), keys, tuple(range(queries.shape[1])), costs[i].numpy(), factors[b : b + batch].numpy(), *tables, windows,
            layouts[0].wrapped, cuts, cuts.dtype.type(kernel.EMPTY), best, sums, kept.rooms,
        )  # fmt: skip
        best *= unfit[b : b + batch].numpy()[:, None, None]
        return [_state(*pair) for pair in zip(torch.from_numpy(best), torch.from_numpy(sums), strict=True)]

    firsts = range(0, len(x), batch)
    parts = threads.map(piece, [(b, i) for b in firsts for i in range(len(costs))])
    states = []
    for _ in firsts:
        merged = next(parts)
        for part in islice(parts, len(costs) - 1):
            merged = [a.merge(b) for a, b in zip(merged, part, strict=True)]
        states.append(merged)
    return [State.joined(of_size) for of_size in zip(*states, strict=True)]


def _state(best: Tensor, sums: Tensor) -> State:
    sums = sums.flatten(2).transpose(1, 2).flatten(0, 1)
    return State(-math.log(2) * best.reshape(1, -1), sums[None, :, 0], sums[None, :, 1], sums[None, :, 2:])
