"""A stack of 3x3 convolutions with residual connections, in the shape of arXiv 2412.20292: 8 layers see 17 pixels."""

from torch import Tensor, nn
from torch.nn.functional import silu

from empirical.networks.blocks import Condition, Film, Network, PixelNorm, conv, for_convolutions, with_ones


class ResNet(Network):
    """First and last of the ``layers`` convolutions map from and to the image, those between are residual.

    Args:
        channels: Channels of the image.
        hidden: Channels inside.
        layers: Number of 3x3 convolutions, at least 2; the receptive field is ``2 layers + 1`` pixels.
        padding: ``"zeros"`` or ``"circular"``.
        classes: Number of classes; 0 for none.
    """

    def __init__(self, channels: int, hidden: int = 64, layers: int = 8, padding: str = "zeros", classes: int = 0) -> None:
        super().__init__()
        self.condition, self.norm = Condition(classes), PixelNorm()
        self.first, self.last = conv(channels + 1, hidden, padding), conv(hidden, channels, padding)
        self.layers = nn.ModuleList([conv(hidden, hidden, padding) for _ in range(layers - 2)])
        self.films = nn.ModuleList([Film(hidden) for _ in range(layers - 1)])
        self.classes, self.padding = classes, padding
        self.receptive_field = 2 * layers + 1

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        condition = self.condition(t, label)
        z = self.first(for_convolutions(with_ones(x)))
        for layer, film in zip(self.layers, self.films[:-1], strict=True):
            z = z + layer(silu(film(self.norm(z), condition)))
        return self.last(silu(self.films[-1](self.norm(z), condition)))
