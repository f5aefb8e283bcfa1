"""A local trunk and one of the heads: with two 3x3 convolutions, which see 5x5 pixels, the networks of arXiv 2506.17324.

All heads share exactly the same trunk; seeds being equal, it starts from the same weights. Another trunk
(`residual`) has a receptive field to choose.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import linear, pad, silu, unfold

from empirical.networks import heads
from empirical.networks.blocks import Condition, Film, Network, conv, for_convolutions, pixels, with_ones
from empirical.networks.residual import ResidualTrunk
from theory.errors import InputError, choices

HEADS = {
    "cnn": heads.Readout,
    "patch": heads.Patch,
    "literal": heads.Literal,
    "identity": heads.Identity,
    "top1": heads.Top1,
    "attention": heads.Full,
}


class Trunk(nn.Module):
    """``(B, C, H, W)`` to ``(B, P, hidden)``; the last layer works on each pixel alone."""

    receptive_field = heads.SIDE

    def __init__(self, channels: int, hidden: int, padding: str, classes: int) -> None:
        super().__init__()
        self.condition = Condition(classes)
        self.first, self.second = conv(channels + 1, hidden, padding), conv(hidden, hidden, padding)
        self.last = nn.Conv2d(hidden, hidden, 1)
        self.films = nn.ModuleList([Film(hidden) for _ in range(3)])

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        condition, z = self.condition(t, label), for_convolutions(with_ones(x))
        z = silu(self.films[0](self.first(z), condition))
        z = pixels(silu(self.films[1](self.second(z), condition)))
        z = linear(z, self.last.weight.flatten(1), self.last.bias)  # a 1x1 convolution
        return silu(self.films[2](z, condition))


TRUNKS = {"cnn": Trunk, "resnet": ResidualTrunk}


class AttentionCNN(Network):
    """Trunk and head.

    Args:
        channels: Channels of the image.
        head: A key of `HEADS`.
        hidden: Channels of the trunk.
        embedding: Numbers in a query or key.
        padding: ``"zeros"`` or ``"circular"``.
        classes: Number of classes; 0 for none.
        trunk: A key of `TRUNKS`.
        layers: 3x3 convolutions of a residual trunk; 2 if None.

    Raises:
        InputError: If there is no such trunk, it takes no ``layers``, or the head ``patch`` stands on one that sees no 5x5 pixels.
    """

    def __init__(
        self,
        channels: int,
        head: str,
        hidden: int = 64,
        embedding: int = 64,
        padding: str = "zeros",
        classes: int = 0,
        trunk: str = "cnn",
        layers: int | None = None,
    ) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise InputError(f"trunk {trunk!r}", choices(TRUNKS), "choose one of these")
        if layers is not None and trunk == "cnn":
            raise InputError(
                f"option 'layers' {layers} of network {head!r}", "two layers, those of its trunk", "leave it out, or --trunk resnet"
            )
        self.trunk = TRUNKS[trunk](channels, hidden, padding, classes, **({} if layers is None else {"layers": layers}))
        if head == "patch" and self.trunk.receptive_field != heads.SIDE:
            raise InputError(
                f"network 'patch' on a trunk that sees {self.trunk.receptive_field} pixels",
                f"{heads.SIDE}, the side of its patches",
                "2 layers",
            )
        self.head = HEADS[head](hidden, channels, embedding)
        self.classes, self.padding = classes, padding
        self.receptive_field = self.trunk.receptive_field if head in ("cnn", "patch") else None

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.head(self.trunk(x, t, label))
        return out.mT.unflatten(-1, x.shape[2:])

    def inherited(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As of any network; and ``attention`` starts as the same function as ``identity``."""
        shared = super().inherited(weights)
        embed = weights.get("head.embed.weight")
        if isinstance(self.head, heads.Full) and embed is not None and embed.shape == self.head.query.weight.shape:
            shared |= {f"head.{name}": x for name, x in self.head.of_identity(weights).items()}
        return shared

    def target(self, image: Tensor) -> Tensor:
        """The image, or for ``patch`` the patches around its pixels, with shape ``(B, C * 25, H, W)``."""
        if not isinstance(self.head, heads.Patch):
            return image
        mode = {"zeros": "constant", "circular": "circular"}[self.padding]
        around = pad(image, (heads.SIDE // 2,) * 4, mode=mode)
        return unfold(around, heads.SIDE).unflatten(-1, image.shape[2:])
