"""Classifier-free guidance of machines, and models by specification."""

import pytest
import torch

from empirical.compare import compare
from empirical.models import open_model
from tests.helpers import assert_close, noise, random_set, refused
from theory.data import ImageSet
from theory.denoiser import Denoiser, Posterior
from theory.errors import InputError
from theory.guidance import guided
from theory.machines import MACHINES, Gaussian, Ideal, Nearest, Wiener
from theory.noise import CosineSchedule, VESchedule
from theory.sampling import DDIM, initial_noise


def test_noise_predictions_are_those_of_the_paper():
    """Eq. 6 of arXiv 2207.12598, and the same of scores."""
    data, x = random_set(), noise((3, 2, 5, 4), seed=1)
    ideal, labels, t = Ideal(data), [0, 1, 1], torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    for w in (-1.0, 0.0, 1.5):
        model = guided(ideal, w)
        expected = (1 + w) * ideal.epsilon(x, t, labels) - w * ideal.epsilon(x, t)
        assert_close(model.epsilon(x, t, labels), expected, atol=1e-12)
        assert_close(model.score(x, t, labels), (1 + w) * ideal.score(x, t, labels) - w * ideal.score(x, t), rtol=1e-12)


def test_guidance_of_gaussians_is_gaussian():
    """p(x|c)^(1+w) / p(x)^w of two Gaussians of one variance is one with the mean moved by w of their difference."""
    a, b = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), -0.1)
    data = ImageSet(torch.cat([a, b]), "two", labels=torch.tensor([0, 1]))
    one, all_of_them = Gaussian(data.select(0)), Ideal(ImageSet(b, "other"))  # point masses
    assert_close(guided(one, 2.0, all_of_them).denoise(noise((1, 1, 2, 2)), 0.5, 0), 3 * a - 2 * b, atol=1e-6)


class Silent(Denoiser):
    """Knows its classes alone."""

    schedule = CosineSchedule()

    def __call__(self, x_t, t, label=None):
        if label is None:
            raise InputError("no label", "a class", "name one")
        return Posterior(x_t * 0.5)


def test_an_unconditional_denoiser_may_be_another():
    data, x = random_set(), noise((1, 2, 5, 4))
    with pytest.raises(InputError, match="no label"):
        guided(Silent(), 1.0).denoise(x, 0.5, 1)
    assert_close(guided(Silent(), 1.0, Ideal(data)).denoise(x, 0.5, 1), x - Ideal(data).denoise(x, 0.5), atol=1e-12)
    assert_close(guided(Silent(), 0.0).denoise(x, 0.5, 1), 0.5 * x, atol=1e-12)  # nobody is asked in vain


def test_samplers_take_it():
    data = random_set()
    model = guided(Ideal(data), 0.0)
    x = initial_noise(model.schedule, (2, 2, 5, 4))
    assert_close(DDIM(model, 4)(x, 1).images, DDIM(Ideal(data.select(1)), 4)(x).images, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guided(Ideal(random_set()), float("nan")), "scale of guidance=nan"),
        (lambda: guided(Ideal(random_set()), float("inf")), "scale of guidance=inf"),
        (lambda: guided(Ideal(random_set()), 1.0)(torch.zeros(1, 2, 5, 4), 0.5), "guidance without a label"),
        (lambda: guided(Ideal(random_set()), 1.0, Ideal(random_set(), VESchedule())), "an unconditional denoiser with the ve schedule"),
        (lambda: open_model("ideal:guidance=much", random_set()), "guidance=much of ideal"),
        (lambda: open_model("ideal:patch_size=3", random_set()), "option 'patch_size=3' of ideal"),
        (lambda: open_model("nearest:count=many", random_set()), "count=many of nearest"),
        (lambda: open_model("nearest:count", random_set()), "option 'count' of nearest"),
        (lambda: open_model("nearest:count=7", random_set()), "count=7 nearest images of 6"),
        (lambda: open_model("wiener:equivariant=perhaps", random_set()), "equivariant=perhaps of wiener"),
        (lambda: open_model("wiener:patch_size=large", random_set()), "patch_size 'large'"),
        (lambda: open_model("equivariant:group=d4", random_set()), "images of 5x4 pixels"),
    ],
)
def test_refuses(make, words):
    with pytest.raises(InputError) as error:
        make()
    refused(error, words)


def test_specifications():
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    expected = {
        "nearest:count=2": Nearest(data, count=2),
        "wiener:patch_size=whole": Wiener(data),
        "wiener:patch_size=3,border=circular,equivariant=true": Wiener(data, patch_size=3, border="circular"),
        "wiener": Wiener(data, patch_size=data.patch_size),
        "mixture:components=2,rank=1": MACHINES["mixture"](data, components=2, rank=1),
        "smoothed:smoothing=0.2,copies=4,seed=3": MACHINES["smoothed"](data, smoothing=0.2, copies=4, seed=3),
        "equivariant:group=flips": MACHINES["equivariant"](data, group="flips"),
        "gaussian:rank=2": Gaussian(data, rank=2),
    }
    for spec, machine in expected.items():
        assert_close(open_model(spec, data).denoise(x, 0.4), machine.denoise(x, 0.4), atol=1e-13)
    assert_close(open_model("ideal:guidance=2", data).denoise(x, 0.4, 1), guided(Ideal(data), 2).denoise(x, 0.4, 1), atol=1e-13)


def test_all_machines_in_one_comparison():
    data = random_set(8, channels=1)
    models = {name: open_model(name, data) for name in ("local", *(n for n in MACHINES if n not in ("local", "ideal")))}
    models["guided"] = open_model("gaussian:guidance=1", data)
    report = compare(models, data, samples=4, steps=3, levels=2, draws=4, label=1)
    assert set(report["pairs"]) == {*MACHINES, "guided"} - {"local"}
    for pair in report["pairs"].values():
        assert all(torch.tensor(level["score_mse"]["value"]).isfinite() for level in pair["levels"])
