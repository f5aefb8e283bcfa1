"""Discrete levels: the library's own numbers on them, a smooth way between, and back from a ratio to its time."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, refused
from theory.discrete import BETAS, CalledSchedule, DiscreteSchedule, beta_schedule
from theory.errors import InputError
from theory.noise import CosineSchedule


def cumulated(name):
    """By a loop, in Python's floats."""
    out, product = [], 1.0
    for i in range(1000):
        share = i / 999
        beta = {
            "linear": 1e-4 + share * (0.02 - 1e-4),
            "scaled_linear": (0.01 + share * (0.02**0.5 - 0.01)) ** 2,
            "squaredcos_cap_v2": min(
                1 - math.cos(((i + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2,
                0.999,
            ),
        }[name]
        product *= 1 - beta
        out.append(product)
    return out


@pytest.mark.parametrize("name", BETAS)
def test_levels_are_products_of_betas(name):
    schedule, expected = beta_schedule(name), torch.tensor(cumulated(name), dtype=torch.float64)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    alpha, sigma = schedule(t)
    assert_close(alpha, expected.sqrt(), atol=1e-12)
    assert_close(sigma, (1 - expected).sqrt(), atol=1e-12)
    assert schedule.timestep(t).tolist() == list(range(1000))  # whole numbers, in spite of rounding
    assert [float(c) for c in schedule(0.0)] == [1, 0]


@pytest.mark.parametrize("name", BETAS)
def test_between_levels_it_is_smooth_and_keeps_the_variance(name):
    schedule = beta_schedule(name)
    t = torch.linspace(0, 1, 7919, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert_close(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-14)
    assert (torch.atan2(sigma, alpha).diff() > 0).all()
    assert_close(schedule.time((sigma / alpha)[1:-1]), t[1:-1], atol=1e-9)


def test_against_the_librarys_own_tables():
    diffusers = pytest.importorskip("diffusers", reason="the library's own tables need the extra diffusers")
    for name in BETAS:
        theirs = diffusers.DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
        ours = DiscreteSchedule(theirs)
        assert_close(beta_schedule(name).angles, ours.angles, atol=5e-6)  # theirs are products in float32


def test_a_last_level_without_signal_is_legal():
    schedule = DiscreteSchedule(torch.tensor([0.9, 0.4, 0.0], dtype=torch.float64))
    alpha, sigma = schedule(1.0)
    assert (float(sigma), abs(float(alpha)) < 1e-16) == (1.0, True)
    assert_close(schedule.time(1e9), 1.0, atol=1e-8)


def test_below_the_first_level_it_is_asked_as_there():
    schedule = beta_schedule("linear")
    assert schedule.timestep(torch.tensor([0.0, 2e-4, 1e-3, 1.5e-3], dtype=torch.float64)).tolist() == [0, 0, 0, pytest.approx(0.5)]


def test_two_tables_have_two_names():
    assert beta_schedule("linear").name == beta_schedule("linear").name
    assert len({beta_schedule(name).name for name in BETAS}) == 3


def test_a_called_schedule_finds_times_by_bisection():
    own = CosineSchedule()
    called = CalledSchedule(own.coefficients, "mine")
    ratio = torch.tensor(np.geomspace(1e-3, 50, 40))
    assert_close(called.time(ratio), own.time(ratio), atol=1e-12)


BAD = {
    "growing": (lambda: DiscreteSchedule(torch.tensor([0.5, 0.6])), "decreasing"),
    "one": (lambda: DiscreteSchedule(torch.tensor([1.0, 0.6])), "[0, 1)"),
    "table": (lambda: DiscreteSchedule(torch.rand(2, 2)), "(2, 2)"),
    "name": (lambda: beta_schedule("cosine"), "'linear'"),
    "betas": (lambda: beta_schedule("linear", 0.1, 0.01), "first <= last"),
    "turned around": (lambda: CalledSchedule(lambda t: (t, 1 - t), "flow"), "grows with t"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    make, word = BAD[case]
    with pytest.raises(InputError) as error:
        make()
    refused(error, word)
