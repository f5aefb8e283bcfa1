"""What all analytic denoisers share: checks, labels, times, and the posterior from the sums of an engine.

A machine states what meets what (`theory.meetings`); an engine sums it (`theory.engines`).
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.engines import Case, Engine, Pruned, State, Training, check_engine, choose, like
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm, by_kind
from theory.meetings import Meetings
from theory.noise import Schedule
from theory.patches import Size
from theory.types import BatchLabels, Coefficients, Images, Times


class AnalyticDenoiser(ClosedForm):
    """Base class of the machines that sum candidates.

    Args:
        data: The training set.
        schedule: The noise schedule; the cosine schedule of the papers by default.
        engine: How sums are made: ``"auto"``, the fastest exact way; ``"windows"`` (machines that see patches),
            ``"fourier"`` (ES), ``"stream"`` (anything), ``"triton"`` (a fused kernel for GPUs), or ``"dense"`` (small problems,
            differentiable). All agree up to rounding; `plan` tells which is taken, and why.
        memory: Working memory in bytes, beyond the training images, the result and the index (``rtol``).
        rtol: Share of the posterior weight that may be left out, in [0, 1). Where that is faster, candidates with provably less
            weight than this, all together, are skipped, with the help of an index that is built once and kept on disk
            (`theory.engines.pruned`); `Posterior.skipped` says how much it may have been. 0 for exact sums. On the CPU, and
            on CUDA for machines that see patches everywhere (ELS), where whole training images are left out; other sums stay exact.
        distributed: Divide the training images over the processes of ``torch.distributed``'s default group. All processes
            must call with the same arguments in the same order; all get the same result, that of one process up to rounding.

    Computation follows ``x_t``: its device, and float32 or float64.
    """

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        engine: str = "auto",
        memory: int = MEMORY,
        rtol: float = 0.0,
        distributed: bool = False,
    ) -> None:
        super().__init__(data, schedule, memory=memory)
        self.engine = check_engine(engine)
        self.rtol = checks.rtol(rtol, engine, data)
        self.distributed = checks.distributed(distributed, engine)
        self.training = Training(data, self.centre, self.memory, distributed)

    @abstractmethod
    def meetings(self, size: Size) -> Meetings:
        """What meets what, for patches of a size: the formula of this machine."""

    def centre(self, mean: Tensor) -> Tensor:
        """What is subtracted from all images, from the mean ``(1, C, H, W)`` of all of them: a shift the posterior
        does not feel, and rounding errors do. One number for each channel where windows move."""
        return mean.mean(dim=(2, 3), keepdim=True)

    def patch_size(self, t: float) -> Size:
        """Height and width of what a pixel sees at time ``t``; the whole image unless overridden."""
        return self.data.images.shape[-2], self.data.images.shape[-1]

    def kind(self, label: int | None, t: float) -> tuple[int | None, Size]:
        return label, self.patch_size(t)

    def _of_kind(self, kind: tuple[int | None, Size], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        return self._posterior(self.case(*kind, x_t), x_t, alpha, sigma)

    def plan(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> str:
        """Which engine a call would take for each class and patch size, what it costs, and why not another; arguments of a call."""
        *_, kinds = self._asked(x_t, t, label)
        lines = []
        for label_, size in dict.fromkeys(kinds):
            case = self.case(label_, size, x_t)
            pruned = Pruned(self.rtol).refuses(case.meetings, case.like)
            chosen = choose(case, self.engine)
            lines.append(f"{self.name}, class {label_}, sees {size[0]}x{size[1]}: {chosen}")
            if chosen.engine.leaving_out(self.rtol, case) is not chosen.engine:
                lines.append("  without training images of next to no weight, for each noisy image for which these are many")
            else:
                lines.append(
                    f"  not pruned: {pruned}" if pruned else "  pruned, for each noisy image for which that is expected to be faster"
                )
        return "\n".join(lines)

    def case(self, label: int | None, size: Size, x_t: Tensor) -> Case:
        """What is summed for a class and patch size."""
        return Case(self.training.kept(("meetings", size), lambda: self.meetings(size)), self.training, label, like(x_t))

    def check(self, x_t: Images) -> None:
        checks.noisy_images(x_t, self.data)
        if self.engine != "dense":
            expected = "engine='dense', through which gradients run"
            checks.no_gradient(x_t, f"engine={self.engine!r}", expected, "make the machine with engine='dense', or pass x_t.detach()")

    def _posterior(self, case: Case, x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        """Of one kind: without candidates that may be left out, for the images for which that pays, and exactly otherwise."""
        exact, pruned = choose(case, self.engine), Pruned(self.rtol)
        if pruned.refuses(case.meetings, case.like):
            return self._told(case, exact.engine, exact.engine.leaving_out(self.rtol, case).sum(case, x_t, alpha, sigma), x_t, sigma)
        pays = pruned.pays(case, x_t, alpha, sigma, exact.engine.cost(case))

        def summed(kind: tuple[bool], *some: Tensor) -> Posterior:
            engine = pruned if kind[0] else exact.engine
            return self._told(case, engine, engine.sum(case, *some), some[0], some[2])

        return by_kind([(p,) for p in pays.tolist()], summed, x_t, alpha, sigma)

    def _told(self, case: Case, engine: Engine, state: State, x_t: Images, sigma: Coefficients) -> Posterior:
        """The posterior from the state of all queries."""
        state, meetings = self.training.complete(state), case.meetings
        centre = self.training.centre_on(case.label, x_t.device) if engine.centred else 0.0
        values = state.mean.reshape(x_t.shape) if meetings.whole else state.mean.reshape(len(x_t), *x_t.shape[2:], -1).permute(0, 3, 1, 2)
        partners, area = self.training.kept(
            ("tables", meetings, x_t.device), lambda: [table.to(x_t.device) for table in (meetings.partners, meetings.area)]
        )
        log_sum, ess, skipped = (v.reshape(len(x_t), *partners.shape) for v in (state.log_sum, state.ess, state.skipped_share))
        log_evidence = log_sum - torch.log(partners) - x_t.shape[1] * area * torch.log(sigma * math.sqrt(2 * math.pi)).reshape(-1, 1, 1)
        where = (slice(None),) if self.per_pixel else (slice(None), 0, 0)
        return Posterior((values + centre).to(x_t), *(v[where].to(x_t) for v in (log_evidence, ess, skipped)))
