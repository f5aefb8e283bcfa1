"""The five models of the toy study: network, theory, and how both are called."""

from typing import NamedTuple


class ToyModel(NamedTuple):
    """A network of the toy study and its theory."""

    network: str
    theory: str
    title: str


MODELS = (
    ToyModel("cnn", "els", "CNN"),
    ToyModel("literal", "literal", "literal attention"),
    ToyModel("top1", "top1_identity", "top-1 attention"),
    ToyModel("identity", "identity", "identity attention"),
    ToyModel("attention", "full", "full attention"),
)
POSTER_ROWS = tuple(m for m in MODELS if m.network != "literal")
