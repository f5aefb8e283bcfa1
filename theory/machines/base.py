"""What all analytic denoisers share: validation, batching, labels, patch schedules and caching.

A machine is a choice of posterior problems (`Problem`): which queries it cuts out of the noisy
image, which training candidates they are compared with, and where the answers go. Everything else
lives here, once.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from theory.centred import Centred, centred, mean_image
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser, Posterior, require_noise
from theory.errors import InputError
from theory.noise import CosineSchedule, Schedule
from theory.patches import Size
from theory.posterior import KeySource, State, automatic, distinct_share, ranks, stored, summation
from theory.posterior.pruned.meetings import Meetings
from theory.posterior.source import items_within
from theory.posterior.windows.layout import Layout
from theory.types import BatchLabels, Images, Int, Means, PerQuery, Queries, Times, TrainingImages

if TYPE_CHECKING:
    from theory.posterior.pruned.engine import Forest

MEMORY = 2**29  # bytes
MINIMUM = 2**24
DOUBLE = 2.5  # times as long takes a sum over windows in float64
PROBE = 2**13  # candidates looked at to see whether many are equal


@dataclass(frozen=True)
class Problem:
    """One posterior problem: groups of queries, each group with candidates of its own.

    Attributes:
        source: The candidates.
        queries: Cuts the queries ``(G, Q, d)`` out of centred noisy images; ``Q`` runs over images
            first, then over the pixels of the problem.
        repeat: Queries per image, Q / B.
        place: Brings values ``(G, Q, v)`` back to image shape ``(B, v', h, w)``.
        rows, cols: Where in the output they go.
        dims: Numbers each group sees, with shape ``(G,)`` (less than ``d`` where windows are cut off).
        origins: Row and column of the training pixel that each key of an item is centred on, with shape
            ``(G, rows, 2)``; of whole images, by how much they are shifted.
    """

    source: KeySource
    queries: Callable[[Images], Queries]
    repeat: int
    place: Callable[[Means], Images]
    rows: slice
    cols: slice
    dims: Tensor
    origins: Int[Tensor, "G rows 2"]


class AnalyticDenoiser(Denoiser):
    """Base class of the closed-form machines.

    Args:
        data: The training set.
        schedule: The noise schedule; the cosine schedule of the papers by default.
        engine: How sums are made: ``"auto"``, the fastest exact way; ``"windows"`` (machines that see patches, on the CPU),
            ``"stream"`` (anything), ``"triton"`` (a fused kernel for GPUs), or ``"dense"`` (small problems,
            differentiable). All agree up to rounding.
        memory: Working memory in bytes, beyond the training images, the result and the index (``rtol``).
        rtol: Share of the posterior weight that may be left out, in [0, 1). Where that is faster, candidates with provably less
            weight than this, all together, are skipped, with the help of an index that is built once and kept on disk
            (`theory.posterior.pruned`); `Posterior.skipped` says how much it may have been. 0 for exact sums. On the CPU; elsewhere, and
            for machines with a faster way (ES), sums stay exact.
        distributed: Divide the training images over the processes of ``torch.distributed``'s default group. All processes
            must call with the same arguments in the same order; all get the same result, that of one process up to rounding.

    Computation follows ``x_t``: its device, and float32 or float64.
    """

    name: str
    per_pixel: bool  # whether each pixel has a posterior of its own

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
        self.data = data
        self.schedule = schedule or CosineSchedule()
        self.memory = _check_memory(memory)
        self.engine = engine
        self.rtol = _check_rtol(rtol, engine)
        if rtol > 0 and data.on_disk:
            raise InputError(
                f"rtol={rtol:g} with data set {data.name!r} on disk",
                "images in memory: an index of them has to be",
                "leave out rtol, or load them with npz:FILE",
            )
        self.distributed = distributed
        if distributed:
            ranks.require_group()
            if engine == "dense":
                raise InputError(
                    "engine='dense' with distributed=True",
                    "another engine",
                    "no gradient passes from process to process: use engine='auto'",
                )
        summation(engine)  # refuses what is not there
        self._room = memory // 4  # bytes left for merged candidates; sums take a half, queries a quarter
        self._kept_forests: dict[tuple, "Forest"] = {}
        self._kept_layouts: dict[tuple, Layout | None] = {}
        self._kept_problems: dict[tuple, list[Problem]] = {}
        self._kept_own: dict[int | None, tuple[Tensor, Tensor]] = {}
        self._kept_images: dict[tuple, tuple[TrainingImages, Tensor]] = {}
        self._kept_centres: dict[int | None, Tensor] = {}

    def layout(self, size: Size) -> Layout | None:
        """Which windows of noisy and training images meet; None for a machine that does not compare windows."""
        return None

    def meetings(self, size: Size) -> Meetings | None:
        """Which windows of noisy and training images meet, class by class; None for a machine that has no use for an index."""
        return None

    @abstractmethod
    def problems(self, images: TrainingImages, log_weights: Tensor, size: Size) -> Iterator[Problem]:
        """The posterior problems of this machine, for centred training images."""

    def centre(self, mean: Tensor) -> Tensor:
        """What is subtracted from all images, from the mean ``(1, C, H, W)`` of all of them: a shift the posterior
        does not feel, and rounding errors do. One number for each channel where windows move."""
        return mean.mean(dim=(2, 3), keepdim=True)

    def patch_size(self, t: float) -> Size:
        """Height and width of what a pixel sees at time ``t``; the whole image unless overridden."""
        return self.data.images.shape[-2], self.data.images.shape[-1]

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The exact posterior under this machine's constraint.

        Args:
            x_t: Noisy images with shape ``(B, C, H, W)``, float32 or float64.
            t: Time in (0, 1], with shape ``()`` or ``(B,)``.
            label: Restrict the training set to a class, with shape ``()`` or ``(B,)``.

        Raises:
            InputError: If shapes, times or labels do not fit, or ``sigma_t`` is 0.
        """
        alpha, sigma, times, classes = self._asked(x_t, t, label)
        return self._by_kind(list(zip(classes, map(self.patch_size, times), strict=True)), self._posterior, x_t, alpha, sigma)

    def _asked(self, x_t: Images, t: Times, label: BatchLabels | None) -> tuple[Tensor, Tensor, list[float], list[int | None]]:
        """What was asked for, checked: alpha, sigma, time and class of each image."""
        self.check(x_t)
        try:
            t = torch.as_tensor(t, dtype=torch.float64, device=x_t.device)
        except (TypeError, ValueError):
            raise InputError(f"time t = {t!r}", "a number in (0, 1], or one for each image", "pass numbers") from None
        alpha, sigma = self.schedule(t)
        require_noise(sigma)
        times, alpha, sigma = (_per_image(c, len(x_t), "time t") for c in (t, alpha, sigma))
        return alpha, sigma, times.tolist(), self._classes(label, len(x_t))

    def _by_kind(self, kinds: list[tuple], solve: Callable[..., Posterior], x_t: Images, alpha: Tensor, sigma: Tensor) -> Posterior:
        """``solve`` called once for all images of a kind, and its answers in the order of the images."""
        rows: dict[tuple, list[int]] = {}
        for i, kind in enumerate(kinds):
            rows.setdefault(kind, []).append(i)
        if len(rows) == 1:
            return solve(x_t, alpha, sigma, *kinds[0])
        parts = [solve(x_t[some], alpha[some], sigma[some], *kind) for kind, some in rows.items()]
        order = torch.tensor([i for some in rows.values() for i in some], device=x_t.device).argsort()
        return Posterior(*(torch.cat(field)[order] for field in zip(*parts, strict=True)))

    def _posterior(self, x_t: Images, alpha: Tensor, sigma: Tensor, label: int | None, size: Size) -> Posterior:
        """One class and patch size: with an index where candidates may be left out and that pays, and exactly otherwise."""
        meetings = self.meetings(size) if self.rtol > 0 and x_t.device.type == "cpu" else None
        if meetings is None:
            return self._exact(x_t, alpha, sigma, label, size)
        from theory.posterior.pruned import engine  # loads the compiler

        cost = self._cost(label, size, x_t)
        if self._agreed(torch.tensor([cost < engine.TASK * len(meetings.blocks)])):
            return self._exact(x_t, alpha, sigma, label, size)
        forest = self._forest(label, size, meetings)
        pays = self._agreed(engine.affordable(x_t, alpha, sigma, forest, self.rtol, cost))
        parts = [
            solve(*(c[rows] for c in (x_t, alpha, sigma)), *rest)
            for rows, solve, *rest in ((pays, self._pruned, forest), (~pays, self._exact, label, size))
            if bool(rows.any())
        ]
        order = torch.cat([pays.nonzero()[:, 0], (~pays).nonzero()[:, 0]]).argsort()
        return Posterior(*(torch.cat(field)[order] for field in zip(*parts, strict=True)))

    def _pruned(self, x_t: Images, alpha: Tensor, sigma: Tensor, forest: "Forest") -> Posterior:
        from theory.posterior.pruned.engine import sum_pruned

        state = self.complete(sum_pruned(x_t, alpha, sigma, forest, self.rtol))
        shape = "1 b (y x c) -> b c y x" if forest.meetings.whole else "1 (b y x) c -> b c y x"
        mean = rearrange(state.mean, shape, y=x_t.shape[-2], x=x_t.shape[-1])
        partners, dims = forest.meetings.partners, x_t.shape[1] * forest.meetings.area
        log_sum, ess, skipped = (v.reshape(len(x_t), *partners.shape) for v in (state.log_sum, state.ess, state.skipped_share))
        log_evidence = log_sum - torch.log(partners) - dims * torch.log(sigma * math.sqrt(2 * math.pi)).reshape(-1, 1, 1)
        where = (slice(None),) if self.per_pixel else (slice(None), 0, 0)
        return Posterior(mean.to(x_t), *(v[where].to(x_t) for v in (log_evidence, ess, skipped)))

    def _forest(self, label: int | None, size: Size, meetings: Meetings) -> "Forest":
        """The index of a class and patch size, of this process's images."""
        if (label, size) not in self._kept_forests:
            from theory.posterior.pruned import store
            from theory.posterior.pruned.engine import Forest

            chosen = self.data.select(label)
            mine = ranks.own_share(len(chosen.images)) if self.distributed else slice(None)
            images, weights = chosen.images[mine].cpu(), chosen.weights[mine].cpu()
            self._kept_forests[label, size] = Forest.of(images, meetings, store.trees(images, weights, meetings))
        return self._kept_forests[label, size]

    def _cost(self, label: int | None, size: Size, like: Tensor) -> float:
        """Nanoseconds that the exact sum of a noisy image is expected to take on one core."""
        if (layout := self._windows(label, size, like)) is not None:
            return layout.cost * len(self.own(label)[0]) * (1.0 if like.dtype == torch.float32 else DOUBLE)
        return _stream_cost(self._problems(label, size, like))

    def _exact(self, x_t: Images, alpha: Tensor, sigma: Tensor, label: int | None, size: Size) -> Posterior:
        """By windows, or each problem in batches that fit the budget."""
        if (layout := self._windows(label, size, x_t)) is not None:
            return self._solve_windows([layout], x_t, alpha, sigma, label)[0]
        problems = self._problems(label, size, x_t)
        per_image = max(p.source.groups * p.source.dim * p.repeat for p in problems)
        batch = max(1, int(self.memory / 4 / 8 / per_image))
        parts = [self._solve(problems, *(c[i : i + batch] for c in (x_t, alpha, sigma)), label=label) for i in range(0, len(x_t), batch)]
        return parts[0] if len(parts) == 1 else Posterior(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _solve(self, problems: list[Problem], x_t: Images, alpha: Tensor, sigma: Tensor, label: int | None) -> Posterior:
        centre = self.centre_of(label).to(x_t.device)
        centred = x_t.double() - alpha.reshape(-1, 1, 1, 1) * centre
        mean = torch.zeros_like(centred)
        log_evidence, ess, skipped = (centred.new_zeros(len(x_t), 1, *x_t.shape[-2:]) for _ in range(3))
        summed = summation(automatic(x_t.device, self.per_pixel) if self.engine == "auto" else self.engine)
        for problem in problems:
            queries = problem.queries(centred)
            a, s = (c.repeat_interleave(problem.repeat) for c in (alpha, sigma))
            state = self.complete(summed(queries, a, s, problem.source, self.memory // 2))
            area = (..., problem.rows, problem.cols)
            mean[area] = problem.place(state.mean)
            log_evidence[area] = problem.place(_log_density(state, s, problem.dims)[..., None])
            ess[area] = problem.place(state.ess[..., None])
            skipped[area] = problem.place(state.skipped_share[..., None])
        where = (slice(None), 0) if self.per_pixel else (slice(None), 0, 0, 0)
        return Posterior((mean + centre).to(x_t), *(v[where].to(x_t) for v in (log_evidence, ess, skipped)))

    def _solve_windows(self, layouts: Sequence[Layout], x_t: Images, alpha: Tensor, sigma: Tensor, label: int | None) -> list[Posterior]:
        """The posteriors of several sizes of the window, in one pass over the training images."""
        from theory.posterior.windows.engine import sum_windows  # loads the compiler: a second that other engines need not wait

        centre = self.centre_of(label)
        centred = x_t.double() - alpha.reshape(-1, 1, 1, 1) * centre
        states = sum_windows(centred, alpha, sigma, *self.training(label, x_t), self.exact(label, x_t), layouts, self.memory)
        found = []
        for state, layout in zip(states, layouts, strict=True):
            state = self.complete(state)
            numbers = (state.mean, *(v[..., None] for v in (state.log_sum, state.ess, state.skipped_share)))
            fields = (rearrange(v, "1 (b y x) v -> b v y x", y=x_t.shape[-2], x=x_t.shape[-1]) for v in numbers)
            mean, log_sum, ess, skipped = fields
            normaliser = x_t.shape[1] * layout.area * torch.log(sigma * math.sqrt(2 * math.pi)).reshape(-1, 1, 1)
            log_evidence = log_sum[:, 0] - torch.log(layout.partners) - normaliser
            found.append(Posterior(*(v.to(x_t) for v in (mean + centre, log_evidence, ess[:, 0], skipped[:, 0]))))
        return found

    def _windows(self, label: int | None, size: Size, like: Tensor) -> Layout | None:
        """The layout of the windows if sums are best made by windows, and None otherwise."""
        if self.engine not in ("auto", "windows"):
            return None
        key = (label, size, like.dtype, like.device)
        if key not in self._kept_layouts:
            layout = self.layout(size)
            if self.engine == "auto":
                wins = layout is not None and like.device.type == "cpu" and self._window_wins(layout, label, size, like)
                layout = layout if self._agreed(torch.tensor([wins], device=like.device)) else None
            elif layout is None or like.device.type != "cpu":
                raise InputError(
                    f"engine='windows' for machine {self.name!r} on device {like.device}",
                    "a machine that sees patches, on the CPU",
                    "use engine='auto'",
                )
            self._kept_layouts[key] = layout
        return self._kept_layouts[key]

    def _window_wins(self, layout: Layout, label: int | None, size: Size, like: Tensor) -> bool:
        """Whether windows are faster than the stream, which gains where the data repeat few distinct patches."""
        images, log_weights = self.own(label)
        source = next(self.problems(images, log_weights, size)).source
        count = max(2, PROBE // (source.rows * source.groups))
        probe = source.read(0, min(source.items, count, items_within(source, self.memory / 8 / 2)))
        if distinct_share(probe) > 0.5:
            return True
        problems = self._problems(label, size, like)
        if _stream_cost(problems) >= layout.cost * len(images):
            del self._kept_problems[label, size, like.dtype, like.device]
            return True
        return False

    def _problems(self, label: int | None, size: Size, like: Tensor) -> list[Problem]:
        """Problems of a class and patch size, with small sets of candidates merged and kept."""
        key = (label, size, like.dtype, like.device)
        if key not in self._kept_problems:
            images, log_weights = self.training(label, like)
            self._kept_problems[key] = list(self._merged(self.problems(images, log_weights, size), like))
        return self._kept_problems[key]

    def _merged(self, problems: Iterator[Problem], like: Tensor) -> Iterator[Problem]:
        """Problems with candidates merged and kept as long as there is room, and streamed otherwise."""
        for problem in problems:
            if self._room > 0 and problem.source.numbers * like.element_size() <= self.memory / 3:
                small = stored(problem.source)
                size = small.numbers * like.element_size()
                if size <= self._room:
                    self._room -= size
                    problem = replace(problem, source=small)
            yield problem

    def training(self, label: int | None, like: Tensor) -> tuple[TrainingImages, Tensor]:
        """Centred images of a class and their log-weights, with the dtype and device of ``like``; of this process alone."""
        key = (label, like.dtype, like.device)
        if key not in self._kept_images:
            images, log_weights = self.own(label)
            parts = images, self.centre_of(label), like.dtype, like.device
            self._kept_images[key] = Centred(*parts) if self.data.on_disk else centred(*parts), log_weights.to(like)
        return self._kept_images[key]

    def own(self, label: int | None) -> tuple[Tensor, Tensor]:
        """Images of a class as they are, and their log-weights in float64; of this process alone."""
        if label not in self._kept_own:
            chosen = self.data.select(label)
            mine = ranks.own_share(len(chosen.images)) if self.distributed else slice(None)
            self._kept_own[label] = chosen.images[mine], torch.log(chosen.weights[mine].double())
        return self._kept_own[label]

    def exact(self, label: int | None, like: Tensor) -> Centred:
        """`training` in float64, centred as they are read: centring rounds float32 numbers."""
        return Centred(self.own(label)[0], self.centre_of(label), torch.float64, like.device)

    def _agreed(self, choices: Tensor) -> Tensor:
        """Choices that all processes must make alike."""
        return ranks.agreed(choices) if self.distributed else choices

    def complete(self, state: State) -> State:
        """The state after all training images, from that after those of this process."""
        return ranks.merged(state) if self.distributed else state

    def centre_of(self, label: int | None) -> Tensor:
        """What is subtracted from the images of a class (`centre`)."""
        if label not in self._kept_centres:
            self._kept_centres[label] = self.centre(mean_image(self.data.select(label).images))
        return self._kept_centres[label]

    def check(self, x_t: Images) -> None:
        """Refuse noisy images of another shape or dtype than can be compared with the training images.

        Raises:
            InputError: If they don't fit, or want a gradient that the engine does not give.
        """
        if not isinstance(x_t, Tensor):
            raise InputError(f"noisy images of type {type(x_t).__name__}", "a torch.Tensor", "convert them with torch.as_tensor")
        if x_t.ndim != 4 or x_t.shape[1:] != self.data.images.shape[1:]:
            raise InputError(
                f"noisy images of shape {tuple(x_t.shape)}",
                f"(B, {', '.join(map(str, self.data.images.shape[1:]))}), the shape of data set {self.data.name!r}",
                "pass a batch of images with the channels and size of the training images",
            )
        if len(x_t) == 0:
            raise InputError("an empty batch of noisy images", "at least one image", "leave out the call")
        if x_t.requires_grad and torch.is_grad_enabled() and self.engine != "dense":
            raise InputError(
                f"noisy images that require a gradient with engine={self.engine!r}",
                "engine='dense', through which gradients run",
                "make the machine with engine='dense', or pass x_t.detach()",
            )
        if x_t.dtype not in (torch.float32, torch.float64):
            raise InputError(f"noisy images of dtype {x_t.dtype}", "float32 or float64", "convert them with .float()")
        if not x_t.isfinite().all():
            raise InputError("noisy images with NaN or infinite pixels", "finite pixels", "check what produced them")

    def _classes(self, label: BatchLabels | None, batch: int) -> list[int | None]:
        if label is None:
            return [None] * batch
        try:
            label = torch.as_tensor(label)
        except (TypeError, ValueError):
            raise InputError(f"label {label!r}", "a class number, or one for each image", "pass integers") from None
        if label.dtype.is_floating_point or label.dtype == torch.bool:
            raise InputError(f"label of dtype {label.dtype}", "integers", "pass class numbers such as 3")
        return [int(i) for i in _per_image(label, batch, "label").tolist()]


def _stream_cost(problems: list[Problem]) -> float:
    """Nanoseconds that listed candidates take for a noisy image on one core, as measured."""
    return sum(p.repeat * p.source.groups * p.source.rows * p.source.items * (4 + p.source.dim / 11) for p in problems)


def whole_image(values: Shaped[Tensor, "1 B v"], shape: torch.Size) -> Shaped[Tensor, "B v_ H_ W_"]:
    """Values of one posterior per image, as images; one number per image is broadcast."""
    return rearrange(values, "1 b v -> b v 1 1") if values.shape[-1] == 1 else values[0].reshape(-1, *shape)


def _log_density(state: State, sigma: Tensor, dims: Tensor) -> PerQuery:
    """Log of the Gaussian mixture density at each query, with its normaliser."""
    return state.log_sum - dims[:, None] * torch.log(sigma * math.sqrt(2 * math.pi))


def _per_image(value: Tensor, batch: int, what: str) -> Tensor:
    if value.ndim == 0:
        return value.expand(batch)
    if value.shape != (batch,):
        raise InputError(
            f"{what} of shape {tuple(value.shape)} for {batch} images", f"shape () or ({batch},)", "pass one for all or one each"
        )
    return value


def pixels(rows: tuple[int, int], cols: tuple[int, int]) -> Int[Tensor, "n 2"]:
    """Rows and columns of a rectangle of pixels, row by row."""
    return torch.cartesian_prod(torch.arange(*rows), torch.arange(*cols))


def _check_rtol(rtol: float, engine: str) -> float:
    if not (isinstance(rtol, Real) and 0 <= rtol < 1):
        raise InputError(f"rtol={rtol!r}", "a share of the weight in [0, 1)", "use 0 for exact sums, or a small number such as 1e-4")
    if rtol > 0 and engine != "auto":
        raise InputError(f"rtol={rtol:g} with engine={engine!r}", "engine='auto'", "other engines are exact: leave out one of the two")
    return float(rtol)


def _check_memory(memory: int) -> int:
    if not (isinstance(memory, Real) and MINIMUM <= memory < math.inf):
        raise InputError(f"memory={memory!r} bytes", f"at least {MINIMUM} bytes (16 MB)", "raise the budget")
    return int(memory)
