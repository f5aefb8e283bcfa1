"""What every denoiser must do. A test class supplies `make` and, where it has one, `exact`, and inherits the rest."""

import pytest
import torch

from tests.helpers import assert_close, noise, random_set
from theory.errors import InputError
from theory.noise import CosineSchedule, VESchedule


class ClosedFormContract:
    """Contract of any closed-form denoiser on images of shape (2, 5, 4)."""

    def make(self, data, schedule=None, **options):
        raise NotImplementedError

    def exact(self, x, images, weights, alpha, sigma):
        """Mean, log evidence and ess of one image, by brute force; None for what the denoiser does not tell."""
        raise NotImplementedError

    @pytest.fixture
    def data(self):
        return random_set()

    @pytest.fixture
    def model(self, data):
        return self.make(data)

    @pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 1.0])
    def test_equals_brute_force(self, data, model, t):
        x = noise((2, 2, 5, 4), seed=3) * 0.7
        alpha, sigma = (float(c) for c in CosineSchedule()(t))
        out = model(x, t)
        for i in range(2):
            mean, evidence, ess = self.exact(x[i].numpy(), data.images.double().numpy(), data.weights.numpy(), alpha, sigma)
            assert_close(out.mean[i], mean, atol=1e-10)
            for told, expected, rtol in ((out.log_evidence, evidence, 1e-10), (out.ess, ess, 1e-9)):
                assert (told is None) == (expected is None)
                if expected is not None:
                    assert_close(told[i], expected, rtol=rtol)

    def test_float32_equals_float64(self, model):
        x = noise((2, 2, 5, 4), seed=4)
        for t in (0.01, 0.1, 0.5, 0.99):
            # Logits are kept to 1e-4; a mean moves by a fraction of that, the share of its runners-up. Measured: 1.1e-5.
            assert_close(model.denoise(x.float(), t), model.denoise(x.float().double(), t), atol=3e-5)

    def test_batch_equals_one_at_a_time(self, model, dtype):
        x = noise((4, 2, 5, 4), seed=5, dtype=dtype)
        whole = model(x, 0.3)
        for i in range(4):
            alone = model(x[i : i + 1], 0.3)
            for a, b in both(alone, whole):
                assert_close(a[0], b[i], rtol=1e-5 if dtype == torch.float32 else 1e-12)

    def test_times_per_sample(self, model):
        x, times = noise((3, 2, 5, 4), seed=6), torch.tensor([0.9, 0.05, 0.4], dtype=torch.float64)
        whole = model(x, times)
        for i, t in enumerate(times):
            assert_close(whole.mean[i], model(x[i : i + 1], t).mean[0], atol=1e-12)

    def test_order_of_training_images_does_not_matter(self, data, model):
        from theory.data import ImageSet

        order = torch.tensor([3, 0, 5, 1, 4, 2])
        other = self.make(ImageSet(data.images[order], "shuffled", weights=data.weights[order]))
        x = noise((2, 2, 5, 4), seed=7)
        assert_close(other.denoise(x, 0.4), model.denoise(x, 0.4), atol=1e-12)

    def test_score_and_epsilon_follow_from_the_mean(self, model):
        x, t = noise((2, 2, 5, 4), seed=8), 0.6
        alpha, sigma = (float(c) for c in CosineSchedule()(t))
        mean = model.denoise(x, t)
        assert_close(model.score(x, t), (alpha * mean - x) / sigma**2, rtol=1e-12)
        assert_close(model.epsilon(x, t), (x - alpha * mean) / sigma, rtol=1e-12)

    def test_keeps_dtype_and_device(self, model, dtype, device):
        out = model(noise((1, 2, 5, 4), dtype=dtype).to(device), 0.5)
        told = [x for x in out if x is not None]
        assert {x.dtype for x in told} == {dtype} and {x.device.type for x in told} == {device}

    def test_one_training_image_is_enough(self, data):
        from theory.data import ImageSet

        model = self.make(ImageSet(torch.full((1, 2, 5, 4), 0.25), "one"))
        assert_close(model.denoise(noise((2, 2, 5, 4)), 0.5), torch.full((2, 2, 5, 4), 0.25), atol=1e-7)

    def test_duplicates_count_twice(self, data):
        from theory.data import ImageSet

        twice = torch.cat([data.images[:3], data.images[:1]])
        weighted = ImageSet(data.images[:3], "weights", weights=torch.tensor([2.0, 1, 1]))
        x = noise((2, 2, 5, 4), seed=9)
        a, b = self.make(ImageSet(twice, "twice"))(x, 0.5), self.make(weighted)(x, 0.5)
        assert_close(a.mean, b.mean, atol=1e-12)
        if a.log_evidence is not None:
            assert_close(a.log_evidence, b.log_evidence, rtol=1e-12)

    def test_large_noise_gives_a_constant_posterior(self, data):
        """sigma to infinity: the query says nothing, the answer is the prior mean."""
        model = self.make(data, VESchedule(sigma_max=1e6))
        a, b = (model.denoise(noise((1, 2, 5, 4), seed=s), 1.0) for s in (1, 2))
        assert_close(a, b, atol=1e-5)  # |x|/sigma^2 is 1e-6 at sigma 1e6, once

    def test_images_of_weight_zero_do_not_count(self, data):
        from theory.data import ImageSet

        none = ImageSet(data.images, "zero", weights=torch.tensor([1.0, 0, 2, 0, 1, 0]))
        kept = ImageSet(data.images[::2], "kept", weights=torch.tensor([1.0, 2, 1]))
        x = noise((2, 2, 5, 4), seed=10)
        assert_close(self.make(none).denoise(x, 0.5), self.make(kept).denoise(x, 0.5), atol=1e-12)

    def test_label_equals_the_subset(self, data, model):
        x, labels = noise((3, 2, 5, 4), seed=11), torch.tensor([1, 0, 1])
        out = model(x, 0.5, label=labels)
        for i, label in enumerate(labels.tolist()):
            subset = self.make(data.select(label))
            for a, b in both(out, subset(x[i : i + 1], 0.5)):
                assert_close(a[i], b[0], rtol=1e-12)

    @pytest.mark.parametrize(
        ("x", "t", "label", "words"),
        [
            (torch.zeros(1, 3, 5, 4), 0.5, None, "(1, 3, 5, 4)"),
            (torch.zeros(1, 2, 4, 4), 0.5, None, "(1, 2, 4, 4)"),
            (torch.zeros(1, 2, 5, 4).half(), 0.5, None, "float16"),
            (torch.full((1, 2, 5, 4), torch.nan), 0.5, None, "NaN"),
            (torch.full((1, 2, 5, 4), torch.inf), 0.5, None, "infinite"),
            (torch.zeros(1, 2, 5, 4), -0.1, None, "t = -0.1"),
            (torch.zeros(1, 2, 5, 4), 1.1, None, "t = 1.1"),
            (torch.zeros(1, 2, 5, 4), float("nan"), None, "t = nan"),
            (torch.zeros(1, 2, 5, 4), 0.0, None, "sigma_t = 0"),
            (torch.zeros(2, 2, 5, 4), torch.tensor([0.1, 0.2, 0.3]), None, "time t of shape (3,)"),
            (torch.zeros(1, 2, 5, 4), 0.5, 7, "label 7"),
            (torch.zeros(2, 2, 5, 4), 0.5, torch.tensor([0, 1, 0]), "label of shape (3,)"),
            (torch.zeros(0, 2, 5, 4), 0.5, None, "an empty batch"),
        ],
        ids=lambda v: v if isinstance(v, str) else "",
    )
    def test_refuses(self, model, x, t, label, words):
        for call in (model.__call__, model.score):
            with pytest.raises(InputError) as error:
                call(x, t, label)
            assert words in str(error.value) and "\n" not in str(error.value)

    def test_a_gradient_runs_through_or_is_refused(self, model):
        x = noise((1, 2, 5, 4), seed=13).requires_grad_()
        if not model.differentiable:
            with pytest.raises(InputError, match="noisy images that require a gradient with"):
                model(x, 0.5)
            return
        direction, step = noise((1, 2, 5, 4), seed=14), 1e-6
        weighted = [(model.denoise(x.detach() + sign * step * direction, 0.5) * x.detach()).sum() for sign in (1, -1)]
        (gradient,) = torch.autograd.grad((model.denoise(x, 0.5) * x.detach()).sum(), x)
        assert_close((gradient * direction).sum(), (weighted[0] - weighted[1]) / (2 * step), rtol=1e-6, atol=1e-8)


class DenoiserContract(ClosedFormContract):
    """Contract of denoisers that are posteriors over training candidates."""

    def test_small_noise_reproduces_a_training_image(self, data, model):
        for i in range(len(data)):
            assert_close(model.denoise(data.images[i : i + 1].double(), 1e-4), data.images[i : i + 1], atol=1e-12)

    def test_engines_agree(self, data, model):
        x = noise((2, 2, 5, 4), seed=12)
        dense = self.make(data, engine="dense")
        for t in (0.01, 0.3, 0.9):
            for a, b in zip(dense(x, t), model(x, t), strict=True):
                assert_close(a, b, rtol=1e-11)

    def test_refuses_a_gradient_without_the_dense_engine(self, model):
        with pytest.raises(InputError, match="require a gradient with engine="):
            model(torch.zeros(1, 2, 5, 4, requires_grad=True), 0.5)


def both(a, b):
    """What two posteriors tell, field by field."""
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            yield x, y
