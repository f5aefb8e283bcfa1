"""Sums under masks, and the two machines made of them, against brute force."""

import numpy as np
import pytest
import torch

from tests import reference_field
from tests.contract import ClosedFormContract
from tests.helpers import assert_close, noise, random_images, random_set, refused
from theory.data import ImageSet, load
from theory.engines import Training
from theory.engines.masked import sets as module
from theory.engines.masked import together, ways
from theory.engines.masked.sets import Sets
from theory.engines.masked.sums import Masked, Pass, sum_masked
from theory.errors import InputError
from theory.machines import Ideal, PatchSet, PcaLocal
from theory.noise import CosineSchedule

MATRICES = {
    "few": torch.rand(300, 60, generator=torch.Generator().manual_seed(0)) < 0.1,
    "runs": torch.arange(60).expand(300, 60) // 7 % 2 == 0,
    "all": torch.ones(300, 60, dtype=torch.bool),
    "none": torch.zeros(300, 60, dtype=torch.bool),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("span", "product"), [(1e-9, 1e-9), (1e9, 1e-9), (1e9, 1e9)], ids=["spans", "members", "product"])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_over_sets(name, span, product, threads, dtype, monkeypatch):
    monkeypatch.setattr(module, "SPAN", span)
    monkeypatch.setattr(module, "PRODUCT", product)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values = noise((60, 64), dtype=dtype)
        found = Sets(MATRICES[name], 20).sums(values)
    finally:
        torch.set_num_threads(before)
    assert_close(found, MATRICES[name].double() @ values.double(), atol=3e-5 if dtype == torch.float32 else 1e-12)


def test_bounded_sums_end_early_only_where_all_are_beyond_the_limit(dtype):
    values, every = noise((60, 64), dtype=dtype).square() - 0.1, MATRICES["all"]
    sets, exact = Sets(every, 20), every.double() @ values.double()
    nearest = float(exact.min())
    for limit, complete in ((10 * nearest, True), (0.3 * nearest, False)):
        found, added = sets.bounded(values, torch.full((300,), limit, dtype=dtype), 0.1)
        ended = (found.double() - exact).abs().max(1).values > 1e-3
        assert not ((exact <= limit).any(1) & ended).any() and bool((found[ended] > limit).all())
        assert (added == 300 * 60) == complete and bool(ended.any()) != complete


@pytest.mark.parametrize(("entry", "whole"), [(1e9, 2.0), (-1.0, 2.0), (-1.0, 0.0)], ids=["members", "groups", "what is left out"])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_compiled_pass(entry, whole, threads, dtype, monkeypatch):
    """All ways to sum, several pieces and blocks that are not full, against logits written out."""
    monkeypatch.setattr(ways, "ENTRY", entry)
    monkeypatch.setattr(ways, "WHOLE", whole)
    monkeypatch.setattr(together, "TASK", 50)
    data, x = random_set(300, height=8, width=7), 0.7 * noise((1, 2, 8, 7), seed=3, dtype=dtype)
    matrix = torch.rand(112, 112, generator=torch.Generator().manual_seed(0)) < 0.4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sigma in (0.05, 0.6):
            masked = Masked(Training(data, lambda mean: mean, 2**26, False), None, Sets(matrix, 7))
            alpha, s = torch.tensor([0.8], dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64)
            state = sum_masked(masked, x, alpha, s, carried=True)
            rows = data.images.double().flatten(1)
            logits = -((x.double().flatten() - 0.8 * rows) ** 2 @ matrix.double().T) / (2 * sigma**2) + data.weights.double().log()[:, None]
            weights = logits.softmax(0)
            tolerance = 1e-11 if dtype == torch.float64 else 2e-5
            mean = state.mean[0, :, 0] + masked.training.centre(None).flatten()
            assert_close(mean, (weights * rows).sum(0), atol=tolerance)
            assert_close(state.ess[0], 1 / (weights**2).sum(0), rtol=10 * tolerance)
            assert_close(state.log_sum[0], logits.logsumexp(0), atol=1e-9 if dtype == torch.float64 else 5e-4, rtol=1e-6)
    finally:
        torch.set_num_threads(before)


class TestPcaLocal(ClosedFormContract):
    threshold = 0.3

    def make(self, data, schedule=None, **options):
        return PcaLocal(data, schedule, threshold=self.threshold, **options)

    def exact(self, *given):
        return reference_field.pca_local(*given, threshold=self.threshold)


class TestPcaLocalAsPublished(TestPcaLocal):
    threshold = 0.02


class TestPcaLocalOfManyImages(TestPcaLocal):
    """Several blocks of images side by side, sums that end early, and spans."""

    @pytest.fixture
    def data(self):
        labels = torch.arange(330) % 2
        weights = torch.rand(330, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
        smooth = torch.nn.functional.avg_pool2d(random_images(330, height=7, width=6), 3, 1)  # neighbours are alike
        return ImageSet(smooth, "many", weights=weights, labels=labels)

    def test_order_of_training_images_does_not_matter(self, data, model):
        order = torch.randperm(330, generator=torch.Generator().manual_seed(0))
        other = self.make(ImageSet(data.images[order], "shuffled", weights=data.weights[order]))
        x = noise((2, 2, 5, 4), seed=7)
        assert_close(other.denoise(x, 0.4), model.denoise(x, 0.4), atol=1e-12)

    def test_images_of_weight_zero_do_not_count(self, data):
        weights = data.weights.clone()
        weights[::3] = 0
        kept = weights > 0
        x = noise((2, 2, 5, 4), seed=10)
        a = self.make(ImageSet(data.images, "zero", weights=weights)).denoise(x, 0.5)
        b = self.make(ImageSet(data.images[kept], "kept", weights=weights[kept])).denoise(x, 0.5)
        assert_close(a, b, atol=1e-12)


class TestPatchSet(ClosedFormContract):
    size = (3, 3)

    def make(self, data, schedule=None, **options):
        return PatchSet(data, schedule, patch_size=self.size, **options)

    def exact(self, x, *given):
        return reference_field.patch_set(x, *given, sets=reference_field.squares(*x.shape[1:], self.size))


class TestPatchSetOblongBeyondTheImage(TestPatchSet):
    size = (1, 7)


class TestPatchSetFlexible(TestPatchSet):
    share = 0.6

    def make(self, data, schedule=None, **options):
        return PatchSet(data, schedule, sets="flexible", share=self.share, **options)

    def exact(self, x, images, weights, alpha, sigma):
        heat = reference_field.sensitivity(images, weights, alpha, sigma)
        sets = reference_field.flexible(heat, self.share)
        return reference_field.patch_set(x, images, weights, alpha, sigma, sets=sets)


class TestPatchSetOfGivenHeatmaps(TestPatchSetFlexible):
    heat = torch.rand(5, 4, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def make(self, data, schedule=None, **options):
        return PatchSet(data, schedule, sets="flexible", share=self.share, heatmap=lambda t: self.heat, **options)

    def exact(self, *given):
        return reference_field.patch_set(*given, sets=reference_field.flexible(self.heat.numpy(), self.share))


def test_sets_that_are_everything_give_the_ideal_score():
    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    ideal = Ideal(data).denoise(x, 0.3)
    for machine in (PatchSet(data, patch_size=9), PatchSet(data, sets="flexible", share=1.0)):
        assert_close(machine.denoise(x, 0.3), ideal, atol=1e-12)
    everything = Sets(torch.ones(40, 40, dtype=torch.bool), 4)
    masked = Masked(Training(data, lambda mean: mean, 2**26, False), None, everything)
    alpha, sigma = (c.expand(2) for c in CosineSchedule()(0.3))
    state = sum_masked(masked, x, alpha, sigma, carried=True)
    mean = state.mean.reshape(2, 2, 5, 4) + masked.training.centre(None)
    assert_close(mean, ideal, atol=1e-12)


def test_patch_of_one_pixel_is_local():
    from theory.machines import Local

    data, x = random_set(), noise((2, 2, 5, 4), seed=1)
    assert_close(PatchSet(data, patch_size=1).denoise(x, 0.4), Local(data, patch_size=1).denoise(x, 0.4), atol=1e-12)


def test_published_code_depends_on_its_batches_and_ours_has_none():
    """Means of softmaxes of batches of 3 are not those of batches of 2, and neither is the sum."""
    data, x = random_set(), 0.5 * noise((1, 2, 5, 4), seed=1)
    alpha, sigma = (float(c) for c in CosineSchedule()(0.5))
    sets = reference_field.pca_sets(data.images.double().numpy(), data.weights.numpy(), alpha, sigma, 0.02)
    rows, q = data.images.double().flatten(1), x.flatten()
    logits = -((q - alpha * rows) ** 2 @ torch.from_numpy(sets).double().T) / (2 * sigma**2) + data.weights.log()[:, None]

    def batches(size):
        parts = [(p.softmax(0) * k).sum(0) for p, k in zip(logits.split(size), rows.split(size), strict=True)]
        return torch.stack(parts).mean(0)

    ours = PcaLocal(data).denoise(x, 0.5).flatten()
    assert_close(ours, batches(6), atol=1e-12)
    assert (batches(2) - ours).abs().max() > 0.01 and (batches(3) - batches(2)).abs().max() > 0.01


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
def test_float32_near_the_data_and_far_from_it(sigma):
    """2e-5, the project's tolerance of float32, on photographs."""
    data = load("photos:count=200,size=8")
    schedule = CosineSchedule()
    t = float(schedule.time(sigma / (1 - sigma**2) ** 0.5))
    x = torch.cat([schedule.perturb(data.images[:2], t, noise((2, 3, 8, 8)).float()), noise((1, 3, 8, 8)).float()])
    for machine in (PcaLocal(data), PatchSet(data, patch_size=3), PatchSet(data, sets="flexible")):
        assert_close(machine.denoise(x, t), machine.denoise(x.double(), t), atol=2e-5)


def test_sums_that_end_early_are_given_up_where_they_do_not():
    data = load("photos:count=700,size=8")
    machine, schedule = PcaLocal(data), CosineSchedule()
    early = []
    for sigma in (0.02, 0.999):
        t = schedule.time(sigma / (1 - sigma**2) ** 0.5)
        alpha, s = (float(c) for c in schedule(t))
        masked = Masked(machine.training, None, machine.masks(None, alpha, s))
        x = schedule.perturb(data.images[:1], t, noise((1, 3, 8, 8)).float())
        run = Pass(masked, machine.training.shifted(None, x, schedule(t)[0][None]).flatten().float(), alpha, s)
        for _ in run:
            pass
        early.append((run.early, run.added / run.met / int(masked.sets.matrix.sum())))
    assert early[0][0] and early[0][1] < 0.9 and not early[1][0]


def test_images_on_disk(tmp_path):
    data = random_set(100)
    np.save(tmp_path / "x.npy", data.images.numpy())
    stored = load(f"npy:{tmp_path / 'x.npy'}")
    held, x = ImageSet(data.images, "held"), noise((2, 2, 5, 4), seed=1)
    for make in (PcaLocal, lambda d: PatchSet(d, patch_size=3)):
        for given in (x, x.float()):
            assert_close(make(stored).denoise(given, 0.4), make(held).denoise(given, 0.4), atol=1e-12 if given is x else 1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: PcaLocal(d, threshold=0.0), "threshold=0"),
        (lambda d: PcaLocal(d, threshold=1.1), "threshold=1.1"),
        (lambda d: PcaLocal(random_set(2, height=40, width=40), memory=2**24), "raise memory"),
        (lambda d: PatchSet(d), "without patch_size="),
        (lambda d: PatchSet(d, patch_size=3, heatmap=lambda t: None), "with heatmap="),
        (lambda d: PatchSet(d, patch_size=3, sets="round"), "sets='round'"),
        (lambda d: PatchSet(d, sets="flexible", share=0.0), "share=0"),
        (lambda d: PatchSet(d, sets="flexible", share=float("nan")), "share=nan"),
        (lambda d: PatchSet(d, sets="flexible", heatmap=lambda t: torch.ones(3)).denoise(torch.zeros(1, 2, 5, 4), 0.5), "of shape (3,)"),
        (
            lambda d: PatchSet(d, sets="flexible", heatmap=lambda t: torch.zeros(5, 4, 5, 4)).denoise(torch.zeros(1, 2, 5, 4), 0.5),
            "heatmap",
        ),
        (lambda d: PatchSet(random_set(2, height=70, width=70), patch_size=3, memory=2**24), "raise memory"),
    ],
)
def test_refuses(make, words):
    with pytest.raises(InputError) as error:
        make(random_set())
    refused(error, words)
