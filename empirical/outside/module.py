"""``module:FILE.py:NAME``: a callable or module of the user's own, whose code runs as it would by ``import``."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from empirical.outside.denoiser import TIMES, Function, OutsideDenoiser
from empirical.outside.given import Given
from theory.denoiser import Denoiser
from theory.discrete import BETAS, beta_schedule
from theory.errors import InputError
from theory.noise import SCHEDULES, Schedule, schedule
from theory.predictions import PREDICTIONS


def module_file(given: Given) -> Denoiser:
    """A network of the user's own.

    ``NAME`` is a callable or an ``nn.Module``: ``(x_t, t)``, or ``(x_t, t, label)``, with shapes ``(B, C, H, W)``, ``(B,)`` and
    ``(B,)`` or None; a class or function without arguments that makes one; or a `Denoiser`, or a denoiser of azula. Options:
    ``prediction=`` (``epsilon``, ``v``, ``sample`` or ``score``; epsilon if not given), ``schedule=`` (``cosine``, ``vp``, ``ve``,
    ``edm``, or the thousand levels of the betas ``linear``, ``scaled_linear`` or ``squaredcos_cap_v2``; cosine if not given), ``time=``
    (what it is told: ``t`` in [0, 1], ``timestep`` of a thousand, or ``sigma`` as in EDM and k-diffusion, with which ``schedule=edm``
    and ``prediction=sample`` are meant if not given), ``label=`` (a class for all calls).

    Raises:
        InputError: If the file does not import, has nothing of that name, or what it has is no such network.
    """
    given.only("prediction", "schedule", "time", "label")
    found = named(given)
    if isinstance(found, Denoiser):
        return _as_it_is(given, found)
    if "azula" in sys.modules:
        from empirical.outside.azula import from_azula, is_azula

        if is_azula(found):
            return from_azula(found, given.shape, given.spec).to(given.device).probed()
    time = given.choice("time", TIMES, "t")
    karras = time == "sigma"
    noise = noise_of(given, "edm" if karras else "linear" if time == "timestep" else "cosine")
    prediction = given.choice("prediction", tuple(PREDICTIONS), "sample" if karras else "epsilon")
    module = found if isinstance(found, nn.Module) else None
    denoiser = OutsideDenoiser(
        function(found, given.spec), noise, prediction, given.shape,
        name=given.spec, time=time, label=given.number("label"), module=module,
    )  # fmt: skip
    return denoiser.to(given.device).probed()


def _as_it_is(given: Given, found: Denoiser) -> Denoiser:
    if given.options:
        raise InputError(f"options of {given.spec!r}, a Denoiser", "none: it knows its own", "leave them out")
    return found


def noise_of(given: Given, default: str) -> Schedule:
    """The noise schedule that an option names."""
    name = given.choice("schedule", (*SCHEDULES, *BETAS), default)
    return schedule(name) if name in SCHEDULES else beta_schedule(name)


def function(found: Any, spec: str) -> Function:
    """``(x, level, label) -> output`` from a callable of two or three arguments."""
    takes = _arguments(found.forward if isinstance(found, nn.Module) else found)
    if takes is not None and not (takes[0] <= 3 and takes[1] >= 2):
        expected = "one of (x_t, t) or (x_t, t, label)"
        raise InputError(f"{spec}, a callable that takes {_described(takes)}", expected, "wrap it in a function with these")
    labelled = takes is not None and takes[1] >= 3

    def asked(x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        if label is not None and not labelled:
            raise InputError(
                f"a label for {spec}, which takes (x_t, t)", "no label", "leave it out, or let the network take three arguments"
            )
        return found(x, level, label) if takes is not None and (takes[0] == 3 or label is not None) else found(x, level)

    return asked


def _arguments(call: Callable) -> tuple[int, float] | None:
    """How many positional arguments a callable needs and may have; None where that can't be told."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places) + sum(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    return needed, float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)


def _described(takes: tuple[int, float]) -> str:
    least, most = takes
    return f"{least} argument{'' if least == 1 else 's'}" if least == most else f"{least} to {most:g} arguments"


def named(given: Given) -> Any:
    """What a file has under a name, made if it is a class, or a function without arguments."""
    where, colon, name = given.path.rpartition(":")
    if not colon or not where or not name:
        raise InputError(f"network {given.spec!r}", "FILE.py:NAME", "add the name of the network in the file after a colon")
    module = imported(where, given.spec)
    if not hasattr(module, name):
        here = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", module.__name__) == module.__name__]
        shown = ", ".join(here[:8]) or "no callable"
        raise InputError(f"{where} without {name!r}", f"a name in it: {shown}", "correct the name")
    found = getattr(module, name)
    try:
        while (isinstance(found, type) and _arguments(found) != (2, 2)) or (
            not isinstance(found, nn.Module | Denoiser) and callable(found) and _arguments(found) == (0, 0)
        ):
            found = found()
    except Exception as error:  # code of the user's own
        raise _failed(f"{given.spec}, which can't be made without arguments", error, "a network, or what makes one without any") from error
    if not callable(found):
        raise InputError(f"{given.spec}, a {type(found).__name__}", "a callable (x_t, t), or an nn.Module", "name the network itself")
    return found


def imported(where: str, spec: str) -> ModuleType:
    """A module from a file, beside which it finds its own; or by its dotted name."""
    path = Path(where)
    if path.suffix != ".py":
        load = lambda: importlib.import_module(where)  # noqa: E731  (a file below does the same with more lines)
    else:
        if not path.is_file():
            raise InputError(f"file {path}, which does not exist", "a file with Python code", "correct the path")
        load = lambda: _executed(path)  # noqa: E731
    try:
        return load()
    except (Exception, SystemExit) as error:  # code of the user's own
        raise _failed(f"{spec}, which does not import", error, "a module that does") from error


def _executed(path: Path) -> ModuleType:
    name = f"outside_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    source = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(source)
    sys.modules[name] = module  # as dataclasses and pickles of the file's own expect
    sys.path.insert(0, str(path.resolve().parent))
    try:
        source.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _failed(given: str, error: BaseException, expected: str) -> InputError:
    told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return InputError(f"{given} ({told})", expected, "correct it")
