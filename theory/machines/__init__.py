"""Closed-form scores, one file each: what the model may see decides its posterior.

| machine | sees | compares with |
|---|---|---|
| `Ideal` | the image | training images |
| `Equivariant` | the image | all circular shifts of training images |
| `Local` | a patch and its place | training patches at the same place |
| `EquivariantLocal` | a patch (and the border in it) | training patches everywhere (of the same border class) |

A new machine is one file with a subclass of `AnalyticDenoiser` and one entry in `MACHINES`.
"""

from theory.machines.base import AnalyticDenoiser
from theory.machines.equivariant import Equivariant
from theory.machines.equivariant_local import EquivariantLocal
from theory.machines.ideal import Ideal
from theory.machines.local import Local

MACHINES: dict[str, type[AnalyticDenoiser]] = {m.name: m for m in (Ideal, Equivariant, Local, EquivariantLocal)}

__all__ = ["MACHINES", "AnalyticDenoiser", "Equivariant", "EquivariantLocal", "Ideal", "Local"]
