"""Two 3x3 convolutions with a receptive field of 5x5, and one of the heads: the networks of arXiv 2506.17324.

All share exactly the same trunk; seeds being equal, it starts from the same weights.
"""

from torch import Tensor, nn
from torch.nn.functional import silu

from empirical.networks import heads
from empirical.networks.blocks import Condition, Film, conv, pixels, with_ones

HEADS = {"cnn": heads.Readout, "literal": heads.Literal, "identity": heads.Identity, "top1": heads.Top1, "attention": heads.Full}


class Trunk(nn.Module):
    """``(B, C, H, W)`` to ``(B, P, hidden)``; the last layer works on each pixel alone."""

    receptive_field = 5

    def __init__(self, channels: int, hidden: int, padding: str, classes: int) -> None:
        super().__init__()
        self.condition = Condition(classes)
        self.first, self.second = conv(channels + 1, hidden, padding), conv(hidden, hidden, padding)
        self.last = nn.Conv2d(hidden, hidden, 1)
        self.films = nn.ModuleList([Film(hidden) for _ in range(3)])

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        condition, z = self.condition(t, label), with_ones(x)
        for layer, film in zip((self.first, self.second, self.last), self.films, strict=True):
            z = silu(film(layer(z), condition))
        return pixels(z)


class AttentionCNN(nn.Module):
    """Trunk and head.

    Args:
        channels: Channels of the image.
        head: A key of `HEADS`.
        hidden: Channels of the trunk.
        embedding: Numbers in a query or key.
        padding: ``"zeros"`` or ``"circular"``.
        classes: Number of classes; 0 for none.
    """

    def __init__(self, channels: int, head: str, hidden: int = 64, embedding: int = 64, padding: str = "zeros", classes: int = 0) -> None:
        super().__init__()
        self.trunk = Trunk(channels, hidden, padding, classes)
        self.head = HEADS[head](hidden, channels, embedding)
        self.classes, self.padding = classes, padding
        self.receptive_field = Trunk.receptive_field if head == "cnn" else None

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.head(self.trunk(x, t, label)).mT.reshape(x.shape)
