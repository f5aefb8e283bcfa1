r"""The local score (LS): each pixel sees a patch, and knows where it is.

.. math:: E[x_0(p) | \Phi_p] = \sum_n W_n x_n(p), \quad
          W_n \propto w_n \exp\big(-\|x_t[\Omega_p] - \alpha_t x_n[\Omega_p]\|^2 / 2\sigma_t^2\big)

with the patch ``Omega_p`` around pixel ``p`` cut off at the border (``zeros``) or wrapped
(``circular``). Kamb & Ganguli, arXiv 2412.20292, eq. 7-8. A patch that covers the image from every
pixel gives the ideal score.
"""

from torch import Tensor

from theory import meetings
from theory.machines.patchwise import PatchDenoiser
from theory.meetings import Meetings
from theory.patches import Size


class Local(PatchDenoiser):
    """The local denoiser. Arguments of `PatchDenoiser`."""

    name = "local"

    def meetings(self, size: Size) -> Meetings:
        return meetings.in_place(self.shape, size, self.border)

    def centre(self, mean: Tensor) -> Tensor:
        return mean
