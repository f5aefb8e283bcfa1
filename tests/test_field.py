"""The machines beside IS, ES, LS and ELS against brute force, through the contract; and what makes each of them what it is."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from tests import reference_field
from tests.contract import ClosedFormContract, DenoiserContract
from tests.helpers import assert_close, noise, random_set, refused
from theory.data import ImageSet
from theory.errors import InputError
from theory.machines import Gaussian, Ideal, Mixture, Nearest, Smoothed, Wiener
from theory.machines.lowrank import covariance
from theory.noise import CosineSchedule, VESchedule


def arguments(data, t):
    """What brute force wants of a data set and a time."""
    return data.images.double().numpy(), data.weights.numpy(), *(float(c) for c in CosineSchedule()(t))


class TestGaussian(ClosedFormContract):
    def make(self, data, schedule=None, **options):
        return Gaussian(data, schedule, **options)

    exact = staticmethod(reference_field.gaussian)


class TestGaussianWithMoreImagesThanPixels(TestGaussian):
    @pytest.fixture
    def data(self):
        data = random_set(50)
        return ImageSet(data.images * torch.linspace(0.1, 1, 50)[:, None, None, None], "many", weights=data.weights, labels=data.labels)

    def test_order_of_training_images_does_not_matter(self, data, model):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
        other = self.make(ImageSet(data.images[order], "shuffled", weights=data.weights[order]))
        x = noise((2, 2, 5, 4), seed=7)
        assert_close(other.denoise(x, 0.4), model.denoise(x, 0.4), atol=1e-12)

    def test_images_of_weight_zero_do_not_count(self, data):
        weights = data.weights.clone()
        weights[::2] = 0
        x = noise((2, 2, 5, 4), seed=10)
        kept = ImageSet(data.images[1::2], "kept", weights=weights[1::2])
        assert_close(self.make(ImageSet(data.images, "zero", weights=weights)).denoise(x, 0.5), self.make(kept).denoise(x, 0.5), atol=1e-12)


class TestGaussianOfLowRank(ClosedFormContract):
    def make(self, data, schedule=None, **options):
        return Gaussian(data, schedule, rank=2 if len(data) > 2 else None, **options)

    def exact(self, *given):
        return reference_field.gaussian(*given, rank=2)


class TestMixtureOfClasses(ClosedFormContract):
    def make(self, data, schedule=None, **options):
        return Mixture(data, schedule, **options) if data.labels is not None else Mixture(data, schedule, components=1)

    def exact(self, *given):
        return reference_field.mixture(*given, parts=np.arange(6) % 2)

    def test_order_of_training_images_does_not_matter(self, data, model):
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        other = self.make(ImageSet(data.images[order], "shuffled", weights=data.weights[order], labels=data.labels[order]))
        x = noise((2, 2, 5, 4), seed=7)
        assert_close(other.denoise(x, 0.4), model.denoise(x, 0.4), atol=1e-12)


class TestNearest(ClosedFormContract):
    def make(self, data, schedule=None, **options):
        return Nearest(data, schedule, count=min(2, len(data)), **options)

    def exact(self, *given):
        return reference_field.nearest(*given, count=2)[:3]

    @pytest.mark.parametrize("t", [0.3, 0.7, 0.9, 1.0])
    def test_tells_the_true_share_of_the_others(self, data, model, t):
        x = 0.7 * noise((3, 2, 5, 4), seed=3)
        found = model(x, t).skipped
        assert_close(found, [reference_field.nearest(q.numpy(), *arguments(data, t), count=2)[3] for q in x], atol=1e-12)
        evidence = model(x, t).log_evidence - torch.log1p(-found)  # of all images
        assert_close(evidence, Ideal(data)(x, t).log_evidence, rtol=1e-12)

    def test_with_all_images_it_is_ideal_and_skips_nothing(self, data):
        x = noise((3, 2, 5, 4), seed=2)
        all_of_them, ideal = Nearest(data, count=6)(x, 0.6), Ideal(data)(x, 0.6)
        for a, b in zip(all_of_them, ideal, strict=True):
            assert_close(a, b, rtol=1e-12)
        assert not all_of_them.skipped.any()
        assert_close(Nearest(data).denoise(x, 0.6), ideal.mean, atol=1e-12)  # 256, or all there are

    def test_small_noise_reproduces_a_training_image(self, data, model):
        assert_close(model.denoise(data.images.double(), 1e-4), data.images, atol=1e-12)

    def test_duplicates_count_twice(self):
        """As two of the images that are kept."""
        data, x = random_set(), noise((2, 2, 5, 4))
        images = torch.cat([data.images[:3], data.images[:3]])
        found = Nearest(ImageSet(images, "twice"), count=4)(x, 0.9)
        kept = Nearest(ImageSet(data.images[:3], "once"), count=2)(x, 0.9)
        assert_close(found.mean, kept.mean, atol=1e-12)
        assert_close(found.ess, 2 * kept.ess, atol=1e-12)

    def test_large_noise_gives_a_constant_posterior(self, data):
        """Not here: the nearest images depend on the query at any noise level, and weigh as they do in the data."""
        x = noise((1, 2, 5, 4))
        near = (x - data.images).square().sum((1, 2, 3)).argsort()[:2]
        expected = (data.weights[near, None, None, None] * data.images[near]).sum(0) / data.weights[near].sum()
        assert_close(self.make(data, VESchedule(sigma_max=1e6)).denoise(x, 1.0)[0], expected, atol=1e-5)

    def test_memory_does_not_matter(self, data, model):
        x = noise((7, 2, 5, 4), seed=2)
        assert_close(Nearest(data, count=2, memory=2**24)(x, 0.6).mean, model(x, 0.6).mean, atol=1e-13)


class TestSmoothed(DenoiserContract):
    def make(self, data, schedule=None, **options):
        return Smoothed(data, schedule, smoothing=0.3, copies=6, seed=1, **options)

    def exact(self, *given):
        return reference_field.smoothed(*given, smoothing=0.3, copies=6, seed=1)

    def test_small_noise_reproduces_a_training_image(self, data):
        """Not at copies around it, which are nearest to other images too; without smoothing it is the ideal score."""
        x = noise((2, 2, 5, 4), seed=2)
        plain, ideal = Smoothed(data, smoothing=0.0, copies=4)(x, 0.4), Ideal(data)(x, 0.4)
        for a, b in zip(plain, ideal, strict=True):
            assert_close(a, b, rtol=1e-12)

    def test_score_is_the_gradient_of_the_evidence(self, data):
        x = noise((2, 2, 5, 4), seed=1).requires_grad_()
        model = self.make(data, engine="dense")
        (gradient,) = torch.autograd.grad(model(x, 0.5).log_evidence.sum(), x)
        assert_close(model.score(x, 0.5), gradient, rtol=1e-10)

    def test_sampling_error_is_that_between_seeds(self, data):
        """Of means by 100 seeds; the scatter of one pixel is known to 7%, that of all together no worse: four times that."""
        x = 0.5 * noise((1, 2, 5, 4), seed=1)
        models = [Smoothed(data, smoothing=0.5, copies=8, seed=seed) for seed in range(100)]
        means = torch.cat([model.denoise(x, 0.6) for model in models])
        told = torch.cat([model.standard_error(x, 0.6) for model in models])
        assert_close(told.square().mean(0).mean().sqrt(), means.var(0).mean().sqrt(), rtol=0.28)

    def test_sampling_error_in_the_order_of_images_and_with_labels(self, data, model):
        x, labels = noise((3, 2, 5, 4), seed=1), [1, 0, 1]
        times = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
        whole = model.standard_error(x, times, labels)
        for i in range(3):
            assert_close(whole[i], model.standard_error(x[i : i + 1], times[i], labels[i])[0], rtol=1e-12)

    def test_copies_do_not_depend_on_memory(self):
        data, x = random_set(3, height=40, width=40), noise((20, 2, 40, 40))
        a, b = (Smoothed(data, copies=32, memory=memory)(x, 0.9) for memory in (2**24, 2**29))
        assert_close(a.mean, b.mean, atol=1e-12)


class WienerContract(ClosedFormContract):
    size, border, equivariant = None, "circular", True

    def make(self, data, schedule=None, **options):
        return Wiener(data, schedule, patch_size=self.size, border=self.border, equivariant=self.equivariant, **options)

    def exact(self, *given):
        return reference_field.wiener(*given, size=self.size, border=self.border, equivariant=self.equivariant)


class TestWienerWhole(WienerContract):
    pass


class TestWienerCircular(WienerContract):
    size = (3, 3)


class TestWienerCircularBeyondTheImage(WienerContract):
    size = (3, 7)


class TestWienerZeros(WienerContract):
    size, border = (3, 3), "zeros"


class TestWienerInPlace(WienerContract):
    size, border, equivariant = (3, 1), "zeros", False


class TestWienerInPlaceCircular(WienerContract):
    size, equivariant = (5, 3), False


def test_wiener_that_sees_everything_is_gaussian():
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    gaussian = Gaussian(data).denoise(x, 0.4)
    for options in ({}, {"equivariant": False}):  # from every pixel 9 x 7 reaches all, and no two see the border alike
        assert_close(Wiener(data, patch_size=(9, 7), border="zeros", **options).denoise(x, 0.4), gaussian, atol=1e-10)


def test_wiener_of_wrapped_patches_as_large_as_the_image_is_that_of_the_whole():
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    whole = Wiener(data).denoise(x, 0.4)
    assert_close(Wiener(data, patch_size=(5, 5), border="circular").denoise(x, 0.4), whole, atol=1e-12)
    shifts = [(i, j) for i in range(5) for j in range(4)]
    shifted = ImageSet(torch.cat([data.images.roll(s, (2, 3)) for s in shifts]), "shifts", weights=data.weights.repeat(20))
    assert_close(Gaussian(shifted).denoise(x, 0.4), whole, atol=1e-10)


def test_wiener_is_what_a_linear_convolution_converges_to():
    """Trained on the exact expected loss, by L-BFGS."""
    data, x, (alpha, sigma) = random_set(), noise((2, 2, 5, 4), seed=1), (float(c) for c in CosineSchedule()(0.5))
    conv = torch.nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    optimizer = torch.optim.LBFGS(conv.parameters(), max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        clean = data.images.double()
        error = (conv(alpha * clean) - clean).square().sum((1, 2, 3))
        value = (data.weights * error).sum() + sigma**2 * 20 * conv.weight.square().sum()  # noise adds its variance, pixel by pixel
        value.backward()
        return value

    optimizer.step(loss)
    assert_close(Wiener(data, patch_size=3, border="circular").denoise(x, 0.5), conv(x), atol=1e-7)  # of the optimizer


def test_wiener_kernels_that_do_not_fit_are_made_again():
    data, x = random_set(3, height=24, width=24), noise((1, 2, 24, 24), seed=1)
    few, many = (Wiener(data, patch_size=5, equivariant=False, memory=memory) for memory in (2**25, 2**29))
    for _ in range(2):
        assert_close(few.denoise(x, 0.4), many.denoise(x, 0.4), atol=1e-12)


def test_wiener_takes_patch_schedules():
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    times = torch.tensor([0.2, 0.8], dtype=torch.float64)
    found = Wiener(data, patch_size=[1, 3]).denoise(x, times)
    for i, size in enumerate((1, 3)):
        assert_close(found[i], Wiener(data, patch_size=size).denoise(x[i : i + 1], times[i])[0], atol=1e-12)


def test_mixture_by_clusters():
    data, x = random_set(40), noise((2, 2, 5, 4), seed=1)
    rows = data.images.flatten(1).numpy()
    parts = KMeans(5, n_init=4, random_state=3).fit(rows, sample_weight=data.weights.numpy()).labels_
    found = Mixture(data, components=5, seed=3)(x, 0.4)
    for i in range(2):
        mean, evidence, _ = reference_field.mixture(x[i].numpy(), *arguments(data, 0.4), parts=parts)
        assert_close(found.mean[i], mean, atol=1e-10)
        assert_close(found.log_evidence[i], evidence, rtol=1e-10)


def test_mixture_between_its_two_ends():
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    assert_close(Mixture(data, components=1).denoise(x, 0.4), Gaussian(data).denoise(x, 0.4), atol=1e-12)
    assert_close(Mixture(data, components=6).denoise(x, 0.4), Ideal(data).denoise(x, 0.4), atol=1e-12)


@pytest.mark.parametrize("make", [Gaussian, Mixture, Wiener])
def test_gradient_of_the_evidence_is_the_score(make):
    x = noise((2, 2, 5, 4), seed=1).requires_grad_()
    evidence = make(random_set())(x, 0.5).log_evidence
    if evidence is None:
        assert make is Wiener  # says nothing of the distribution
        return
    (gradient,) = torch.autograd.grad(evidence.sum(), x)
    assert_close(make(random_set()).score(x, 0.5), gradient, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (Gaussian, {"rank": 6}, "rank=6 with a covariance of rank 5"),
        (Gaussian, {"rank": 0}, "rank=0"),
        (Gaussian, {"rank": 1.5}, "rank=1.5"),
        (Mixture, {"components": 7}, "components=7"),
        (Mixture, {"components": 0}, "components=0"),
        (Mixture, {"seed": -1}, "seed=-1"),
        (Nearest, {"count": 7}, "count=7 nearest images of 6"),
        (Nearest, {"count": 0}, "count=0"),
        (Smoothed, {"smoothing": -0.1}, "smoothing=-0.1"),
        (Smoothed, {"smoothing": float("nan")}, "smoothing=nan"),
        (Smoothed, {"copies": 5}, "copies=5"),
        (Smoothed, {"copies": 2}, "copies=2"),
        (Wiener, {"border": "zeros"}, "without a patch size"),
        (Wiener, {"equivariant": False}, "without a patch size"),
        (Wiener, {"patch_size": 3, "equivariant": 1}, "equivariant=1"),
        (Wiener, {"patch_size": 2}, "patch size 2"),
        (Wiener, {"memory": 3}, "memory=3"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_refuses_options(make, options, words, as_users_run_it):
    with pytest.raises(InputError) as error:
        make(random_set(), **options)
    refused(error, words)


def test_refuses_what_one_image_or_a_class_can_not_give():
    one = ImageSet(torch.zeros(1, 1, 4, 4), "one", labels=torch.zeros(1, dtype=torch.int64))
    for make, options in ((Gaussian, {"rank": 1}), (Mixture, {"components": 2}), (Nearest, {"count": 2})):
        with pytest.raises(InputError) as error:
            make(one, **options)
        refused(error)
    same = ImageSet(torch.zeros(5, 1, 4, 4), "the same")
    with pytest.raises(InputError, match="components=2"):
        Mixture(same, components=2)
    with pytest.raises(InputError, match="components='labels'"):
        Mixture(same, components="labels")
    with pytest.raises(InputError, match=r"count=4 nearest images of 3 .*label 1"):
        Nearest(random_set(), count=4)(torch.zeros(1, 2, 5, 4), 0.5, label=1)


def test_a_singular_covariance_is_legal():
    """Pixels that never change, and images that are all the same, are what they always are."""
    data = random_set()
    images = data.images.clone()
    images[:, :, 2] = 0.5
    for make in (Gaussian, Mixture, lambda d: Wiener(d, patch_size=3, equivariant=False)):
        out = make(ImageSet(images, "a constant row")).denoise(noise((1, 2, 5, 4)), 0.5)
        assert_close(out[:, :, 2], torch.full((1, 2, 4), 0.5), atol=1e-12)


def test_covariance_band_by_band():
    """More numbers than a band has rows, against numpy."""
    data = random_set(7, height=12, width=15)
    mean, matrix = reference_field.moments(data.images.double().flatten(1).numpy(), data.weights.numpy())
    assert_close(covariance(data.images, data.weights, torch.from_numpy(mean)), matrix, atol=1e-15)


def test_refuses_a_covariance_larger_than_memory():
    data = random_set(4, height=40, width=40)
    with pytest.raises(InputError, match="raise memory"):
        Wiener(data, patch_size=3, memory=2**24)(torch.zeros(1, 2, 40, 40), 0.5)
    many = random_set(1200, height=40, width=40)
    with pytest.raises(InputError, match="raise memory"):
        Gaussian(many, memory=2**24)(torch.zeros(1, 2, 40, 40), 0.5)


def test_wiener_is_never_better_than_the_machine_it_is_the_shadow_of():
    """Of all functions of a patch the conditional mean is the best, so its affine shadow has at least its loss."""
    from theory.machines import EquivariantLocal, Local

    data = random_set(5, channels=1, height=6, width=6)
    schedule = CosineSchedule()
    x_0 = data.images.repeat(200, 1, 1, 1).double()
    weights = data.weights.repeat(200) / 200
    x_t = schedule.perturb(x_0, 0.4, noise(x_0.shape, seed=5))
    for machine, equivariant in ((EquivariantLocal, True), (Local, False)):
        models = (machine(data, patch_size=3, engine="stream"), Wiener(data, patch_size=3, equivariant=equivariant))
        errors = [(model.denoise(x_t, 0.4) - x_0).square().sum((1, 2, 3)) for model in models]
        losses = [float((weights * error).sum()) for error in errors]
        assert losses[0] < losses[1]
