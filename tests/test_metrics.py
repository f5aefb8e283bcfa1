"""Losses, intervals and memorisation against independent answers."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from tests.helpers import assert_close, noise, random_set
from theory.data import ImageSet, load
from theory.machines import EquivariantLocal, Ideal
from theory.metrics import Estimate, Proportion, denoising_loss, memorisation, noisy_images
from theory.noise import CosineSchedule


def test_wilson_interval_equals_scipy():
    for hits, n in ((0, 10), (3, 10), (160, 2000), (10, 10)):
        mine = Proportion.of(torch.arange(n) < hits)
        theirs = binomtest(hits, n).proportion_ci(method="wilson")
        assert_close([mine.value, mine.low, mine.high], [hits / n, theirs.low, theirs.high], atol=1e-12)


def test_estimate_has_the_standard_error_of_the_mean():
    samples = torch.tensor([1.0, 2.0, 4.0, 9.0])
    assert_close(list(Estimate.of(samples)), [4.0, np.std([1, 2, 4, 9], ddof=1) / 2], rtol=1e-12)


# x0-loss per image above the ideal one, from an independent float64 prototype: layout, sigma/alpha, loss, its standard error.
PROTOTYPE = [
    ("strip", 0.69, 1.493, 0.025),
    ("strip", 1.08, 1.375, 0.025),
    ("grid", 0.448, 0.290, 0.015),
    ("grid", 0.694, 1.507, 0.025),
    ("grid", 1.076, 1.383, 0.025),
    ("grid", 1.666, 0.401, 0.015),
]


@pytest.mark.parametrize(("layout", "ratio", "expected", "stderr"), PROTOTYPE)
def test_els_loss_on_the_toy_equals_the_prototype(layout, ratio, expected, stderr):
    data = load("toy", layout=layout)
    schedule = CosineSchedule()
    noisy = noisy_images(data, schedule, float(schedule.time(ratio)), 4000, seed=0)
    reference = data.rule.posterior_mean(noisy.x_t, *schedule(noisy.t))
    loss, excess = denoising_loss(EquivariantLocal(data, patch_size=data.patch_size), noisy, reference)
    assert abs(excess.value - expected) < 4 * math.hypot(excess.stderr, stderr)
    # Pythagoras: the loss itself is that of the ideal machine plus the excess.
    ideal, zero = denoising_loss(Ideal(data), noisy, reference)
    assert zero.value < 1e-7
    assert abs(loss.value - ideal.value - excess.value) < 4 * math.hypot(loss.stderr, ideal.stderr)


def test_noise_is_common_to_all_levels_and_images_follow_the_weights():
    data = random_set()
    a, b = (noisy_images(data, CosineSchedule(), t, 50, seed=3) for t in (0.2, 0.7))
    assert torch.equal(a.x_0, b.x_0)
    epsilon = []
    for n in (a, b):
        alpha, sigma = (float(c) for c in CosineSchedule()(n.t))
        epsilon.append((n.x_t - alpha * n.x_0) / sigma)
    assert_close(epsilon[0], epsilon[1], atol=1e-5)


def test_memorisation_tells_copies_from_mixtures():
    data = ImageSet(torch.cat([random_set().images, random_set().images[:1]]), "with a duplicate")
    copy = data.images[[0, 4]] + 0.001 * noise((2, 2, 5, 4)).float()
    mixture = ((data.images[1] + data.images[2]) / 2)[None]
    out = memorisation(torch.cat([copy, mixture]), data)
    assert out.memorised.tolist() == [True, True, False]  # also the image that is there twice
    assert out.nearest[:2].tolist() == [0, 4]
    expected = [np.sqrt(((c - data.images[i]).double().numpy() ** 2).mean()) for c, i in zip(copy, (0, 4), strict=True)]
    assert_close(out.distance[:2], expected, rtol=1e-6)


def test_an_exact_copy_has_distance_zero():
    data = random_set()
    assert float(memorisation(data.images, data).distance.max()) == 0


def test_one_training_image_is_always_memorised():
    data = ImageSet(torch.zeros(1, 1, 2, 2), "one")
    assert memorisation(torch.ones(2, 1, 2, 2), data).memorised.all()
