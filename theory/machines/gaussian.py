r"""The Gaussian denoiser: optimal for images that are normal with the mean and covariance of the training set.

.. math:: E[x_0 | x_t] = \mu + \alpha_t \Sigma\, (\alpha_t^2 \Sigma + \sigma_t^2 I)^{-1} (x_t - \alpha_t \mu)

It is the Wiener filter: of all denoisers that are affine functions of the whole image, the one of least squared error, whatever the
distribution. A baseline of arXiv 2412.20292, 2411.19339 and 2509.09672 (classical; the formula follows from the normal equations).
"""

from theory.data.imageset import ImageSet
from theory.denoiser import Posterior
from theory.errors import InputError
from theory.machines import checks
from theory.machines.closed import MEMORY, ClosedForm
from theory.machines.lowrank import LowRank, fit
from theory.noise import Schedule
from theory.types import Coefficients, Images


class Gaussian(ClosedForm):
    """The Gaussian denoiser; evidence is the log density of the noisy image.

    Args:
        data, schedule, memory: As in `ClosedForm`.
        rank: Principal directions to keep, those of the largest variance, as the published code of arXiv 2411.19339 does; all if None.

    Raises:
        InputError: If the rank is no positive number, or larger than that of the covariance.
    """

    name = "gaussian"
    settings = ("rank",)
    differentiable = True
    how = "two products with the principal directions of the training images"

    def __init__(self, data: ImageSet, schedule: Schedule | None = None, *, rank: int | None = None, memory: int = MEMORY) -> None:
        super().__init__(data, schedule, memory=memory)
        self.rank = None if rank is None else checks.whole(rank, "rank", 1)
        if rank is not None:
            self.fitted(None)

    def fitted(self, label: int | None) -> LowRank:
        """Mean and covariance of a class, found once."""

        def make() -> LowRank:
            chosen = self.data.select(label)
            model = fit(chosen.images, chosen.weights, self.memory, self.rank)
            found = model.variances.numel()
            if self.rank is not None and found < self.rank:
                raise InputError(f"rank={self.rank} with a covariance of rank {found}", "at most that", "lower rank=, or leave it out")
            return model

        return self._once(label, make)

    def _of_kind(self, kind: tuple[int | None], x_t: Images, alpha: Coefficients, sigma: Coefficients) -> Posterior:
        model = self.fitted(*kind).to(x_t.device)
        mean, log_density = model.posterior(x_t.double().flatten(1), alpha, sigma)
        return Posterior(mean.reshape(x_t.shape).to(x_t), log_density.to(x_t))
