"""Attention weights of a network and of a solved score, on the same noisy images."""

import torch
from torch import Tensor

from empirical.compare import NULL, Comparison, Seen
from empirical.denoiser import NetworkDenoiser
from empirical.networks.cnn import AttentionCNN
from theory.denoiser import Denoiser
from theory.types import Float, Images


def attention_of(network: NetworkDenoiser, x_t: Images, t: float) -> Float[Tensor, "B P P"]:
    """What each pixel (row) of noisy images reads of each (column) in a network with a full head."""
    module = network.module
    if not isinstance(module, AttentionCNN) or not hasattr(module.head, "attention"):
        raise TypeError(f"{type(module).__name__} without a full attention head")
    with torch.no_grad():
        like = next(module.parameters())
        times = torch.full((len(x_t),), t, dtype=like.dtype, device=like.device)
        return module.head.attention(module.trunk(x_t.to(like), times, None)).to(x_t)


def alike(theory: Float[Tensor, "B P P"], network: Float[Tensor, "B P P"]) -> dict[str, float]:
    """Mean over images of the correlation of their weights, and of those of different images.

    Without what a pixel reads of itself, which may as well be part of its local guess. The second number is the null: what attention has in
    common on all images, such as that border pixels are little read.
    """
    a, b = (_centred(x) for x in (theory, network))
    return {"correlation": float((a * b).sum(1).mean()), "null": float((a * b.roll(1, 0)).sum(1).mean())}


def _centred(weights: Tensor) -> Tensor:
    """Weights between different pixels as unit vectors with mean 0, one for each image."""
    between = ~torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    rows = weights.double()[:, between]
    rows = rows - rows.mean(1, keepdim=True)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def example(
    comparison: Comparison, theories: dict[str, Denoiser], seen: dict[str, Seen], trained: Seen, network: NetworkDenoiser
) -> tuple[dict, dict[str, Tensor]]:
    """A noisy image and a pixel with what theory and network attend to there, and guesses of all.

    The level is that where attention takes most of the loss of ELS, the image and its pixel those where it improves the guess most.
    """
    gain = [a - b for a, b in zip(seen["els"].report["excess"], seen["full"].report["excess"], strict=True)]
    level = max(range(len(gain)), key=gain.__getitem__)
    noisy, exact = comparison.noisy[level], comparison.exact[level]
    means = {name: s.means[level] for name, s in {**seen, "network": trained}.items()}
    better = ((means["els"] - exact).square() - (means["full"] - exact).square()).sum(1).flatten(1)
    image, pixel = divmod(int(better.flatten().argmax()), better.shape[1])
    x_t = noisy.x_t[image : image + 1]
    height, width = x_t.shape[-2:]
    weights = {"full": theories["full"].split(x_t, noisy.t).attention, "network": attention_of(network, x_t, noisy.t)}
    tensors = {f"example.attention.{name}": w[0, pixel].reshape(height, width).contiguous() for name, w in weights.items()}
    tensors |= {f"example.mean.{name}": means[name][image].contiguous() for name in ("els", "full", "network", NULL)}
    tensors |= {"example.noisy": x_t[0].contiguous(), "example.clean": noisy.x_0[image].contiguous()}
    return {"t": noisy.t, "level": level, "pixel": list(divmod(pixel, width))}, tensors
