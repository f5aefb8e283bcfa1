"""The part that measures scores, in another process: a case that crashes it costs its own row only."""

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu import command
from benchmarks.gpu.case import Case
from benchmarks.gpu.command import Ended
from benchmarks.gpu.rows import row
from benchmarks.gpu.worker import TOLD

PATIENCE = 0.6  # share of the time that a case may take, its compilation included
HUNG = "Timeout ("  # what faulthandler prints
GRACE = 3.0  # seconds before the end in which no case is begun
MOST = 2  # processes that an engine may end: each costs the start of another


def scores(cases: list[Case], device: str, folder: Path, seconds: float) -> list[dict]:
    """A row for each case, in their order.

    Args:
        cases: What to measure.
        device: Where: ``cpu`` or ``cuda``.
        folder: Where to keep files.
        seconds: Time there is; cases that are not begun by then are ``not run``.
    """
    end = time.monotonic() + seconds
    rows: dict[Case, dict] = {}
    ends: Counter[str] = Counter()
    waiting = list(cases)
    while waiting and (left := end - time.monotonic()) > GRACE:
        found, ended = _measured(waiting, device, folder, left)
        rows |= dict(zip(waiting, found, strict=False))
        if ended.code == 0 or len(found) == len(waiting):  # all done, or no time for more
            break
        last = len(found) - 1 if ended.code == TOLD else len(found)  # the case with which the process ended
        if ended.code != TOLD:
            rows[waiting[last]] = _silent(waiting[last], ended)
        engine, waiting = waiting[last].engine, waiting[last + 1 :]
        ends[engine] += 1
        if ends[engine] == MOST:
            rows |= {c: _not_run(c, f"{engine} had ended the process {MOST} times") for c in waiting if c.engine == engine}
            waiting = [c for c in waiting if c.engine != engine]
    return [rows.get(c) or _not_run(c, "no time left") for c in cases]


def _measured(cases: list[Case], device: str, folder: Path, seconds: float) -> tuple[list[dict], Ended]:
    """Rows of the first cases, as far as one process came, and how it ended."""
    job, out = folder / "job.json", folder / "rows.jsonl"
    out.write_text("")
    told = {"until": time.time() + seconds - GRACE, "patience": PATIENCE * seconds}
    job.write_text(json.dumps({"device": device, "cases": [asdict(c) for c in cases], "out": str(out), **told}))
    ended = command.python(["-m", "benchmarks.gpu.worker", str(job)], seconds)
    whole = [x for x in out.read_text().splitlines(keepends=True) if x.endswith("\n")]
    return [json.loads(x) for x in whole], ended


def _silent(case: Case, ended: Ended) -> dict:
    """The row of a case in which the process was stopped, or crashed."""
    if ended.code is None or HUNG in ended.output:
        return row("scores", case.name, "stopped", f"not finished when its process was stopped after {ended.seconds:.0f} s", **asdict(case))
    return row("scores", case.name, "failed", ended.how, **asdict(case))


def _not_run(case: Case, why: str) -> dict:
    return row("scores", case.name, "not run", why, **asdict(case))
