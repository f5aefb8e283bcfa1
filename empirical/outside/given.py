"""The specification of a network from elsewhere, taken apart."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from theory.errors import InputError


@dataclass(frozen=True)
class Given:
    """What a specification says, and what the network is for.

    Attributes:
        spec: The whole, for errors.
        path: After the first colon: a file, a folder, or ``FILE.py:NAME``.
        shape: ``(C, H, W)`` of the images.
        options: What follows after commas.
        device: Where it works.
    """

    spec: str
    path: str
    shape: tuple[int, int, int]
    options: Mapping[str, str] = field(default_factory=dict)
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, spec: str, shape: tuple[int, int, int], device: str | torch.device = "cpu") -> "Given":
        """Take a specification apart; commas only separate before ``key=``.

        Raises:
            InputError: If there is no path, or an option occurs twice.
        """
        _, _, rest = spec.partition(":")
        path, *options = re.split(r",(?=\w+=)", rest)
        pairs = [option.split("=", 1) for option in options]
        given = dict(pairs)
        if not path:
            raise InputError(f"network {spec!r}", "a path after the colon", "add it")
        if len(given) < len(pairs):
            raise InputError(f"network {spec!r}", "each option once", "leave one out")
        return cls(spec, path, tuple(shape), given, device)

    def only(self, *known: str) -> None:
        """Refuse other options than these."""
        for name in self.options:
            if name not in known:
                raise InputError(f"option {name!r} of {self.spec!r}", " or ".join(f"{k}=" for k in known), "correct or leave it out")

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        """An option that is one of some words."""
        value = self.options.get(name, default)
        if value not in known:
            raise InputError(f"{name}={value} of {self.spec!r}", " or ".join(known), "choose one of these")
        return value

    def number(self, name: str) -> int | None:
        """An option that is a whole number, None where it is not given."""
        value = self.options.get(name)
        if value is None:
            return None
        if not value.isdecimal():
            raise InputError(f"{name}={value} of {self.spec!r}", "a whole number", "correct it")
        return int(value)

    def file(self) -> Path:
        """The path, as a file that exists."""
        path = Path(self.path)
        if not path.is_file():
            raise InputError(f"file {path}{', a folder' if path.is_dir() else ', which does not exist'}", "a file", "correct the path")
        return path
