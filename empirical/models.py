"""Any denoiser by one specification, so that every command can take any two.

- a machine and its options: ``ideal``, ``equivariant_local:patch_size=5,border=circular``, ``nearest:count=100``, also
  ``patch_size=3+5+7`` for several sizes over equal intervals of t, and ``patch_size=whole`` where the whole image will do;
- any of these guided from a class (``--label``): ``ideal:guidance=1.5`` (`theory.guidance`);
- a published or calibrated schedule: ``equivariant_local:schedule=MNIST_ResNet_zeros`` or ``schedule=FILE.json``;
- a solved score: ``runs/toy/attention/full``, the path without an extension;
- a trained network: its directory or checkpoint, ``runs/train/toy-attention-0``;
- a network from elsewhere: ``diffusers:DIR``, ``module:FILE.py:NAME``, ``azula:FILE.py:NAME``, ``edm:FILE``, ``kamb:FILE``
  (`empirical.outside`).
"""

from pathlib import Path

import torch

from empirical.checkpoint import NAME, Checkpoint
from empirical.denoiser import NetworkDenoiser
from empirical.outside import OUTSIDE, Given
from empirical.outside.denoiser import OutsideDenoiser
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.machines import MACHINES
from theory.noise import Schedule
from theory.specification import is_machine, is_solution, open_theory


def open_model(spec: str, data: ImageSet, noise: Schedule | None = None, device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser of a specification.

    Args:
        spec: As above.
        data: The training set it belongs to.
        noise: Schedule of machines; networks and solved scores know their own.
        device: Where a network works.

    Raises:
        InputError: If nothing answers to it, or it belongs to other data.
    """
    if is_machine(spec) or is_solution(spec):
        return open_theory(spec, data, noise)
    name = spec.partition(":")[0]
    if name in OUTSIDE:
        return OUTSIDE[name](Given.of(spec, tuple(data.images.shape[1:]), device))
    path = Path(spec)
    if path.suffix == ".safetensors" or (path / NAME).is_file():
        checkpoint = Checkpoint.load(path)
        checkpoint.require(data)
        denoiser = checkpoint.denoiser()
        denoiser.module.to(device)
        return denoiser
    raise InputError(
        f"model {spec!r}" + ("" if path.exists() else ", which is no file or directory either"),
        f"a machine ({choices(MACHINES)}), a solution such as runs/toy/attention/full, a training directory, or {choices(OUTSIDE)}:PATH",
        "correct the name or path",
    )


def is_network(denoiser: Denoiser) -> bool:
    """Whether it was trained."""
    return isinstance(denoiser, NetworkDenoiser | OutsideDenoiser)
