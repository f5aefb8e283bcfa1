r"""A mixture of Gaussians: one for each class, or for each cluster of the training images.

.. math:: E[x_0 | x_t] = \sum_k r_k\, m_k(x_t), \qquad
          r_k \propto w_k\, N\big(x_t;\ \alpha_t \mu_k,\ \alpha_t^2 \Sigma_k + \sigma_t^2 I\big)

with ``m_k`` the Gaussian denoiser of component ``k`` (`theory.machines.lowrank`), whose weight, mean and covariance are those of its
images. Between `Gaussian` (one component) and `Ideal` (one for each image, without covariance). Classical.
"""

from collections.abc import Iterator

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.errors import InputError
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm
from theory.machines.lowrank import LowRank, fit
from theory.noise import Schedule
from theory.types import Coefficients, Images

LABELS = "labels"
CLUSTERS = 10
STARTS = 4  # of k-means, the best of which is kept


class Mixture(ClosedForm):
    """The denoiser of a Gaussian mixture; evidence is the log density of the noisy image.

    Args:
        data, schedule, memory: As in `ClosedForm`.
        components: ``"labels"`` for one each class, or a number of clusters (k-means, weighted); if None, classes where the data have
            labels, else 10 clusters, or as many as there are images.
        rank: Principal directions of each component, at most; all if None.
        seed: Seed of k-means.

    Raises:
        InputError: If there are more components than different images, or no labels.
    """

    name = "mixture"
    settings = ("components", "rank", "seed")
    differentiable = True
    how = "two products with the principal directions of each component"

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule | None = None,
        *,
        components: int | str | None = None,
        rank: int | None = None,
        seed: int = 0,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(data, schedule, memory=memory)
        if components is None:
            components = LABELS if data.labels is not None else min(CLUSTERS, len(data.select().images))
        if components == LABELS and data.labels is None:
            raise InputError(f"components='labels' with data set {data.name!r}", "data with labels", "give a number of clusters")
        self.components = components if components == LABELS else checks.whole(components, "components", 1)
        self.rank = None if rank is None else checks.whole(rank, "rank", 1)
        self.seed = checks.whole(seed, "seed", 0)
        if components != LABELS:
            self._require(components, data.select())

    def fitted(self, label: int | None) -> list[tuple[float, LowRank]]:
        """Weight and Gaussian of each component of a class, found once."""

        def make() -> list[tuple[float, LowRank]]:
            chosen = self.data.select(label)
            parts = [(chosen.images[some], chosen.weights[some]) for some in self._parts(chosen)]
            return [
                (float(weights.sum() / chosen.weights.sum()), fit(images, weights, self.memory, self.rank)) for images, weights in parts
            ]

        return self._once(label, make)

    def _parts(self, chosen: ImageSet) -> Iterator[Tensor]:
        """Numbers of the images of each component."""
        if self.components == LABELS:
            parts = chosen.labels
        else:
            self._require(self.components, chosen)
            rows = chosen.images.flatten(1).cpu().numpy()
            means = KMeans(self.components, n_init=STARTS, random_state=self.seed)
            parts = torch.from_numpy(means.fit(rows, sample_weight=chosen.weights.numpy()).labels_)
        yield from ((parts == part).nonzero()[:, 0] for part in parts.unique())

    def _require(self, components: int, chosen: ImageSet) -> None:
        different = len(chosen.images) if components <= 1 else len(chosen.images.flatten(1).unique(dim=0))
        if components > different:
            raise InputError(f"components={components}", f"at most {different}, the different images there are", "ask for fewer components")

    def _of_kind(self, kind: tuple[int | None], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        x, found = x_t.double().flatten(1), self.fitted(*kind)
        means, logits = zip(*(model.to(x.device).posterior(x, alpha, sigma) for _, model in found), strict=True)
        log_weights = torch.tensor([weight for weight, _ in found], dtype=torch.float64).log().to(x.device)
        logits = torch.stack(logits, 1) + log_weights
        mean = sum(share[:, None] * mean for share, mean in zip(logits.softmax(1).unbind(1), means, strict=True))
        return Posterior(mean.reshape(x_t.shape).to(x_t), logits.logsumexp(1).to(x_t))
