"""Commands in processes of their own, which can crash, hang or flood the screen without harm."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code, negative after a signal; None if it was stopped when its time was over.
        output: What it printed.
        seconds: How long it took, with the start of the interpreter.
    """

    code: int | None
    output: str
    seconds: float

    @property
    def how(self) -> str:
        """The end in words, with the last line that was printed."""
        last = next((x for x in reversed(self.output.splitlines()) if x.strip()), "nothing printed")
        if self.code is None:
            return f"stopped after {self.seconds:.0f} s, its share of the time; last: {last}"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}; last: {last}"
        return f"exit code {self.code}; last: {last}"


def python(arguments: list[str], seconds: float) -> Ended:
    """Run ``python ARGUMENTS`` in the root of the package for at most so long.

    Output goes to a file: a pipe that a grandchild holds open would outlast the time. Stopped, it ends with all processes it started.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return Ended(code, output.read().decode(errors="replace"), time.monotonic() - start)
