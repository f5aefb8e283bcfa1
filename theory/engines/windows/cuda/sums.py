r"""Exact posteriors of the windows of noisy images over the windows of training images, on a card.

As on the CPU, all pairs of windows are met shift by shift (`kernel.cu`), and in float32 the error of a logit is estimated from above
once the largest is known; images where it exceeds the tolerance are summed again in float64, by the same kernel.

Training images that are not on the card are read in pieces within the budget, each while the one before is summed. Parts of a sum are
merged in their order: the same input gives the same bytes on the same card.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from theory.captured import answer
from theory.centred import Centred
from theory.engines.state import State
from theory.engines.windows.cuda.launcher import Launcher, Module
from theory.engines.windows.cuda.plan import TOGETHER, VALUES, Limits, Plan, plans
from theory.engines.windows.cuda.tables import Tables, tables
from theory.engines.windows.layout import Layout
from theory.engines.windows.rounding import TOLERANCE, bound, scaled
from theory.errors import InputError
from theory.types import Coefficients, Images, TrainingImages

SOURCE = Path(__file__).with_name("kernel.cu")
SUMS = 7.0  # units of roundoff that sums of boxes put into a logit (`theory.engines.windows.rounding.bound`)
ABSENT = 3e38  # what no weight at all costs, as in the kernel
WAVES = 4  # blocks for each processor, at most, where there is one noisy image
MERGED = 32  # pixels that a block merges


@dataclass(frozen=True)
class Prepared:
    """What is needed to sum windows of one layout on one card.

    Attributes:
        tables: Of each pass: the channels of an image are averaged a few at a time.
        modules: The kernel compiled for each pass.
        arrays: The tables of each pass, on the card.
        dtype: The precision of the work.
    """

    tables: list[Tables]
    modules: list[Module]
    arrays: list[list[Tensor]]

    dtype: torch.dtype

    @classmethod
    def of(cls, layout: Layout, channels: int, dtype: torch.dtype, launcher: Launcher, most: int = 1) -> "Prepared":
        """Compiles what was not compiled before; ``most`` noisy images may share a block.

        Raises:
            InputError: If a block of the card has no room for it, or it can't be compiled.
        """
        found = [_choose(layout, channels, dtype, launcher.limits, first, most) for first in range(0, channels, VALUES)]
        if None in found:
            shape, window = (f"{size[0]}x{size[1]}" for size in (layout.shape, layout.window))
            raise InputError(
                f"images of {channels}x{shape} pixels and patches of {window} on a card, in {str(dtype).removeprefix('torch.')}",
                f"what fits the {launcher.limits.shared} bytes of shared memory of a block",
                "use engine='stream'",
            )
        modules = [launcher.compiled(source(t.plan)) for t in found]
        return cls(found, modules, [[torch.from_numpy(a).to(launcher.device) for a in t.arrays()] for t in found], dtype)


def together(batch: int) -> int:
    """Noisy images of such a batch that may share a block: of an odd one the last has a block to itself, which must not cost more."""
    return TOGETHER if batch % TOGETHER == 0 or batch > 2 * TOGETHER else 1


def fits(layout: Layout, channels: int, dtype: torch.dtype, limits: Limits) -> bool:
    """Whether a card with these limits can sum this, also in float64, which some noisy images may need."""
    return all(_choose(layout, channels, kind, limits) is not None for kind in {dtype, torch.float64})


def _choose(layout: Layout, channels: int, dtype: torch.dtype, limits: Limits, first_value: int = 0, most: int = 1) -> Tables | None:
    """The plan that is expected to be the fastest, and its tables; None where none fits the card."""
    return next((t for plan in plans(layout, channels, dtype, limits, first_value, most) if (t := tables(layout, plan))), None)


def source(plan: Plan) -> str:
    """The kernel of a plan, without what differs between a card and the CPU."""
    return "".join(f"#define {name} {value}\n" for name, value in plan.macros.items()) + SOURCE.read_text()


def sum_windows(
    x: Images,
    alpha: Coefficients,
    sigma: Coefficients,
    images: TrainingImages,
    log_weights: Tensor,
    exact: Callable[[], TrainingImages],
    prepared: Prepared,
    again: Callable[[], Prepared],
    memory: int,
    launcher: Launcher,
) -> State:
    """The state of every pixel of every noisy image after all windows.

    Args:
        x: Centred noisy images ``(B, C, H, W)``, float64.
        alpha, sigma: Coefficients of each noisy image, with shape ``(B,)``, float64.
        images: Centred training images ``(N, C, H, W)``; their dtype is the precision of the work.
        log_weights: Log-weight of each training image and window, with shape ``(N,)``.
        exact: Gives the same images in float64, before centring rounded them, for what is summed again; not called where nothing is.
        prepared: For the precision of the work.
        again: Gives the same for float64, likewise.
        memory: Bytes that may be used beyond the training images.
        launcher: Of the card that all of these are on.

    Returns:
        The state of one group of ``B H W`` queries, image by image and pixel by pixel.
    """
    pixels = math.prod(x.shape[-2:])
    if not answer((log_weights > -math.inf).any(), True):
        return State.empty(1, len(x) * pixels, x.shape[1], x.device)
    state = _run(x, alpha, sigma, images, log_weights, prepared, memory, launcher)
    if images.dtype == torch.float32:
        error = bound(x, alpha, sigma, images, state.max.reshape(len(x), -1), SUMS)
        within = error <= TOLERANCE  # false for what is no number
        if not answer(within.all(), True):
            rough = (~within).nonzero()[:, 0]
            double = _run(x[rough], alpha[rough], sigma[rough], exact(), log_weights, again(), memory, launcher)
            state.put((rough[:, None] * pixels + torch.arange(pixels, device=x.device)).flatten(), double)
    return state


def _run(
    x: Images,
    alpha: Tensor,
    sigma: Tensor,
    images: TrainingImages,
    log_weights: Tensor,
    prepared: Prepared,
    memory: int,
    launcher: Launcher,
) -> State:
    """Some noisy images at a time, against pieces of the training images."""
    queries, factors, unfit = scaled(x, alpha, sigma, images.dtype)
    costs = (-log_weights.double() / math.log(2)).clamp(max=ABSENT).to(images.dtype)
    parts, batch = _division(prepared.tables, len(x), len(images), memory, launcher)
    merged: list[State | None] = [None] * -(-len(x) // batch)
    for start, piece in pieces(images, memory // 8, launcher):
        some = costs[start : start + len(piece)].contiguous()
        for i, first in enumerate(range(0, len(x), batch)):
            rows = slice(first, first + batch)
            state = _launched(queries[rows], factors[rows], unfit[rows], piece, some, prepared, parts, launcher)
            merged[i] = state if merged[i] is None else merged[i].merge(state)
    return State.joined(merged)


def _launched(
    queries: Images, factors: Tensor, unfit: Tensor, images: Tensor, costs: Tensor, prepared: Prepared, parts: int, launcher: Launcher
) -> State:
    """The state of some noisy images after some training images, all on the card."""
    batch, channels, height, width = queries.shape
    queries, factors, pixels = queries.contiguous(), factors.contiguous(), height * width
    tops, found = [], []
    for table, module, arrays in zip(prepared.tables, prepared.modules, prepared.arrays, strict=True):
        plan = table.plan
        missing = -batch % plan.noisy  # noisy images of the last block, which takes the last one again
        some, scales = (torch.cat([v, v[-1:].expand(missing, *v.shape[1:])]) if missing else v for v in (queries, factors))
        blocks = len(some) * table.bands
        parts = max(1, min(parts, -(-len(images) // plan.g)))
        shapes = (blocks * parts * plan.replicas * plan.fields * plan.q * plan.units,), (batch, pixels), (batch, plan.fields - 1, pixels)
        partial, best, sums = (torch.empty(shape, dtype=torch.float64, device=queries.device) for shape in shapes)
        args = [some, images, costs, scales, partial, *arrays, len(images), height, table.bands]
        launcher.launch(module, "sum_windows", (parts, blocks // plan.noisy), plan.threads, plan.shared, args)
        merging = -(-table.bands * plan.q * plan.units // MERGED)
        shared = 8 * plan.fields * MERGED * 8
        launcher.launch(
            module, "merge_parts", (merging, batch), 8 * MERGED, shared, [partial, best, sums, parts * plan.replicas, height, table.bands]
        )
        tops.append(best)
        found.append(sums)
    total, square = (found[0][:, i].reshape(1, -1) for i in (0, 1))
    weighted = [sums[:, 2:] * torch.exp2(tops[0] - best)[:, None] for best, sums in zip(tops, found, strict=True)]  # of the first pass all
    weighted = torch.cat(weighted, 1).transpose(1, 2).reshape(1, batch * pixels, channels)
    return State((-math.log(2) * tops[0] * unfit[:, None]).reshape(1, -1), total, square, weighted)


def _division(found: list[Tables], batch: int, images: int, memory: int, launcher: Launcher) -> tuple[int, int]:
    """Into how many parts the training images are divided, and how many noisy images are summed at a time."""
    plan, bands = found[0].plan, max(t.bands for t in found)
    groups, processors = -(-images // plan.g), launcher.limits.processors
    most = max(1, memory // 4 // (8 * plan.replicas * plan.fields * plan.q * plan.units * bands))
    limit = min(max(plan.noisy, most), 65_535 // bands)
    batch = batch if batch <= limit else limit // plan.noisy * plan.noisy
    blocks = -(-batch // plan.noisy) * bands

    def taken(parts: int) -> float:
        return -(-blocks * parts // processors) * (-(-groups // parts) + 0.5)

    parts = min(range(1, max(1, min(groups, most // batch, -(-WAVES * processors // blocks))) + 1), key=taken)
    return parts, batch


def pieces(images: TrainingImages, memory: int, launcher: Launcher) -> Iterator[tuple[int, Tensor]]:
    """Training images on the card and the number of their first, each piece read while the one before is used."""
    if not isinstance(images, Centred):
        yield 0, images.contiguous()
        return
    size = torch.empty(0, dtype=images.dtype).element_size()
    step = max(1, int(memory // (size * math.prod(images.shape[1:]))))
    starts = range(0, len(images), step)
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(launcher.read, images, slice(0, step))
        for start in starts:
            piece = launcher.arrived(following.result())
            if start + step < len(images):
                following = reader.submit(launcher.read, images, slice(start + step, start + 2 * step))
            yield start, piece
