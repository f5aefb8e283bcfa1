"""The parts that run the package's own commands: training, comparing, solving, and the tests that need the device.

Each takes the sizes, the device, a folder to write to and the seconds it has, and returns rows.
"""

import re
import time
from pathlib import Path

from benchmarks.gpu import command
from benchmarks.gpu.command import Ended
from benchmarks.gpu.outcomes import outcomes
from benchmarks.gpu.rows import row
from benchmarks.gpu.sizes import Sizes

DATA = ["--dataset", "toy"]
LEAST = 3.0  # seconds with which a command is worth starting


def train(sizes: Sizes, device: str, folder: Path, seconds: float) -> list[dict]:
    """Train every network for some steps; one that hangs leaves half of the time of the others."""
    end = time.monotonic() + seconds
    rows = []
    for number, name in enumerate(sizes.networks):
        left = end - time.monotonic()
        if left < LEAST:
            rows.append(row("train", name, "not run", "no time left"))
            continue
        out = folder / "train" / name
        arguments = ["-m", "empirical.train", *DATA, "--model", name, "--device", device, *sizes.train, "--out", str(out)]
        ended = command.python(arguments, min(left, max(2 * left / (len(sizes.networks) - number), LEAST)))
        whole = ended.code == 0 and (out / "checkpoint.safetensors").is_file()
        rows.append(_told("train", name, ended, whole, steps=_option(sizes.train, "--steps"), ms_per_step=_step(ended.output)))
    return rows


def compare(sizes: Sizes, device: str, folder: Path, seconds: float) -> list[dict]:
    """Hold a network that was trained against the score of a CNN."""
    network = next((n for n in ("attention", *sizes.networks) if (folder / "train" / n / "checkpoint.safetensors").is_file()), None)
    if network is None:
        return [row("compare", "network", "not run", "no network was trained")]
    if seconds < LEAST:
        return [row("compare", network, "not run", "no time left")]
    out = folder / "compare.json"
    models = [str(folder / "train" / network), "equivariant_local"]
    ended = command.python(["-m", "empirical.compare", *models, *DATA, "--device", device, *sizes.compare, "--out", str(out)], seconds)
    return [_told("compare", network, ended, ended.code == 0 and out.is_file())]


def solve(sizes: Sizes, device: str, folder: Path, seconds: float) -> list[dict]:
    """The main job. Its exit code 1 with a whole report says that so short a run was not certified, which is no fault."""
    if seconds < LEAST:
        return [row("solve", "toy", "not run", "no time left")]
    out = folder / "solve"
    ended = command.python(["-m", "theory.solve", *DATA, "--device", device, *sizes.solve, "--out", str(out)], seconds)
    whole = ended.code in (0, 1) and (out / "report.json").is_file()
    return [_told("solve", "toy", ended, whole, certified=ended.code == 0 if whole else None)]


def tests(sizes: Sizes, device: str, folder: Path, seconds: float) -> list[dict]:
    """The tests that need the device, one after another: how many passed, and the names of the others."""
    if seconds < LEAST:
        return [row("tests", "pytest", "not run", "no time left")]
    options = ["-v", "--color=no", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder / 'tests'}"]
    ended = command.python(["-m", "pytest", *options, *sizes.tests], seconds)
    found = outcomes(ended.output)
    counts = {"passed": found.passed, "failed": len(found.failed), "skipped": found.skipped, "failing": found.failed}
    name = " ".join(["pytest", *sizes.tests])
    if ended.code is not None and ended.code >= 0 and found.failed:
        return [row("tests", name, "failed", f"{len(found.failed)} failed: {', '.join(found.failed)}", seconds=ended.seconds, **counts)]
    told = _told("tests", name, ended, ended.code == 0, **counts)
    if found.under_way and ended.code not in (0, 1):
        told |= {"under_way": found.under_way}
    return [told]


def _told(part: str, name: str, ended: Ended, whole: bool, **numbers) -> dict:
    """The row of a command; what it did not tell is left out."""
    numbers = {k: v for k, v in numbers.items() if v is not None}
    if ended.code is None:
        return row(part, name, "stopped", ended.how, seconds=ended.seconds, **numbers)
    if not whole:
        return row(part, name, "failed", ended.how, seconds=ended.seconds, **numbers)
    return row(part, name, "ok", seconds=ended.seconds, **numbers)


def _option(arguments: list[str], name: str) -> int:
    return int(arguments[arguments.index(name) + 1])


def _step(output: str) -> float | None:
    """Milliseconds of a step as training last printed them, by then without its start."""
    found = re.findall(r"\(([\d.]+) ms a step\)", output)
    return float(found[-1]) if found else None
