"""What compiles and starts kernels: an interface, and NVIDIA's ``cuda-core`` behind it.

``cuda-core`` is NVIDIA's own, small (no compiler or array library of its own), finds the NVRTC that torch brings along, uses the streams
and the context of torch, and keeps compiled kernels in files that are written atomically. Of the others, CuPy is an array library of
hundreds of megabytes, and numba-cuda would want the kernel in Python.
"""

from abc import ABC, abstractmethod
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from theory.centred import Centred, centred
from theory.engines.windows.cuda.plan import Limits
from theory.errors import InputError

INSTALL = "pip install 'score-machines[cuda]' brings it"
SHARED_LEAST, SHARED_MOST = 101_376, 232_448  # bytes of shared memory that a block may have
SHARED = {(8, 0): 166_912, (8, 7): 166_912, (10, 3): SHARED_MOST}  # where it is neither
OLDEST = (8, 0)  # compute capability: copies to shared memory that go on by themselves

Module = Any  # compiled kernels
Arguments = list[Tensor | int]


class Launcher(ABC):
    """Compiles and starts kernels on one device.

    Attributes:
        device: Where tensors must be.
        limits: What a block may use.
    """

    device: torch.device
    limits: Limits

    @abstractmethod
    def compiled(self, source: str) -> Module:
        """The kernels of a source, compiled now or before."""

    @abstractmethod
    def launch(self, module: Module, name: str, grid: tuple[int, int], block: int, shared: int, args: Arguments) -> None:
        """Start a kernel after all that was started before. Numbers are passed as 64-bit integers, tensors as where they begin."""

    @abstractmethod
    def room(self) -> int:
        """Bytes of the device that are free."""

    @abstractmethod
    def read(self, images: Centred, rows: slice) -> Any:
        """Begin to read centred images to the device, from a thread beside the one that launches; what `arrived` takes."""

    @abstractmethod
    def arrived(self, read: Any) -> Tensor:
        """These images, for kernels that are launched from now on."""


def limits_of(device: torch.device) -> Limits:
    """What a card offers, by its compute capability: consumer cards of a generation have less than those for servers."""
    major, minor = torch.cuda.get_device_capability(device)
    return Limits(SHARED.get((major, minor), SHARED_LEAST if minor or major > 10 else SHARED_MOST), 1)


def is_missing(reason: str) -> bool:
    """Whether it is the package that stands in the way (`hindrance`)."""
    return INSTALL in reason


def hindrance(device: torch.device) -> str | None:
    """Why kernels can't be compiled and started on a card, and what to do; None if nothing is known to stand in the way."""
    if find_spec("cuda") is None or find_spec("cuda.core") is None:
        return f"it needs cuda-core, which is not installed; {INSTALL}"
    if not torch.cuda.is_available():
        return "it needs a CUDA device that torch can use"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"it needs a card of compute capability 8.0 (Ampere) or later, not {capability[0]}.{capability[1]}"
    return _compiler_is_missing()


@cache
def _compiler_is_missing() -> str | None:
    """Why kernels can't be compiled for any card."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    try:
        load_nvidia_dynamic_lib("nvrtc")
    except Exception as error:  # of several kinds, for all of which it can't be used
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"it needs NVIDIA's compiler NVRTC, which can't be loaded ({reason}); {INSTALL}"
    return None


@cache
def card(index: int) -> "Card":
    """The launcher of a card.

    Raises:
        InputError: If ``cuda-core`` or NVRTC can't be used.
    """
    return Card(torch.device("cuda", index))


class Card(Launcher):
    """A CUDA device, by ``cuda-core``. Kernels run on torch's current stream."""

    def __init__(self, device: torch.device) -> None:
        from cuda.core import Device

        self.device = device
        torch.cuda.init()
        properties = torch.cuda.get_device_properties(device)
        shared = getattr(properties, "shared_memory_per_block_optin", limits_of(device).shared)  # torch 2.6 does not tell
        self.limits = Limits(shared, properties.multi_processor_count)
        self._device = Device(device.index)
        self._arch = f"sm_{properties.major}{properties.minor}"
        self._modules: dict[str, Module] = {}
        self._allowed: dict[tuple[int, str], Any] = {}
        self._reading = None

    def compiled(self, source: str) -> Module:
        if source not in self._modules:
            self._device.set_current()
            self._modules[source] = compiled(source, self._arch)
        return self._modules[source]

    def launch(self, module: Module, name: str, grid: tuple[int, int], block: int, shared: int, args: Arguments) -> None:
        from cuda.core import LaunchConfig, launch

        with torch.cuda.device(self.device):
            self._device.set_current()
            kernel = self._kernel(module, name, shared)
            stream = self._device.create_stream(_Stream(torch.cuda.current_stream(self.device)))
            numbers = [a.data_ptr() if isinstance(a, Tensor) else a for a in args]
            launch(stream, LaunchConfig(grid=(*grid, 1), block=(block, 1, 1), shmem_size=shared), kernel, *numbers)

    def _kernel(self, module: Module, name: str, shared: int) -> Any:
        """A kernel that may have so much shared memory: more than 48 KiB want leave."""
        key = id(module), name
        if key not in self._allowed:
            from cuda.bindings import driver

            kernel = module.get_kernel(name)
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            (status,) = driver.cuKernelSetAttribute(
                attribute, shared, driver.CUkernel(int(kernel.handle)), driver.CUdevice(self.device.index)
            )
            if status != driver.CUresult.CUDA_SUCCESS:
                raise InputError(
                    f"{shared} bytes of shared memory for {name}", "what the card grants", f"use engine='stream' ({status.name})"
                )
            self._allowed[key] = kernel
        return self._allowed[key]

    def room(self) -> int:
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + held

    def read(self, images: Centred, rows: slice) -> tuple[Tensor, torch.cuda.Event]:
        if self._reading is None:
            self._reading = torch.cuda.Stream(self.device)
        stored = images.stored[rows]
        with torch.cuda.device(self.device), torch.cuda.stream(self._reading):
            if stored.device.type == "cpu":
                here = centred(stored, images.centre.cpu(), images.dtype, torch.device("cpu")).pin_memory()
                piece = here.to(self.device, non_blocking=True)
            else:
                piece = centred(stored, images.centre.to(stored.device), images.dtype, self.device)
            event = torch.cuda.Event()
            event.record()
        event.synchronize()  # this thread waits, and what was pinned may go
        return piece, event

    def arrived(self, read: tuple[Tensor, torch.cuda.Event]) -> Tensor:
        piece, event = read
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(event)
        piece.record_stream(stream)
        return piece


class _Stream:
    """A stream of torch's for ``cuda-core``, whatever the version of either."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream.cuda_stream


def compiled(source: str, arch: str, log: Any = None) -> Module:
    """The kernels of a source for an architecture such as ``sm_90``; needs no card.

    Without ``log``, which is told what the compiler says of registers, they are kept in the user's cache and read from it the next time.

    Raises:
        InputError: If NVRTC is missing or does not compile it.
    """
    from cuda.core import Program, ProgramOptions

    try:
        program = Program(source, "c++", ProgramOptions(name="windows", arch=arch, std="c++17", ptxas_options=["-v"] if log else None))
        if log is not None:
            return program.compile("cubin", logs=log)
        return program.compile("cubin", **_kept())
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if "error:" in line), lines[0])
        raise InputError(
            f"a kernel that does not compile for {arch} ({reason})", "NVRTC, which CUDA builds of torch bring along", "use engine='stream'"
        ) from error


def _kept() -> dict[str, Any]:
    """Where compiled kernels are kept, if this version of ``cuda-core`` does that and the place can be written."""
    try:
        from cuda.core.utils import FileStreamProgramCache

        return {"cache": FileStreamProgramCache(max_size_bytes=2**28)}
    except (ImportError, OSError):
        return {}
