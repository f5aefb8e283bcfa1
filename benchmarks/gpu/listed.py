"""The peers of `benchmarks.peers` on a whole score: one sum for each border class, of patches listed beforehand, which is not timed."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.case import Case
from benchmarks.peers import PEERS
from theory.patches import Block, border_blocks, centres, patch_rows, wrap


def listed(case: Case, images: Tensor, x: Tensor, alpha: float, sigma: float) -> Callable[[], Tensor]:
    """A function that makes the posterior mean ``(B, C, H, W)`` of a case by one of `PEERS`.

    Args:
        case: Its machine is ``ideal`` or ``equivariant_local``.
        images, x: Training images and noisy images, float32, on one device.
        alpha, sigma: Coefficients of the noise.
    """
    peer = PEERS[case.engine]
    if case.machine == "ideal":
        queries, keys = x.flatten(1), images.flatten(1)
        return lambda: peer(queries, keys, keys, alpha, sigma).reshape(x.shape)
    problems = [(block, *_lists(case, images, x, block)) for block in _blocks(case, x)]

    def mean() -> Tensor:
        out = torch.empty_like(x)
        for block, queries, keys, values in problems:
            means = peer(queries, keys, values, alpha, sigma)
            out[:, :, slice(*block.rows), slice(*block.cols)] = means.reshape(len(x), *block.shape, -1).permute(0, 3, 1, 2)
        return out

    return mean


def _blocks(case: Case, x: Tensor) -> list[Block]:
    """Pixels of the noisy image that share candidates."""
    height, width = x.shape[-2:]
    reach = case.patch // 2
    return (
        border_blocks(height, width, (case.patch, case.patch)) if case.border == "zeros" else [Block((0, height), (0, width), *4 * [reach])]
    )


def _lists(case: Case, images: Tensor, x: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block of pixels, as rows."""
    if case.border == "circular":
        reach = case.patch // 2
        images, x = (wrap(i, (case.patch, case.patch)) for i in (images, x))
        block = Block(*((a + reach, b + reach) for a, b in (block.rows, block.cols)), *4 * [reach])
    values = centres(images, block).permute(0, 2, 3, 1).reshape(-1, images.shape[1]).contiguous()
    return patch_rows(x, block), patch_rows(images, block), values
