"""The engine of windows: patches of images, shift by shift, never listed; on the CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from theory.engines.engine import Case, Engine
from theory.engines.state import State
from theory.engines.windows.layout import Layout, layout
from theory.meetings import Meetings
from theory.types import Coefficients, Images

DOUBLE = 2.5  # times as long takes a sum in float64


class Windows(Engine):
    """Sums over windows (`theory.engines.windows.cpu`)."""

    name = "windows"

    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        if like.device.type != "cpu":
            return f"it needs noisy images on the CPU, not on {like.device}"
        return "it needs a machine that sees patches, the same shift for all pixels of a rectangle" if layout(meetings) is None else None

    def cost(self, case: Case) -> float:
        return 1e-9 * _layout(case).cost * case.count * (1.0 if case.like.dtype == torch.float32 else DOUBLE)

    def sum(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        return self.sweep([case], x, alpha, sigma)[0]

    def sweep(self, cases: Sequence[Case], x: Images, alpha: Coefficients, sigma: Coefficients) -> list[State]:
        """Several sizes of the window in one pass over the training images."""
        from theory.engines.windows.cpu import sum_windows  # loads the compiler: a second that other engines need not wait

        training, label = cases[0].training, cases[0].label
        images = *training.centred(label, x), training.exact(label, x)
        return sum_windows(training.shifted(label, x, alpha), alpha, sigma, *images, [_layout(case) for case in cases], training.memory)


def _layout(case: Case) -> Layout:
    return case.training.kept(("layout", case.meetings), lambda: layout(case.meetings))
