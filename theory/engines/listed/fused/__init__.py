"""Exact posterior sums in one fused kernel, written in Triton, for GPUs: ``engine="triton"``.

Differences, exponentials and sums of all pairs of queries and keys are made in registers, without a matrix of logits (`kernel`);
`engine` lays out the data, merges what the parts of the grid found and checks the rounding. On CUDA ``"auto"`` takes it for patches,
where triton is installed.
"""

import os
import shutil
from importlib.util import find_spec

from theory.engines.listed.source import KeySource
from theory.engines.state import State
from theory.errors import InputError
from theory.types import Coefficients, Queries


def has_triton() -> bool:
    """Whether triton is installed; it is not imported before it is needed."""
    return find_spec("triton") is not None


def hindrance() -> str | None:
    """Why triton can't be used on this machine, and what to do; None if nothing is known to stand in its way."""
    if not has_triton():
        return "it is not installed; pip install 'score-machines[gpu]' brings it"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "it needs a C compiler; install gcc or clang, or name one in CC"
    return None


def interpreted() -> bool:
    """Whether kernels are interpreted on the CPU instead of being compiled."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require_triton() -> None:
    """Refuse to go on without triton, which is not imported before it is needed.

    Raises:
        InputError: If triton is not installed.
    """
    if not has_triton():
        raise InputError(
            "engine='triton' without triton",
            "triton 3.1 or later to be installed (Linux)",
            "install it with pip install triton, or use engine='auto'",
        )


def fused_sum(queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
    """The state of all queries after all keys: arguments and result of `engine.sum_fused`, which is loaded here.

    Raises:
        InputError: If triton is not installed, or the queries are on a device it can't run on.
    """
    require_triton()
    from theory.engines.listed.fused.engine import sum_fused

    return sum_fused(queries, alpha, sigma, source, memory)
