r"""The equivariant score (ES): a translation-equivariant model that sees the whole image.

.. math:: E[x_0 | x_t] = \sum_{n, s} W_{n,s}\, T_s x_n, \quad
          W_{n,s} \propto w_n \exp\big(-\|x_t - \alpha_t T_s x_n\|^2 / 2\sigma_t^2\big)

over all circular translations ``T_s``. Kamb & Ganguli, arXiv 2412.20292, eq. 5-6. It is the ideal
score of the training set with all its shifts; its samples are shifted training images.

With a ``group`` the model is also equivariant under flips or rotations ``g``, and the sum runs over all ``T_s g x_n``: the training set
in all positions of the group (`theory.symmetry`; derived from the definition, as eq. 5-6 are for translations).
"""

from theory import meetings
from theory.data import augmented
from theory.data.imageset import ImageSet
from theory.machines.base import AnalyticDenoiser
from theory.meetings import Meetings
from theory.noise import Schedule
from theory.patches import Size


class Equivariant(AnalyticDenoiser):
    """The equivariant denoiser; ``engine="auto"`` sums over shifts by Fourier transforms.

    Args:
        data, schedule, engine, memory, rtol, distributed: As in `AnalyticDenoiser`.
        group: ``"flip"`` (left and right), ``"flips"`` (also up and down), ``"rotations"`` or ``"d4"``; None for translations alone.
            `data` is then the training set in all positions, in which `theory.provenance` counts images.

    Raises:
        InputError: If there is no such group, or it changes the shape of the images.
    """

    name = "equivariant"
    settings = ("group",)

    def __init__(self, data: ImageSet, schedule: Schedule | None = None, *, group: str | None = None, **options) -> None:
        super().__init__(data if group is None else augmented(data, group), schedule, **options)

    def meetings(self, size: Size) -> Meetings:
        return meetings.shifts(size)
