"""What all commands share: errors in one line, the device, the default directory."""

import argparse
import re
from pathlib import Path

import torch

from theory.errors import InputError


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str):
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def find_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is some), ``cpu`` or ``cuda``.

    Raises:
        InputError: If it is none of these, or there is no CUDA.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name!r}", "'auto', 'cpu' or 'cuda'", "see --help")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda", "a CUDA device that torch can use", "run with --device cpu, or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def default_out(dataset: str) -> Path:
    """``runs/`` and the specification, so that other data never replace a result."""
    return Path("runs") / re.sub(r"[^\w.=-]+", "_", dataset)
