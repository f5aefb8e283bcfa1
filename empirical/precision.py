"""What float32 means on a GPU.

cuDNN multiplies in TF32 (10 bits of mantissa, relative errors of 5e-4 in each factor) unless told not to, and chooses its algorithm by
the size of the batch. An image alone and the same image in a batch then differ by errors of that size: 1e-4 in the output of a UNet was
seen on an H200, where float32 leaves about 1e-6. So convolutions and products are made in float32 here, in training and in use,
unless ``precision`` is ``"tf32"``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

cudnn, cuda = torch.backends.cudnn, torch.backends.cuda


@contextmanager
def arithmetic(precision: str = "float32") -> Iterator[None]:
    """Products and convolutions in float32 (``"tf32"``: in TF32), added in the same order every time; as before afterwards.

    Args:
        precision: ``"float32"``, ``"tf32"`` or ``"bf16"``; what autocast does not cover of the last is made in float32.
    """
    deterministic, restore = cudnn.deterministic, _switch(precision == "tf32")
    cudnn.deterministic = True
    try:
        yield
    finally:
        restore()
        cudnn.deterministic = deterministic


def _switch(tf32: bool) -> Callable[[], None]:
    """Switch TF32 on or off; returns what takes that back.

    Torch has old settings and, since 2.9, new ones, and refuses to read the old ones where a program has used the new.
    """
    try:
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        return _switch_new(tf32)
    _set("high" if tf32 else "highest", tf32)
    return lambda: _set(*before)


def _set(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    cudnn.allow_tf32 = convolutions


def _switch_new(tf32: bool) -> Callable[[], None]:
    parts = (cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [part.fp32_precision for part in parts]

    def put(values: list[str]) -> None:
        for part, value in zip(parts, values, strict=True):
            part.fp32_precision = value

    put(["tf32" if tf32 else "ieee"] * len(parts))
    return lambda: put(before)
