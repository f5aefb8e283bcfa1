"""How far a long wait has come, on standard error: a bar on a terminal, a line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from theory.plain import PlainConsole

MANY = 1000  # files from which on a wait is shown
PAUSE = 10.0  # seconds between lines


def console() -> PlainConsole:
    """Standard error, of the first of processes that were started together."""
    return PlainConsole(stderr=True, quiet=os.environ.get("RANK", "0") != "0", highlight=False)


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many files are done, out of a total if that is known."""
    out = console()
    within = isinstance(sys.stderr, FileProxy)  # a command shows a bar already: lines go above it
    of = "" if total is None else f" of {total:,}"
    name = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a long path gives way to the numbers
    columns = (TextColumn("{task.description}", markup=False, table_column=name), BarColumn(), TextColumn("{task.completed:,}" + of))
    progress = Progress(*columns, console=out, transient=True, expand=True, disable=within or not out.is_terminal)
    task, said = progress.add_task(what, total=total), time.monotonic()

    def done(count: int) -> None:
        nonlocal said
        if count < MANY:
            return
        progress.update(task, completed=count)
        progress.start()  # draws at once: however short the rest, the bar was seen with a count
        if progress.disable and time.monotonic() - said > PAUSE:
            said = time.monotonic()
            out.print(f"{what}: {count:,}{of}", markup=False, soft_wrap=True)

    try:
        yield done
    finally:
        progress.stop()
