r"""Posterior means in float64 at a few pixels, straight from the formula: what errors are measured against.

.. math:: E[x_0(p)] = \sum_j W_j v_j, \qquad W_j \propto \exp\big(-\|q - \alpha k_j\|^2 / 2 \sigma^2\big)

It shares nothing with the engines and machines. Candidates ``k_j`` are windows of training images: everywhere, or at the pixel ``p``
itself; wrapped, or cut off at the border, and then only where they are cut off in the same way. A window as large as a wrapped image makes
the scores of whole images: everywhere is all shifts (equivariant), at ``p`` itself is none (ideal).
"""

import torch
from torch import Tensor

NUMBERS = 2**26  # of listed windows in memory at a time
Reach = tuple[int, int]  # pixels before and after


def exact_means(machine: str, border: str | None, patch: int | None, images: Tensor, x: Tensor, at: Tensor, alpha: float, sigma: float):
    """Means at some pixels.

    Args:
        machine, border, patch: As in `benchmarks.gpu.case.Case`.
        images: Training images ``(N, C, H, W)``, float64.
        x: Noisy images ``(B, C, H, W)``, float64.
        at: Rows and columns of pixels, ``(P, 2)``.
        alpha, sigma: Coefficients of the noise.

    Returns:
        Means with shape ``(B, P, C)``, float64.
    """
    height, width = images.shape[-2:]
    wrapped = border != "zeros"
    anywhere = machine in ("equivariant", "equivariant_local")
    found = []
    for row, col in at.tolist():
        rows, cols = (_reach(p, n, patch or n, wrapped) for p, n in ((row, height), (col, width)))
        alike = [_alike(r, n, patch or n, wrapped) for r, n in ((rows, height), (cols, width))]
        places = alike if anywhere else [[row], [col]]
        query = _windows(x, [row], [col], rows, cols)
        found.append(_mean(query, images, places, rows, cols, alpha, sigma))
    return torch.stack(found, 1)


def _reach(place: int, length: int, size: int, wrapped: bool) -> Reach:
    """How far the window of a pixel reaches along one axis; an even one has one more before it."""
    before, after = size // 2, size - 1 - size // 2
    return (before, after) if wrapped else (min(before, place), min(after, length - 1 - place))


def _alike(reach: Reach, length: int, size: int, wrapped: bool) -> list[int]:
    """Places along one axis whose windows reach as far."""
    return [p for p in range(length) if _reach(p, length, size, wrapped) == reach]


def _windows(images: Tensor, rows: list[int], cols: list[int], up: Reach, across: Reach) -> Tensor:
    """Windows at these pixels as rows of numbers, ``(N * pixels, C * h * w)``."""
    height, width = images.shape[-2:]
    device = images.device
    y = torch.tensor(rows, device=device)[:, None] + torch.arange(-up[0], up[1] + 1, device=device)
    x = torch.tensor(cols, device=device)[:, None] + torch.arange(-across[0], across[1] + 1, device=device)
    windows = images[:, :, (y % height)[:, None, :, None], (x % width)[None, :, None, :]]  # N C rows cols h w
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(len(images) * len(rows) * len(cols), -1)


def _mean(query: Tensor, images: Tensor, places: list[list[int]], rows: Reach, cols: Reach, alpha: float, sigma: float) -> Tensor:
    """The mean of the central pixels, ``(B, C)``; squares are expanded, which float64 has the digits for."""
    each = len(places[0]) * len(places[1]) * query.shape[1]
    logits, values = [], []
    for part in images.split(max(1, NUMBERS // each)):
        keys = _windows(part, *places, rows, cols)
        squares = query.square().sum(1, keepdim=True) - 2 * alpha * (query @ keys.T) + alpha**2 * keys.square().sum(1)
        logits.append(-squares / (2 * sigma**2))
        values.append(_windows(part, *places, (0, 0), (0, 0)))
    return torch.softmax(torch.cat(logits, 1), 1) @ torch.cat(values)
