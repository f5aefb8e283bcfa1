"""Noise schedules against the papers' formulas in mpmath, and against the discrete process of DDPM."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import refused
from theory.errors import InputError
from theory.noise import SCHEDULES, CosineSchedule, EDMSchedule, VESchedule, VPLinearSchedule, schedule

NAMES = ("cosine", "vp", "ve", "edm")
TINY = (1e-300, 1e-30, 1e-16, 1e-12, 1e-9, 1e-8, 1e-6, 1e-4)
TIMES = (*TINY, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)


@mpmath.workdps(700)  # sqrt(1 - alpha^2) loses 600 digits at t = 1e-300
def exact(name, t):
    """``(alpha_t, sigma_t)`` as the papers write them."""
    t = mpmath.mpf(t)  # of a float: its exact value
    if name == "cosine":
        alpha = mpmath.cos(mpmath.pi / 2 * t / mpmath.mpf("1.008"))
        return alpha, mpmath.sqrt(1 - alpha**2)
    if name == "vp":
        alpha = mpmath.exp(-(t**2) * (20 - mpmath.mpf("0.1")) / 4 - t * mpmath.mpf("0.1") / 2)
        return alpha, mpmath.sqrt(1 - alpha**2)
    if name == "ve":
        low, high = mpmath.mpf("0.01"), mpmath.mpf(50)
        return mpmath.mpf(1), low * (high / low) ** t
    low, high = (mpmath.mpf(s) ** (mpmath.mpf(1) / 7) for s in ("0.002", "80"))
    return mpmath.mpf(1), (low + t * (high - low)) ** 7


def test_the_names_are_those_of_the_papers_schedules():
    assert tuple(SCHEDULES) == NAMES
    classes = (CosineSchedule, VPLinearSchedule, VESchedule, EDMSchedule)
    assert tuple(type(schedule(name)) for name in NAMES) == classes
    assert tuple(schedule(name).name for name in NAMES) == NAMES


# A few roundings; the power of seven in EDM and the power in VE multiply them. At the tiny times
# sigma = sqrt(1 - alpha^2) in float64 would be wholly wrong.
@pytest.mark.parametrize(("name", "rel"), [("cosine", 1e-15), ("vp", 1e-15), ("ve", 1e-14), ("edm", 1e-14)])
@pytest.mark.parametrize("t", TIMES)
def test_coefficients_are_the_papers_to_float64(name, rel, t):
    alpha, sigma = schedule(name)(t)
    expected = exact(name, t)
    # Near t = 1 the cosine is small, and known only as well as its angle.
    assert alpha.item() == pytest.approx(float(expected[0]), rel=rel, abs=4e-16)
    assert sigma.item() == pytest.approx(float(expected[1]), rel=rel, abs=0)


@pytest.mark.parametrize("name", ["cosine", "vp"])
def test_variance_is_preserved(name):
    alpha, sigma = schedule(name)(torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_noise_grows_and_signal_does_not(name):
    alpha, sigma = schedule(name)(torch.linspace(0, 1, 10001, dtype=torch.float64))
    assert (sigma.diff() > 0).all()
    assert ((sigma / alpha).diff() > 0).all()
    assert (alpha == 1).all() if name in ("ve", "edm") else (alpha.diff() < 0).all()


@pytest.mark.parametrize("name", ["cosine", "vp"])
def test_no_noise_at_time_zero(name):
    assert [c.item() for c in schedule(name)(0.0)] == [1, 0]


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (EDMSchedule, 0.002, 80),
        (VESchedule, 0.01, 50),
        (lambda: EDMSchedule(0.1, 3.0, 2.0), 0.1, 3),
        (lambda: VESchedule(0.02, 7.0), 0.02, 7),
    ],
    ids=["edm", "ve", "edm-other", "ve-other"],
)
def test_end_points_are_sigma_min_and_sigma_max(make, low, high):
    alpha, sigma = make()(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert alpha.tolist() == [1, 1]
    assert sigma.tolist() == pytest.approx([low, high], rel=1e-14, abs=0)


def test_ve_is_geometric():
    sigma = VESchedule(0.01, 100.0)(torch.linspace(0, 1, 5, dtype=torch.float64))[1]
    assert sigma.tolist() == pytest.approx([0.01, 0.1, 1, 10, 100], rel=1e-14, abs=0)


def test_edm_steps_are_those_of_the_papers_table():
    # arXiv 2206.00364, eq. 5, counts from the highest noise: i = 0 .. N - 1.
    steps, rho = 18, 7
    expected = [(80 ** (1 / rho) + i / (steps - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(steps)]
    t = 1 - torch.arange(steps, dtype=torch.float64) / (steps - 1)
    assert EDMSchedule()(t)[1].tolist() == pytest.approx(expected, rel=1e-12, abs=0)


def test_vp_linear_follows_the_product_of_ddpm():
    betas = np.linspace(1e-4, 0.02, 1000)
    log_signal = np.cumsum(np.log1p(-betas))
    alpha, sigma = (c.numpy() for c in VPLinearSchedule()(torch.arange(1, 1001, dtype=torch.float64) / 1000))
    # log(1 - beta) = -beta - beta^2/2 - ...: continuous time lacks the second term, 0.067 in all at t = 1. What is left
    # is the third, sum beta^3/3 < 8e-4, and the staircase of the sum against the integral, 19.9/8/1000 = 2.5e-3.
    corrected = log_signal + np.cumsum(betas**2) / 2
    np.testing.assert_allclose(2 * np.log(alpha), corrected, rtol=0, atol=3.3e-3)
    np.testing.assert_allclose(alpha, np.exp(log_signal / 2), rtol=0.036)
    # At the first steps one beta, 1e-4, stands for an integral over 0.1 to 0.12 in rate: within 5%.
    np.testing.assert_allclose(sigma, np.sqrt(-np.expm1(log_signal)), rtol=0.05)


# ---------------------------------------------------------------------------------- the inverse, and times


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1))
def test_time_is_the_inverse_of_the_ratio(name, t):
    alpha, sigma = schedule(name)(t)
    assert schedule(name).time((sigma / alpha).item()).item() == pytest.approx(t, rel=1e-10, abs=1e-10)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.floats(-4.6, 3.9))
def test_ratio_at_the_time_of_a_ratio_is_that_ratio(name, log_ratio):
    ratio = math.exp(log_ratio)  # 0.01005 to 49.4: all schedules reach it
    alpha, sigma = schedule(name)(schedule(name).time(ratio))
    assert (sigma / alpha).item() == pytest.approx(ratio, rel=1e-10, abs=0)


@pytest.mark.parametrize("name", ["cosine", "vp"])
@pytest.mark.parametrize("ratio", [1e-12, 1e-8, 1e-5])
def test_time_of_a_tiny_ratio_does_not_cancel(name, ratio):
    alpha, sigma = schedule(name)(schedule(name).time(ratio))
    assert (sigma / alpha).item() == pytest.approx(ratio, rel=1e-14, abs=0)


@pytest.mark.parametrize(("name", "low", "high"), [("ve", 0.01, 50.0), ("edm", 0.002, 80.0), ("cosine", 0.0, None), ("vp", 0.0, None)])
def test_the_end_points_themselves_are_reached(name, low, high):
    if high is None:
        alpha, sigma = schedule(name)(1.0)
        high = (sigma / alpha).item()
    times = schedule(name).time(torch.tensor([low, high], dtype=torch.float64))
    assert times.tolist() == pytest.approx([0, 1], abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_many_ratios_at_once_give_the_times_one_by_one(name):
    ratios = [0.02, 0.5, 1.0, 30.0]
    times = schedule(name).time(torch.tensor(ratios, dtype=torch.float64))
    assert times.tolist() == [schedule(name).time(r).item() for r in ratios]


def test_a_python_float_is_a_float64_time():
    alpha, sigma = CosineSchedule()(0.05)
    assert alpha.dtype == sigma.dtype == torch.float64
    # One unit in the last place for the vectorised cosine; 0.05 as float32 would be 1e-10 off in alpha, 1e-9 in sigma.
    assert alpha.item() == pytest.approx(math.cos(math.pi / 2 * 0.05 / 1.008), rel=2.3e-16, abs=0)
    assert sigma.item() == pytest.approx(math.sin(math.pi / 2 * 0.05 / 1.008), rel=2.3e-16, abs=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_float32_time_is_taken_at_its_own_value(name):
    t = torch.tensor([0.05, 0.7])
    for found, expected in zip(schedule(name)(t), schedule(name)(t.double()), strict=True):
        assert found.dtype == torch.float64
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_many_times_at_once_give_the_coefficients_one_by_one(name):
    t = [0.0, 0.25, 0.6, 1.0]
    together = schedule(name)(torch.tensor(t, dtype=torch.float64))
    for found, expected in zip(together, zip(*map(schedule(name), t), strict=True), strict=True):
        # The vectorised functions may round the last digit otherwise.
        assert found.tolist() == pytest.approx([c.item() for c in expected], rel=1e-15, abs=0)


# ------------------------------------------------------------------------------------------------ perturb


@pytest.mark.parametrize("name", NAMES)
def test_perturb_adds_the_noise_of_each_images_own_time(name):
    rng = np.random.default_rng(0)
    x_0, epsilon, t = rng.uniform(-1, 1, (3, 2, 4, 5)), rng.standard_normal((3, 2, 4, 5)), [0.0, 0.3, 1.0]
    found = schedule(name).perturb(*(torch.tensor(v, dtype=torch.float64) for v in (x_0, t, epsilon)))
    for i in range(3):
        alpha, sigma = map(float, exact(name, t[i]))
        np.testing.assert_allclose(found[i].numpy(), alpha * x_0[i] + sigma * epsilon[i], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_perturbed_images_have_mean_alpha_x_and_variance_sigma_squared(name):
    count, t = 20_000, 0.6
    x_0 = torch.tensor([-1.0, 0.25, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1).expand(count, 3, 1, 1)
    epsilon = torch.from_numpy(np.random.default_rng(1).standard_normal((count, 3, 1, 1)))
    x_t = schedule(name).perturb(x_0, t, epsilon)[..., 0, 0]
    alpha, sigma = map(float, exact(name, t))
    # Four standard errors: sigma / sqrt(n) of the mean, sqrt(2 / n) relative of the variance.
    np.testing.assert_allclose(x_t.mean(0), alpha * x_0[0, :, 0, 0], rtol=0, atol=4 * sigma / math.sqrt(count))
    np.testing.assert_allclose(x_t.var(0), [sigma**2] * 3, rtol=4 * math.sqrt(2 / count))


def test_perturb_keeps_the_dtype_of_the_image():
    x_0, epsilon = torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    x_t = CosineSchedule().perturb(x_0, 0.5, epsilon)
    assert x_t.dtype == torch.float32
    angle = math.pi / 2 * 0.5 / 1.008
    assert x_t.flatten().tolist() == pytest.approx([math.cos(angle) + math.sin(angle)] * 2, rel=2e-7, abs=0)


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("t", "shown"), [(-0.1, "-0.1"), (1.1, "1.1"), (math.nan, "nan"), (math.inf, "inf"), (-1e-9, "-1e-09")])
@pytest.mark.parametrize("name", NAMES)
def test_times_outside_zero_to_one_are_refused(name, t, shown):
    for times in (t, torch.tensor(t, dtype=torch.float64), torch.tensor([0.5, t], dtype=torch.float64)):
        with pytest.raises(InputError) as error:
            schedule(name)(times)
        refused(error, f"time t = {shown}:", "0 <= t <= 1")


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan, math.inf])
def test_perturb_refuses_times_outside_zero_to_one(t):
    with pytest.raises(InputError) as error:
        CosineSchedule().perturb(torch.zeros(1, 1, 1, 1), t, torch.zeros(1, 1, 1, 1))
    refused(error, "time t", "0 <= t <= 1")


@pytest.mark.parametrize("name", ["linear", "", "Cosine", "cosine ", "vp,ve"])
def test_unknown_schedules_are_refused(name):
    with pytest.raises(InputError) as error:
        schedule(name)
    refused(error, f"schedule {name!r}", "'cosine', 'vp', 've' or 'edm'")


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (5.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
@pytest.mark.parametrize("make", [VESchedule, EDMSchedule])
def test_noise_that_does_not_grow_from_above_zero_is_refused(make, low, high):
    with pytest.raises(InputError) as error:
        make(low, high)
    refused(error, f"sigma_min={low}, sigma_max={high}:", "0 < sigma_min < sigma_max")


@pytest.mark.parametrize("rho", [0.0, math.nan, math.inf])
def test_edm_refuses_a_rho_that_gives_no_noise(rho):
    with pytest.raises(InputError) as error:
        EDMSchedule(rho=rho)
    refused(error, f"rho={rho}")


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        *((name, ratio) for name in NAMES for ratio in (-1.0, 1e6, math.nan, math.inf)),
        ("cosine", 80.3),  # tan(pi/2/1.008) = 80.21
        ("vp", 152.3),  # sqrt(exp(10.05) - 1) = 152.17
        ("ve", 0.00999),
        ("ve", 50.1),
        ("edm", 0.0),
        ("edm", 0.001999),
        ("edm", 80.1),
    ],
)
def test_ratios_a_schedule_does_not_reach_are_refused(name, ratio):
    for ratios in (ratio, torch.tensor([1.0, ratio], dtype=torch.float64)):
        with pytest.raises(InputError) as error:
            schedule(name).time(ratios)
        refused(error, f"noise-to-signal ratio {ratio:g}:", f"the {name} schedule")


@pytest.mark.parametrize(("name", "ratio"), [("cosine", 80.2), ("vp", 152.1), ("ve", 49.99), ("edm", 79.9)])
def test_ratios_just_inside_are_reached(name, ratio):
    alpha, sigma = schedule(name)(schedule(name).time(ratio))
    assert (sigma / alpha).item() == pytest.approx(ratio, rel=1e-10, abs=0)
