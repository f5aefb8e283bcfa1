"""At which noise levels a network parts from its theory: samples of which one of them makes the noisy part and the other the rest."""

import math

import torch

from empirical.compare import Comparison
from empirical.metrics import Median, r2_pearson
from theory.denoiser import Denoiser, Posterior
from theory.types import BatchLabels, Images, Times


class Handed(Denoiser):
    """One denoiser above a noise level, another from there down.

    Args:
        above, below: The two, of the same schedule.
        ratio: The level, as ``sigma / alpha``.
    """

    def __init__(self, above: Denoiser, below: Denoiser, ratio: float) -> None:
        self.above, self.below, self.ratio, self.schedule = above, below, ratio, above.schedule

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The posterior mean of the one that serves at each image's time, without evidence."""
        times = torch.as_tensor(t, dtype=torch.float64).expand(len(x_t))
        alpha, sigma = self.schedule(times)
        mean, high = torch.empty_like(x_t), (sigma > self.ratio * alpha).to(x_t.device)
        for denoiser, rows in ((self.above, high), (self.below, ~high)):
            if rows.any():
                told = label if label is None or torch.as_tensor(label).ndim == 0 else torch.as_tensor(label)[rows]
                mean[rows] = denoiser.denoise(x_t[rows], times[rows.cpu()], told)
        return Posterior(mean)


def handover(comparison: Comparison, network: Denoiser, theory: Denoiser, alone: Images, ratios: list[float]) -> list[dict]:
    """How well samples agree with those of the theory where the network makes a part of them.

    Args:
        comparison: Says how many samples, from which noise, in how many steps.
        network, theory: The two.
        alone: Samples of the theory alone.
        ratios: Noise levels of the comparison, ascending as its times are; one hands over halfway (of their logarithms) between two.

    Returns:
        For each level between two, ``network_above`` and ``network_below``: the median ``r2_pearson`` with samples of the theory alone
        where the network serves above that level and the theory below, and the other way round.
    """
    out = []
    for low, high in zip(ratios[:-1], ratios[1:], strict=True):
        ratio = math.sqrt(low * high)
        both = {"network_above": Handed(network, theory, ratio), "network_below": Handed(theory, network, ratio)}
        out.append({"ratio": ratio, **{n: Median.of(r2_pearson(comparison.sampled(d), alone))._asdict() for n, d in both.items()}})
    return out
