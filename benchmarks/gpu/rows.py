"""Rows of the result: one for each thing that was measured, refused, stopped, or not run at all.

A row says its ``part``, its ``name``, its ``status`` and, unless all went well, a ``message`` in one line:

- ``ok``: measured, and right;
- ``failed``: an error, a crash, or a wrong result;
- ``stopped``: not finished in its time;
- ``refused``: what the package says it does not do, such as an engine for CPUs asked for on a card;
- ``not run``: there was no time, nothing to run it on, or it was not asked for.
"""

BAD = ("failed", "stopped")
LENGTH = 300  # characters of a message


def row(part: str, name: str, status: str, message: str = "", **numbers) -> dict:
    """A row with these numbers."""
    told = {"message": line(message)} if message else {}
    return {"part": part, "name": name, "status": status, **told, **numbers}


def line(text: str) -> str:
    """A text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[: LENGTH - 3] + "..."


def explained(error: BaseException) -> str:
    """An error in one line."""
    return line(f"{type(error).__name__}: {error}")
