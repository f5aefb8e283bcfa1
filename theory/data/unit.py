"""Images in [0, 1] that stay on disk, and are 2 x - 1 wherever they are read."""

import torch
from torch import Tensor

PICKED = {Tensor.__getitem__, Tensor.split}  # these choose images, and read nothing
TOLD = {
    Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.ndim.__get__, Tensor.requires_grad.__get__,
    Tensor.is_floating_point, Tensor.is_complex, Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__,
}  # fmt: skip


class Unit(Tensor):
    """A mapped tensor of pixels in [0, 1] that stands for one of pixels in [-1, 1].

    Parts of it are such tensors again; every other operation is given an ordinary tensor, scaled.
    """

    @classmethod
    def of(cls, stored: Tensor) -> "Unit":
        """Stand for ``2 stored - 1``."""
        return stored.as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func in TOLD:
                return func(*args, **(kwargs or {}))
            if func in PICKED and isinstance(args[0], cls):
                found = func(args[0].as_subclass(Tensor), *_scaled(args[1:]), **(kwargs or {}))
                return tuple(map(cls.of, found)) if isinstance(found, tuple) else cls.of(found)
            return func(*_scaled(args), **{name: _scaled(value) for name, value in (kwargs or {}).items()})


def _scaled(value):
    """Ordinary tensors for those that stand for them, also within lists."""
    if isinstance(value, Unit):
        return value.as_subclass(Tensor) * 2 - 1
    if type(value) in (list, tuple):
        return type(value)(map(_scaled, value))
    return value
