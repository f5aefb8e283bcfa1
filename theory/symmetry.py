"""Groups of flips and rotations: what a model or a data set may be symmetric under, besides translations.

A group is a list of maps of images ``(..., H, W)``. Exact: pixels change places, and none is interpolated.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from theory.errors import InputError, choices
from theory.patches import Size

Map = Callable[[Tensor], Tensor]


def _map(turns: int, mirrored: bool) -> Map:
    """Mirror left and right, or not; then turn by so many right angles."""
    return lambda x: torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


GROUPS: dict[str, tuple[Map, ...]] = {
    "flip": (_map(0, False), _map(0, True)),  # left and right: what most networks are trained on
    "flips": (_map(0, False), _map(0, True), _map(2, True), _map(2, False)),  # left and right, up and down
    "rotations": tuple(_map(i, False) for i in range(4)),
    "d4": tuple(_map(i, mirrored) for mirrored in (False, True) for i in range(4)),
}
TURNING = ("rotations", "d4")  # swap rows and columns


def check_group(name: str, shape: Size, what: str) -> tuple[Map, ...]:
    """The maps of a group.

    Args:
        name: ``"flip"`` (left and right), ``"flips"`` (also up and down), ``"rotations"`` (right angles) or ``"d4"`` (all eight).
        shape: Height and width of what it must map to itself.
        what: Of what that is, for an error.

    Raises:
        InputError: If there is no such group, or the shape changes under it.
    """
    if name not in GROUPS:
        raise InputError(f"group {name!r}", choices(GROUPS), "choose one of these")
    if name in TURNING and shape[0] != shape[1]:
        raise InputError(
            f"group {name!r} with {what} of {shape[0]}x{shape[1]} pixels", "squares, which it maps to themselves", "use 'flip' or 'flips'"
        )
    return GROUPS[name]
