"""The theories that a network is held against: closed-form machines with calibrated patches, solved attention, and what else is named."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from empirical.models import open_model
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.noise import Schedule
from theory.patches import BORDERS, PatchSchedule, PatchSize

NULL = "ideal"
NEAREST = "nearest training image"
PADDED = {"zeros": "zero padding", "circular": "circular padding"}


class Theory(NamedTuple):
    """A theory by name.

    Attributes:
        title: As it is shown.
        says: What a network must be for it.
        border: Whose calibrated patches it takes, or None for no patches.
        make: The machine, from data, noise, patches and other options.
    """

    title: str
    says: str
    border: str | None
    make: Callable[..., Denoiser]


def _local(machine: type, border: str) -> Callable[..., Denoiser]:
    return lambda data, noise, patches, **more: machine(data, noise, patch_size=patches, border=border, **more)


THEORIES: dict[str, Theory] = {
    "ideal": Theory("IS, the ideal score", "under no constraint", None, lambda data, noise, patches, **more: Ideal(data, noise, **more)),
    "es": Theory("ES, equivariant", "equivariant", None, lambda data, noise, patches, **more: Equivariant(data, noise, **more)),
    **{f"ls-{b}": Theory(f"LS, {PADDED[b]}", f"local: {PADDED[b]}", b, _local(Local, b)) for b in BORDERS[::-1]},
    **{
        f"els-{b}": Theory(f"ELS, {PADDED[b]}", f"local and equivariant: {PADDED[b]}", b, _local(EquivariantLocal, b))
        for b in BORDERS[::-1]
    },
}


def chosen(names: list[str] | None) -> list[str]:
    """Theories by name, all if None; the ideal score always, as the null.

    Raises:
        InputError: If there is none of a name.
    """
    for name in names or []:
        if name not in THEORIES:
            raise InputError(f"--theories {name}", choices(THEORIES), "choose some of these")
    return list(THEORIES) if names is None else list(dict.fromkeys([NULL, *names]))


def machines(names: list[str], data: ImageSet, noise: Schedule, patches: Mapping[str, PatchSize], rtol: float = 0.0) -> dict[str, Denoiser]:
    """The closed-form theories of some names, with the patches of each border."""
    found = {}
    for name in names:
        theory = THEORIES[name]
        found[name] = theory.make(data, noise, None if theory.border is None else patches[theory.border], rtol=rtol)
    return found


def others(specs: list[str], data: ImageSet, noise: Schedule, device: str) -> dict[str, Denoiser]:
    """Theories that are named as models: solved scores, machines with options, other networks.

    Raises:
        InputError: If one has another noise schedule than the network.
    """
    found = {}
    for spec in specs:
        model = open_model(spec, data, noise, device)
        if model.schedule.name != noise.name:
            raise InputError(
                f"--theory {spec} with the {model.schedule.name} schedule", f"{noise.name}, that of the network", "solve it for that"
            )
        found[spec] = model
    return found


def title(name: str) -> str:
    """A theory as it is shown."""
    return THEORIES[name].title if name in THEORIES else name


def sizes_to_try(largest: int, seen: int | None) -> list[int]:
    """Patch sizes for a calibration: odd ones up to what was seen and a little further, eight at most, denser where they are small.

    Args:
        largest: The largest that says anything new.
        seen: The side that holds nearly all of the gradients, or None if that is not known.
    """
    top = largest if seen is None else min(largest, seen + 4)
    every = list(range(1 if top < 3 else 3, max(top, 1) + 1, 2))
    if len(every) <= 8:
        return every
    share = [(i / 7) ** 1.5 for i in range(8)]
    return sorted({every[round(s * (len(every) - 1))] for s in share})


def constant(schedule: PatchSchedule) -> int:
    """One size for a theory that has no other for each level: the median."""
    sides = sorted(size[0] for size in schedule.sizes)
    return sides[len(sides) // 2]
