"""A residual trunk for the heads: as many 3x3 convolutions as its receptive field has room for, and depth at the pixel between them.

The optimum of a local network is a posterior over thousands of training patches, and two convolutions are far from it. To come closer
without seeing more takes layers that work on each pixel alone.
"""

from torch import Tensor, nn
from torch.nn.functional import silu

from empirical.networks.blocks import Condition, Film, PixelNorm, conv, for_convolutions, pixels, with_ones

WIDER = 2  # channels inside a perceptron, relative to those between


class Perceptron(nn.Module):
    """Two layers that work on each pixel alone, with the condition between norm and first layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.film, self.norm = Film(hidden), PixelNorm()
        self.up, self.down = nn.Conv2d(hidden, WIDER * hidden, 1), nn.Conv2d(WIDER * hidden, hidden, 1)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return z + self.down(silu(self.up(self.film(self.norm(z), condition))))


class ResidualTrunk(nn.Module):
    """``(B, C, H, W)`` to ``(B, P, hidden)``.

    Args:
        channels: Channels of the image.
        hidden: Channels inside.
        padding: ``"zeros"`` or ``"circular"``.
        classes: Number of classes; 0 for none.
        layers: Number of 3x3 convolutions, at least 1, each followed by a `Perceptron`; the receptive field is ``2 layers + 1`` pixels.
    """

    def __init__(self, channels: int, hidden: int, padding: str, classes: int, layers: int = 2) -> None:
        super().__init__()
        self.condition, self.norm = Condition(classes), PixelNorm()
        self.first = conv(channels + 1, hidden, padding)
        self.layers = nn.ModuleList([conv(hidden, hidden, padding) for _ in range(layers - 1)])
        self.films = nn.ModuleList([Film(hidden) for _ in range(layers)])
        self.perceptrons = nn.ModuleList([Perceptron(hidden) for _ in range(layers)])
        self.receptive_field = 2 * layers + 1

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        condition = self.condition(t, label)
        z = self.perceptrons[0](self.first(for_convolutions(with_ones(x))), condition)
        for layer, film, perceptron in zip(self.layers, self.films[:-1], self.perceptrons[1:], strict=True):
            z = perceptron(z + layer(silu(film(self.norm(z), condition))), condition)
        return pixels(silu(self.films[-1](self.norm(z), condition)))
