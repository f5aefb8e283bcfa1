"""The engine that leaves out candidates of a certified share of the weight, where that is faster than an exact sum; on the CPU."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from theory.engines.engine import Case, Engine
from theory.engines.state import State
from theory.meetings import Meetings
from theory.types import Coefficients, Images

if TYPE_CHECKING:
    from theory.engines.pruned.walk import Forest


class Pruned(Engine):
    """Sums without candidates that have, all together, at most a share ``rtol`` of the weight (`theory.engines.pruned.walk`)."""

    name = "pruned"
    automatic = False  # it depends on the noisy image whether it pays
    centred = False

    def __init__(self, rtol: float) -> None:
        self.rtol = rtol

    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        if self.rtol == 0:
            return "rtol is 0: nothing may be left out"
        if like.device.type != "cpu":
            return f"it needs noisy images on the CPU, not on {like.device}"
        return "it has no trees for windows that wrap in training images alone" if meetings.wraps == (False, True) else None

    def cost(self, case: Case) -> float:
        """At least what the trees take beside any walk."""
        from theory.engines.pruned.walk import TASK  # loads the compiler

        return 1e-9 * TASK * len(case.meetings.blocks)

    def pays(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients, seconds: float) -> Tensor:
        """Whether each noisy image is likely to take less than so many seconds, with shape ``(B,)``; the same on all processes."""
        training = case.training
        if training.agreed(torch.tensor([seconds < self.cost(case)])):
            return torch.zeros(len(x), dtype=torch.bool)
        from theory.engines.pruned.walk import affordable

        return training.agreed(affordable(x, alpha, sigma, forest(case), self.rtol, 1e9 * seconds))

    def sum(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        from theory.engines.pruned.walk import sum_pruned

        state = sum_pruned(x, alpha, sigma, forest(case), self.rtol)
        if not case.meetings.whole:
            return state
        height, width = x.shape[-2:]
        return replace(state, weighted=rearrange(state.weighted, "1 b (y x c) -> 1 b (c y x)", y=height, x=width))


def forest(case: Case) -> "Forest":
    """The index of the training images of this process."""
    training, meetings = case.training, case.meetings

    def make() -> "Forest":
        from theory.engines.pruned import store
        from theory.engines.pruned.walk import Forest

        images, weights = (x.cpu() for x in training.chosen(case.label))
        return Forest.of(images, meetings, store.trees(images, weights, meetings))

    return training.kept(("forest", case.label, meetings), make)
