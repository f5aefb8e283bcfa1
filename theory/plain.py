"""Output where there are few characters: a terminal or a pipe of ASCII gets the nearest there are, and never an error."""

import codecs
import sys

NAME = "theory.plain"
NEAREST = {"±": "+-", "→": "->", "²": "^2", "×": "x", "–": "-", "—": "-", "…": "...", "σ": "sigma", "α": "alpha", "λ": "lambda", "•": "*"}


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """What to write instead of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(NEAREST.get(c, "?") for c in error.object[error.start : error.end])
    return text, error.end


def make_printable() -> None:
    """Let standard output and errors take any text, whatever their encoding: `NEAREST` for what it lacks, or a question mark."""
    codecs.register_error(NAME, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=NAME)
