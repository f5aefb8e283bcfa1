"""The kernels of a card, compiled for the CPU: the same source, threads as fibers (`hostcuda.h`). Needs g++."""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from theory.centred import Centred
from theory.engines.windows.cuda.launcher import Launcher
from theory.engines.windows.cuda.plan import Limits

HEADER = Path(__file__).with_name("hostcuda.h")
COMPILER = shutil.which("g++")
# What a card reads four numbers at a time must lie where it can: else the process ends.
ALIGNED = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
COMMAND = [str(COMPILER), "-std=c++17", "-O0", "-w", *ALIGNED, "-ffp-contract=off", "-shared", "-fPIC"]
MISSING = "no g++ here, which compiles a card's kernels for the CPU"


class Host(Launcher):
    """A launcher whose device is the CPU: a small card of few processors and warps, whose shared memory is watched at both ends.

    Args:
        limits: What its blocks may use.
        backwards: Whether the last thread of a block comes first.
        late: Whether copies to shared memory arrive when they are waited for, rather than at once.
    """

    device = torch.device("cpu")

    def __init__(self, limits: Limits = Limits(98_304, 3, 2, 2), backwards: bool = False, late: bool = True) -> None:  # noqa: B008
        self.limits, self.backwards, self.late = limits, backwards, late
        self.launched: list[tuple[str, tuple[int, int]]] = []

    def compiled(self, source: str) -> ctypes.CDLL:
        return _compiled(source)

    def launch(self, module: ctypes.CDLL, name: str, grid: tuple[int, int], block: int, shared: int, args: list[Tensor | int]) -> None:
        assert shared <= self.limits.shared and all(not isinstance(a, Tensor) or a.is_contiguous() for a in args)
        self.launched.append((name, grid))
        numbers = (ctypes.c_longlong * len(args))(*(a.data_ptr() if isinstance(a, Tensor) else int(a) for a in args))
        status = getattr(module, f"host_{name}")(numbers, *grid, block, shared, int(self.backwards), int(self.late))
        assert status == 0, {1: "some threads waited for others that had ended", 2: "written beyond the shared memory"}[status]

    def room(self) -> int:
        return 2**40

    def read(self, images: Centred, rows: slice) -> Tensor:
        return images[rows]

    def arrived(self, read: Tensor) -> Tensor:
        return read


@functools.cache
def _compiled(source: str) -> ctypes.CDLL:
    whole = (
        HEADER.read_text()
        + source
        + "".join(
            _entry(name, source) for name in re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*?, 1\) )?(\w+)\(', source)
        )
    )
    name = hashlib.sha256("\n".join([whole, *COMMAND]).encode()).hexdigest()[:32]
    library = Path(tempfile.gettempdir()) / f"score-machines-host-{os.getuid()}" / f"{name}.so"
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            (Path(folder) / "kernel.cpp").write_text(whole)
            done = subprocess.run([*COMMAND, "-o", "kernel.so", "kernel.cpp"], cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[:2000]
            (Path(folder) / "kernel.so").replace(library)
    return ctypes.CDLL(str(library))


def _entry(name: str, source: str) -> str:
    """A function that runs a kernel with arguments out of an array."""
    (parameters,) = re.findall(rf"\b{name}\(([^)]*)\)", source)
    kinds = [re.sub(r"\w+$", "", p.strip()).strip() for p in parameters.split(",")]
    given = ", ".join(f"({kind})args_{name}[{i}]" for i, kind in enumerate(kinds))
    return f"""
static const long long* args_{name};
static void body_{name}() {{ {name}({given}); }}
extern "C" int host_{name}(const long long* args, unsigned x, unsigned y, unsigned block, size_t shared, int backwards, int late) {{
    args_{name} = args;
    return host::run(body_{name}, x, y, block, shared, backwards, late);
}}
"""
