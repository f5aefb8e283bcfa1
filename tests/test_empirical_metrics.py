"""Metrics against loops and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from empirical.metrics import Gap, Median, cosine, label_agreement, pearson_r, r2_determination, r2_pearson, sensitivity
from tests.helpers import assert_close, noise, random_set
from theory.data import load
from theory.denoiser import Denoiser, Posterior
from theory.machines import EquivariantLocal
from theory.noise import CosineSchedule


def test_correlations_are_scipys_image_by_image():
    a, b = noise((5, 3, 4, 4)), noise((5, 3, 4, 4), seed=1)
    b = b + 0.5 * a
    expected = torch.tensor([pearsonr(x.flatten(), y.flatten()).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)])
    assert_close(pearson_r(a, b), expected, atol=1e-12)
    assert_close(r2_pearson(a, b), expected**2, atol=1e-12)


def test_determination_is_one_minus_the_unexplained_share():
    truth, other = noise((3, 1, 4, 4)), noise((3, 1, 4, 4), seed=1)
    for i in range(3):
        x, y = truth[i].numpy(), other[i].numpy()
        assert_close(r2_determination(truth, other)[i], 1 - ((x - y) ** 2).sum() / ((x - x.mean()) ** 2).sum(), atol=1e-12)


def test_what_each_metric_forgives():
    """Scale and offset: correlation both, cosine scale alone, determination neither."""
    a = noise((2, 1, 4, 4))
    assert_close(r2_pearson(a, 3 * a + 1), torch.ones(2), atol=1e-12)
    assert_close(cosine(a, 3 * a), torch.ones(2), atol=1e-12)
    assert float(cosine(a, a + 1).max()) < 1 - 1e-3
    assert_close(r2_determination(a, a), torch.ones(2), atol=1e-12)
    assert float(r2_determination(a, 3 * a + 1).max()) < 0


def test_constant_images_have_no_correlation():
    flat = torch.full((1, 1, 2, 2), 0.5)
    for f in (pearson_r, r2_determination):
        assert math.isnan(float(f(flat, noise((1, 1, 2, 2)))))


def test_median_covers_the_truth_as_often_as_it_says():
    """The 95% interval holds the median of the distribution in 95% of repetitions, within 4 standard errors."""
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for _, low, high in (Median.of(torch.from_numpy(rng.standard_normal(100))) for _ in range(300))]
    assert abs(np.mean(held) - 0.95) < 4 * (0.95 * 0.05 / 300) ** 0.5
    assert Median.of(torch.tensor([3.0, 1.0, 2.0])).value == 2
    assert math.isnan(Median.of(torch.tensor([1.0, math.nan])).value)


def test_labels_agree_only_where_all_cells_are_the_same_colour():
    rule = load("toy").rule
    cells = torch.tensor([[0, 1, 2, 3, 3, 2, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]])
    same = rule.render(cells)
    other = rule.render(torch.tensor([[0, 1, 2, 3, 3, 2, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]]))
    assert label_agreement(rule, same, same).value == 1
    assert label_agreement(rule, same, other).value == 0.5
    grey = torch.zeros_like(same)
    assert label_agreement(rule, grey, grey).value == 0  # no colours at all do not agree


@pytest.mark.parametrize(("shift", "below"), [(-0.5, True), (0.0, False), (0.5, False)])
def test_gap_flags_only_what_lies_below(shift, below):
    """Losses that share their noise: the difference is what counts, not the spread of each."""
    common = torch.from_numpy(np.random.default_rng(0).exponential(10, 500))
    jitter = torch.from_numpy(np.random.default_rng(1).standard_normal(500))
    gap = Gap.of(common + shift + jitter, common)
    assert gap.below is below and abs(gap.value - shift) < 4 * gap.stderr and gap.stderr < 0.06


class Filter(Denoiser):
    """A convolution around a circle, with weights that differ from channel to channel."""

    schedule = CosineSchedule()

    def __init__(self, kernel: torch.Tensor) -> None:
        self.kernel = kernel

    def __call__(self, x_t, t, label=None):
        return Posterior(torch.nn.functional.conv2d(torch.nn.functional.pad(x_t, (1, 1, 1, 1), mode="circular"), self.kernel))


def test_sensitivity_of_a_filter_is_its_kernel():
    kernel = noise((2, 2, 3, 3), seed=4)
    found = sensitivity(Filter(kernel), noise((5, 2, 6, 7)), 0.5, (2, 3))
    expected = torch.zeros(6, 7, dtype=torch.float64)
    expected[1:4, 2:5] = kernel.square().sum((0, 1)).sqrt()
    assert_close(found, expected, atol=1e-12)
    assert_close(sensitivity(Filter(kernel), noise((5, 2, 6, 7)), 0.5).roll((-1, 0), (0, 1)), expected, atol=1e-12)  # centre 3, 3


def test_sensitivity_is_what_differences_measure_and_ends_at_the_patch():
    data, t, step = random_set(6, channels=2, height=6, width=5), 0.5, 1e-6
    machine = EquivariantLocal(data, patch_size=3, border="zeros", engine="dense")
    x_t = noise((3, 2, 6, 5), seed=2)
    found = sensitivity(machine, x_t, t)
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for c in range(2):
        for y in range(6):
            for x in range(5):
                moved = torch.zeros_like(x_t)
                moved[:, c, y, x] = step
                change = (machine.denoise(x_t + moved, t) - machine.denoise(x_t - moved, t))[:, :, 3, 2] / (2 * step)
                expected[y, x] += change.square().sum(1).mean()
    assert_close(found, expected.sqrt(), atol=1e-7)  # central differences: rounding over the step
    assert int((found > 0).sum()) == 9
