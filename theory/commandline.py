"""What all commands share: errors in one line, the device, where they print, the default directory."""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from theory.errors import InputError, InputWarning
from theory.plain import PlainConsole, make_printable

WIDTH = 150  # characters of a line where there is no terminal


class Parser(argparse.ArgumentParser):
    """Errors in one line, and help that any terminal can show."""

    def __init__(self, *args, **options) -> None:
        make_printable()
        super().__init__(*args, **options)

    @classmethod
    def of(cls, module: str, description: str) -> "Parser":
        """The parser of ``python -m MODULE``, whose help shows the defaults."""
        return cls(prog=f"python -m {module}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def add_device(self) -> None:
        """The option that `find_device` reads."""
        self.add_argument("--device", default="auto", help="auto, cpu or cuda")

    def error(self, message: str):
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def guarded(work: Callable[[], int], full: str, interrupted: str) -> int:
    """Do the work of a command, and turn what may go wrong into one line and an exit code.

    Args:
        work: Returns the exit code.
        full: What to do when files can't be written.
        interrupted: What remains when interrupted.

    Returns:
        The exit code: that of ``work``, 2 for bad input or files, 130 when interrupted.
    """
    make_printable()
    try:
        with warnings_in_one_line():
            return work()
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":  # processes started together make the same mistake
            print(f"error: {error}", file=sys.stderr)
    except (MemoryError, torch.OutOfMemoryError):
        print("error: not enough memory: choose smaller numbers", file=sys.stderr)
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        print("error: not enough memory: choose smaller numbers", file=sys.stderr)
    except ConnectionError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}: {full}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
    return 2


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print each `InputWarning` as one line, once; other warnings as ever."""
    told: set[str] = set()

    def show(message, category, *rest, **options) -> None:
        if not issubclass(category, InputWarning):
            before(message, category, *rest, **options)
        elif str(message) not in told and os.environ.get("RANK", "0") == "0":
            told.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        before, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", InputWarning)
        yield


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the other processes that ``torchrun`` started, if it did, on the device asked for."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    where = find_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def several() -> bool:
    """Whether there are other processes to divide the work with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not several() or dist.get_rank() == 0


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


def console_of(width: int = WIDTH) -> PlainConsole:
    """Where a command prints: as wide as the terminal, or of ``width`` characters where there is none."""
    return PlainConsole(width=None if sys.stdout.isatty() else width)


def live(console: Console, *columns: ProgressColumn) -> Progress:
    """Progress on a terminal, gone when the work is done; elsewhere only the lines that are printed."""
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def default_out(dataset: str) -> Path:
    """``runs/`` and the specification, so that other data never replace a result."""
    return Path("runs") / re.sub(r"[^\w.=-]+", "_", dataset)
