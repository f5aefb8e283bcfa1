"""Sums over keys in clusters, against posteriors written out in float64."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise
from theory.data import ImageSet, load
from theory.engines.clustered.kernel import BLOCK
from theory.engines.clustered.sums import PRODUCTS, QUERIES, Clustered
from theory.noise import CosineSchedule
from theory.stationarity.basis import LocalBasis

SCHEDULE = CosineSchedule()


def problem(count: int, dims: int, width: int, clusters: int) -> tuple[torch.Tensor, ...]:
    """Keys with values, log-weights (some of weight zero) and clusters, one of which is empty."""
    rng = np.random.default_rng(count)
    keys, values = (torch.from_numpy(rng.standard_normal((count, n))).float() for n in (dims, width))
    weights = torch.from_numpy(rng.random(count)).where(torch.from_numpy(rng.random(count)) > 0.1, 0.0)
    return keys, values, weights.log().float(), torch.from_numpy(rng.integers(0, clusters - 1, count))


def queries(keys: torch.Tensor, sigma: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Noisy keys."""
    rng = np.random.default_rng(1)
    chosen = keys[torch.from_numpy(rng.integers(0, len(keys), len(sigma)))].double()
    return alpha[:, None] * chosen + sigma[:, None] * torch.from_numpy(rng.standard_normal(chosen.shape))


def brute(keys, values, log_weights, members, count, q, alpha, sigma) -> tuple[torch.Tensor, torch.Tensor]:
    distance = torch.stack([((x - a * keys.double()) ** 2).sum(1) / (2 * s**2) for x, a, s in zip(q, alpha, sigma, strict=True)])
    posterior = torch.softmax(log_weights.double() - distance, 1)
    return posterior @ torch.nn.functional.one_hot(members, count).double(), posterior @ values.double()


@pytest.mark.parametrize(("count", "dims", "width"), [(1000, 9, 10), (700, 25, 25), (130, 3, 40)])
def test_posteriors_of_values_and_clusters(count, dims, width):
    """From sigma .01, where distances are differences, to 5: values of one register, of two and of three; blocks that are not full."""
    keys, values, log_weights, members = problem(count, dims, width, 6)
    sigma = torch.logspace(-2, 0.7, 2 * QUERIES + 3, dtype=torch.float64)
    alpha = torch.linspace(1, 0.1, len(sigma), dtype=torch.float64)
    q = queries(keys[log_weights > -torch.inf], sigma, alpha)
    found = Clustered.of(keys, values, log_weights, members, 6)
    clusters, means, spoilt = found.sums(q, alpha, sigma)
    assert not bool(spoilt.any()) and 0.05 < float((found._product_error(q, alpha, sigma) > PRODUCTS).double().mean()) < 0.95
    expected = brute(keys, values, log_weights, members, 6, q, alpha, sigma)
    for a, b in zip((clusters, means), expected, strict=True):
        assert_close(a, b, atol=3e-5)  # logits may be off by 4e-4; found: 1e-5
    assert bool((clusters[:, 5] == 0).all())


def test_a_cheaper_key_far_below_the_first_one():
    """The first block costs thousands of bits more than the last: sums so far vanish, and nothing overflows."""
    keys = torch.arange(4.0 * BLOCK)[:, None].flip(0)
    q = torch.tensor([[0.0], [1.0], [64.2]]).double()
    one, tenth = torch.ones(3).double(), torch.full((3,), 0.1).double()
    members = torch.arange(4 * BLOCK) // BLOCK
    clusters, means, _ = Clustered.of(keys, keys, torch.zeros(len(keys)), members, 4).sums(q, one, tenth)
    assert_close(means[:, 0], torch.tensor([0.0, 1.0, 64.0]).double(), atol=1e-5)
    assert clusters.argmax(1).tolist() == [3, 3, 1]


def test_queries_far_from_all_keys_are_left_to_others():
    keys, values, log_weights, members = problem(200, 4, 3, 3)
    q = torch.full((5, 4), 50.0).double()
    q[3] = keys[log_weights > -torch.inf][0].double()
    one = torch.ones(5).double()
    assert Clustered.of(keys, values, log_weights, members, 3).sums(q, one, 0.01 * one)[2].tolist() == [True, True, True, False, True]


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return ImageSet(load("digits").images[:60], "a few digits")


@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_coordinates_in_float32_are_those_in_float64(digits, border):
    """Of all classes, and far from the data too, where float32 is not enough; and whatever the batch."""
    basis = LocalBasis(digits, (3, 3), border)
    alpha, sigma = SCHEDULE(torch.tensor([0.02, 0.1, 0.3, 0.6, 0.95]).double())
    x_t = SCHEDULE.perturb(digits.images[:5].double(), torch.tensor([0.02, 0.1, 0.3, 0.6, 0.95]).double(), noise((5, 1, 8, 8))).float()
    x_t[0] += 9.0
    assert any(p.clustered(x_t) is not None for p in basis._parts)
    single, double = basis(x_t, alpha, sigma), basis(x_t.double(), alpha, sigma)
    assert_close(single.mean, double.mean, atol=5e-5)  # logits may be off by 4e-4, and pixels are 2 apart
    assert_close(single.u[1:].double(), double.u[1:], atol=5e-5)
    assert_close(basis(x_t[2:3], alpha[2:3], sigma[2:3]).mean, single.mean[2:3], atol=2e-6)
