"""Any denoiser by one specification, so that every command can take any two.

- a machine and its options: ``ideal``, ``equivariant_local:patch_size=5,border=circular``, ``nearest:count=100``, also
  ``patch_size=3+5+7`` for several sizes over equal intervals of t, and ``patch_size=whole`` where the whole image will do;
- any of these guided from a class (``--label``): ``ideal:guidance=1.5`` (`theory.guidance`);
- a published or calibrated schedule: ``equivariant_local:schedule=MNIST_ResNet_zeros`` or ``schedule=FILE.json``;
- a solved score: ``runs/toy/attention/full``, the path without an extension;
- a trained network: its directory or checkpoint, ``runs/train/toy-attention-0``.
"""

from pathlib import Path

import torch

from empirical.checkpoint import NAME, Checkpoint
from empirical.denoiser import NetworkDenoiser
from theory.calibrated import patch_schedule
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.guidance import guided
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
        f"a machine ({choices(MACHINES)}), a solution such as runs/toy/attention/full, or a training directory",
        "correct the name or path",
    )


def is_network(denoiser: Denoiser) -> bool:
    """Whether it was trained."""
    return isinstance(denoiser, NetworkDenoiser)


WHOLE = "whole"
CONVERTERS = {  # of options that are no text
    "patch_size": lambda text: None if text == WHOLE else PatchSchedule.of([_size(v) for v in text.split("+")]),
    **dict.fromkeys(("count", "rank", "seed", "copies"), int),
    **dict.fromkeys(("smoothing", "threshold", "share", "guidance"), float),
    "components": lambda text: int(text) if text.lstrip("+-").isdigit() else text,
    "equivariant": {"true": True, "false": False}.__getitem__,
}


def _machine(name: str, given: str, data: ImageSet, noise: Schedule) -> Denoiser:
    known = MACHINES[name].settings
    local = {"schedule"} if "patch_size" in known else set()
    options: dict = {}
    for item in filter(None, given.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in {*known, *local, "guidance"}:
            expected = choices([f"{k}=" for k in (*known, *local, "guidance")])
            raise InputError(f"option {item!r} of {name}", expected, "correct the specification")
        options["patch_size" if key == "schedule" else key] = patch_schedule(value) if key == "schedule" else _converted(key, value, name)
    if "patch_size" in known:
        options.setdefault("patch_size", data.patch_size)
    scale = options.pop("guidance", None)
    machine = MACHINES[name](data, noise, **options)
    return machine if scale is None else guided(machine, scale)


def _converted(key: str, text: str, name: str):
    """The value of an option."""
    try:
        return CONVERTERS.get(key, str)(text)
    except InputError:
        raise
    except (ValueError, KeyError):
        raise InputError(f"{key}={text} of {name}", "a number" if key != "equivariant" else "true or false", "correct it") from None


def _size(text: str) -> int | tuple[int, int]:
    try:
        numbers = tuple(int(n) for n in text.split("x"))
    except ValueError:
        raise InputError(f"patch_size {text!r}", "sizes such as 5, 3x1 or 3+5+7, or whole", "correct the specification") from None
    return numbers[0] if len(numbers) == 1 else numbers
