r"""Arrays made small enough for a page: numbers of 16 bits where a reader can't tell, and all of it compressed.

- ``log``: positive numbers as ``round(2048 log2 v)``, to a relative error of 1.7e-4: weights from 2^-32 on (smaller ones are 0), numbers of
  patches.
- ``fixed``: numbers between -m and m, m the largest, in 65,534 equal steps.
- ``byte``: pixels in [-1, 1] in 255 steps, which 8-bit images meet exactly.
- ``plain``: whole numbers in the smallest type that holds them.
"""

import base64
import gzip
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

STEPS = 2048  # of a power of two
NOTHING = 65535


class Packed(NamedTuple):
    """Arrays in one piece.

    Attributes:
        index: For each array its ``type``, ``shape``, ``offset`` in bytes, ``code`` and ``scale``.
        data: The bytes of all, compressed (gzip) and in base64.
    """

    index: dict[str, dict]
    data: str


def packed(arrays: dict[str, tuple[str, Tensor]]) -> Packed:
    """Pack arrays, each with its code; the same arrays give the same bytes."""
    index, parts, offset = {}, [], 0
    for name, (code, values) in arrays.items():
        coded, scale = CODES[code](values.detach().cpu().numpy())
        raw = coded.astype(coded.dtype.newbyteorder("<")).tobytes()
        index[name] = {"type": coded.dtype.name, "shape": list(values.shape), "offset": offset, "code": code, "scale": scale}
        padded = raw + bytes(-len(raw) % 8)  # arrays begin where any type may
        parts.append(padded)
        offset += len(padded)
    return Packed(index, base64.b64encode(gzip.compress(b"".join(parts), 9, mtime=0)).decode())


def _log(values: np.ndarray) -> tuple[np.ndarray, float]:
    with np.errstate(divide="ignore"):
        steps = np.round(-np.log2(values.astype(np.float64)) * STEPS)
    return np.where(np.isfinite(steps), np.clip(steps, 0, NOTHING), NOTHING).astype(np.uint16), 1 / STEPS


def _fixed(values: np.ndarray) -> tuple[np.ndarray, float]:
    scale = float(np.abs(values).max()) / 32767 or 1.0
    return np.round(values / scale).astype(np.int16), scale


def _byte(values: np.ndarray) -> tuple[np.ndarray, float]:
    return np.round((values.astype(np.float64) + 1) * 127.5).astype(np.uint8), 1 / 127.5


def _plain(values: np.ndarray) -> tuple[np.ndarray, float]:
    most = int(values.max()) if values.size else 0
    return values.astype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else np.uint32), 1.0


CODES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, float]]] = {"log": _log, "fixed": _fixed, "byte": _byte, "plain": _plain}
