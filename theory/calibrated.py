"""Patch sizes that were fitted to networks: published ones by name, own ones from a file.

The published schedules are those of Kamb & Ganguli (arXiv 2412.20292), from the paper's code: 20 sizes over
equal intervals of t, lowest noise first.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from theory.errors import InputError, choices
from theory.patches import PatchSchedule
from theory.results import write_json

FORMAT = "patch schedule/1"


@cache
def published() -> dict[str, PatchSchedule]:
    """All published schedules by name, such as ``CIFAR10_ResNet_zeros_conditional``."""
    content = json.loads((files("theory") / "published" / "kamb_ganguli.json").read_text())
    return {name: PatchSchedule.of(sizes) for name, sizes in content["schedules"].items()}


def patch_schedule(name: str) -> PatchSchedule:
    """A published schedule by name, or one from a file `save_patch_schedule` wrote.

    Raises:
        InputError: If it is neither.
    """
    if name in published():
        return published()[name]
    if not name.endswith(".json"):
        raise InputError(f"patch schedule {name!r}", f"{choices(published())}, or a .json file", "choose one of these")
    try:
        content = json.loads(Path(name).read_text())
        if content["format"] != FORMAT:
            raise KeyError("format")
        return PatchSchedule.of([tuple(size) for size in content["sizes"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"patch schedule {name} ({type(error).__name__})", "a file empirical.calibrate wrote", "calibrate again"
        ) from error


def save_patch_schedule(path: Path, schedule: PatchSchedule, source: dict) -> None:
    """Write a schedule and where it comes from, atomically."""
    write_json(path, {"format": FORMAT, "sizes": [list(size) for size in schedule.sizes], "source": source})
