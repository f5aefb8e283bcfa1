r"""The training patches behind every pixel of a machine's guess: the heaviest, how much they weigh, and what is left out.

The guess of a closed-form machine at a pixel ``p`` is a weighted mean over candidates (arXiv 2412.20292, eq. 3-10),

.. math:: E[x_0(p) | \Phi_p] = \sum_{n, p'} W_{n,p'}\, x_n(p'), \qquad \sum_{n, p'} W_{n,p'} = 1 .

Many candidates look the same (a dark corner, a pair of colours), and no machine tells them apart: they are counted as one *distinct
patch* ``k`` with the weight of all, and their number beside it,

.. math:: W_k = \sum_{(n, p') \in k} W_{n,p'}, \qquad
          \mathrm{effective} = \Big(\sum_k W_k\Big)^2 \Big/ \sum_{n, p'} W_{n,p'}^2 .

The *mosaic* of a guess copies every pixel from the heaviest distinct patch. Where that stands in several training images, it takes the
fewest images that hold all of them, as greedy set cover finds them (Chvatal 1979), and in each the nearest place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from theory.denoiser import require_noise
from theory.engines.listed.problems import Problem, pixels, problems
from theory.engines.listed.source import KeySource, items_within
from theory.errors import InputError
from theory.machines.base import AnalyticDenoiser
from theory.types import Images

HASHED = 2**22  # numbers hashed at a time
TILE = (128, 2048)  # queries and keys that are compared at a time: logits of 2 MB
NEGLIGIBLE = 80.0  # logits below the largest that many times e: 1e-35 of its weight, which no sum of 1e16 of them shows


class Candidates(NamedTuple):
    """The heaviest distinct patches of each pixel. For machines that see the whole image a patch is an image, and all pixels share it.

    Attributes:
        image: Number of the first training image with that patch, with shape ``(B, H, W, K)``, heaviest first; -1 where there are fewer.
        pixel: Row and column in it of the pixel copied, with shape ``(B, H, W, K, 2)``.
        weight: Posterior weight of all training patches like it, with shape ``(B, H, W, K)``, float64.
        count: How many training patches are like it, with shape ``(B, H, W, K)``.
        effective: Effective number of training patches, each counted by itself, with shape ``(B, H, W)``, float64.
        mosaic: Number of the training image that the mosaic takes the pixel from, with shape ``(B, H, W)``.
        place: Row and column there, with shape ``(B, H, W, 2)``.
    """

    image: Tensor
    pixel: Tensor
    weight: Tensor
    count: Tensor
    effective: Tensor
    mosaic: Tensor
    place: Tensor

    @property
    def rest(self) -> Tensor:
        """Posterior weight of all patches that are left out, with shape ``(B, H, W)``."""
        return (1 - self.weight.sum(-1)).clamp(min=0)


@torch.no_grad()
def candidates(machine: AnalyticDenoiser, x_t: Images, t: float, top: int = 8, label: int | None = None) -> Candidates:
    """The heaviest distinct patches of each pixel, in float64.

    Which patches are alike is found once for a machine, class and patch size, and kept: about 40 bytes for each training patch, beyond
    the machine's ``memory``.

    Args:
        machine: A closed-form machine.
        x_t: Noisy images with shape ``(B, C, H, W)``.
        t: Time in (0, 1].
        top: How many patches, K.
        label: Restrict the training set to a class; images are numbered within it.

    Raises:
        InputError: If shapes, time, label or ``top`` do not fit, ``sigma_t`` is 0, or the machine holds a part of the images only.
    """
    machine.check(x_t)
    if machine.distributed:
        raise InputError("a machine with distributed=True", "one that holds all training images", "make it without distributed=True")
    if top < 1:
        raise InputError(f"top={top} patches", "at least 1", "ask for more")
    alpha, sigma = machine.schedule(t)
    require_noise(sigma)
    x_t = x_t.double()
    size = machine.patch_size(float(t))
    meetings = machine.case(label, size, x_t).meetings
    images, log_weights = machine.training.centred(label, x_t)
    centred = x_t - alpha * machine.training.centre(label).to(x_t.device)
    work = list(problems(meetings, images, log_weights))
    alike = machine.training.kept(("alike", label, size), lambda: [_alike(problem.source) for problem in work])
    found = _empty((len(x_t), *(x_t.shape[2:] if machine.per_pixel else (1, 1)), top), x_t.device)
    best: list[list[_Wanted]] = [[] for _ in x_t]
    for problem, tables in zip(work, alike, strict=True):
        parts = _heaviest(problem, tables, centred, (float(alpha), float(sigma)), top, machine.memory)
        _write(found, problem, [_told(problem, g, table, part) for g, (table, part) in enumerate(zip(tables, parts, strict=True))])
        for b, wanted in enumerate(_first_choices(problem, tables, parts)):
            best[b] += wanted
    for b, wanted in enumerate(best):
        _cover(found, b, wanted, len(images))
    return found if machine.per_pixel else _spread(found, *x_t.shape[2:])


class _Alike(NamedTuple):
    """Which keys of a group are equal. Keys are counted item by item.

    Attributes:
        first: Number of the first key of each distinct one, ascending, ``(D,)``.
        log_weight: Of all of its keys together.
        concentration: ``sum w^2 / (sum w)^2`` over its keys.
        count: How many.
        members: Numbers of all keys, sorted by distinct one.
        start: Where in ``members`` each begins, ``(D + 1,)``.
    """

    first: Tensor
    log_weight: Tensor
    concentration: Tensor
    count: Tensor
    members: Tensor
    start: Tensor

    def of(self, distinct: int) -> Tensor:
        """The keys of a distinct one."""
        return self.members[self.start[distinct] : self.start[distinct + 1]]


def _alike(source: KeySource) -> list[_Alike]:
    """Equal keys of every group, told by two hashes of 64 bits: if the first mixes up two keys, the second shows it."""
    step, hashes, weights = items_within(source, HASHED), [], []
    for start in range(0, source.items, step):
        keys, _, log_weights, _ = source.read(start, min(start + step, source.items))
        hashes.append(_hashes(keys))
        weights.append(log_weights.expand(source.groups, -1))
    hashed, log_weights = torch.cat(hashes, 1), torch.cat(weights, 1).double()
    return [_grouped(*group) for group in zip(hashed, log_weights, strict=True)]


def _grouped(hashes: Tensor, log_weights: Tensor) -> _Alike:
    everything = torch.arange(len(hashes), device=hashes.device)
    _, number, count = torch.unique(hashes[:, 0], return_inverse=True, return_counts=True)
    first = torch.full_like(count, len(hashes)).scatter_reduce_(0, number, everything, "amin")
    if torch.equal(hashes[first, 1][number], hashes[:, 1]):
        rank = first.argsort().argsort()  # distinct keys in the order of their first ones
        number, first, count = rank[number], first.sort().values, count[first.argsort()]
    else:  # less likely than a fault of the memory: tell no two alike
        number, first, count = everything, everything, torch.ones_like(everything)
    top = log_weights.max()
    each = torch.exp(log_weights - top)
    total, squares = (torch.zeros(len(count), dtype=torch.float64, device=each.device).index_add_(0, number, w) for w in (each, each**2))
    start = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return _Alike(first, total.log() + top, squares / total**2, count, torch.sort(number, stable=True).indices, start)


def _hashes(keys: Tensor) -> Tensor:
    """Two hashes of each key's bits, with shape ``(G, K, 2)``."""
    bits = keys.double().contiguous().view(torch.int64)
    bits = bits ^ (bits >> 31)  # round numbers have their ones at one end
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(2**62, (2, bits.shape[-1]), generator=generator).to(bits.device) * 2 + 1
    return torch.stack([((bits * each) ^ ((bits * each) >> 29)).sum(-1) for each in odd], -1)


class _Heaviest(NamedTuple):
    """Of each query of a group: distinct keys and their weights, heaviest first ``(Q, K')``, and the effective number ``(Q,)``."""

    distinct: Tensor
    weight: Tensor
    effective: Tensor


def _heaviest(problem: Problem, tables: list[_Alike], x: Images, level: tuple[float, float], top: int, memory: int) -> list[_Heaviest]:
    """The heaviest distinct keys of each query of each group, streamed in tiles that fit into a cache."""
    (alpha, sigma), source = level, problem.source
    groups = [
        [_Running.of(part, min(top, len(alike.first))) for part in queries.split(TILE[0])]
        for queries, alike in zip(problem.queries(x), tables, strict=True)
    ]
    step = items_within(source, memory / 8 / 4)
    for start in range(0, source.items, step):
        stop = min(start + step, source.items)
        read = source.read(start, stop).keys
        for keys, alike, blocks in zip(read, tables, groups, strict=True):
            low, high = torch.searchsorted(alike.first, torch.tensor([start, stop], device=read.device) * source.rows).tolist()
            scaled = keys[alike.first[low:high] - start * source.rows] * (alpha / sigma**2)
            offset = alike.log_weight[low:high] - scaled.square().sum(-1) * (sigma**2 / 2)
            for first in range(0, high - low, TILE[1]):
                part = slice(first, first + TILE[1])
                for running in blocks:
                    running.add(scaled[part], offset[part], alike.concentration[low:high][part], low + first)
    return [_Heaviest(*map(torch.cat, zip(*(running.result() for running in blocks), strict=True))) for blocks in groups]


@dataclass
class _Running:
    """Some queries on the way: running maximum, sums relative to it, and the best keys so far."""

    queries: Tensor
    best: Tensor
    index: Tensor
    peak: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, queries: Tensor, kept: int) -> "_Running":
        best = queries.new_full((len(queries), kept), -torch.inf)
        return cls(queries, best, torch.zeros_like(best, dtype=torch.int64), best[:, 0].clone(), *torch.zeros(2, len(queries)).to(best))

    def add(self, keys: Tensor, offset: Tensor, concentration: Tensor, number: int) -> None:
        """Keys over ``sigma^2`` from a ``number`` on, and what is added to their products."""
        logits = torch.addmm(offset, self.queries, keys.mT)
        highest = logits.amax(-1)
        better = (highest > self.best[:, -1]).nonzero()[:, 0]
        if len(better):
            values, places = logits[better].topk(min(self.best.shape[1], len(keys)), -1)
            both, where = torch.cat([self.best[better], values], -1), torch.cat([self.index[better], places + number], -1)
            self.best[better], chosen = both.topk(self.best.shape[1], -1)
            self.index[better] = where.gather(-1, chosen)
        if bool((highest < self.peak - NEGLIGIBLE).all()):
            return
        peak = torch.maximum(self.peak, highest)
        shares = logits.sub_(peak[:, None]).exp_()
        fade = torch.exp(self.peak - peak)
        self.total = self.total * fade + shares.sum(-1)
        self.squares = self.squares * fade**2 + shares.square_() @ concentration
        self.peak = peak

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, their weights, and the effective number."""
        return self.index, torch.exp(self.best - self.peak[:, None]) / self.total[:, None], self.total**2 / self.squares


def _empty(shape: tuple[int, ...], device: torch.device) -> Candidates:
    whole = torch.zeros(shape, dtype=torch.int64, device=device)
    pair, one = torch.stack([whole, whole], -1), whole[..., 0]
    return Candidates(whole - 1, pair, whole.double(), whole.clone(), one.double(), one.clone(), pair[..., 0, :].clone())


def _told(problem: Problem, group: int, alike: _Alike, part: _Heaviest) -> tuple[Tensor, ...]:
    """Image, row, column, weight and count of the heaviest keys ``(Q, K')``, and the effective number ``(Q, 1)``."""
    key = alike.first[part.distinct]
    place = problem.origins.to(key.device)[group][key % problem.source.rows]
    return key // problem.source.rows, place[..., 0], place[..., 1], part.weight, alike.count[part.distinct], part.effective[:, None]


def _write(found: Candidates, problem: Problem, told: list[tuple[Tensor, ...]]) -> None:
    """Bring what was found of the groups of a problem to its pixels."""
    area, top = (slice(None), problem.rows, problem.cols), found.image.shape[-1]
    targets = (found.image, found.pixel[..., 0], found.pixel[..., 1], found.weight, found.count, found.effective[..., None])
    for target, fill, parts in zip(targets, (-1, 0, 0, 0, 0, 0), zip(*told, strict=True), strict=True):
        wide = torch.stack([torch.nn.functional.pad(x, (0, min(top, target.shape[-1]) - x.shape[1]), value=fill) for x in parts])
        target[area] = problem.place(wide).movedim(1, -1)


class _Wanted(NamedTuple):
    """A pixel of the mosaic, and the distinct key it comes from: all training patches like it are as good."""

    pixel: tuple[int, int]
    problem: Problem
    group: int
    alike: _Alike
    distinct: int

    @property
    def piece(self) -> tuple[int, int]:
        return id(self.alike), self.distinct


def _first_choices(problem: Problem, tables: list[_Alike], parts: list[_Heaviest]) -> list[list[_Wanted]]:
    """Of each noisy image, what its pixels come from."""
    groups = torch.stack([torch.full_like(part.distinct[:, :1], g) for g, part in enumerate(parts)])
    group, distinct = (problem.place(x)[:, 0] for x in (groups, torch.stack([part.distinct[:, :1] for part in parts])))
    top, left = problem.rows.start or 0, problem.cols.start or 0
    return [
        [
            _Wanted((top + y, left + x), problem, g, tables[g], d)
            for y, line in enumerate(zip(*both, strict=True))
            for x, (g, d) in enumerate(zip(*line, strict=True))
        ]
        for both in zip(group.tolist(), distinct.tolist(), strict=True)
    ]


def _cover(found: Candidates, b: int, wanted: list[_Wanted], images: int) -> None:
    """The fewest training images that hold the patches of all pixels, greedily, and the nearest place in each."""
    pieces: dict[tuple[int, int], list[_Wanted]] = {}
    for pixel in wanted:
        pieces.setdefault(pixel.piece, []).append(pixel)
    holds = torch.zeros(len(pieces), images)
    members = []
    for i, alike in enumerate(pieces.values()):
        members.append(alike[0].alike.of(alike[0].distinct).cpu())
        holds[i, members[i] // alike[0].problem.source.rows] = len(alike)
    gain, left = holds.sum(0), dict(enumerate(pieces.values()))
    while left:
        image = int(gain.argmax())  # that most pixels can come from; the first of equals
        for i in [i for i in holds[:, image].nonzero()[:, 0].tolist() if i in left]:
            rows, origins = left[i][0].problem.source.rows, left[i][0].problem.origins[left[i][0].group]
            places = origins[members[i][members[i] // rows == image] % rows]
            for pixel in left.pop(i):
                at = (b, *pixel.pixel)
                found.mosaic[at], found.place[at] = image, places[(places - torch.tensor(pixel.pixel)).abs().sum(-1).argmin()]
            gain -= holds[i]


def _spread(found: Candidates, height: int, width: int) -> Candidates:
    """One posterior for the whole image, told pixel by pixel: a candidate's origin is a shift."""
    grid, size = pixels((0, height), (0, width)).reshape(1, height, width, 2), torch.tensor([height, width])
    wide = [x.expand(-1, height, width, *x.shape[3:]) for x in found]
    told = Candidates(*wide)
    return told._replace(pixel=(grid[..., None, :] + told.pixel) % size, place=(grid + told.place) % size)
