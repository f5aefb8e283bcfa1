"""Pieces of work side by side in threads, which share the cores.

Small products gain little from a second core, and lose to waiting for it: two processes on a core each took two descents 1.4 times as
fast as one process on both. Threads will do, since torch gives way to others while it computes.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")
Stopped = Callable[[], bool]


class StoppedError(Exception):
    """A piece of work that gave up since another one failed, or the user stopped them all."""


def side_by_side(work: Callable[[Item, Stopped], Result], items: Sequence[Item], cores: int) -> list[Result]:
    """The results of some pieces of work, in order; as many at a time as there are cores.

    Args:
        work: Given a piece, and a function that tells whether to give up, by raising `StoppedError`.
        items: The pieces.
        cores: Threads of torch that all may use together.

    Raises:
        BaseException: What a piece raised, or came from outside (an interrupt), when all others have given up.
    """
    count = max(1, min(cores, len(items)))
    before, stop = torch.get_num_threads(), threading.Event()
    if count == 1:
        return [work(item, stop.is_set) for item in items]

    def alone(item: Item) -> Result:
        torch.set_num_threads(max(1, cores // count))  # of this thread; torch keeps a number for each
        return work(item, stop.is_set)

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(alone, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # without effect where all have ended
            for future in futures:
                future.cancel()
            torch.set_num_threads(before)
    failed = [f.exception() for f in futures if not f.cancelled() and f.exception() is not None]
    for error in failed:
        if not isinstance(error, StoppedError):
            raise error
    return [f.result() for f in futures]
