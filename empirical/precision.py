"""What float32 means on a GPU.

cuDNN multiplies in TF32 (10 bits of mantissa, relative errors of 5e-4 in each factor) unless told not to, and chooses its algorithm by
the size of the batch. An image alone and the same image in a batch then differ by errors of that size: 1e-4 in the output of a UNet was
seen on an H200, where float32 leaves about 1e-6. So convolutions and products are made in float32 here, in training and in use,
unless ``precision`` is ``"tf32"``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def arithmetic(precision: str = "float32") -> Iterator[None]:
    """Products and convolutions in float32 (``"tf32"``: in TF32), added in the same order every time; as before afterwards.

    Args:
        precision: ``"float32"``, ``"tf32"`` or ``"bf16"``; what autocast does not cover of the last is made in float32.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32, cudnn.deterministic = precision == "tf32", True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.deterministic = before[1:]
