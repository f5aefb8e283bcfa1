r"""What a patch tells: the coordinates in which the functions of a network are written.

At a pixel of a class with patch ``Phi`` the coordinates ``u`` are, in this order and in the same place
for every class (0 where the patch would reach outside the image):

- the posterior mean of the clean patch, ``E[Phi_0 | Phi]``;
- ``Phi`` itself, projected on the principal directions of the clean patches (noise orthogonal to these says
  nothing about them) and scaled to variance 1 along each;
- the posterior of the cluster the clean patch belongs to. With at most `CLUSTERS` distinct clean patches the
  clusters are these patches, and their posterior is all there is to know.

Beside them stands the ELS solution, in the prediction type that is solved for. Random features of the
coordinates (`heldout`) are never solved with; they test a solution.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.engines.clustered.sums import Clustered
from theory.engines.listed.source import Keys, KeySource, stored
from theory.engines.listed.stream import stream_sum
from theory.patches import Size, check_border
from theory.predictions import check_prediction, predicted
from theory.stationarity.sites import Sites, all_sites
from theory.types import Float, Images

CLUSTERS = 32
DIRECTIONS = 24  # principal directions kept as features
NEGLIGIBLE = 1e-9  # share of the variance below which a direction is dropped
HELD_OUT = 16  # random features that test a solution
DRAWN = 2**15  # patches that clusters are fitted to, where there are more
FILLED = 16  # keys of a cluster, on average, from which sums by clusters are worth it
PIECE = 2**22  # numbers in flight when features are evaluated


class Told(NamedTuple):
    """What the patches of noisy images tell.

    Attributes:
        u: Coordinates with shape ``(B, P, I)``, in the dtype of the images.
        els: The ELS solution as it is predicted, with shape ``(B, P, C)``, in the dtype of the images.
        mean: The same as a posterior mean, in float64.
    """

    u: Tensor
    els: Tensor
    mean: Tensor


class LocalBasis:
    """Coordinates of all pixels.

    Args:
        data: The training set; its weights count.
        patch_size: Height and width of what a pixel sees.
        border: ``"zeros"`` or ``"circular"``.
        prediction: A key of `theory.predictions.PREDICTIONS`.
        seed: Seed of clusters and of held-out features.
        memory: Working memory in bytes.
        clusters: Centres of the clusters of each class as patches, as another basis has them in its `clusters`; made if None. A solution
            keeps those it was made with: it knows a cluster by its number.

    Attributes:
        sites: The classes of pixels.
        order: Number of the pixel at each position; positions are in the order of the classes.
        classes: Number of the class at each position.
        size: Number of coordinates.
    """

    def __init__(
        self,
        data: ImageSet,
        patch_size: Size,
        border: str,
        prediction: str = "sample",
        seed: int = 0,
        memory: int = 2**29,
        clusters: list[Tensor] | None = None,
    ) -> None:
        height, width = data.images.shape[-2:]
        self.shape = tuple(data.images.shape[1:])
        self.prediction = check_prediction(prediction)
        self.sites = all_sites(height, width, patch_size, check_border(border))
        given = clusters or [None] * len(self.sites)
        self._parts = [
            Coordinates(data, s, patch_size, prediction, (seed, i), memory, c)
            for i, (s, c) in enumerate(zip(self.sites, given, strict=True))
        ]
        self.order = torch.cat([s.numbers(height, width) for s in self.sites])
        self.classes = torch.repeat_interleave(torch.tensor([s.count for s in self.sites]))
        self.size = self._parts[0].size
        self._draws = torch.from_numpy(np.random.default_rng((seed, 0)).standard_normal((1 + self.size, HELD_OUT)))

    @property
    def clusters(self) -> list[Tensor]:
        """Centres of the clusters of each class as patches, with shape ``(K, d)``."""
        return [p.clusters for p in self._parts]

    def __call__(self, x_t: Images, alpha: Tensor, sigma: Tensor) -> Told:
        """What patches tell at coefficients of shape ``(B,)``."""
        parts = [f(x_t, alpha, sigma) for f in self._parts]
        return Told(*(torch.cat(field, 1) for field in zip(*parts, strict=True)))

    def heldout(self, u: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows k"]:
        """Random features ``tanh(a . u + b)`` that no solution is built from."""
        draws = self._draws.to(u)
        return torch.tanh(u @ draws[1:] * (3 / self.size**0.5) + draws[0])

    def rows(self, x: Images) -> Float[Tensor, "B P C"]:
        """An image's pixels in the order of the classes."""
        return x.flatten(2).mT[:, self.order.to(x.device)]

    def image(self, rows: Float[Tensor, "B P C"]) -> Images:
        """The inverse of `rows`."""
        return rows[:, self.order.argsort().to(rows.device)].mT.unflatten(2, self.shape[1:])


@dataclass(frozen=True)
class Patches:
    """Mean and principal directions of the clean patches of a class, and their clusters.

    Attributes:
        mean: Mean patch, with shape ``(d,)``.
        directions: Principal directions with shape ``(d, r)``, largest variance first.
        scales: Standard deviation along each, with shape ``(r,)``.
        centre: Columns of the patch that are its central pixel.
        clusters: Centres of clusters in coordinates along the directions, with shape ``(K, r)``.
    """

    mean: Tensor
    directions: Tensor
    scales: Tensor
    centre: Tensor
    clusters: Tensor

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.clusters)

    def psi(self, projected: Float[Tensor, "n r"], centres: Float[Tensor, "n C"]) -> Float[Tensor, "n v"]:
        """Central pixel, scaled principal components and cluster (one-hot) of clean patches."""
        nearest = torch.cdist(projected, self.clusters.to(projected)).argmin(1)
        member = torch.nn.functional.one_hot(nearest, len(self.clusters)).to(projected)
        return torch.cat([centres, (projected / self.scales.to(projected))[:, :DIRECTIONS], member], 1)


class Coordinates:
    """Coordinates and ELS of one class of pixels."""

    def __init__(
        self,
        data: ImageSet,
        sites: Sites,
        size: Size,
        prediction: str,
        seed: tuple[int, int],
        memory: int,
        clusters: Tensor | None = None,
    ) -> None:
        self.sites, self.prediction, self.memory = sites, prediction, memory
        self.channels = data.images.shape[1]
        self._data = data
        self._sources: dict[tuple, KeySource] = {}
        self._clustered: Clustered | None = None
        self.clean = self._describe(seed, clusters)
        self.rank = min(DIRECTIONS, len(self.clean.scales))
        height, width = sites.block.window
        above, left = size[0] // 2 - sites.block.above, size[1] // 2 - sites.block.left
        places = torch.arange(self.channels * size[0] * size[1]).reshape(self.channels, *size)
        self.inside = places[:, above : above + height, left : left + width].flatten()
        self.whole = places.numel()
        self.size = 2 * self.whole + CLUSTERS

    def _rows(self, images: Images) -> tuple[Tensor, Tensor]:
        """Clean patches and their central pixels as rows, in float64."""
        images = images.double()
        return self.sites.patches(images).flatten(0, 1), self.sites.centres(images).flatten(0, 1)

    def _describe(self, seed: tuple[int, int], clusters: Tensor | None) -> Patches:
        """Moments over all patches, piece by piece, and clusters."""
        data, mean, square = self._data, 0.0, 0.0
        count = math.ceil(PIECE / data.images[0].numel() / self.sites.count)
        for images, weights in zip(data.images.split(count), data.weights.split(count), strict=True):
            patches, _ = self._rows(images)
            weighted = patches * (weights / self.sites.count).repeat_interleave(self.sites.count)[:, None]
            mean, square = mean + weighted.sum(0), square + weighted.T @ patches
        covariance = square - torch.outer(mean, mean)
        variances, directions = (x.flip(-1) for x in torch.linalg.eigh(covariance))
        kept = variances > NEGLIGIBLE * variances.clamp(min=0).sum()
        directions = directions[:, kept]
        height, width = self.sites.block.window
        centre = torch.arange(self.channels) * height * width + self.sites.block.above * width + self.sites.block.left
        self.clusters = self._clusters(mean, directions, seed) if clusters is None else clusters.to(mean)
        return Patches(mean, directions, variances[kept].sqrt(), centre, (self.clusters - mean) @ directions)

    def _clusters(self, mean: Tensor, directions: Tensor, seed: tuple[int, int]) -> Tensor:
        """Distinct clean patches if they are few, else centres of clusters of (at most `DRAWN`) patches, as patches.

        In the order of their pixels: coordinates along principal directions have signs, and more where variances are equal, that
        differ from one machine to another.
        """
        rng = np.random.default_rng((*seed, 1))
        count = max(1, DRAWN // self.sites.count)
        some = self._data.images if len(self._data) <= count else self._data.images[rng.permutation(len(self._data))[:count]]
        distinct = np.unique(self._rows(some)[0].numpy().round(6), axis=0)
        if len(distinct) <= CLUSTERS:
            return torch.from_numpy(distinct)
        projected = (distinct - mean.numpy()) @ directions.numpy()
        found = KMeans(CLUSTERS, n_init=1, random_state=int(rng.integers(2**31))).fit(projected).cluster_centers_
        return mean + torch.from_numpy(found) @ directions.T

    def source(self, like: Tensor) -> KeySource:
        """Clean patches in coordinates along the directions, carrying psi; merged and kept where they fit."""
        key = (like.dtype, like.device)
        if key not in self._sources:
            log_weights = (self._data.weights.log() - math.log(self.sites.count)).repeat_interleave(self.sites.count)

            def read(start: int, stop: int) -> Keys:
                patches, centres = self._rows(self._data.images[start:stop])
                projected = (patches - self.clean.mean) @ self.clean.directions
                weights = log_weights[start * self.sites.count : stop * self.sites.count]
                return Keys(*(x.to(like)[None] for x in (projected, self.clean.psi(projected, centres), weights)))

            width = self.channels + self.rank + self.clean.count
            source = KeySource(read, len(self._data), 1, self.sites.count, len(self.clean.scales), width)
            self._sources[key] = stored(source) if source.numbers * 8 <= self.memory / 4 else source
        return self._sources[key]

    def clustered(self, like: Tensor) -> Clustered | None:
        """The same keys cluster by cluster, for the CPU in float32, where they are kept and fill blocks; else None."""
        source = self.source(like)
        if not (source.kept and like.device.type == "cpu" and like.dtype == torch.float32 and source.items >= FILLED * self.clean.count):
            return None
        if self._clustered is None:
            keys, values, log_weights = (x[0] for x in source.read(0, source.items)[:3])
            values, member = values.tensor_split([-self.clean.count], 1)
            self._clustered = Clustered.of(keys, values, log_weights, member.argmax(1), self.clean.count)
        return self._clustered

    def posterior(self, queries: Float[Tensor, "Q r"], alpha: Tensor, sigma: Tensor, like: Tensor) -> Float[Tensor, "Q v"]:
        """Posterior mean of psi given noisy patches in coordinates along the directions, in float64."""
        if (clustered := self.clustered(like)) is None:
            return stream_sum(queries[None], alpha, sigma, self.source(like), self.memory // 2).mean[0]
        clusters, values, spoilt = clustered.sums(queries, alpha, sigma)
        mean = torch.cat([values, clusters], -1)
        if rows := spoilt.nonzero()[:, 0].tolist():
            mean[rows] = stream_sum(queries[None, rows], alpha[rows], sigma[rows], self.source(like), self.memory // 2).mean[0]
        return mean

    def __call__(self, x_t: Images, alpha: Tensor, sigma: Tensor) -> Told:
        """What patches tell at the pixels of the class."""
        count = max(1, PIECE // (self.sites.count * self.size))
        pieces = zip(x_t.split(count), alpha.split(count), sigma.split(count), strict=True)
        return Told(*(torch.cat(field) for field in zip(*(self._evaluate(*piece) for piece in pieces), strict=True)))

    def _evaluate(self, x_t: Images, alpha: Tensor, sigma: Tensor) -> Told:
        clean = Patches(*(x.to(x_t.device) for x in vars(self.clean).values()))
        a, s = (c.double().reshape(-1, 1, 1) for c in (alpha, sigma))
        patches = self.sites.patches(x_t.double())
        batch, count, _ = patches.shape
        pixel = patches[..., clean.centre]
        projected = (patches - a * clean.mean) @ clean.directions
        coefficients = (c.double().repeat_interleave(count) for c in (alpha, sigma))
        told = self.posterior(projected.flatten(0, 1), *coefficients, x_t).reshape(batch, count, -1)
        els, components, clusters = told.tensor_split([self.channels, self.channels + self.rank], -1)
        directions = clean.directions[:, : self.rank]
        seen = (projected / torch.sqrt((a * clean.scales) ** 2 + s**2))[..., : self.rank]
        mean, directions, components, seen = (x.to(x_t) for x in (clean.mean, directions, components * clean.scales[: self.rank], seen))
        spread = x_t.new_zeros(self.rank, self.whole)
        spread[:, self.inside] = directions.T
        centre = x_t.new_zeros(self.whole)
        centre[self.inside] = mean
        unused = x_t.new_zeros(batch, count, CLUSTERS - clusters.shape[-1])
        out = torch.cat([centre + components @ spread, seen @ spread, clusters.to(x_t), unused], -1)
        return Told(out, predicted(self.prediction, els, pixel, a, s).to(x_t), els)
