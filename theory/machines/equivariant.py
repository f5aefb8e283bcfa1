r"""The equivariant score (ES): a translation-equivariant model that sees the whole image.

.. math:: E[x_0 | x_t] = \sum_{n, s} W_{n,s}\, T_s x_n, \quad
          W_{n,s} \propto w_n \exp\big(-\|x_t - \alpha_t T_s x_n\|^2 / 2\sigma_t^2\big)

over all circular translations ``T_s``. Kamb & Ganguli, arXiv 2412.20292, eq. 5-6. It is the ideal
score of the training set with all its shifts; its samples are shifted training images.
"""

from theory import meetings
from theory.machines.base import AnalyticDenoiser
from theory.meetings import Meetings
from theory.patches import Size


class Equivariant(AnalyticDenoiser):
    """The equivariant denoiser. Arguments of `AnalyticDenoiser`; ``engine="auto"`` sums over shifts by Fourier transforms."""

    name = "equivariant"
    per_pixel = False

    def meetings(self, size: Size) -> Meetings:
        return meetings.shifts(size)
