"""Choosing the images a descent learns from changes no mean."""

import pytest
import torch
from torch.testing import assert_close

from tests.test_stationarity_descent import source
from theory.stationarity import fresh
from theory.stationarity.choice import FLOOR, MOST, chosen, inclusion, sizes, surplus


def losses(count: int, seed: int = 0) -> torch.Tensor:
    """Heavy-tailed, as at low noise: most next to nothing."""
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(3).exp()


@pytest.mark.parametrize("count", [1, 5, 40, 99, 100])
def test_probabilities_are_the_capped_multiple_with_the_right_sum(count):
    """Against bisection for the multiple."""
    q = sizes(losses(100))
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle * q).clamp(max=1).sum()) < count else (low, middle)
    assert_close(inclusion(q, count), (high * q).clamp(max=1), rtol=1e-9, atol=0)


def test_every_image_is_kept_as_often_as_its_probability_says():
    """Over a grid of starts; so the weighted mean of any function is its mean over all images."""
    given, grid = losses(50), 4000
    kept, total = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    for i in range(grid):
        rows, counts = chosen(given, 12, (i + 0.5) / grid)
        assert len(rows) == 12 and len(rows.unique()) == 12
        kept[rows] += 1 / grid
        total[rows] += counts / 12 / grid
    assert_close(kept, inclusion(sizes(given), 12), rtol=0, atol=2 / grid)
    assert_close(total, torch.full_like(total, 1 / 50), rtol=0.02, atol=0)


def test_nothing_is_chosen_where_all_are_kept_or_nothing_is_lost():
    rows, counts = chosen(losses(20), 20, 0.7)
    assert torch.equal(rows, torch.arange(20)) and torch.equal(counts, torch.ones(20, dtype=torch.float64))
    _, counts = chosen(torch.zeros(20, dtype=torch.float64), 5, 0.2)
    assert_close(counts, torch.ones(5, dtype=torch.float64))


def test_more_are_drawn_where_few_matter():
    """One image in a hundred with all of the loss: q is sqrt(100 + f) once and sqrt(f) else."""
    one = torch.zeros(100, dtype=torch.float64)
    one[3] = 7.0
    expected = (1 + FLOOR) / (((100 + FLOOR) ** 0.5 + 99 * FLOOR**0.5) / 100) ** 2
    assert expected > MOST
    assert_close(surplus(torch.stack([one, torch.ones(100).double()])), torch.tensor([MOST, 1.0]).double())
    few = torch.zeros(100, dtype=torch.float64)
    few[:30] = 2.0
    q = torch.cat([torch.full((30,), 100 / 30 + FLOOR), torch.full((70,), FLOOR)]).double().sqrt()
    assert_close(surplus(few), (1 + FLOOR) / q.mean().square(), rtol=1e-6, atol=0)


def test_groups_keep_some_of_what_they_draw_whatever_the_batch(monkeypatch):
    made = source()
    t, more = torch.tensor([0.3, 0.7, 0.4], dtype=torch.float64), torch.tensor([3.0, 1.0, 2.26], dtype=torch.float64)
    whole = made.groups(t, 10, (3,), more)
    x_t = made.noisy(t.repeat_interleave(torch.tensor([30, 10, 23])), (3,))
    for g, (start, drawn) in enumerate([(0, 30), (30, 10), (40, 23)]):
        told = made.told(x_t[start : start + drawn], t[g].expand(drawn))
        lost = (told.els - told.target).square().sum((-2, -1))
        distance = (whole.draws.u[g][:, None] - told.u[None]).abs().amax((-2, -1))
        rows = distance.argmin(1)
        assert float(distance.amin(1).max()) < 1e-9 and len(rows.unique()) == 10
        assert_close(whole.counts[g], 10 / (drawn * inclusion(sizes(lost), 10)[rows]), rtol=1e-6, atol=0)
    monkeypatch.setattr(fresh, "BATCH", 25)
    for one, other in zip(vars(made.groups(t, 10, (3,), more).draws).values(), vars(whole.draws).values(), strict=True):
        assert_close(one, other, atol=1e-9, rtol=0)
    assert torch.equal(made.groups(t, 10, (3,)).counts, torch.ones(3, 10).double())
