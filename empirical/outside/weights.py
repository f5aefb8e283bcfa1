"""Files of ``torch.save``, through ``torch.load(weights_only=True)`` alone.

Checkpoints that hold a whole module, as ``torch.save(network)`` writes, name the classes of its code. Where those names are expected,
each is replaced by `Held`, which keeps what the file says and does nothing: the weights can then be taken out, and no class of the file
is ever made.
"""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theory.errors import InputError


class Held:
    """What a file says of an object."""

    def __init__(self, *_: object) -> None:
        self.told: dict = {}

    def __setstate__(self, state: object) -> None:
        self.told = state if isinstance(state, dict) else {}


def held(*_: object) -> None:
    """What a file says of a function."""


def read(path: Path, classes: tuple[str, ...] = (), functions: tuple[str, ...] = (), *, convert: str) -> Any:
    """What a file holds: numbers, text, lists, dictionaries and tensors, and `Held` for classes of these names.

    Args:
        path: The file.
        classes, functions: Full names that a file may use.
        convert: What to do with a file that holds something else.

    Raises:
        InputError: If it is damaged, or names anything else.
    """
    try:
        with _standing_in(classes, functions), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that another protocol might not be read: then it is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        told = _reason(error)
        raise InputError(f"{path} ({told})", "weights alone, in a whole file of torch.save; nothing pickled is run", convert) from error


@contextmanager
def _standing_in(classes: tuple[str, ...], functions: tuple[str, ...]) -> Iterator[None]:
    with torch.serialization.safe_globals([*((Held, name) for name in classes), *((held, name) for name in functions)]):
        yield


def _reason(error: Exception) -> str:
    """What torch says in many lines, in one: the name that the file asks for, if that is it."""
    text = " ".join(str(error).split())
    for start in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL ", "Unsupported class "):
        if start in text:
            return f"it names {text.split(start)[1].split()[0]}"
    return f"{type(error).__name__}: {text[:120]}"


def tensors(found: Any, prefix: str = "") -> dict[str, Tensor]:
    """Weights by name: of a state dictionary, or of a module that is `Held`."""
    if isinstance(found, dict):
        return {name: x for name, x in found.items() if isinstance(x, Tensor)}
    if not isinstance(found, Held):
        return {}
    out = {}
    for part in ("_parameters", "_buffers"):
        entries = found.told.get(part) or {}
        out |= {prefix + name: x.detach() for name, x in entries.items() if isinstance(x, Tensor)}
    for name, inner in (found.told.get("_modules") or {}).items():
        out |= tensors(inner, f"{prefix}{name}.")
    return out


def modules(found: Any) -> Iterator[dict]:
    """What a held module says of itself and of each inside it."""
    if isinstance(found, Held):
        yield found.told
        for inner in (found.told.get("_modules") or {}).values():
            yield from modules(inner)
