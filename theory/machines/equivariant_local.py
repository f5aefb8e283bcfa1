r"""The equivariant local score (ELS): each pixel sees a patch, and does not know where it is.

.. math:: E[x_0(p) | \Phi_p] = \sum_{n, p'} W_{n,p'}\, x_n(p'), \quad
          W_{n,p'} \propto w_n \exp\big(-\|x_t[\Omega_p] - \alpha_t x_n[\Omega_{p'}]\|^2 / 2\sigma_t^2\big)

Kamb & Ganguli, arXiv 2412.20292, eq. 9-10. The optimum of a convolutional network:

- ``border="circular"``: patches of query and training images wrap; ``p'`` runs over all pixels.
- ``border="zeros"``: ``p'`` runs over the pixels of the same border class as ``p`` (sec. 3.4 and
  App. B.2), and pixels outside count nothing.
- ``border="circular", patches="interior"``: ``p'`` runs only over pixels whose patch fits inside
  the image, while the query wraps: the convention of the paper's published code.

With a ``group`` the model is also equivariant under flips or rotations ``g``, and the sum runs over the patches of all ``g x_n`` too: the
training set in all positions of the group (`theory.symmetry`; derived from the definition).
"""

from theory import meetings
from theory.data import augmented
from theory.data.imageset import ImageSet
from theory.errors import InputError, choices
from theory.machines.patchwise import PatchDenoiser
from theory.meetings import Meetings
from theory.noise import Schedule
from theory.patches import PatchSize, Size
from theory.symmetry import check_group

PATCHES = ("all", "interior")


class EquivariantLocal(PatchDenoiser):
    """The ELS machine.

    Args:
        data, schedule, engine, memory, rtol, distributed: As in `AnalyticDenoiser`.
        patch_size: Odd number of pixels, a pair ``(height, width)``, a list of sizes over equal
            intervals of t, or a `PatchSchedule`. It may exceed the image.
        border: ``"zeros"`` or ``"circular"``: how the network it stands for pads its images.
        patches: ``"all"`` training patches, or with a circular border those in the ``"interior"``.
        group: ``"flip"`` (left and right), ``"flips"`` (also up and down), ``"rotations"`` or ``"d4"``; None for translations alone.
            `data` is then the training set in all positions, in which `theory.provenance` counts images.

    Raises:
        InputError: If an argument is not one of these, ``"interior"`` patches don't fit, or the group changes the shape of images or
            patches.
    """

    name = "equivariant_local"
    settings = ("patch_size", "border", "patches", "group")

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        patch_size: PatchSize,
        border: str = "zeros",
        patches: str = "all",
        group: str | None = None,
        **options,
    ) -> None:
        self.patches, self.group = patches, group
        if patches not in PATCHES:
            raise InputError(f"patches={patches!r}", choices(PATCHES), "choose one of these")
        data = data if group is None else augmented(data, group)
        super().__init__(data, schedule, patch_size=patch_size, border=border, **options)
        if patches == "interior" and border == "zeros":
            raise InputError(
                "patches='interior' with border='zeros'",
                "border='circular'",
                "with zeros, border classes already say which patches count",
            )
        for size in self.patch_sizes.sizes:
            self.check_size(size)

    def check_size(self, size: Size) -> None:
        if self.group is not None:
            check_group(self.group, size, "patches")
        self.meetings(size)

    def meetings(self, size: Size) -> Meetings:
        if self.border == "zeros":
            return meetings.same_class(self.shape, size)
        return (meetings.inside if self.patches == "interior" else meetings.everywhere)(self.shape, size)
