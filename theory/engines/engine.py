"""What an engine is: it accepts some statements of what meets what, knows what they cost, and sums them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.engines.state import State
from theory.engines.training import Training
from theory.meetings import Meetings
from theory.types import Coefficients, Images


@dataclass(frozen=True)
class Case:
    """What is summed, whatever the noisy images.

    Attributes:
        meetings: What meets what.
        training: The training images.
        label: Their class, or None for all.
        like: An empty tensor with the dtype and device of the noisy images.
    """

    meetings: Meetings
    training: Training
    label: int | None
    like: Tensor

    @property
    def key(self) -> tuple:
        """What tells cases of one machine apart."""
        return self.meetings, self.label, self.like.dtype, self.like.device

    @property
    def count(self) -> int:
        """Training images of this process."""
        return len(self.training.own(self.label)[0])


class Engine(ABC):
    """A way to sum.

    Attributes:
        name: As ``engine=`` takes it.
        automatic: Whether ``"auto"`` may take it.
        first: Whether ``"auto"`` takes it wherever it can sum, without a comparison.
        centred: Whether values are those of centred images, so that their centre is missing in the mean.
    """

    name: str
    automatic = True
    first = False
    centred = True

    @abstractmethod
    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        """Why it can't sum what meets so, for noisy images of a dtype and device; None if it can."""

    @abstractmethod
    def cost(self, case: Case) -> float:
        """Seconds that a noisy image is expected to take on one core; on a GPU, only compared with those of other engines there."""

    @abstractmethod
    def sum(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        """The state of all queries after all candidates.

        Args:
            case: What is summed.
            x: Noisy images with shape ``(B, C, H, W)``.
            alpha, sigma: Coefficients of each, with shape ``(B,)``, float64.

        Returns:
            State of one group of queries: of the noisy images, or image by image of their pixels, row by row. Log-weights of a training
            image count once for each of its candidates.
        """

    def leaving_out(self, rtol: float, case: Case) -> "Engine":
        """This engine, without candidates of a share ``rtol`` of the weight where it can tell which these are; else itself."""
        return self

    def sweep(self, cases: Sequence[Case], x: Images, alpha: Coefficients, sigma: Coefficients) -> list[State]:
        """`sum` of several cases with the same noisy images; some engines share work between these."""
        return [self.sum(case, x, alpha, sigma) for case in cases]


def like(x: Tensor) -> Tensor:
    """An empty tensor of the same dtype and device."""
    return torch.empty(0, dtype=x.dtype, device=x.device)
