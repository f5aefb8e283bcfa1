"""The engines that list candidates: `Stream` within any budget, `Fused` in one kernel on a GPU, `Dense` for derivatives."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from theory.engines.engine import Case, Engine
from theory.engines.listed import fused
from theory.engines.listed.dense import dense_sum
from theory.engines.listed.problems import Problem, problems
from theory.engines.listed.source import KeySource, distinct_share, items_within, stored
from theory.engines.listed.stream import stream_sum
from theory.engines.state import State
from theory.meetings import Meetings
from theory.types import Coefficients, Images, Queries

PROBE = 2**13  # candidates looked at to see whether many are equal
NANOSECONDS = 4.0, 1 / 11  # that a pair takes on one core in float32, and each of its numbers, as measured
CUT = 4.0  # nanoseconds that each number of a candidate takes which is not kept but cut out of the images again
DOUBLE = 2.5  # times as long takes float64
SHARE = 0.5  # of the stream's time that the fused kernel takes at most, at every size measured on CUDA


class Listed(Engine):
    """Sums of listed candidates."""

    @abstractmethod
    def summed(self, queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
        """The state of all queries after all keys; coefficients of shape ``(Q,)``."""

    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        return None

    def cost(self, case: Case) -> float:
        """That of the candidates that are left when equal ones are merged; merging is only tried where it promises something."""
        listed = list(problems(case.meetings, *case.training.centred(case.label, case.like)))
        repeats = case.like.device.type == "cpu" and distinct_share(_probe(listed[0].source, case.training.memory)) <= 0.5
        return _seconds(merged(case) if repeats else listed) * (1.0 if case.like.dtype == torch.float32 else DOUBLE)

    def sum(self, case: Case, x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        """In batches of noisy images whose queries fit a quarter of the budget."""
        listed = merged(case)
        per_image = max(p.source.groups * p.source.dim * p.repeat for p in listed)
        batch = max(1, int(case.training.memory / 4 / 8 / per_image))
        return State.joined([self._batch(case, listed, *(c[i : i + batch] for c in (x, alpha, sigma))) for i in range(0, len(x), batch)])

    def _batch(self, case: Case, listed: list[Problem], x: Images, alpha: Coefficients, sigma: Coefficients) -> State:
        shifted = case.training.shifted(case.label, x, alpha)
        height, width = case.meetings.partners.shape
        values = listed[0].source.value_dim
        whole = [shifted.new_zeros(len(x), count, height, width) for count in (1, 1, 1, values)]
        for problem in listed:
            a, s = (c.repeat_interleave(problem.repeat) for c in (alpha, sigma))
            state = self.summed(problem.queries(shifted), a, s, problem.source, case.training.memory // 2)
            for image, part in zip(whole, (*(v[..., None] for v in (state.max, state.sum, state.square)), state.weighted), strict=True):
                image[..., problem.rows, problem.cols] = problem.place(part)
        top, total, square, weighted = (image.permute(0, 2, 3, 1).reshape(1, -1, image.shape[1]) for image in whole)
        return State(top[..., 0], total[..., 0], square[..., 0], weighted)


class Stream(Listed):
    """In pieces within the budget."""

    name = "stream"

    def summed(self, queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
        return stream_sum(queries, alpha, sigma, source, memory)


class Dense(Listed):
    """All logits at once; gradients run through."""

    name = "dense"
    automatic = False

    def summed(self, queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
        return dense_sum(queries, alpha, sigma, source, memory)


class Fused(Listed):
    """In one kernel, on a GPU."""

    name = "triton"

    def refuses(self, meetings: Meetings, like: Tensor) -> str | None:
        if (reason := fused.hindrance()) is None and like.device.type != "cuda" and not fused.interpreted():
            reason = "it needs noisy images on a GPU; TRITON_INTERPRET=1, set before Python starts, tries it slowly on the CPU"
        return reason

    def cost(self, case: Case) -> float:
        """Half of the stream's on a GPU where a value is a pixel; whole images are left to the stream."""
        return super().cost(case) * SHARE if case.like.device.type == "cuda" and not case.meetings.whole else math.inf

    def summed(self, queries: Queries, alpha: Coefficients, sigma: Coefficients, source: KeySource, memory: int) -> State:
        return fused.fused_sum(queries, alpha, sigma, source, memory)


def merged(case: Case) -> list[Problem]:
    """What is listed, with small sets of candidates merged and kept as long as there is room, and streamed otherwise."""
    training = case.training

    def make() -> list[Problem]:
        return list(_merged(case, problems(case.meetings, *training.centred(case.label, case.like))))

    return training.kept(_key(case), make)


def forget(case: Case) -> None:
    """Give up what was listed, where another engine is faster."""
    case.training.forget(_key(case))


def _key(case: Case) -> tuple:
    return "listed", *case.key


def _merged(case: Case, listed: Iterator[Problem]) -> Iterator[Problem]:
    width = case.like.element_size()
    for problem in listed:
        if case.training.room > 0 and problem.source.numbers * width <= case.training.memory / 3:
            small = stored(problem.source)
            if case.training.granted(_key(case), small.numbers * width):
                problem = replace(problem, source=small)
        yield problem


def _probe(source: KeySource, memory: int):
    """Some of the candidates."""
    count = max(2, PROBE // (source.rows * source.groups))
    return source.read(0, min(source.items, count, items_within(source, memory / 8 / 2)))


def _seconds(listed: list[Problem]) -> float:
    pair, number = NANOSECONDS

    def nanoseconds(problem: Problem) -> float:
        source = problem.source
        cut = 0.0 if source.kept else CUT * source.dim
        return source.groups * source.rows * source.items * (problem.repeat * (pair + number * source.dim) + cut)

    return 1e-9 * sum(map(nanoseconds, listed))
