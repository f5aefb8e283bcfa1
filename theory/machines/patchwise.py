"""What the machines that see patches share: the size of the patch, over time or several at once."""

from collections.abc import Sequence
from numbers import Integral

import torch

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.engines import Case, choose
from theory.errors import InputError
from theory.machines.base import AnalyticDenoiser
from theory.noise import Schedule
from theory.patches import PatchSchedule, PatchSize, Size, check_border
from theory.types import BatchLabels, Coefficients, Images, Times


class PatchDenoiser(AnalyticDenoiser):
    """A machine every pixel of which sees a patch.

    Args:
        data, schedule, engine, memory, rtol, distributed: As in `AnalyticDenoiser`.
        patch_size: Odd number of pixels, a pair ``(height, width)``, a list of sizes over equal
            intervals of t, or a `PatchSchedule`.
        border: ``"zeros"`` (patches are cut off) or ``"circular"`` (patches wrap).

    Raises:
        InputError: If the patch size or the border is not one of these.
    """

    settings = ("patch_size", "border")
    per_pixel = True

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        patch_size: PatchSize,
        border: str = "zeros",
        **options,
    ) -> None:
        self.patch_sizes = PatchSchedule.of(patch_size)
        self.border = check_border(border)
        super().__init__(data, schedule, **options)

    @property
    def shape(self) -> Size:
        """Height and width of the images."""
        return self.data.images.shape[-2], self.data.images.shape[-1]

    def patch_size(self, t: float) -> Size:
        return self.patch_sizes(t)

    def check_size(self, size: Size) -> None:
        """Refuse patches that the machine has no use for."""

    def sweep(self, x_t: Images, t: Times, sizes: Sequence[Integral | Size], label: BatchLabels | None = None) -> list[Posterior]:
        """The posteriors of the same noisy images for several patch sizes, whatever the machine's own is.

        Where sums are made by windows (on the CPU, ``rtol=0``), training images are read and differences of pixels are taken once for all
        sizes; the result is that of one machine for each size.

        Args:
            x_t: Noisy images with shape ``(B, C, H, W)``, float32 or float64.
            t: Time in (0, 1], with shape ``()`` or ``(B,)``.
            sizes: List of odd numbers of pixels or pairs ``(height, width)``; ``(3, 5)`` itself is two sizes.
            label: Restrict the training set to a class, with shape ``()`` or ``(B,)``.

        Returns:
            A posterior for each size, in the order of ``sizes``.

        Raises:
            InputError: If shapes, times, sizes or labels do not fit, or ``sigma_t`` is 0.
        """
        if not isinstance(sizes, list | tuple | range) or not sizes:
            raise InputError(f"patch sizes {sizes!r}", "a list of at least one", "give numbers of pixels or pairs, such as [3, 5, (7, 3)]")
        windows = [_one(size) for size in sizes]
        for window in windows:
            self.check_size(window)
        alpha, sigma, kinds = self._asked(x_t, t, label)
        classes = [label_ for label_, _ in kinds]
        found: list[list[Posterior]] = [[] for _ in windows]
        order = []
        for kind in dict.fromkeys(classes):
            rows = [i for i, other in enumerate(classes) if other == kind]
            order += rows
            cases = [self.case(kind, size, x_t) for size in windows]
            for parts, part in zip(found, self._sweep(cases, x_t[rows], alpha[rows], sigma[rows]), strict=True):
                parts.append(part)
        back = torch.tensor(order, device=x_t.device).argsort()
        return [Posterior(*(torch.cat(field)[back] for field in zip(*parts, strict=True))) for parts in found]

    def _sweep(self, cases: list[Case], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> list[Posterior]:
        """Together where one engine sums all sizes, else one by one."""
        engines = [choose(case, self.engine).engine for case in cases]
        if self.rtol > 0 or any(engine is not engines[0] for engine in engines):
            return [self._posterior(case, x_t, alpha, sigma) for case in cases]
        states = engines[0].sweep(cases, x_t, alpha, sigma)
        return [self._told(case, engines[0], state, x_t, sigma) for case, state in zip(cases, states, strict=True)]


def _one(size) -> Size:
    """A size of a sweep, which can't change over time."""
    if isinstance(size, list | PatchSchedule):
        raise InputError(f"patch size {size!r} in a sweep", "odd numbers of pixels or pairs", "give one size, whatever the time")
    return PatchSchedule.of(size).sizes[0]
