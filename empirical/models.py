"""Any denoiser by one specification, so that every command can take any two.

- a machine and its options: ``ideal``, ``equivariant_local:patch_size=5,border=circular``, also
  ``patch_size=3+5+7`` for several sizes over equal intervals of t, and ``patches=interior``;
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
from theory.calibrated import patch_schedule
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.machines import MACHINES
from theory.noise import CosineSchedule, Schedule
from theory.patches import PatchSchedule
from theory.stationarity import SolvedScore


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
    name, _, given = spec.partition(":")
    if name in MACHINES:
        return _machine(name, given, data, noise or CosineSchedule())
    if name in OUTSIDE:
        return OUTSIDE[name](Given.of(spec, tuple(data.images.shape[1:]), device))
    path = Path(spec)
    if path.name and path.with_name(path.name + ".json").is_file():
        return SolvedScore.load(path, data)
    if path.suffix == ".safetensors" or (path / NAME).is_file():
        checkpoint = Checkpoint.load(path)
        checkpoint.require(data)
        denoiser = checkpoint.denoiser()
        denoiser.module.to(device)
        return denoiser
    raise InputError(
        f"model {spec!r}",
        f"a machine ({choices(MACHINES)}), a solution such as runs/toy/attention/full, a training directory, or {choices(OUTSIDE)}:PATH",
        "correct the name or path",
    )


def is_network(denoiser: Denoiser) -> bool:
    """Whether it was trained."""
    return isinstance(denoiser, NetworkDenoiser | OutsideDenoiser)


def _machine(name: str, given: str, data: ImageSet, noise: Schedule) -> Denoiser:
    options: dict = {}
    for item in filter(None, given.split(",")):
        key, _, value = item.partition("=")
        if key == "schedule":
            options["patch_size"] = patch_schedule(value)
        elif key == "patch_size":
            options["patch_size"] = PatchSchedule.of([_size(v) for v in value.split("+")])
        elif key in ("border", "patches"):
            options[key] = value
        else:
            raise InputError(f"option {item!r} of {name}", "patch_size=, schedule=, border= or patches=", "correct the specification")
    if MACHINES[name].per_pixel:
        options.setdefault("patch_size", data.patch_size)
    elif options:
        raise InputError(f"options {given!r} of {name}", "none", "leave them out")
    return MACHINES[name](data, noise, **options)


def _size(text: str) -> int | tuple[int, int]:
    try:
        numbers = tuple(int(n) for n in text.split("x"))
    except ValueError:
        raise InputError(f"patch_size {text!r}", "sizes such as 5, 3x1 or 3+5+7", "correct the specification") from None
    return numbers[0] if len(numbers) == 1 else numbers
