r"""Posteriors that leave out a certified share of the weight, on the CPU.

Trees (`index`) are walked by all queries of a class together (`search`). Distances that count are computed from the images in
float64, but for windows of few pixels in float32 work, whose coordinates are all there is to know of them. Every query is summed by
itself and in the order of its tree: the result does not depend on the batch or on the number of threads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from theory.engines.pruned import leaves, search
from theory.engines.pruned.index import Planes, Tree, coordinates, pool
from theory.engines.state import State
from theory.meetings import Meetings
from theory.types import Coefficients, Images, TrainingImages

SLICE = 128  # queries that walk together
TOLERANCE = 4e-4  # bound on the error of a cost in float32 that is used as it is
INFLATED = 1.001  # covers the rounding of the bounds themselves
TASK = 2e5  # nanoseconds that each tree takes besides the walk
UNEQUAL = 2.0**-60, 2.0**-450  # smallest share of the weight for sums in float32, and at all, for its square to be kept
# Each so manieth row and column of pixels tells beforehand what a noisy image will cost; they may cost so many times their share.
PROBES = (16, 2.0), (6, 1.0)
WHOLE = ((4, 1.0),)  # the same of a posterior over whole images


@dataclass(frozen=True)
class Forest:
    """The trees of all classes, and the images they are of.

    Attributes:
        meetings: The classes.
        trees: The tree of each.
        planes: The training images.
        arrays: What `search.search` takes of each tree, flat.
        lightest: Smallest share of the weight that a candidate of each tree has.
    """

    meetings: Meetings
    trees: Sequence[Tree]
    planes: Planes
    arrays: Sequence[tuple[np.ndarray, ...]]
    lightest: Sequence[float]

    @classmethod
    def of(cls, images: TrainingImages, meetings: Meetings, trees: Sequence[Tree]) -> "Forest":
        names = ("low", "high", "mass", "coords", "starts", "weights", "squares")
        arrays = [tuple(getattr(tree, name).flatten().numpy() for name in names) for tree in trees]
        lightest = [float(tree.weights[tree.weights > 0].min() / tree.mass[0]) for tree in trees]
        return cls(meetings, trees, Planes.of(images, meetings.border), arrays, lightest)

    @property
    def values(self) -> int:
        """Numbers that a candidate carries."""
        block, channels = self.meetings.blocks[0][1], self.planes.shape[2]
        return math.prod(block.window) * channels if self.meetings.whole else channels


@dataclass(frozen=True)
class _Task:
    """Some queries of one class."""

    number: int  # of the class
    places: np.ndarray  # numbers of the queries among those of all images and pixels
    starts: np.ndarray  # of their windows in the noisy images
    scale: np.ndarray  # cost of a unit of squared distance, of each
    tolerance: float  # error that a cost may have


def sum_pruned(x: Images, alpha: Coefficients, sigma: Coefficients, forest: Forest, rtol: float) -> State:
    """The state of every query of every noisy image, image by image, without candidates of a share of the weight of at most ``rtol``.

    Args:
        x: Noisy images ``(B, C, H, W)``; where they are float32, costs may be off by `TOLERANCE`.
        alpha, sigma: Coefficients of each, with shape ``(B,)``, float64.
        forest: The candidates.
        rtol: Share of the weight that may be left out, in (0, 1).

    Returns:
        State of one group of queries, with what was left out.
    """
    noisy, tasks = _tasks(x, alpha, sigma, forest, step=1)
    states = np.zeros((sum(len(task.places) for task in tasks), int(leaves.VALUES) + forest.values))
    walk = partial(_walk, noisy=noisy, forest=forest, rtol=rtol / INFLATED)
    with pool() as threads:
        for task, (found, _) in zip(tasks, threads.map(walk, tasks), strict=True):
            states[task.places] = found
    columns = torch.from_numpy(states.T.copy())[:, None]
    top, total, square, left = columns[: leaves.LEFT + 1]
    return State(-math.log(2) * top, total, square, columns[int(leaves.VALUES) :].permute(1, 2, 0), left * INFLATED)


def affordable(x: Images, alpha: Coefficients, sigma: Coefficients, forest: Forest, rtol: float, nanoseconds: float) -> Tensor:
    """Whether each noisy image is likely to cost less than so many nanoseconds on one core, with shape ``(B,)``.

    A few of its pixels are walked, and then some more, as long as they cost less than their share: the answer takes a thirty-sixth of the
    time at most, and far less where skipping is out of the question. Work is counted, not measured, and the answer the same each time.
    Never affordable where weights are so unequal that the smallest are lost.
    """
    if min(forest.lightest) < UNEQUAL[1]:
        return torch.zeros(len(x), dtype=torch.bool)
    pixels = sum(math.prod(query.shape) for query, _ in forest.meetings.blocks)

    def fits(b: int, step: int, slack: float) -> bool:
        noisy, tasks = _tasks(x[b : b + 1], alpha[b : b + 1], sigma[b : b + 1], forest, step)
        share = min(sum(len(task.places) for task in tasks) / pixels, step**-2)  # of a posterior over whole images, all is walked
        left = slack * (nanoseconds - TASK * len(forest.trees)) * share
        for task in tasks:
            if left >= 0:
                left -= _walk(task, noisy, forest, rtol / INFLATED, left)[1]
        return left >= 0

    probes = WHOLE if forest.meetings.whole else PROBES
    with pool() as threads:
        return torch.tensor(list(threads.map(lambda b: all(fits(b, *probe) for probe in probes), range(len(x)))))


def _tasks(x: Images, alpha: Tensor, sigma: Tensor, forest: Forest, step: int) -> tuple[Planes, list[_Task]]:
    """Noisy images over alpha, and the queries in every so manieth row and column of them, class by class in slices."""
    noisy = Planes.of(x.double() / alpha.reshape(-1, 1, 1, 1), forest.meetings.border)
    height, width = (max(getattr(query, side)[1] for query, _ in forest.meetings.blocks) for side in ("rows", "cols"))
    scale = (math.log2(math.e) / 2 * (alpha / sigma) ** 2).numpy()
    tolerance = TOLERANCE if x.dtype == torch.float32 else 0.0
    tasks = []
    for number, (query, _) in enumerate(forest.meetings.blocks):
        rows, cols = (np.arange(-(-a // step) * step, b, step) for a, b in (query.rows, query.cols))
        images = np.arange(len(x))[:, None, None]
        places = ((images * height + rows[:, None]) * width + cols).reshape(-1)
        starts = noisy.starts(query).reshape(len(x), *query.shape)[:, rows[:, None] - query.rows[0], cols - query.cols[0]].reshape(-1)
        parts = [slice(i, i + SLICE) for i in range(0, len(places), SLICE)]
        tasks += [_Task(number, places[part], starts[part], scale[places[part] // (height * width)], tolerance) for part in parts]
    return noisy, tasks


def _walk(task: _Task, noisy: Planes, forest: Forest, rtol: float, allowed: float = math.inf) -> tuple[np.ndarray, float]:
    """The states of the queries of a task, and the work."""
    tree, planes, block = forest.trees[task.number], forest.planes, forest.meetings.blocks[task.number][1]
    windows = noisy.rows(task.starts, block)
    points = coordinates(windows, tree.basis.numpy())
    slack = 4 * leaves.UNIT * (np.linalg.norm(windows, axis=1) + float(tree.reach))
    queries = np.pad(windows, ((0, 0), (0, -windows.shape[1] % search.ALIGN)))
    states = np.zeros((len(points), int(leaves.VALUES) + forest.values))
    offset, middle = (
        0 if forest.meetings.whole else block.above * row + block.left * planes.shape[2] for row in (planes.stride, planes.window(block)[1])
    )
    tolerance = task.tolerance if forest.lightest[task.number] >= UNEQUAL[0] else 0.0
    reach = np.abs(windows).max(1) + 1.0
    room = search.rooms(*queries.shape, len(tree.mass), tree.starts.shape[1])
    spent = search.search(
        queries.reshape(-1), queries.astype(np.float32).reshape(-1), points.astype(np.float32).reshape(-1), slack, reach, task.scale, rtol,
        *forest.arrays[task.number], planes.flat, planes.window(block), offset, middle, tolerance, tree.complete, allowed,
        states.reshape(-1), room,
    )  # fmt: skip
    return states, spent
