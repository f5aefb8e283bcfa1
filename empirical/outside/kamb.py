r"""``kamb:FILE.pt``: checkpoints of the code published with arXiv 2412.20292, ``MinimalResNet`` and ``MinimalUNet``.

That code saves whole modules. Their weights are read by ``torch.load(weights_only=True)`` with stand-ins for its classes
(`empirical.outside.weights`) and put into the network below, written from the published description: noise prediction, told ``t`` in
[0, 1] through sines and cosines of ``t / 10000^{k/(d-1)}``, on the cosine schedule of `theory.noise.CosineSchedule`. Files of
``state_dict()`` do as well, with ``padding=``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from empirical.outside import weights
from empirical.outside.denoiser import OutsideDenoiser
from empirical.outside.given import Given
from theory.errors import InputError
from theory.noise import CosineSchedule

OWN = ("DDIM", "MinimalResNet", "MinimalUNet", "EmbeddingModule", "UBlock")
LAYERS = {
    "conv": ("Conv2d", "ConvTranspose2d"),
    "linear": ("Linear",),
    "normalization": ("GroupNorm",),
    "batchnorm": ("BatchNorm2d",),
    "activation": ("ReLU",),
    "container": ("Sequential", "ModuleList"),
    "sparse": ("Embedding",),
    "pooling": ("MaxPool2d",),
}
CLASSES = (
    *(f"{module}.{name}" for module in ("models", "src.models") for name in OWN),
    *(f"torch.nn.modules.{module}.{name}" for module, names in LAYERS.items() for name in names),
)
FUNCTIONS = tuple(
    f"{module}.{name}_schedule"
    for module in ("utils.noise_schedules", "src.utils.noise_schedules")
    for name in ("cosine_noise", "linear_noise", "exponential")
)
CONVERT = "save its state_dict() with the code that made it: torch.save(torch.load(FILE, weights_only=False).state_dict(), 'weights.pt')"
GROUPS = 8  # of channels, in its ResNet; its UNet has 32, or as many as there are channels
PADDING = {"zeros": "constant", "circular": "circular", "reflect": "reflect", "replicate": "replicate"}


def kamb_file(given: Given) -> OutsideDenoiser:
    """The network of a checkpoint.

    Options: ``padding=`` (``zeros`` or ``circular``; only of a file of ``state_dict()``, which does not tell), ``label=`` (a class for
    all calls).

    Raises:
        InputError: If the file is no such checkpoint, or for images of other channels.
    """
    given.only("padding", "label")
    found = weights.read(given.file(), CLASSES, FUNCTIONS, convert=CONVERT)
    state = {name.removeprefix("backbone."): x.float() for name, x in weights.tensors(found).items()}
    padding = _padding(found, given)
    for kind in (ResNet, UNet):
        if kind.mark in state:
            try:
                network = kind(state, padding)
            except (KeyError, RuntimeError) as error:
                raise InputError(f"{given.path} without weight {error}", f"all of a {kind.__name__}", "use a whole checkpoint") from error
            break
    else:
        shown = ", ".join(list(state)[:3]) or "no weights"
        raise InputError(f"{given.path} with {shown}", f"weights such as {ResNet.mark} or {UNet.mark}", "use module: for other networks")
    if network.channels != given.shape[0]:
        expected = f"{given.shape[0]}, those of the data"
        raise InputError(f"{given.spec} for {network.channels} channels", expected, "name the data it was trained on")
    return (
        OutsideDenoiser(
            network, CosineSchedule(), "epsilon", given.shape, name=given.spec, classes=network.classes, label=given.number("label"),
            module=network, receptive_field=network.receptive_field,
        )
        .to(given.device)
        .probed()
    )  # fmt: skip


def _padding(found: object, given: Given) -> str:
    """How convolutions pad: as the module says, or as the option does where there is no module."""
    told = {
        inner["padding_mode"]
        for inner in weights.modules(found)
        if inner.get("padding_mode") in PADDING and not inner.get("transposed")  # a transposed one says zeros, whatever the others do
    }
    if not told:
        if "padding" not in given.options:
            raise InputError(f"{given.spec}, weights that do not tell their padding", "padding=zeros or padding=circular", "add it")
        return given.choice("padding", ("zeros", "circular"), "zeros")
    if "padding" in given.options or len(told) > 1:
        raise InputError(f"padding of {given.spec}, which says {' and '.join(sorted(told))}", "one, told once", "leave out padding=")
    return told.pop()


class Published(nn.Module):
    """What both networks share: weights by their published names, the embedding of time and class, padded convolutions."""

    mark: str

    def __init__(self, state: dict[str, Tensor], padding: str) -> None:
        super().__init__()
        self.names = list(state)
        self.kept = nn.ParameterList([nn.Parameter(x, requires_grad=False) for x in state.values()])
        self.padding = padding
        embedding = state.get("embedding.class_embeddings.weight")
        self.classes = 0 if embedding is None else len(embedding)

    def weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        return dict(zip(self.names, self.kept, strict=True))

    def conv(self, w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        """A convolution that keeps the size."""
        reach = w[f"{name}.weight"].shape[-1] // 2
        return functional.conv2d(functional.pad(x, (reach,) * 4, PADDING[self.padding]), w[f"{name}.weight"], w[f"{name}.bias"])

    @staticmethod
    def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        """A linear layer."""
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    @staticmethod
    def normed(w: dict[str, Tensor], name: str, x: Tensor, groups: int) -> Tensor:
        """Normalisation over groups of channels, if the network has it there."""
        return functional.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"]) if f"{name}.weight" in w else x

    @staticmethod
    def embedded(w: dict[str, Tensor], width: int, t: Tensor, label: Tensor | None) -> Tensor:
        """Sines and cosines of the time, and the class."""
        half = width // 2
        angle = t[:, None] / 10000 ** (torch.arange(half, device=t.device) / (half - 1))
        told = torch.cat([angle.sin(), angle.cos()], 1)
        return told if label is None else told + w["embedding.class_embeddings.weight"][label]


class ResNet(Published):
    """``state + relu(conv(state + relu(norm(linear(emb)))))``, layer by layer, between two projections."""

    mark = "up_projection.weight"

    def __init__(self, state: dict[str, Tensor], padding: str) -> None:
        super().__init__(state, padding)
        self.channels, self.width = state[self.mark].shape[1], state[self.mark].shape[0]
        self.layers = len({name.split(".")[1] for name in state if name.startswith("convs.")})
        self.last = "down_projection" if "down_projection.weight" in state else "down_projection.1"
        sizes = [state[f"{name}.weight"].shape[-1] for name in ("up_projection", *(f"convs.{i}.0" for i in range(self.layers)), self.last)]
        spread = any(f"convs.{i}.1.weight" in state for i in range(self.layers)) or self.last != "down_projection"
        self.receptive_field = None if spread else 1 + sum(size - 1 for size in sizes)  # normalisation looks everywhere

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        w = self.weights()
        told = self.embedded(w, self.width, t, label)
        state = self.conv(w, "up_projection", x)
        for i in range(self.layers):
            z = self.conv(w, f"convs.{i}.0", state + self._shift(w, i, told))
            state = state + self.normed(w, f"convs.{i}.1", z, GROUPS).relu()
        state = state + (self._shift(w, self.layers, told) if f"embs.{self.layers}.0.weight" in w else state)
        return self.conv(w, self.last, self.normed(w, "down_projection.0", state, GROUPS))

    def _shift(self, w: dict[str, Tensor], layer: int, told: Tensor) -> Tensor:
        z = self.normed(w, f"embs.{layer}.1", self.linear(w, f"embs.{layer}.0", told), GROUPS)
        return z.relu()[:, :, None, None]


class UNet(Published):
    """Blocks of two convolutions at each resolution, halved by the largest of four pixels, doubled by transposed convolutions."""

    mark = "bottleneck.emb.1.weight"

    def __init__(self, state: dict[str, Tensor], padding: str) -> None:
        super().__init__(state, padding)
        if any("running_mean" in name for name in state):
            raise InputError(
                "a UNet with batch normalisation", "none, or normalisation of groups", "use module: with the code that made it"
            )
        self.channels, self.width = state["output_conv.weight"].shape[0], state[self.mark].shape[1]
        self.levels = len({name.split(".")[1] for name in state if name.startswith("upsamples.")})
        self.receptive_field = None

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        w = self.weights()
        told, kept = self.embedded(w, self.width, t, label), []
        for i in range(self.levels):
            x = self._block(w, f"feature_blocks.{i}", x, told)
            kept.append(x)
            x = functional.max_pool2d(x, 2)
        x = self._block(w, "bottleneck", x, told)
        for i, skip in enumerate(reversed(kept)):
            doubled = functional.conv_transpose2d(x, w[f"upsamples.{i}.weight"], w[f"upsamples.{i}.bias"], stride=2)
            x = self._block(w, f"output_blocks.{i}", torch.cat([skip, doubled], 1), told)
        x = x + self._shift(w, "last_emb", told)
        return self.conv(w, "output_conv", self.normed(w, "last_normalizer", x, min(32, x.shape[1])))

    def _shift(self, w: dict[str, Tensor], name: str, told: Tensor) -> Tensor:
        return self.linear(w, f"{name}.1", told.relu())[:, :, None, None]

    def _block(self, w: dict[str, Tensor], name: str, x: Tensor, told: Tensor) -> Tensor:
        """Layers by their places in the published list: convolution, normalisation if any, rectifier, twice."""
        x = x + self._shift(w, f"{name}.emb", told)
        step = 3 if f"{name}.model.1.weight" in w else 2
        for first in (0, step):
            x = self.conv(w, f"{name}.model.{first}", x)
            x = self.normed(w, f"{name}.model.{first + 1}", x, min(32, x.shape[1])).relu() if step == 3 else x.relu()
        return x
