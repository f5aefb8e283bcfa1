"""What a CUDA graph can capture: questions to a card whose usual answer is known are asked together, after everything was done.

A score asks its card a few questions: are all pixels finite, has any image a weight, does rounding move any logit by more than it may? Each
answer makes the host wait, and a CUDA graph can't wait. While `unanswered` is open, `answer` gives the usual answer at once and keeps the
doubt. `Captured` records one call of a function (a step of a sampler, say) as a graph, replays it, and reads all doubts back at once: where
one was justified, the call is made again in the ordinary way. So a replayed call is as exact as any, with one read-back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from theory.errors import InputError
from theory.types import Images

_open: ContextVar[list[Tensor] | None] = ContextVar("doubts", default=None)
Replay = Callable[[], None]


def answer(question: Tensor, usual: bool) -> bool:
    """The answer to a question, a tensor of one truth value; the usual one, where it is not to be waited for."""
    doubts = _open.get()
    if doubts is None:
        return bool(question)
    doubts.append(question != usual)
    return usual


def waits() -> bool:
    """Whether the host may wait for answers: what goes another way for each answer must do without while it may not."""
    return _open.get() is None


@contextmanager
def unanswered() -> Iterator[list[Tensor]]:
    """No question is asked; gives the doubts, one for each."""
    token = _open.set([])
    try:
        yield _open.get()
    finally:
        _open.reset(token)


class Captured:
    """A function of noisy images as a CUDA graph.

    A first call in the ordinary way compiles kernels and puts on the card what is kept there. The graph uses that memory: don't free it
    (``machine.training.free()``) while the graph is in use.

    Args:
        function: From images to a tensor of a fixed shape, such as ``lambda x: sampler.step(x, t, s, None, noise)`` of a step that draws no
            noise. All it asks a card for must go through `answer`.
        like: Images of the shape, dtype and device that it will be called with.
        record: Records a call of its argument and returns what replays it; a CUDA graph unless given.

    Raises:
        InputError: If the images are not on a CUDA device, or a step can't be captured.
    """

    def __init__(self, function: Callable[[Images], Tensor], like: Images, record: Callable[[Replay], Replay] | None = None) -> None:
        if record is None and like.device.type != "cuda":
            raise InputError(f"a CUDA graph of images on {like.device}", "images on a CUDA device", "call the function as it is")
        self._function = function
        self._given = like.clone()
        function(self._given)

        def call() -> None:
            with unanswered() as doubts:
                self._found = function(self._given)
            self._doubt = torch.stack(doubts).any() if doubts else None

        self._replay = (record or _graph)(call)

    def __call__(self, x: Images) -> Tensor:
        """``function(x)``.

        Raises:
            InputError: If the images have another shape, dtype or device than those that were captured.
        """
        if (x.shape, x.dtype, x.device) != (self._given.shape, self._given.dtype, self._given.device):
            raise InputError(
                f"images {tuple(x.shape)}, {x.dtype} on {x.device}",
                f"{tuple(self._given.shape)}, {self._given.dtype} on {self._given.device}, as captured",
                "capture the function again",
            )
        self._given.copy_(x)
        self._replay()
        if self._doubt is not None and bool(self._doubt):
            return self._function(x)
        return self._found.clone()


def _graph(call: Callable[[], None]) -> Replay:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        raise InputError(
            f"a function that can't be captured ({told})", "one that neither waits for the card nor draws noise", "call it as it is"
        ) from error
    return graph.replay
