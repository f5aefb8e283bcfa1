"""Networks by name. A new network is one file and one entry in `NETWORKS`.

A network is a module ``(x_t, t, label) -> output`` with shapes ``(B, C, H, W)``, ``(B,)`` and ``(B,)`` or None.
`empirical.networks.blocks.Network` says what else it states, such as its ``receptive_field``.
"""

import inspect
from collections.abc import Callable
from functools import partial

import torch

from empirical.networks.blocks import Network
from empirical.networks.cnn import HEADS, AttentionCNN
from empirical.networks.resnet import ResNet
from empirical.networks.unet import UNet
from theory.errors import InputError, choices
from theory.patches import check_border

NETWORKS: dict[str, Callable[..., Network]] = {
    **{name: partial(AttentionCNN, head=name) for name in HEADS},
    "resnet": ResNet,
    "unet": UNet,
}


def build(name: str, channels: int, seed: int = 0, **options) -> Network:
    """A network with fresh weights.

    Args:
        name: A key of `NETWORKS`.
        channels: Channels of the image.
        seed: Seed of the weights.
        options: ``padding``, ``hidden``, ``classes`` and what else the network takes.

    Raises:
        InputError: If there is no such network, or it does not take an option, or not that value.
    """
    if name not in NETWORKS:
        raise InputError(f"network {name!r}", choices(NETWORKS), "choose one of these")
    known = [n for n in inspect.signature(NETWORKS[name]).parameters if n not in ("channels", "head")]
    for option, value in options.items():
        if option not in known:
            raise InputError(f"option {option!r} of network {name!r}", choices(known), "leave it out")
        least = {"classes": 0, "layers": 2 if name == "resnet" else 1}.get(option, 1)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise InputError(f"{option} {value} of network {name!r}", f"at least {least}", "correct the option")
    if "padding" in options:
        check_border(options["padding"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](channels=channels, **options)
