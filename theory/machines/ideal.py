r"""The ideal score (IS): no constraint, posterior over whole training images.

.. math:: E[x_0 | x_t] = \sum_n W_n x_n, \quad
          W_n \propto w_n \exp\big(-\|x_t - \alpha_t x_n\|^2 / 2\sigma_t^2\big)

Kamb & Ganguli, arXiv 2412.20292, eq. 3-4. Its samples are training images.
"""

from torch import Tensor

from theory import meetings
from theory.machines.base import AnalyticDenoiser
from theory.meetings import Meetings
from theory.patches import Size


class Ideal(AnalyticDenoiser):
    """The ideal denoiser. Arguments of `AnalyticDenoiser`."""

    name = "ideal"

    def meetings(self, size: Size) -> Meetings:
        return meetings.images(size)

    def centre(self, mean: Tensor) -> Tensor:
        return mean
