"""Denoisers of the theory by one specification, as commands take them.

- a machine and its options: ``ideal``, ``equivariant_local:patch_size=5,border=circular``, ``nearest:count=100``, also
  ``patch_size=3+5+7`` for several sizes over equal intervals of t, and ``patch_size=whole`` where the whole image will do;
- any of these guided from a class (``--label``): ``ideal:guidance=1.5`` (`theory.guidance`);
- a published or calibrated schedule: ``equivariant_local:schedule=MNIST_ResNet_zeros`` or ``schedule=FILE.json``;
- a solved score: ``runs/toy/attention/full``, the path without an extension.
"""

from pathlib import Path

from theory.calibrated import patch_schedule
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.guidance import guided
from theory.machines import MACHINES, AnalyticDenoiser, EquivariantLocal, Smoothed
from theory.noise import CosineSchedule, Schedule
from theory.patches import PatchSchedule
from theory.stationarity import SolvedScore

WHOLE = "whole"
CONVERTERS = {  # of options that are no text
    "patch_size": lambda text: None if text == WHOLE else PatchSchedule.of([_size(v) for v in text.split("+")]),
    **dict.fromkeys(("count", "rank", "seed", "copies"), int),
    **dict.fromkeys(("smoothing", "threshold", "share", "guidance"), float),
    "components": lambda text: int(text) if text.lstrip("+-").isdigit() else text,
    "equivariant": {"true": True, "false": False}.__getitem__,
}


def is_machine(spec: str) -> bool:
    """Whether a specification names a machine."""
    return spec.partition(":")[0] in MACHINES


def is_solution(spec: str) -> bool:
    """Whether a specification is the path of a saved solution."""
    path = Path(spec)
    return bool(path.name) and path.with_name(path.name + ".json").is_file()


def open_theory(spec: str, data: ImageSet, noise: Schedule | None = None) -> Denoiser:
    """The machine or solved score of a specification.

    Args:
        spec: As above.
        data: The training set it belongs to.
        noise: Schedule of machines; solved scores know their own.

    Raises:
        InputError: If nothing answers to it, or it belongs to other data.
    """
    if is_machine(spec):
        return machine(spec, data, noise)
    if is_solution(spec):
        return SolvedScore.load(Path(spec), data)
    raise InputError(
        f"model {spec!r}", f"a machine ({choices(MACHINES)}) or a solution such as runs/toy/attention/full", "correct the name or path"
    )


def machine(spec: str, data: ImageSet, noise: Schedule | None = None, **given) -> Denoiser:
    """The machine of a specification that names one.

    Args:
        spec: As above.
        data: The training set it belongs to.
        noise: Its schedule.
        given: Arguments it takes besides; options of the specification come before them.

    Raises:
        InputError: If it does not take an option, or not that value; names the machine.
    """
    name, _, text = spec.partition(":")
    try:
        options = {**given, **_options(name, text)}
        if "patch_size" in MACHINES[name].settings:
            options.setdefault("patch_size", data.patch_size)
        scale = options.pop("guidance", None)
        made = MACHINES[name](data, noise or CosineSchedule(), **options)
        return made if scale is None else guided(made, scale)
    except InputError as error:
        if f" of {name}" in error.given:
            raise
        raise InputError(f"{error.given} of machine {spec!r}", error.expected, error.remedy) from error


def _options(name: str, text: str) -> dict:
    """The options of a machine as its arguments."""
    known = MACHINES[name].settings
    taken = (*known, *(["schedule"] if "patch_size" in known else []), "guidance")
    options: dict = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in taken:
            raise InputError(f"option {item!r} of {name}", choices([f"{k}=" for k in taken]), "correct the specification")
        target = "patch_size" if key == "schedule" else key
        if target in options:
            raise InputError(f"option {item!r} of {name}, after another", f"{target} once", "leave out one of the two")
        options[target] = patch_schedule(value) if key == "schedule" else _converted(key, value, name)
    return options


def patch_machine(model: Denoiser, data: ImageSet) -> AnalyticDenoiser:
    """The machine whose posterior tells what a model's patches look like: a machine itself, or the ELS machine of what a solved score
    sees at each pixel, of which all of its functions are functions (`theory.stationarity.basis`).

    Raises:
        InputError: If the model is neither.
    """
    if not has_patches(model):
        expected = "a machine that is a weighted mean of training patches, or a solved score"
        raise InputError(f"a model of type {type(model).__name__}", expected, "choose ideal, equivariant, local or equivariant_local")
    if isinstance(model, SolvedScore):
        return EquivariantLocal(data, model.schedule, patch_size=model.setting.patch_size, border=model.setting.border)
    return model


def has_patches(model: Denoiser) -> bool:
    """Whether there are weights of training patches to tell of a model: networks, Gaussians and means over noisy copies have none."""
    return isinstance(model, AnalyticDenoiser | SolvedScore) and not isinstance(model, Smoothed)


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
