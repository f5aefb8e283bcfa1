"""Every machine against brute force, through the contract; and what makes each of them what it is."""

import pytest
import torch

from tests import reference
from tests.contract import DenoiserContract
from tests.helpers import assert_close, noise, random_set
from theory.data import ImageSet
from theory.errors import InputError
from theory.machines import MACHINES, Equivariant, EquivariantLocal, Ideal, Local
from theory.noise import CosineSchedule
from theory.patches import PatchSchedule


class TestIdeal(DenoiserContract):
    def make(self, data, schedule=None, **options):
        return Ideal(data, schedule, **options)

    exact = staticmethod(reference.ideal)


class TestEquivariant(DenoiserContract):
    def make(self, data, schedule=None, **options):
        return Equivariant(data, schedule, **options)

    exact = staticmethod(reference.equivariant)


class Patched(DenoiserContract):
    machine = None
    formula = None
    patch_size = 3
    border = "zeros"
    patches = None

    def _options(self):
        return {"border": self.border} | ({"patches": self.patches} if self.patches else {})

    def make(self, data, schedule=None, **options):
        return type(self).machine(data, schedule, patch_size=self.patch_size, **self._options(), **options)

    def exact(self, x, images, weights, alpha, sigma):
        size = self.patch_size if isinstance(self.patch_size, tuple) else (self.patch_size,) * 2
        return type(self).formula(x, images, weights, alpha, sigma, size, **self._options())


class TestLocalZeros(Patched):
    machine, formula = Local, staticmethod(reference.local)


class TestLocalCircular(Patched):
    machine, formula, border = Local, staticmethod(reference.local), "circular"


class TestEquivariantLocalZeros(Patched):
    machine, formula = EquivariantLocal, staticmethod(reference.equivariant_local)


class TestEquivariantLocalCircular(Patched):
    machine, formula, border = EquivariantLocal, staticmethod(reference.equivariant_local), "circular"


class TestEquivariantLocalOblong(Patched):
    machine, formula, patch_size = EquivariantLocal, staticmethod(reference.equivariant_local), (3, 1)


class TestEquivariantLocalLargerThanTheImage(Patched):
    machine, formula, patch_size = EquivariantLocal, staticmethod(reference.equivariant_local), 7


class TestEquivariantLocalInterior(Patched):
    machine, formula, border, patches = EquivariantLocal, staticmethod(reference.equivariant_local), "circular", "interior"

    def test_small_noise_reproduces_a_training_image(self):
        """Not for patches at the border, which have no counterpart: only the interior is reproduced."""
        data = random_set()
        out = self.make(data).denoise(data.images[:1].double(), 1e-4)
        assert_close(out[..., 1:-1, 1:-1], data.images[:1, :, 1:-1, 1:-1], atol=1e-12)


@pytest.mark.parametrize("border", ["zeros", "circular"])
@pytest.mark.parametrize("size", [7, 9])
def test_wrapping_patches_larger_than_the_image(border, size):
    data, x = random_set(3, height=4, width=3), noise((1, 2, 4, 3), seed=2)
    for machine, formula in ((Local, reference.local), (EquivariantLocal, reference.equivariant_local)):
        out = machine(data, patch_size=size, border=border)(x, 0.5)
        alpha, sigma = (float(c) for c in CosineSchedule()(0.5))
        args = (data.images.double().numpy(), data.weights.numpy(), alpha, sigma, (size, size), border)
        assert_close(out.mean[0], formula(x[0].numpy(), *args)[0], atol=1e-10)


def test_equivariant_is_ideal_on_all_shifts():
    data, x = random_set(), noise((3, 2, 5, 4), seed=1)
    shifts = [(i, j) for i in range(5) for j in range(4)]
    images = torch.cat([torch.roll(data.images, s, (2, 3)) for s in shifts])
    augmented = ImageSet(images, "shifts", weights=data.weights.repeat(len(shifts)))
    for t in (0.05, 0.4, 0.9):
        a, b = Equivariant(data)(x, t), Ideal(augmented)(x, t)
        assert_close(a.mean, b.mean, atol=1e-11)
        assert_close(a.log_evidence, b.log_evidence, rtol=1e-12)


def test_local_with_a_patch_that_covers_the_image_is_ideal():
    data, x = random_set(), noise((3, 2, 5, 4), seed=1)
    # From every pixel, 9 x 7 reaches all of 5 x 4.
    assert_close(Local(data, patch_size=(9, 7)).denoise(x, 0.3), Ideal(data).denoise(x, 0.3), atol=1e-12)


def test_wrapped_patch_as_large_as_the_image_makes_equivariant_local_equivariant():
    data, x = random_set(height=5, width=3), noise((3, 2, 5, 3), seed=1)
    els = EquivariantLocal(data, patch_size=(5, 3), border="circular")
    assert_close(els.denoise(x, 0.3), Equivariant(data).denoise(x, 0.3), atol=1e-11)


@pytest.mark.parametrize("machine", ["equivariant", "equivariant_local"])
def test_commutes_with_circular_shifts(machine):
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    options = {"patch_size": 3, "border": "circular"} if machine == "equivariant_local" else {}
    model = MACHINES[machine](data, **options)
    for shift in ((1, 0), (2, 3)):
        assert_close(model.denoise(torch.roll(x, shift, (2, 3)), 0.3), torch.roll(model.denoise(x, 0.3), shift, (2, 3)), atol=1e-12)


def test_zero_border_breaks_equivariance():
    """The border is seen: a shift moves pixels into another border class."""
    data, x = random_set(), noise((1, 2, 5, 4), seed=1)
    model = EquivariantLocal(data, patch_size=3)
    moved = torch.roll(model.denoise(x, 0.3), 1, 3)
    assert (model.denoise(torch.roll(x, 1, 3), 0.3) - moved).abs().max() > 0.01


@pytest.mark.parametrize("name", ["ideal", "equivariant"])
def test_score_is_the_gradient_of_the_log_evidence(name):
    x = noise((2, 2, 5, 4), seed=1).requires_grad_()
    model = MACHINES[name](random_set(), engine="dense")
    for t in (0.1, 0.5, 0.95):
        (gradient,) = torch.autograd.grad(model(x, t).log_evidence.sum(), x)
        assert_close(model.score(x, t), gradient, rtol=1e-10)


@pytest.mark.parametrize("machine", [Local, EquivariantLocal])
@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_score_of_a_pixel_is_the_gradient_of_its_own_log_evidence(machine, border):
    """A patch's evidence, by its central pixel (2412.20292, eq. 8 and 10)."""
    x = noise((1, 2, 5, 4), seed=1).requires_grad_()
    model = machine(random_set(), patch_size=3, border=border, engine="dense")
    evidence, score = model(x, 0.4).log_evidence, model.score(x, 0.4)
    for i in range(5):
        for j in range(4):
            (gradient,) = torch.autograd.grad(evidence[0, i, j], x, retain_graph=True)
            assert_close(score[0, :, i, j], gradient[0, :, i, j], rtol=1e-10)


def test_patch_schedule_chooses_the_size_at_each_time():
    data, x = random_set(), noise((4, 2, 5, 4), seed=1)
    times = torch.tensor([0.1, 0.6, 0.3, 1.0], dtype=torch.float64)
    scheduled = EquivariantLocal(data, patch_size=PatchSchedule(((3, 3), (5, 5))))
    fixed = [EquivariantLocal(data, patch_size=k) for k in (3, 5)]
    expected = torch.stack([fixed[int(t >= 0.5)].denoise(x[i : i + 1], t)[0] for i, t in enumerate(times)])
    assert_close(scheduled.denoise(x, times), expected, atol=1e-12)


def test_label_and_patch_schedule_together():
    data, x = random_set(), noise((4, 2, 5, 4), seed=1)
    times, labels = torch.tensor([0.1, 0.6, 0.6, 0.1], dtype=torch.float64), [1, 0, 1, 0]
    model = EquivariantLocal(data, patch_size=[3, 5])
    whole = model(x, times, labels)
    for i in range(4):
        k = 3 if times[i] < 0.5 else 5
        alone = EquivariantLocal(data.select(labels[i]), patch_size=k)(x[i : i + 1], times[i])
        assert_close(whole.mean[i], alone.mean[0], atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": 4}, "patch size 4"),
        ({"patch_size": 0}, "patch size 0"),
        ({"patch_size": -3}, "patch size -3"),
        ({"patch_size": [3, 2]}, "patch size 2"),
        ({"patch_size": 3, "border": "reflect"}, "border 'reflect'"),
        ({"patch_size": 3, "engine": "magic"}, "engine 'magic'"),
        ({"patch_size": 3, "memory": 1000}, "memory=1000"),
        ({"patch_size": 3, "patches": "some"}, "patches='some'"),
        ({"patch_size": 3, "patches": "interior"}, "border='zeros'"),
        ({"patch_size": 7, "patches": "interior", "border": "circular"}, "7x7"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_refuses_options(options, words):
    with pytest.raises(InputError) as error:
        EquivariantLocal(random_set(), **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_dense_refuses_what_does_not_fit():
    model = Ideal(random_set(64, height=32, width=32), engine="dense", memory=2**24)
    with pytest.raises(InputError, match="engine='stream'"):
        model(torch.zeros(64, 2, 32, 32), 0.5)


def test_refuses_labels_that_are_no_numbers_of_classes():
    with pytest.raises(InputError, match="label"):  # other types are stopped here by the type checker
        Ideal(random_set())(torch.zeros(1, 2, 5, 4), 0.5, label=True)
