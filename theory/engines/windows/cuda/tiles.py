r"""Sums over windows on a card without the training images that provably hold next to nothing.

Each window ``k`` is known by its coordinates ``c = P^T (k - m)`` on a few orthonormal directions ``P``, and by the length ``r`` of what
remains. For a noisy window ``q`` and all windows of a tile of `TILE` by `TILE` pixels of a training image, with the box around their
``(c, r)``,

.. math:: \|q - \alpha k\|^2 \ge \mathrm{dist}\big((c_q, r_q),\ \alpha\,\mathrm{box}\big)^2

(Pythagoras, and the triangle inequality for what remains). So every pixel knows what all windows of a training image of weight ``w`` weigh
together at most, ``U = w (windows) 2^-cost``. The images that are nearest to some pixel are summed first: ``S``. Then images are left out,
those that weigh the least first, as long as the sum of their largest ``U / S`` stays below ``rtol``; the others are summed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from theory import meetings as statements
from theory.engines.state import State
from theory.engines.windows.cuda.launcher import Launcher
from theory.engines.windows.layout import Layout, border, bordered
from theory.meetings import Meetings
from theory.patches import Size
from theory.types import Images

SOURCE = Path(__file__).with_name("tiles.cu")
TILE = 8  # pixels
DIRECTIONS = 8
SAMPLE = 2048  # windows whose principal directions are taken
ROUNDS = 4  # of the iteration that finds them
PIECE = 2**24  # numbers of windows in float64 at a time
PIXELS = 256  # of a block
SHARED = 49_152  # bytes that a block has on any card
SIDE = 1024  # blocks side by side, at most
SLACK = 1e-6  # relative to the longest window: what rounding does to coordinates in float32, and to the length of the rest in float64
SIGNAL = 1e-6  # of an image below which nothing is told apart
SHARE = 0.5  # of the images: where so many are nearest to some pixel, all are summed
LEAST = 0.125  # of the images must be left out, or else all are summed
EXACT = 1 - 1e-3  # of a sum is there, whatever rounding did to its logits


def suits(meetings: Meetings) -> bool:
    """Whether every pixel meets many windows of each training image, which are among those of the image with its border, and boxes fit."""
    if 8 * (DIRECTIONS + 1) * math.prod(-(-n // TILE) for n in meetings.shape) > SHARED:
        return False
    known = [statements.everywhere, statements.same_class]
    if all(k <= n for k, n in zip(meetings.window, meetings.shape, strict=True)):
        known.append(statements.inside)
    return any(meetings == state(meetings.shape, meetings.window) for state in known)


@dataclass(frozen=True)
class Tiles:
    """What is known of the windows of training images.

    Attributes:
        basis: Orthonormal directions, ``(d, m)``, float64.
        middle: What is subtracted from a window, ``(d,)``, float64.
        boxes: Middle and half of the width of each tile, ``(N, tiles, m + 1, 2)``, float32.
        reach: Length of the longest window, without the middle.
    """

    basis: Tensor
    middle: Tensor
    boxes: Tensor
    reach: float

    @classmethod
    def of(cls, layout: Layout, wrapped: bool, images: Tensor) -> "Tiles":
        """Of training images whose windows wrap around, or not."""
        rows, cols = (border(n, k, wrapped) for n, k in zip(layout.shape, layout.window, strict=True))
        middle, basis = _directions(_sample(images, rows, cols, layout.window))
        boxes, reach = [], torch.zeros((), dtype=torch.float64, device=images.device)
        for part in images.split(max(1, PIECE // (len(rows) * len(cols) * (DIRECTIONS + images.shape[1])))):
            found, length = _coordinates(bordered(part.double(), rows, cols), middle, basis, layout.window)
            boxes.append(_boxes(found))
            reach = torch.maximum(reach, length.max())
        return cls(basis, middle, torch.cat(boxes), float(reach))

    def costs(self, x: Images, alpha: Tensor, sigma: Tensor, layout: Layout, launcher: Launcher) -> Tensor:
        """Bits that the window of each pixel of a noisy image ``(1, C, H, W)`` costs at least against any of each training image,
        ``(N, H W)``, float32."""
        (count, tiles, dims, _), pixels = self.boxes.shape, math.prod(layout.shape)
        far = alpha < SIGNAL  # nothing is told apart, and every cost is zero
        padded = bordered(x / alpha.clamp(min=SIGNAL), layout.query_rows, layout.query_cols)
        found, length = _coordinates(padded, self.middle, self.basis, layout.window)
        slack, scale = SLACK * (self.reach + length.max()), torch.where(far, 0.0, math.log2(math.e) / 2 * (alpha / sigma) ** 2)
        numbers = torch.stack([slack, scale.reshape(())]).float()
        costs = torch.empty(count, pixels, device=x.device)
        grid = min(count, SIDE), -(-pixels // PIXELS)
        args = [found.reshape(dims, pixels).float().contiguous(), self.boxes, numbers, costs, count, pixels]
        source = f"#define TILES {tiles}\n#define DIMS {dims}\n{SOURCE.read_text()}"
        launcher.launch(launcher.compiled(source), "bound_tiles", grid, PIXELS, 8 * tiles * dims, args)
        return costs


def sum_pruned(costs: Tensor, log_weights: Tensor, rtol: float, summed: Callable[[Tensor | None], State]) -> State:
    """The state of all pixels of one noisy image without what may be left out; all of it, where that is little.

    Args:
        costs: `Tiles.costs`.
        log_weights: Log-weight of each training image and window, with shape ``(N,)``.
        rtol: Share of the weight that may be left out.
        summed: The exact state after some training images, or after all of them.
    """
    offsets = -log_weights.double() / math.log(2) - math.log2(costs.shape[1])  # of the weight of all windows of an image together
    near = (costs + offsets[:, None].float()).argmin(0).unique()
    if len(near) > SHARE * len(costs):
        return summed(None)
    state = summed(near)
    known = state.max[0] / math.log(2) + torch.log2(EXACT * state.sum[0])
    most = torch.cat([(-known - part).amax(1) for part in _doubled(costs, offsets)])
    most[near] = torch.inf
    order = most.argsort(stable=True)
    left = order[: int((torch.exp2(most[order]).cumsum(0) <= rtol).sum())]
    if not len(left) >= LEAST * len(costs):
        return summed(None)
    most[left] = torch.inf
    others = most.isfinite().nonzero()[:, 0]
    if len(others):
        state = state.merge(summed(others))
    bits = state.max[0] / math.log(2)
    skipped = sum(torch.exp2(-bits - part).sum(0) for part in _doubled(costs[left], offsets[left]))
    return replace(state, skipped=skipped[None])


def _doubled(costs: Tensor, offsets: Tensor) -> Iterator[Tensor]:
    """Costs with their offsets in float64, some training images at a time."""
    step = max(1, PIECE // costs.shape[1])
    return (part.double() + more[:, None] for part, more in zip(costs.split(step), offsets.split(step), strict=True))


def _sample(images: Tensor, rows: np.ndarray, cols: np.ndarray, window: Size) -> Tensor:
    """Some windows, drawn by chance, ``(S, d)``, float64."""
    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = images.shape
    n, y, x = (torch.randint(most, (SAMPLE,), generator=generator) for most in (count, height, width))
    rows = torch.from_numpy(rows)[y[:, None] + torch.arange(window[0])].to(images.device)
    cols = torch.from_numpy(cols)[x[:, None] + torch.arange(window[1])].to(images.device)
    at = n.to(images.device)[:, None, None, None], torch.arange(channels, device=images.device)[:, None, None]
    found = images[(*at, rows.clamp(min=0)[:, None, :, None], cols.clamp(min=0)[:, None, None])].double()
    return (found * ((rows >= 0)[:, None, :, None] & (cols >= 0)[:, None, None])).flatten(1)


def _directions(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Their mean and about their principal directions; any orthonormal ones would do."""
    middle = windows.mean(0)
    size = min(DIRECTIONS, windows.shape[1])
    basis = torch.randn(windows.shape[1], size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(windows.device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr((windows - middle).T @ ((windows - middle) @ basis) + 1e-12 * basis).Q
    return middle, basis


def _coordinates(padded: Images, middle: Tensor, basis: Tensor, window: Size) -> tuple[Tensor, Tensor]:
    """Coordinates of all windows of images with their border ``(N, m + 1, H, W)``, the length of the rest the last, and their length."""
    shape = padded.shape[1], *window
    shift = (middle @ basis)[:, None, None]
    found = conv2d(padded, basis.T.reshape(-1, *shape)) - shift
    squares = conv2d(padded.square().sum(1, keepdim=True), padded.new_ones(1, 1, *window))
    squares = squares - 2 * conv2d(padded, middle.reshape(1, *shape)) + middle.square().sum()
    rest = (squares - found.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([found, rest], 1), squares.clamp(min=0).sqrt()


def _boxes(found: Tensor) -> Tensor:
    """Boxes around the coordinates of tiles: what they lose in float32 makes them wider."""
    high, low = (sign * max_pool2d(sign * found, TILE, ceil_mode=True) for sign in (1, -1))
    middle = ((high + low) / 2).float()
    half = torch.maximum(high - middle.double(), middle.double() - low).float()
    half = torch.nextafter(half, torch.full_like(half, torch.inf))
    return torch.stack([middle, half], -1).flatten(2, 3).transpose(1, 2).contiguous()
