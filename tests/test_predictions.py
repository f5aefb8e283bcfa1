"""Outputs of networks against their definitions, and derivatives against autograd."""

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.helpers import assert_close
from theory.errors import InputError
from theory.noise import schedule
from theory.predictions import PREDICTIONS, check_prediction, loss_of, predicted, recovered, units

NAMES = tuple(PREDICTIONS)


def drawn(t: float, noise: str = "cosine"):
    """A clean image, noise, and the noisy image they make."""
    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, generator=generator)
    alpha, sigma = schedule(noise)(torch.tensor(t, dtype=torch.float64))
    return x_0, epsilon, alpha * x_0 + sigma * epsilon, alpha, sigma


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_outputs_are_their_definitions(t):
    """Where the guess is the clean image the guessed noise is the noise; ``v`` is the derivative of ``x_t`` by the angle of noise."""
    x_0, epsilon, x_t, alpha, sigma = drawn(t)
    angle = torch.atan2(sigma, alpha)
    v = jacobian(lambda a: a.cos() * x_0 + a.sin() * epsilon, angle)
    expected = {"sample": x_0, "epsilon": epsilon, "score": -epsilon / sigma, "v": v}
    for name in NAMES:
        assert_close(predicted(name, x_0, x_t, alpha, sigma), expected[name], atol=1e-11)


@pytest.mark.parametrize("noise", ["cosine", "ve"])
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_is_recovered_and_derivatives_are_those_of_autograd(name, noise):
    x_0, _, x_t, alpha, sigma = drawn(0.4, noise)
    out = predicted(name, x_0, x_t, alpha, sigma)
    assert_close(recovered(name, out, x_t, alpha, sigma), x_0, atol=1e-10)
    by_mean = jacobian(lambda m: predicted(name, m, x_t, alpha, sigma).sum(), x_0)  # each number depends on its own alone
    by_output = jacobian(lambda o: recovered(name, o, x_t, alpha, sigma).sum(), out)
    assert_close(units(name, alpha, sigma).expand_as(x_0), by_mean.abs(), rtol=1e-12)
    assert_close(PREDICTIONS[name].slope(alpha, sigma).expand_as(x_0), alpha / sigma * by_output, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_without_signal_only_bounded_outputs_tell_a_mean(name):
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    out = recovered(name, one, one, zero, one)
    assert bool(out.isfinite()) == PREDICTIONS[name].bounded
    assert PREDICTIONS[name].slope(zero, one).isfinite()


def test_titles_say_what_a_loss_is_of_and_others_are_refused():
    assert [loss_of(n) for n in NAMES] == [
        "",
        " (of epsilon, as it is predicted)",
        " (of the score, as it is predicted)",
        " (of v, as it is predicted)",
    ]
    with pytest.raises(InputError, match="velocity"):
        check_prediction("velocity")
