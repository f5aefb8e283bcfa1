"""Checkpoints: one safetensors file with weights, averages and optimiser state, and in its header everything that made them.

The header holds the configuration, the data's fingerprint, versions and the history as JSON. One file is
written at once, so that a checkpoint is there whole or not at all; nothing in it can run code.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from empirical.denoiser import NetworkDenoiser
from empirical.networks import build
from empirical.networks.blocks import Network
from theory.data.imageset import ImageSet
from theory.errors import InputError
from theory.noise import schedule

FORMAT = "empirical.checkpoint/2"
NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        identity: What the weights depend on: ``config``, ``data`` (name, fingerprint, shape), ``network`` (name, options) and
            ``start`` (`origin` of the checkpoint whose weights it began with, or None).
        step: Training steps done.
        history: A record for every evaluation.
        versions: Versions of everything numerical.
        tensors: ``model.*``, ``average.*`` and the optimiser's state.
    """

    identity: dict
    step: int
    history: list[dict]
    versions: dict[str, str]
    tensors: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        header = {"format": FORMAT, "identity": self.identity, "step": self.step, "history": self.history, "versions": self.versions}
        partial = path.with_name(path.name + ".partial")
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}
        header["sha256"] = _digest(header, tensors)  # in the one entry: those of a safetensors header have no order, and bytes would differ
        save_file(tensors, partial, metadata={"json": json.dumps(header)})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> "Checkpoint":
        """Read a file, or the checkpoint in a training directory.

        Raises:
            InputError: If there is none, or it is damaged or not ours.
        """
        path = found(path)
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["json"])
                if header["format"] != FORMAT:
                    raise ValueError(f"format {header['format']!r}, not {FORMAT!r}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            if header.pop("sha256") != _digest(header, tensors):
                raise ValueError("its contents have changed since")
            if not all(x.isfinite().all() for x in tensors.values()):
                raise ValueError("weights that are not finite")
            return cls(header["identity"], header["step"], header["history"], header["versions"], tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(
                f"checkpoint {path} ({type(error).__name__}: {_first_line(error)})",
                "a whole safetensors file that empirical.train wrote",
                "train again, or correct the path; pickled files are never read",
            ) from error

    def require(self, data: ImageSet) -> None:
        """Refuse to be used with other data."""
        told = self.identity["data"]
        if told["fingerprint"] != data.fingerprint:
            raise InputError(
                f"a checkpoint trained on {told['name']} ({told['fingerprint'][:12]}), and data {data.name} ({data.fingerprint[:12]})",
                "the data set it was trained on",
                "load that data set",
            )

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, without it."""
        return {name.removeprefix(prefix + "."): x for name, x in self.tensors.items() if name.startswith(prefix + ".")}

    def origin(self) -> dict:
        """What a network that starts from this one remembers of it."""
        digest = hashlib.sha256()
        for name, x in sorted(self.weights("average").items()):
            digest.update(name.encode() + x.contiguous().cpu().numpy().tobytes())
        return {
            "model": self.identity["network"]["name"],
            "seed": self.identity["config"]["seed"],
            "step": self.step,
            "digest": digest.hexdigest(),
        }

    def network(self, averaged: bool = True) -> nn.Module:
        """The network, with averaged weights (EMA) or the last ones.

        Raises:
            InputError: If the weights are not those of the architecture the file names.
        """
        told = self.identity["network"]
        module = build(told["name"], self.identity["data"]["shape"][0], **told["options"])
        fit(module, self.weights("average" if averaged else "model"), told["name"])
        return module

    def denoiser(self, averaged: bool = True) -> NetworkDenoiser:
        """The network as a `Denoiser`."""
        config = self.identity["config"]
        return NetworkDenoiser(
            self.network(averaged), schedule(config["schedule"]), config["prediction"], tuple(self.identity["data"]["shape"])
        )


def _digest(header: dict, tensors: dict[str, Tensor]) -> str:
    """A hash of all a file holds, so that what is damaged or edited is refused as that."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode() + x.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def found(path: str | Path) -> Path:
    """The file itself, or that in a directory."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"checkpoint {path}, which does not exist", "a file or directory empirical.train wrote", "correct the path")
    return path


def fit(module: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Put weights into a network of exactly their shapes."""
    expected = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    given = {key: tuple(x.shape) for key, x in weights.items()}
    if expected != given:
        odd = sorted(set(expected.items()) ^ set(given.items()))[0][0]
        raise InputError(
            f"weights that are not those of network {name!r}: {odd} is {given.get(odd, 'missing')}",
            f"{expected.get(odd, 'no such weight')}",
            "use a checkpoint of that architecture",
        )
    module.load_state_dict(weights)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120]


def _trunk(module: Network) -> tuple:
    """What tells trunks of one kind of network apart; weights of another would fit in part."""
    trunk = getattr(module, "trunk", None)
    return type(trunk), getattr(trunk, "receptive_field", None)


def share(module: Network, saved: Checkpoint) -> int:
    """Put the averaged weights of a checkpoint into a network that inherits some (`Network.inherited`).

    Returns:
        How many tensors.

    Raises:
        InputError: If it is not of the same kind, or its trunk has another shape.
    """
    other, mine = saved.network(), module.state_dict()
    if type(other) is not type(module) or _trunk(other) != _trunk(module):
        raise InputError(
            f"a start from network {saved.identity['network']['name']!r}, which is not of this one's kind",
            "a network with the same trunk",
            "start from another, or from nothing",
        )
    weights = saved.weights("average")
    odd = [n for n, x in weights.items() if n in mine and mine[n].shape != x.shape and not n.startswith("head.")]
    if odd or (other.padding, other.classes) != (module.padding, module.classes):
        what = f"{odd[0]} of shape {tuple(weights[odd[0]].shape)}" if odd else f"padding {other.padding!r} and {other.classes} classes"
        want = f"{tuple(mine[odd[0]].shape)}" if odd else f"padding {module.padding!r} and {module.classes} classes"
        raise InputError(f"a start from a network with {what}", want, "give both the same --hidden, --layers, --padding and --conditional")
    common = module.inherited(weights)
    module.load_state_dict(mine | common)
    return len(common)
