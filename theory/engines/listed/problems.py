"""What meets, as lists: queries cut out of noisy images, candidates cut out of training images, and where the answers go."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from theory.centred import Centred, reading
from theory.engines.listed.source import Keys, KeySource, squared_norms
from theory.meetings import Meetings, Run
from theory.patches import Block, centres, patch_rows, windows, wrap
from theory.types import Images, Int, Means, Queries, TrainingImages

PIECE = 2**20  # numbers whose squares are added at a time


@dataclass(frozen=True)
class Problem:
    """Groups of queries, each group with candidates of its own.

    Attributes:
        source: The candidates.
        queries: Cuts the queries ``(G, Q, d)`` out of centred noisy images; ``Q`` runs over images first, then over the pixels of the
            problem.
        repeat: Queries per image, Q / B.
        place: Brings values ``(G, Q, v)`` back to image shape ``(B, v, h, w)``; for whole images ``h = w = 1``.
        rows, cols: Where in the image they go.
        origins: Row and column of the training pixel that each key of an item is centred on, with shape ``(G, rows, 2)``; of whole
            images, by how much they are shifted.
    """

    source: KeySource
    queries: Callable[[Images], Queries]
    repeat: int
    place: Callable[[Means], Images]
    rows: slice
    cols: slice
    origins: Int[Tensor, "G rows 2"]


def problems(meetings: Meetings, images: TrainingImages, log_weights: Tensor) -> Iterator[Problem]:
    """What meets, written out for centred training images ``(N, C, H, W)`` with log-weights ``(N,)``."""
    if meetings.whole:
        yield _whole(meetings, images, log_weights)
    elif meetings.in_place:
        for run in meetings.rows:
            yield _row(meetings, run, images, log_weights)
    else:
        for queries, keys in meetings.blocks:
            yield _rectangle(meetings, queries, keys, images, log_weights)


def _whole(meetings: Meetings, images: TrainingImages, log_weights: Tensor) -> Problem:
    """Whole noisy images against windows of training images as large."""
    (_, keys), dim = meetings.blocks[0], math.prod(images.shape[1:])
    per_image = math.prod(keys.shape)
    single = per_image == 1

    def read(start: int, stop: int) -> Keys:
        part = images[start:stop]
        # Every shift is a window of the tiled image; without shifts, images are read as they lie.
        rows = part.flatten(1)[None] if single else patch_rows(part.repeat(1, 1, 2, 2), keys)[None]
        return Keys(rows, rows, log_weights[start:stop].repeat_interleave(per_image)[None])

    source = KeySource(
        read,
        items=len(images),
        groups=1,
        rows=per_image,
        dim=dim,
        value_dim=dim,
        squares=_squares(images, dim) if single else None,
        reading=reading(images),
        kept=single and not isinstance(images, Centred),
    )
    return Problem(
        source=source,
        queries=lambda x: x.flatten(1)[None],
        repeat=1,
        place=lambda values: rearrange(values, "1 b v -> b v 1 1"),
        rows=slice(0, 1),
        cols=slice(0, 1),
        origins=pixels(keys.rows, keys.cols)[None],
    )


def _squares(images: TrainingImages, dim: int) -> Tensor:
    step = max(1, PIECE // dim)
    return torch.cat([squared_norms(images[i : i + step].flatten(1)[None]) for i in range(0, len(images), step)], 1)


def _row(meetings: Meetings, run: Run, images: TrainingImages, log_weights: Tensor) -> Problem:
    """One row of pixels, each a group of its own: its patch against training patches at the same pixel."""
    count, channels, _, width = images.shape
    (rh, rw), y = (k // 2 for k in meetings.window), run.queries[0]
    circular = meetings.wraps[0]
    top = rh if circular else 0  # rows that wrapping adds above the image
    block = Block((top + y, top + y + 1), (rw, rw + width), run.before, run.after, rw, rw)

    def rows(x: Images) -> Queries:
        # Columns outside are zero in query and key alike, so they count nothing.
        padded = wrap(x, meetings.window) if circular else pad(x, (rw, rw))
        return rearrange(windows(padded, block), "b c 1 x i j -> x b (c i j)")

    def read(start: int, stop: int) -> Keys:
        part = images[start:stop]
        return Keys(rows(part), rearrange(part[:, :, y], "n c x -> x n c"), log_weights[start:stop].expand(width, -1))

    dim = channels * math.prod(block.window)
    return Problem(
        source=KeySource(read, count, groups=width, rows=1, dim=dim, value_dim=channels, reading=reading(images)),
        queries=rows,
        repeat=1,
        place=lambda values: rearrange(values, "x b v -> b v 1 x"),
        rows=slice(y, y + 1),
        cols=slice(None),
        origins=pixels((y, y + 1), (0, width))[:, None],
    )


def _rectangle(meetings: Meetings, queries: Block, keys: Block, images: TrainingImages, log_weights: Tensor) -> Problem:
    """All pixels of a rectangle against all pixels of another."""
    channels, per_image = images.shape[1], math.prod(keys.shape)
    dim = channels * math.prod(keys.window)
    noisy, trained = (
        block.moved(meetings.window) if wraps else block for block, wraps in zip((queries, keys), meetings.wraps, strict=True)
    )

    def cut(x: Images, block: Block, wraps: bool) -> Queries:
        return patch_rows(wrap(x, meetings.window) if wraps else x, block)[None]

    def read(start: int, stop: int) -> Keys:
        part = images[start:stop]
        values = rearrange(centres(part, keys), "n c y x -> 1 (n y x) c")
        return Keys(cut(part, trained, meetings.wraps[1]), values, log_weights[start:stop].repeat_interleave(per_image)[None])

    return Problem(
        source=KeySource(read, items=len(images), groups=1, rows=per_image, dim=dim, value_dim=channels, reading=reading(images)),
        queries=lambda x: cut(x, noisy, meetings.wraps[0]),
        repeat=math.prod(queries.shape),
        place=lambda values: rearrange(values, "1 (b y x) v -> b v y x", y=queries.shape[0], x=queries.shape[1]),
        rows=slice(*queries.rows),
        cols=slice(*queries.cols),
        origins=pixels(keys.rows, keys.cols)[None],
    )


def pixels(rows: tuple[int, int], cols: tuple[int, int]) -> Int[Tensor, "n 2"]:
    """Rows and columns of a rectangle of pixels, row by row."""
    return torch.cartesian_prod(torch.arange(*rows), torch.arange(*cols))
