"""Families of attention networks: which of the four roles are played by one function.

A family maps each role to the name of a function and each function to what it returns: ``C``
numbers (a colour) or ``d`` numbers (an embedding). A new family is one entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from theory.errors import InputError, choices
from theory.stationarity.equations import Roles


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: Its name on the command line.
        ties: The function in each role ``h, q, k, v``.
        hard: Whether attention is the argmax (top-1).
        contains: Families whose every network it can imitate, exactly or as a limit; ``"els"`` stands
            for the network without attention.
    """

    name: str
    ties: Roles
    hard: bool = False
    contains: tuple[str, ...] = ()

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of its functions, in the order of the roles."""
        return tuple(dict.fromkeys(self.ties))

    @property
    def free(self) -> bool:
        """Whether values are a function of their own."""
        return self.ties.v != self.ties.h

    def width(self, function: str, channels: int, embedding: int) -> int:
        """How many numbers a function returns: ``channels`` where it is a local part or a value."""
        return channels if function in (self.ties.h, self.ties.v) else embedding

    def roles(self, values: Mapping[str, Tensor]) -> Roles:
        """The four roles from the values of the functions."""
        return Roles(*(values[name] for name in self.ties))

    def tied(self, roles: Roles) -> dict[str, Tensor]:
        """Terms of each function: the sum over the roles it plays."""
        total: dict[str, Tensor] = {}
        for name, term in zip(self.ties, roles, strict=True):
            total[name] = total[name] + term if name in total else term
        return total


SOFT = (
    Family("literal", Roles("z", "z", "z", "z")),
    Family("identity", Roles("c", "u", "u", "c"), contains=("els",)),
    Family("identity_free", Roles("h", "u", "u", "v"), contains=("els", "identity")),
    Family("full", Roles("h", "q", "k", "v"), contains=("els", "identity", "identity_free")),
)
TOP1 = tuple(
    Family(f"top1_{f.name}", f.ties, hard=True, contains=tuple(c if c == "els" else "top1_" + c for c in f.contains)) for f in SOFT
)
FAMILIES = {f.name: f for f in (*SOFT, *TOP1)}
DEFAULT = ("literal", "identity", "full")


def family(name: str) -> Family:
    """The family of that name."""
    if name not in FAMILIES:
        raise InputError(f"family {name!r}", choices(FAMILIES), "choose one of these")
    return FAMILIES[name]
