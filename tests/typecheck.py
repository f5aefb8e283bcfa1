"""The run-time type checker of the tests: an int is a float, as everywhere in Python's typing."""

import importlib.util
import sys
from pathlib import Path

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def import_unchecked(name: str) -> None:
    """Import a module without the hook, which would put a Python function around each of its compiled ones."""
    path = Path(__file__).parent.parent.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
