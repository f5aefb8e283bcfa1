r"""What all networks are made of. Nothing here looks beyond the pixels its convolutions see.

Normalisation over the pixels of an image, as in GroupNorm, would show every pixel the whole image and
void the receptive field. `PixelNorm` works on the channels of one pixel instead.
"""

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu

WIDTH = 64  # numbers in the embedding of the noise level
FREQUENCIES = 8


class Condition(nn.Module):
    """Noise level and class as one vector with shape ``(B, WIDTH)``.

    The level enters as ``t`` through sines and cosines; the class, where a network has any, as a learned
    vector; their mean where none is named.
    """

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(FREQUENCIES), persistent=False)
        self.mix = nn.Sequential(nn.Linear(2 * FREQUENCIES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.label = nn.Embedding(classes, WIDTH) if classes else None

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        angle = t[:, None] * self.frequencies
        out = self.mix(torch.cat([angle.sin(), angle.cos()], 1))
        if self.label is not None:
            out = out + (self.label.weight.mean(0) if label is None else self.label(label))
        return silu(out)


class PixelNorm(nn.Module):
    """Channels of each pixel divided by their root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class Film(nn.Module):
    """``(1 + gain) x + shift`` for each channel, by the condition; the identity at first.

    ``x`` has shape ``(B, C, H, W)``, or ``(B, P, C)`` as `pixels` makes it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficients = nn.Linear(WIDTH, 2 * channels)
        nn.init.zeros_(self.coefficients.weight)
        nn.init.zeros_(self.coefficients.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, shift = (c[:, :, None, None] if x.ndim == 4 else c[:, None] for c in self.coefficients(condition).chunk(2, 1))
        return torch.addcmul(shift, x, 1 + gain)


class Network(nn.Module):
    """A network that predicts an image.

    Attributes:
        classes: Number of classes it is told apart; 0 for none.
        padding: Padding of its convolutions.
        receptive_field: Pixels along the side of the window an output pixel sees; None for the whole image.
    """

    classes: int
    padding: str
    receptive_field: int | None

    def target(self, image: Tensor) -> Tensor:
        """What the output is compared with in training, where ``image`` is what it should be in use."""
        return image

    def inherited(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this network takes over from the weights of another: those of the same name and shape."""
        mine = self.state_dict()
        return {name: x for name, x in weights.items() if name in mine and mine[name].shape == x.shape}


def conv(inputs: int, outputs: int, padding: str, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size; ``padding`` is ``"zeros"`` or ``"circular"``."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode=padding)


def with_ones(x: Tensor) -> Tensor:
    """The image with a channel of ones, which zero padding cuts: how a network sees its border, whatever the image."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def for_convolutions(x: Tensor) -> Tensor:
    """The same image in the layout in which convolutions are fastest; what is made of it stays so, and `pixels` then copies nothing.

    On the CPU channels of a pixel lie side by side. On CUDA nothing changes: only the usual layout was measured there.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def pixels(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` as ``(B, P, C)``."""
    return rearrange(x, "b c h w -> b (h w) c")
