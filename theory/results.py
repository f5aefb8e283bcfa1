"""Result directories: written atomically, resumed part by part, never over something foreign.

A directory belongs to us when its ``report.json`` (finished) or ``progress.json`` (under way)
names our format. Both hold everything that determines the numbers: configuration, data
fingerprint and versions. Parts of an unfinished run live in ``parts/`` and go when it is finished.
"""

import json
import os
import platform
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy
import scipy
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import theory
from theory.errors import InputError
from theory.lock import contents

FORMAT = "theory.solve/1"
REPORT, PROGRESS, PARTS = "report.json", "progress.json", "parts"


def versions() -> dict[str, str]:
    """Versions of everything numerical."""
    return {
        "theory": theory.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }


class ResultDirectory:
    """A directory that collects the parts of one run.

    Args:
        path: The directory; made if missing.
        identity: Everything that determines the numbers, as JSON values.
        resume: Whether to keep the parts an interrupted run of the same identity left there.
        format: Name of what is written there: directories of another are foreign.

    Raises:
        InputError: If the directory can't be written, holds something that is not ours, or, with
            ``resume``, belongs to a run with another identity.
    """

    def __init__(self, path: str | Path, identity: dict, resume: bool, format: str = FORMAT) -> None:
        self.path, self.format = Path(path), format
        self.require_own(self.path, format)
        found = _identity(self.path, format)
        if resume and found is not None and found != identity:
            names = [key for key in identity if found.get(key) != identity[key]]
            raise InputError(
                f"--resume in {self.path}, of a run with another {', '.join(names)}",
                "the options, data and versions of the interrupted run",
                "repeat its command, or choose another --out",
            )
        try:
            if not resume:
                shutil.rmtree(self.path / PARTS, ignore_errors=True)
            (self.path / PARTS).mkdir(parents=True, exist_ok=True)
            write_json(self.path / PROGRESS, {"format": format, "identity": identity})
        except OSError as error:
            raise InputError(
                f"output directory {self.path} ({error.strerror})", "a directory that can be written", "choose another --out"
            ) from error

    @classmethod
    def require_own(cls, path: Path, format: str = FORMAT) -> None:
        """Refuse a directory that holds something that is not ours.

        Raises:
            InputError: If it does, or is a file, or can't be read.
        """
        try:
            if not path.exists():
                return
            if not path.is_dir():
                raise InputError(f"output directory {path}, which is a file", "a directory", "choose another --out")
            occupied = any(contents(path))
        except OSError as error:
            raise InputError(f"output directory {path} ({error.strerror})", "a readable directory", "choose another --out") from error
        if occupied and _identity(path, format) is None:
            raise InputError(
                f"output directory {path}, which holds other files",
                "a new or empty directory, or one this command made",
                "choose another --out",
            )

    def part(self, name: str) -> tuple[dict, dict[str, Tensor]] | None:
        """A part saved earlier, or None."""
        stem = self._stem(name)
        if not stem.with_suffix(".json").exists():  # written last: its presence means the part is whole
            return None
        return json.loads(stem.with_suffix(".json").read_text()), load_file(stem.with_suffix(".safetensors"))

    def save_part(self, name: str, values: dict, tensors: dict[str, Tensor]) -> None:
        """Save a part; it is there whole or not at all."""
        stem = self._stem(name)
        write_tensors(stem.with_suffix(".safetensors"), tensors)
        write_json(stem.with_suffix(".json"), values)

    def _stem(self, name: str) -> Path:
        """Where a part lies, without an extension: names may have points, and paths in them."""
        return self.path / PARTS / name.replace("/", "%2F").replace(".", "%2E")

    def clear(self, folder: str, keep: Collection[str]) -> None:
        """Remove what an earlier run left in a folder, but for files of these names."""
        for file in (self.path / folder).glob("*"):
            if file.stem not in keep:
                file.unlink()
        if not keep and (self.path / folder).is_dir():
            (self.path / folder).rmdir()

    def finish(self, report: dict, tensors: dict[str, Tensor]) -> None:
        """Write the report and all tensors, and drop the parts."""
        identity = json.loads((self.path / PROGRESS).read_text())["identity"]
        write_tensors(self.path / "samples.safetensors", tensors)
        write_json(self.path / REPORT, {"format": self.format, "identity": identity, **report})
        (self.path / PROGRESS).unlink()
        shutil.rmtree(self.path / PARTS)


def begun(path: Path, format: str = FORMAT) -> dict | None:
    """The identity of an unfinished run in a directory, or None if there is none."""
    return _identity(path, format) if (path / PROGRESS).is_file() else None


def _identity(path: Path, format: str) -> dict | None:
    """The identity of the run that wrote a directory, or None if none of ours did."""
    for name in (PROGRESS, REPORT):
        try:
            content = json.loads((path / name).read_text())
            if content.get("format") == format:
                return content["identity"]
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return None


def prepare_file(path: Path, format: str) -> None:
    """Make sure, before hours of work, that a JSON file of that format can be written there.

    Raises:
        InputError: If it is a directory, or something else than such a file, or can't be written.
    """
    if path.is_dir():
        raise InputError(f"--out {path}, a directory", "a file", "add a name, such as result.json")
    try:
        if path.exists() and json.loads(path.read_text()).get("format") != format:
            raise ValueError
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise InputError(f"--out {path} ({error.strerror})", "a file that can be written", "choose another --out") from error
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"--out {path}, which holds something else", "a new file, or one this command wrote", "choose another --out"
        ) from error


def read_json(path: Path) -> dict:
    """A JSON file that we wrote.

    Raises:
        InputError: If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"file {path} ({type(error).__name__})", "a whole JSON file", "remove it and repeat the command") from error


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically, as safetensors."""
    partial = path.with_name(path.name + ".partial")
    # Through bytes, so that the file gets the permissions of any other: safetensors' own are for the user alone.
    partial.write_bytes(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}))
    os.replace(partial, path)
