"""Candidates divided over the processes of a group: each sums its own, and all merge the states of all.

States merge exactly (`theory.engines.state`), so that the number of processes changes a result by
rounding alone. All processes must ask the same questions in the same order.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from theory.engines.state import State
from theory.errors import InputError


def require_group() -> None:
    """Refuse to divide anything where no group of processes was started.

    Raises:
        InputError: If ``torch.distributed`` is not initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "distributed=True outside a process group",
            "torch.distributed.init_process_group called before",
            "run under torchrun, and call init_process_group('gloo') or ('nccl') first",
        )


def own_share(count: int) -> slice:
    """Which of ``count`` candidates this process sums: every ``world_size``-th.

    Raises:
        InputError: If there are fewer candidates than processes.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    if count < world:
        raise InputError(f"{count} training images for {world} processes", "at least one each", "start fewer processes")
    return slice(rank, None, world)


def merged(state: State) -> State:
    """The state after the candidates of all processes, the same on each of them.

    Raises:
        ConnectionError: If a process is lost.
    """
    single = (state.max, state.sum, state.square, state.skipped)
    mine = torch.cat([torch.stack(single, -1), state.weighted], -1)
    total, *rest = (State(*part[..., :3].unbind(-1), part[..., 4:], part[..., 3]) for part in _gathered(mine))
    for part in rest:
        total = total.merge(part)
    return total


def agreed(choices: Tensor) -> Tensor:
    """What the first process chose, true or false, on all of them: ways that differ would wait for each other forever.

    Raises:
        ConnectionError: If a process is lost.
    """
    return _gathered(choices.to(torch.int32))[0].bool()


def _gathered(mine: Tensor) -> list[Tensor]:
    mine = mine.contiguous()
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    try:
        dist.all_gather(parts, mine)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost another one ({reason}); start them again: what was saved remains"
        ) from error
    return parts
