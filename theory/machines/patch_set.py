r"""Patch set posterior composites (PSPC): posterior means of patches, averaged where patches overlap.

.. math:: E_S[x_0 | x_t] = \sum_n W_n^S\, x_n[S], \quad
          W_n^S \propto w_n \exp\big(-\|x_t[S] - \alpha_t x_n[S]\|^2 / 2 \sigma_t^2\big), \qquad
          f(p) = \frac{1}{|\{S \ni p\}|} \sum_{S \ni p} E_S[x_0(p) | x_t]

(Niedoba, Zwartsenberg, Murphy & Wood, "Towards a Mechanistic Explanation of Diffusion Model Generalization", arXiv 2411.19339; formulas
as in its code, plai-group/pspc). Patches are compared with training patches at the same place, as by LS, of which each pixel takes the
mean over all patches that hold it, rather than the one around it.

- ``sets="square"`` (PSPC-Square): all squares of the patch size that lie inside the image.
- ``sets="flexible"`` (PSPC-Flex): for every pixel, the pixels that together have the given share of its sensitivity: the smallest are left
  out, as long as they add up to less than the rest. The paper takes sensitivities of networks (mean absolute gradients, ``heatmap=``);
  without one, they are those of the optimal linear denoiser, whose gradient is the Wiener filter. The pixel itself is always there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.engines import Training
from theory.engines.masked.sets import Sets
from theory.engines.masked.sums import LEAST, Masked, Pass, Settled, settled
from theory.errors import InputError, choices
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm
from theory.machines.lowrank import fit, require_memory
from theory.noise import Schedule
from theory.patches import PatchSchedule, PatchSize, Size
from theory.types import Coefficients, Images

SETS = ("square", "flexible")
Heatmap = Callable[[float], Tensor]


class PatchSet(ClosedForm):
    """The composite of patch posteriors. It has no evidence: no single posterior makes it.

    Args:
        data, schedule, memory: As in `ClosedForm`.
        patch_size: Of squares: an odd number of pixels, a pair, a list of sizes over equal intervals of t, or a `PatchSchedule`;
            what exceeds the image is the image. For ``"square"`` alone.
        sets: ``"square"`` or ``"flexible"``.
        share: Of the sensitivity of a pixel, above 0 and at most 1. For ``"flexible"`` alone.
        heatmap: From a time, the sensitivity of every pixel to every pixel, ``(H, W, H, W)``, none negative. For ``"flexible"`` alone.

    Raises:
        InputError: If an argument is not one of these or does not belong to the sets, or something does not fit into ``memory``.
    """

    name = "patch_set"
    settings = ("patch_size", "sets", "share")
    how = "distances over patches, and what patches share averaged (theory.engines.masked)"

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        patch_size: PatchSize | None = None,
        sets: str = "square",
        share: float = 0.5,
        heatmap: Heatmap | None = None,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(data, schedule, memory=memory)
        if sets not in SETS:
            raise InputError(f"sets={sets!r}", choices(SETS), "choose one of these")
        if sets == "square" and (patch_size is None or heatmap is not None):
            raise InputError(
                "sets='square' without patch_size= or with heatmap=", "a patch size alone", "give patch_size=, or sets='flexible'"
            )
        self.sets, self.heatmap = sets, heatmap
        self.patch_sizes = PatchSchedule.of(patch_size) if sets == "square" else None
        self.share = checks.finite(share, "share", 0.0, 1.0)
        if self.share == 0:
            raise InputError("share=0", "a number above 0, at most 1", "ask for some of the sensitivity")
        require_memory(10 * self._pixels**2, self.memory, f"sets of {self._pixels} pixels")
        self.training = Training(data, lambda mean: mean, self.memory, False)

    @property
    def _shape(self) -> Size:
        return self.data.images.shape[-2], self.data.images.shape[-1]

    @property
    def _pixels(self) -> int:
        return self._shape[0] * self._shape[1]

    def kind(self, label: int | None, t: float) -> tuple[int | None, Size | float]:
        return label, self.patch_sizes(t) if self.patch_sizes else t

    def _of_kind(self, kind: tuple[int | None, Size | float], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        squares = self.patch_sizes is not None
        sets = self._once(("squares", kind[1]), lambda: self._squares(kind[1])) if squares else self._flexible(kind, alpha[0], sigma[0])
        masked = Masked(self.training, kind[0], sets, pixels=True)
        line = self._shape[1] - min(kind[1][1], self._shape[1]) + 1 if squares else sets.count
        around = sets.transposed(line)
        means = [_composite(masked, around, found) for found in settled(masked, x_t, alpha, sigma)]
        centre = self.training.centre(kind[0]).to(x_t.device)
        return Posterior((torch.stack(means).reshape(x_t.shape) + centre).to(x_t))

    def _squares(self, size: Size) -> Sets:
        """All squares inside the image, row by row."""
        height, width = self._shape
        rows, cols = (torch.arange(n)[None] - torch.arange(n - min(k, n) + 1)[:, None] for n, k in zip(self._shape, size, strict=True))
        inside = [(offset >= 0) & (offset < k) for offset, k in zip((rows, cols), size, strict=True)]
        return Sets((inside[0][:, None, :, None] & inside[1][None, :, None, :]).reshape(-1, height * width), width)

    def _flexible(self, kind: tuple[int | None, float], alpha: Tensor, sigma: Tensor) -> Sets:
        """The most sensitive pixels of every pixel; one set where that is all of them."""
        if self.share == 1:
            return Sets(torch.ones(1, self._pixels, dtype=torch.bool), self._shape[1])
        if self.heatmap is None:
            heat = self._linear(kind[0], alpha.cpu(), sigma.cpu())
        else:
            heat = checks.heatmap(self.heatmap(kind[1]), self._shape).double().cpu().reshape(self._pixels, -1)
        ordered, index = (heat / heat.sum(1, keepdim=True)).sort(stable=True, dim=1)
        keep = torch.empty_like(index, dtype=torch.bool).scatter_(1, index, ordered.cumsum(1) >= 1 - self.share)
        return Sets(keep | torch.eye(self._pixels, dtype=torch.bool), self._shape[1])

    def _linear(self, label: int | None, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Sensitivity of the optimal linear denoiser: the Wiener filter, summed over channels. Of a pixel that never varies, to itself."""
        chosen = self.data.select(label)
        model = self._once(label, lambda: fit(chosen.images, chosen.weights, self.memory))
        gains = alpha**2 * model.variances / (alpha**2 * model.variances + sigma**2)
        filters = ((model.directions * gains) @ model.directions.T).abs()
        heat = filters.reshape(-1, self._pixels, filters.shape[0] // self._pixels, self._pixels).sum((0, 2))
        return torch.where(heat.sum(1, keepdim=True) > 0, heat, torch.eye(self._pixels, dtype=torch.float64))


@torch.no_grad()
def _composite(masked: Masked, around: Sets, found: Settled) -> Tensor:
    """Posterior means of all sets, averaged over those that hold a pixel: a second pass, now that sums of weights are known."""
    total = (found.state.log_sum[0] + masked.numbers.to(found.query.device) / 2).to(found.query)[:, None]
    held = around.matrix.sum(1).to(found.query)
    mean = torch.zeros(masked.channels, len(held), dtype=torch.float64, device=found.query.device)
    for keys, logits, _ in Pass(masked, found.query, *found.level):
        weights = around.sums(logits.sub_(total).clamp_(min=LEAST).exp_()) / held[:, None]
        mean += (keys.reshape(masked.channels, -1, keys.shape[1]) * weights).sum(2).double()
    return mean
