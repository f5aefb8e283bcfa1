"""Which engine sums, and why."""

import logging
from dataclasses import dataclass
from functools import cache

import torch

from theory.engines.engine import Case, Engine
from theory.engines.fourier.engine import Fourier
from theory.engines.listed import fused
from theory.engines.listed.engine import Dense, Fused, Stream, forget
from theory.engines.windows.cuda.launcher import is_missing
from theory.engines.windows.engine import Windows
from theory.errors import InputError, choices

ENGINES: dict[str, Engine] = {e.name: e for e in (Windows(), Fourier(), Fused(), Stream(), Dense())}
NAMES = ("auto", *ENGINES)


@dataclass(frozen=True)
class Choice:
    """An engine, and what spoke for it.

    Attributes:
        engine: Which.
        seconds: What each engine that could sum is expected to take for a noisy image on one core; empty where nothing was compared.
        refused: Why the others can't, or are not taken.
    """

    engine: Engine
    seconds: dict[str, float]
    refused: dict[str, str]

    def __str__(self) -> str:
        took = [f"{name} {_time(s)}" for name, s in sorted(self.seconds.items(), key=lambda item: item[1])]
        compared = f" ({', '.join(took)} a noisy image on one core)" if took else ""
        return "\n  ".join([f"{self.engine.name}{compared}", *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def check_engine(name: str) -> str:
    """``name`` itself, if it is ``"auto"`` or that of an engine that can be used here.

    Raises:
        InputError: If there is no such engine, or it needs triton and that is not installed.
    """
    if name not in NAMES:
        raise InputError(f"engine {name!r}", choices(NAMES), "choose one of these")
    if name == "triton":
        fused.require_triton()
    return name


def choose(case: Case, name: str) -> Choice:
    """The engine of a name; of ``"auto"``, the one that is expected to be the fastest, the same on all processes.

    Raises:
        InputError: If the engine asked for can't sum this.
    """
    if name != "auto":
        if reason := ENGINES[name].refuses(case.meetings, case.like):
            raise InputError(f"engine={name!r} here, where {reason}", "an engine that can sum this", "use engine='auto'")
        return Choice(ENGINES[name], {}, {})
    return case.training.kept(("choice", *case.key), lambda: _fastest(case))


def _fastest(case: Case) -> Choice:
    refused = {name: e.refuses(case.meetings, case.like) for name, e in ENGINES.items() if e.automatic}
    able = [name for name, reason in refused.items() if reason is None]
    _tell_what_is_missing(case, refused)
    refused = {name: reason for name, reason in refused.items() if reason is not None}
    able = [name for name in able if ENGINES[name].first] or able
    if len(able) == 1:
        return Choice(ENGINES[able[0]], {}, refused)
    seconds = {name: ENGINES[name].cost(case) for name in able}
    mine = min(able, key=seconds.__getitem__)
    first = case.training.agreed(torch.tensor([name == mine for name in able], device=case.like.device))
    engine = ENGINES[able[int(first.int().argmax())]]
    if not isinstance(engine, Stream | Fused):
        forget(case)  # candidates that were merged to compare
    return Choice(engine, seconds, refused)


def _tell_what_is_missing(case: Case, refused: dict[str, str | None]) -> None:
    if case.like.device.type == "cuda" and not case.meetings.whole and refused["windows"] and is_missing(refused["windows"]):
        _tell(refused["windows"])


@cache
def _tell(reason: str) -> None:
    logging.getLogger(__name__).warning("sums over patches on CUDA are slow without the kernels for it: %s", reason)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"
