"""Output where there are few characters: a terminal or a pipe of ASCII gets the nearest there are, and never an error."""

import codecs
import sys

from rich.console import Console
from rich.text import Text

NAME = "theory.plain"
NEAREST = {"±": "+-", "→": "->", "²": "^2", "×": "x", "–": "-", "—": "-", "…": ".", "σ": "sigma", "α": "alpha", "λ": "lambda", "•": "*"}


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


def printable(text: str, encoding: str) -> str:
    """A text in the characters of an encoding, as `make_printable` would write it."""
    codecs.register_error(NAME, _nearest)
    return text.encode(encoding, NAME).decode(encoding)


class PlainConsole(Console):
    """Prints in the characters there are, chosen before it lays out tables: their columns stay straight where one becomes two."""

    def render_str(self, text: str, **options) -> Text:
        return super().render_str(printable(text, self.encoding), **options)
