"""Training data: ``load("digits")``, ``load("toy:layout=strip")``, ``load("npz:images.npz")``.

A specification is a source's name, then after a colon its parameters, as ``key=value`` separated
by commas; sources that read from disk take the path first, as in ``folder:pictures,size=32``.
Parameters may also be given as keywords. Every source returns the same `ImageSet`.

A new source is one file with a function that returns an `ImageSet`, and one entry in `SOURCES`.
"""

import inspect
import re
from collections.abc import Callable

from theory.data.digits import digits
from theory.data.folder import folder
from theory.data.imageset import ImageSet, Rule
from theory.data.mnist5k import mnist5k
from theory.data.npz import npz
from theory.data.photos import photos
from theory.data.toy import Toy, toy
from theory.errors import InputError, choices

SOURCES: dict[str, Callable[..., ImageSet]] = {f.__name__: f for f in (toy, digits, mnist5k, photos, npz, folder)}


def load(spec: str, **parameters) -> ImageSet:
    """The data set of a specification.

    Args:
        spec: ``NAME``, ``NAME:key=value,...`` or ``NAME:PATH,key=value,...``.
        parameters: Parameters of the source, instead of in the specification.

    Raises:
        InputError: If source or parameter is unknown, or the data are not fit to use.
    """
    name, _, rest = spec.partition(":")
    if name not in SOURCES:
        raise InputError(f"data set {name!r}", choices(SOURCES), "choose one of these")
    source = SOURCES[name]
    known = inspect.signature(source).parameters
    given = {**_parse(rest, known, spec), **parameters}
    for key in given:
        if key not in known:
            raise InputError(f"parameter {key!r} of data set {name!r}", _described(known), "leave it out")
    if "path" in known and "path" not in given:
        raise InputError(f"data set {spec!r}", f"a path, as in {name}:PATH", "add the path after a colon")
    return source(**given)


def _described(known) -> str:
    return choices(known) if known else "no parameters"


def _parse(rest: str, known, spec: str) -> dict:
    """``PATH,key=value,...`` as typed keyword arguments. Commas only separate before ``key=``."""
    parts = re.split(r",(?=\w+=)", rest) if rest else []
    given = {}
    if parts and "path" in known and not parts[0].startswith("path="):
        given["path"] = parts.pop(0)
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{part!r} in {spec!r}", "key=value", f"name the parameter: {_described(known)}")
        given[key] = _typed(value, known[key].annotation, part) if key in known else value
    return given


def _typed(value: str, annotation, part: str):
    if annotation is str:
        return value
    if annotation is bool:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise InputError(part, "true or false", "correct the value")
    try:
        return int(value)
    except ValueError:
        raise InputError(part, "a whole number", "correct the value") from None


__all__ = ["SOURCES", "ImageSet", "Rule", "Toy", "load", "toy"]
