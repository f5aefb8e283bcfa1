"""An unpickler that makes nothing but plain values, bytes and arrays of bytes, whatever the file asks for.

A pickle is a program: it names functions and calls them. Every name but those of NumPy's arrays and of bytes is refused here,
and even these don't reach NumPy: stand-ins hold what the file says, and an array is made of it only if it has as many bytes as its
shape needs.
"""

import io
import math
import pickle
from collections.abc import Callable

import numpy as np

ALLOWED = {
    (module, name): kind
    for core in ("numpy.core", "numpy._core")
    for module, name, kind in (
        (f"{core}.multiarray", "_reconstruct", "array"),
        ("numpy", "ndarray", "ndarray"),
        ("numpy", "dtype", "dtype"),
    )
} | {("_codecs", "encode"): "bytes"}


class RefusedError(pickle.UnpicklingError):
    """A pickle that asks for something else."""


class _Type:
    """What a pickle says of an element type; only bytes are known."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """The rest of a byte type says nothing."""


class _Array:
    """What a pickle says of an array."""

    def __init__(self, *_: object) -> None:
        self.told = None

    def __setstate__(self, state: object) -> None:
        self.told = state

    def made(self) -> np.ndarray:
        """The array.

        Raises:
            RefusedError: If it is not one of bytes, row by row, as many as its shape needs.
        """
        if not isinstance(self.told, tuple) or len(self.told) != 5:
            raise RefusedError("an array without contents")
        _, shape, kind, fortran, content = self.told
        plain = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape) and isinstance(content, bytes)
        if not plain or not isinstance(kind, _Type) or kind.code not in ("u1", b"u1", "|u1", b"|u1") or fortran:
            raise RefusedError("an array of something else than bytes")
        if math.prod(shape) != len(content):
            raise RefusedError(f"an array of shape {shape} with {len(content)} bytes")
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


class _Class:
    """Stands for ``numpy.ndarray`` where a pickle names it."""

    def __init__(self, *_: object) -> None:
        raise RefusedError("a call of numpy.ndarray")


def _bytes(text: object, encoding: object = None) -> bytes:
    """Bytes as Python 3 writes them for Python 2: text of the same codes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("a text in another encoding")
    return text.encode("latin1")


STAND_INS = {"array": _Array, "ndarray": _Class, "dtype": _Type, "bytes": _bytes}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in ALLOWED:
            raise RefusedError(f"the name {module}.{name}")
        return STAND_INS[ALLOWED[module, name]]


def plain(content: bytes) -> object:
    """What a pickle holds, with bytes for the text of Python 2.

    Raises:
        RefusedError: If it names anything but arrays of bytes. Nothing of the file has run.
        pickle.UnpicklingError: If it is no pickle; also EOFError, ValueError and others that the standard unpickler raises.
    """
    found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    if isinstance(found, dict):
        return {key: value.made() if isinstance(value, _Array) else value for key, value in found.items()}
    return found
