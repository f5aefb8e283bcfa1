"""Training data: ``load("digits")``, ``load("toy:layout=strip")``, ``load("npz:images.npz")``.

A specification is a source's name, then after a colon its parameters, as ``key=value`` separated
by commas; sources that read from disk take the path first, as in ``folder:pictures,size=32``.
Parameters may also be given as keywords. Every source returns the same `ImageSet`. ``augment=flip`` (or ``flips``, ``rotations``,
``d4``) goes with any of them: every image in every position (`theory.data.augment`).

A new source is one file with a function that returns an `ImageSet`, and one entry in `SOURCES`.
"""

import inspect
import re
from collections.abc import Callable

from theory.data.augment import augmented
from theory.data.cifar10 import cifar10
from theory.data.digits import digits
from theory.data.folder import folder
from theory.data.hf import hf
from theory.data.imageset import ImageSet, Rule
from theory.data.mnist import mnist
from theory.data.mnist5k import mnist5k
from theory.data.npy import npy
from theory.data.npz import npz
from theory.data.photos import photos
from theory.data.toy import Toy, toy
from theory.errors import InputError, choices

SOURCES: dict[str, Callable[..., ImageSet]] = {f.__name__: f for f in (toy, digits, mnist5k, photos, npz, npy, folder, cifar10, mnist, hf)}


KINDS = {bool: "true or false", int: "a whole number", str: "text"}


def load(spec: str, **parameters) -> ImageSet:
    """The data set of a specification.

    Args:
        spec: ``NAME``, ``NAME:key=value,...`` or ``NAME:PATH,key=value,...``.
        parameters: Parameters of the source, instead of in the specification.

    Raises:
        InputError: If source or parameter is unknown, or the data are not fit to use.
    """
    if not isinstance(spec, str):
        raise InputError(f"data set {spec!r}", f"a name: {', '.join(SOURCES)}", "pass a specification such as 'digits'")
    name, _, rest = spec.partition(":")
    if name not in SOURCES:
        raise InputError(f"data set {name!r}", choices(SOURCES), "choose one of these")
    source = SOURCES[name]
    known = inspect.signature(source).parameters
    given = {**_parse(rest, known, spec), **parameters}
    augment = given.pop("augment", None)
    for key, value in given.items():
        if key not in known:
            raise InputError(f"parameter {key!r} of data set {name!r}", _described(known), "correct or leave it out")
        _require_type(key, value, known[key])
    if "path" in known and not given.get("path"):
        raise InputError(f"data set {spec!r}", f"a path, as in {name}:PATH", "add the path after a colon")
    data = source(**given)
    return data if augment is None else augmented(data, augment)


def _require_type(key: str, value, parameter: inspect.Parameter) -> None:
    kind, words = next((k, w) for k, w in KINDS.items() if k.__name__ in str(parameter.annotation))
    optional = value is None and parameter.default is None
    if not optional and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise InputError(f"{key}={value!r}", words, "correct the value")


def _described(known) -> str:
    return choices(known) if known else "no parameters"


def _parse(rest: str, known, spec: str) -> dict:
    """``PATH,key=value,...`` as typed keyword arguments. Commas only separate before ``key=``; a first part without one is the path."""
    parts = re.split(r",(?=\w+=)", rest) if rest else []
    given = {}
    if parts and "path" in known and ("=" not in parts[0] or parts[0].partition("=")[0] not in known):
        given["path"] = parts.pop(0)
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key in given:
            raise InputError(f"{part!r} in {spec!r}", "key=value, each key once", f"name the parameter: {_described(known)}")
        given[key] = _typed(value, str(known[key].annotation)) if key in known else value
    return given


def _typed(value: str, annotation: str):
    """The value a text stands for; a text that stands for none is refused by its type later."""
    if "bool" in annotation:
        return {"true": True, "false": False}.get(value.lower(), value)
    if "int" in annotation and re.fullmatch(r"[+-]?\d{1,18}", value):
        return int(value)
    return value


__all__ = ["SOURCES", "ImageSet", "Rule", "Toy", "augmented", "load", "toy"]
