"""A function's work on a CUDA device as one graph: a single launch instead of hundreds.

The function must do the same work at every call: nothing may be read back from the device, and no tensor come from the host. What
changes between calls lies in tensors that both sides keep. Random numbers are right too: before a replay torch hands the seed
and offset of the default generator to the graph, so that a seed set before a replay gives the numbers that it gives without a graph.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from theory.errors import InputError

REHEARSALS = 3  # calls before the capture, in which libraries choose and allocate what they need


def capture(work: Callable[[], None], state: Callable[[], dict[str, Tensor]], device: torch.device) -> Callable[[], None]:
    """Capture ``work``, leaving everything as it was.

    Args:
        work: What to capture; called a few times first.
        state: All tensors that ``work`` changes, by name. Those it creates in its first call start at 0 again.
        device: The CUDA device.

    Returns:
        A function that does the same.

    Raises:
        InputError: If CUDA can't capture it.
    """
    with torch.cuda.device(device):
        before, random = {name: x.clone() for name, x in state().items()}, torch.cuda.get_rng_state()
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(REHEARSALS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        try:
            with torch.cuda.graph(graph):
                work()
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0][:120]
            raise InputError(f"a step that CUDA can't capture as a graph ({reason})", "one that can", "train with --no-graph") from error
        for name, x in state().items():
            x.copy_(before[name]) if name in before else x.zero_()
        torch.cuda.set_rng_state(random)
    return graph.replay


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that random numbers on a device come from."""
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
