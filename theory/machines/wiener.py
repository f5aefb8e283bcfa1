r"""The optimal linear denoiser under a constraint: the linear shadow of ES, LS and ELS.

Of all affine functions of what a pixel sees, ``f(Phi) = b + W Phi``, the one of least squared error solves the normal equations

.. math:: W = \alpha_t \mathrm{Cov}(x_0(p), \Phi^0) \big(\alpha_t^2 \mathrm{Cov}(\Phi^0) + \sigma_t^2 I\big)^{-1}, \qquad
          b = E[x_0(p)] - \alpha_t W E[\Phi^0]

with ``Phi^0`` the clean window. What the expectations run over is the constraint (derived here from the definition; Wiener 1949):

- *equivariant*, the whole image (``patch_size=None``; ES): over images and all circular shifts. Diagonal in Fourier space, where ``W`` at
  each frequency is a ``C x C`` matrix made of the power spectrum.
- *equivariant and local* (ELS): with ``border="circular"`` over images and pixels: one linear convolution, with circular padding. With
  ``border="zeros"`` over images and the pixels of a border class: one kernel and one bias for each class, as for ELS.
- *local* (``equivariant=False``; LS): over images, for every pixel by itself. A patch that covers the image gives `Gaussian`.

A pixel that a wrapped window meets twice counts once: its noise is the same both times.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.errors import InputError
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm
from theory.machines.linear import Kernels, Stationary, windows
from theory.machines.lowrank import covariance, mean_of, require_memory
from theory.noise import Schedule
from theory.patches import PatchSchedule, PatchSize, Size, check_border
from theory.types import Coefficients, Images


class Wiener(ClosedForm):
    """The optimal linear denoiser. It has no evidence: nothing is said of the distribution but its mean and covariance.

    Args:
        data, schedule, memory: As in `ClosedForm`.
        patch_size: Odd number of pixels, a pair ``(height, width)``, a list of sizes over equal intervals of t, or a
            `PatchSchedule`; None for the whole image.
        border: ``"zeros"`` or ``"circular"``; the whole image wraps around. If None, zeros with a patch size.
        equivariant: Whether all places are treated alike.

    Raises:
        InputError: If an argument is not one of these, or the covariance of the pixels does not fit into ``memory``.
    """

    name = "wiener"
    settings = ("patch_size", "border", "equivariant")
    differentiable = True

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        patch_size: PatchSize | None = None,
        border: str | None = None,
        equivariant: bool = True,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(data, schedule, memory=memory)
        self.patch_sizes = None if patch_size is None else PatchSchedule.of(patch_size)
        self.border = check_border(border or ("circular" if patch_size is None else "zeros"))
        self.equivariant = checks.truth(equivariant, "equivariant")
        if patch_size is None and (self.border == "zeros" or not equivariant):
            raise InputError(
                f"border={self.border!r}, equivariant={equivariant} without a patch size",
                "border='circular' and equivariant=True for whole images",
                "give a patch_size; one that covers the image from every pixel is the machine 'gaussian'",
            )

        self.stationary = equivariant and self.border == "circular"  # one convolution
        self.how = "a Fourier transform and back" if self.stationary else "a product for each set of pixels that share a kernel"

    def kind(self, label: int | None, t: float) -> tuple[int | None, Size | None]:
        return label, self.patch_sizes and self.patch_sizes(t)

    def _of_kind(self, kind: tuple[int | None, Size | None], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        apply = self._convolved if self.stationary else self._windowed
        levels, back = torch.stack([alpha, sigma]).unique(dim=1, return_inverse=True)
        out = torch.empty_like(x_t)
        for i, (a, s) in enumerate(levels.T):
            out = out.index_put(((back == i).nonzero()[:, 0],), apply(kind, x_t[back == i].double(), a, s).to(x_t))
        return Posterior(out)

    def _convolved(self, kind: tuple[int | None, Size | None], x: Images, alpha: Tensor, sigma: Tensor) -> Images:
        """Of images that wrap, at one noise level: a product for every frequency."""

        def fit() -> Stationary:
            chosen = self.data.select(kind[0])
            return Stationary.of(chosen.images, chosen.weights, kind[1])

        return self._once(kind, fit).to(x.device).filtered(x, alpha, sigma)

    def _windowed(self, kind: tuple[int | None, Size | None], x: Images, alpha: Tensor, sigma: Tensor) -> Images:
        """Of windows that are cut off, or have kernels of their own, at one noise level."""
        flat, pixels, parts = x.flatten(1), [], []
        for kernels in self._kernels(*kind):
            here = kernels.to(x.device)
            step = max(1, self.memory // (32 * here.places.numel()))
            parts.append(torch.cat([here.filtered(some, alpha, sigma) for some in flat.split(step)]))
            pixels.append(here.pixels.flatten())
        return torch.cat(parts, 2)[:, :, torch.cat(pixels).argsort()].reshape(x.shape)

    def _kernels(self, label: int | None, size: Size) -> Iterable[Kernels]:
        """All kernels of a class and size; kept where half of the memory is enough for them."""

        def moments() -> tuple[Tensor, Tensor]:
            chosen = self.data.select(label)
            dimension = chosen.images[0].numel()
            require_memory(16 * dimension**2, self.memory, f"the covariance of {dimension} numbers")
            weights = chosen.weights / chosen.weights.sum()
            mean = mean_of(chosen.images, weights)
            return mean, covariance(chosen.images, weights, mean)

        found = self._once(("windows", size), lambda: list(windows(tuple(self.data.images.shape[1:]), size, self.border, self.equivariant)))
        solved = (Kernels.of(*window, *self._once(("moments", label), moments)) for window in found)
        if sum(8 * len(pixels) * places.shape[2] ** 2 for pixels, places, _ in found) > self.memory // 2:
            return solved
        return self._once(("kernels", label, size), lambda: list(solved))
