"""A UNet of three resolutions (64, 128 and 256 channels), in the shape of arXiv 2412.20292, with self-attention as an option."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from empirical.networks.blocks import Condition, Film, Network, PixelNorm, conv, for_convolutions, with_ones
from empirical.networks.heads import SpatialAttention

LEVELS = 3


class Residual(nn.Module):
    """``x + conv(silu(film(norm(x))))``, with a 1x1 convolution on the way past where channels change."""

    def __init__(self, inputs: int, outputs: int, padding: str) -> None:
        super().__init__()
        self.norm, self.film, self.layer = PixelNorm(), Film(inputs), conv(inputs, outputs, padding)
        self.past = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.past(x) + self.layer(silu(self.film(self.norm(x), condition)))


class UNet(Network):
    """Down by strided convolutions, up by nearest neighbours; one residual layer on the way at each resolution.

    Args:
        channels: Channels of the image.
        hidden: Channels at full resolution, doubled at each of two halvings.
        padding: ``"zeros"`` or ``"circular"``.
        classes: Number of classes; 0 for none.
        attention: Whether the coarsest resolution has self-attention; then every pixel sees all.
    """

    def __init__(self, channels: int, hidden: int = 64, padding: str = "zeros", classes: int = 0, attention: bool = False) -> None:
        super().__init__()
        widths = [hidden * 2**i for i in range(LEVELS)]
        self.condition, self.norm = Condition(classes), PixelNorm()
        self.first, self.last = conv(channels + 1, hidden, padding), conv(hidden, channels, padding)
        self.down = nn.ModuleList([Residual(w, w, padding) for w in widths])
        self.halve = nn.ModuleList([conv(a, b, padding, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.attend = SpatialAttention(widths[-1]) if attention else nn.Identity()
        self.up = nn.ModuleList([Residual(a + b, a, padding) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.film = Film(hidden)
        self.classes, self.padding = classes, padding
        self.receptive_field = None if attention else reach()

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        condition = self.condition(t, label)
        z, kept = self.first(for_convolutions(with_ones(x))), []
        for number, layer in enumerate(self.down):
            z = layer(z, condition)
            if number < LEVELS - 1:
                kept.append(z)
                z = self.halve[number](z)
        z = self.attend(z)
        for layer, skip in zip(reversed(self.up), reversed(kept), strict=True):
            z = layer(torch.cat([skip, doubled(z, skip.shape[-2:])], 1), condition)
        return self.last(silu(self.film(self.norm(z), condition)))


def doubled(z: Tensor, size: tuple[int, int]) -> Tensor:
    """Every pixel twice in both directions, cut to size: pixel ``j`` comes from ``j // 2``."""
    return z.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]]


def reach() -> int:
    """Pixels along the side of the widest receptive field, from the layers between an output pixel and the image."""
    widest = 0
    for place in range(2 ** (LEVELS - 1)):  # pixels differ by where they stand in a coarse one
        low, high = place - 1, place + 1
        for _ in range(LEVELS - 1):
            low, high = (low - 1) // 2, (high + 1) // 2
        low, high = low - 1, high + 1
        for _ in range(LEVELS - 1):
            low, high = 2 * low - 2, 2 * high + 2
        widest = max(widest, high - low + 3)
    return widest
