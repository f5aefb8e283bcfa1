"""A second device made of the CPU, for machines without a GPU: real numbers, and CUDA's refusal to mix devices.

Tensors on it wrap CPU tensors. An operation unwraps its arguments, and refuses, as CUDA does, a CPU tensor beside them unless
it has no dimensions, is an index, or is being copied. Made by torch's backend for Python (torch 2.13 or later).
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map

NAME = "other"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._copy_from.default, aten._to_copy.default, aten._copy_from_and_resize.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class OtherTensor(torch.Tensor):
    """A tensor on the second device; ``inner`` holds its numbers."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        out = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=f"{NAME}:0"
        )
        out.inner = inner
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return on_cpu(func, args, kwargs or {})


def on_cpu(func, args: tuple, kwargs: dict):
    """An operation of the second device, made with the wrapped numbers."""
    _refuse_mixed(func, args, kwargs)
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, OtherTensor)]
    device = kwargs.get("device")
    leaves = device is not None and torch.device(device).type == "cpu"
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if leaves or func in (aten._local_scalar_dense.default, aten.equal.default):
        return out
    known = {id(x.inner): x for x in given}  # what is written in place stays the same tensor
    return tree_map(lambda x: known[id(x)] if id(x) in known else OtherTensor(x) if type(x) is torch.Tensor else x, out)


def _inner(x):
    return x.inner if isinstance(x, OtherTensor) else x


def _refuse_mixed(func, args: tuple, kwargs: dict) -> None:
    if func in COPIES:
        return
    looked = (args[:1], args[2:]) if func in INDEXED else (args, kwargs)
    tensors = [x for x in tree_flatten(looked)[0] if isinstance(x, torch.Tensor)]
    foreign = [x for x in tensors if not isinstance(x, OtherTensor) and x.dim() > 0]
    if foreign and any(isinstance(x, OtherTensor) for x in tree_flatten((args, kwargs))[0]):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some on {NAME} and some on cpu")


def _without_lists(index):
    """An index with tensors for lists."""
    if isinstance(index, tuple):
        return tuple(map(_without_lists, index))
    return torch.tensor(index) if isinstance(index, list) else index


class Constants(TorchFunctionMode):
    """What torch makes past its Python backends (from numbers of Python, or by resizing) is made on the CPU and moved."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.eye):
            device = kwargs.pop("device", None)
            if device is not None and torch.device(device).type == NAME:
                return func(*args, **kwargs).to(device)
            kwargs |= {} if device is None else {"device": device}
        if func is torch.Tensor.new_tensor and isinstance(args[0], OtherTensor):
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func is torch.Tensor.__getitem__:
            args = (args[0], _without_lists(args[1]))
        if func is torch.Tensor.numpy and isinstance(args[0], OtherTensor):
            raise TypeError(f"can't convert {NAME} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        if func is torch.Tensor.tolist:
            return func(_inner(args[0]))
        return func(*args, **kwargs)


_library = None


def install() -> str:
    """Make the device known to torch, once; returns its name."""
    global _library
    if _library is None:
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), device_guard=_Guard())
        _library = torch.library.Library("_", "IMPL")
        _library.fallback(lambda func, *args, **kwargs: on_cpu(func, args, kwargs), "PrivateUse1")
    return NAME


if AVAILABLE:

    class _Guard(torch._C._acc.DeviceGuard):
        def type_(self):
            return torch._C._autograd.DeviceType.PrivateUse1

    class _Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16]
