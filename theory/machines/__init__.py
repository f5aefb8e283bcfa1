"""Closed-form denoisers, one file each: what the model may see decides its posterior.

- `Ideal` sees the image, and compares it with training images.
- `Equivariant` sees the image, and compares it with all circular shifts of training images.
- `Local` sees a patch and its place, and compares it with training patches at the same place.
- `EquivariantLocal` sees a patch (and the border in it), and compares it with training patches everywhere (of the same border class).
- `Gaussian`, `Wiener` and `Mixture` know means and covariances of the training set alone.
- `Nearest` and `Smoothed` are changes of `Ideal`: to the nearest images, and to the mean over noisy copies of the point.
- `PcaLocal` and `PatchSet` compare sets of coordinates that are learnt from the data, and patches that overlap.

The page "The field" of the documentation compares them. A new machine is one file with a subclass of `AnalyticDenoiser` (sums over
candidates) or `ClosedForm` (anything else), and one entry in `MACHINES`.
"""

from theory.machines.base import AnalyticDenoiser
from theory.machines.closed import ClosedForm
from theory.machines.equivariant import Equivariant
from theory.machines.equivariant_local import EquivariantLocal
from theory.machines.gaussian import Gaussian
from theory.machines.ideal import Ideal
from theory.machines.local import Local
from theory.machines.mixture import Mixture
from theory.machines.nearest import Nearest
from theory.machines.patch_set import PatchSet
from theory.machines.pca_local import PcaLocal
from theory.machines.smoothed import Smoothed
from theory.machines.wiener import Wiener

MACHINES: dict[str, type[ClosedForm]] = {
    m.name: m for m in (Ideal, Equivariant, Local, EquivariantLocal, Gaussian, Wiener, Mixture, Nearest, Smoothed, PcaLocal, PatchSet)
}

__all__ = [
    "MACHINES",
    "AnalyticDenoiser",
    "ClosedForm",
    "Equivariant",
    "EquivariantLocal",
    "Gaussian",
    "Ideal",
    "Local",
    "Mixture",
    "Nearest",
    "PatchSet",
    "PcaLocal",
    "Smoothed",
    "Wiener",
]
