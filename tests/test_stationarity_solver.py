"""The basis, the Galerkin problem and the solver, against brute force, autograd and theorems."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise, random_set, refused
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import EquivariantLocal
from theory.metrics import Estimate
from theory.noise import CosineSchedule
from theory.stationarity import FAMILIES, Options, Plan, solve
from theory.stationarity.basis import LocalBasis, predicted, recovered
from theory.stationarity.certificate import extrapolated
from theory.stationarity.equations import Head, forward
from theory.stationarity.families import SOFT
from theory.stationarity.galerkin import Galerkin, Sample, flattened, padded, whitening
from theory.stationarity.optimise import least_squares, quasi_newton
from theory.stationarity.run import one_size
from theory.stationarity.solver import before, outwards, with_parents

SCHEDULE = CosineSchedule()
STRIP = load("toy:layout=strip")
QUICK = {"images": 1200, "fresh": 1500, "features": 16, "iterations": 60, "starts": 2}


def coefficients(t: float, count: int):
    return (c.expand(count) for c in SCHEDULE(t))


# The basis ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_els_columns_are_the_els_machine(border):
    """In every prediction type; brute force for the machine is in test_machines."""
    data = random_set(7)
    x_t = noise((6, 2, 5, 4), seed=3)
    t = 0.4
    alpha, sigma = SCHEDULE(t)
    mean = EquivariantLocal(data, SCHEDULE, patch_size=3, border=border).denoise(x_t, t)
    for prediction in ("sample", "epsilon", "score"):
        basis = LocalBasis(data, (3, 3), border, 4, prediction)
        features = basis(x_t, *coefficients(t, 6))
        els = basis.image(torch.cat([f[..., b.els] for f, b in zip(features, basis.functions, strict=True)], 1))
        assert_close(els, predicted(prediction, mean, x_t, alpha, sigma), atol=1e-10)
        assert_close(recovered(prediction, els, x_t, alpha, sigma), mean, atol=1e-10)


def test_clusters_of_few_patches_are_posterior_responsibilities():
    """The strip shows 16 distinct columns, equally likely, whose two pixels have independent noise."""
    basis = LocalBasis(STRIP, (3, 1), "zeros", 0)
    t = 0.5
    alpha, sigma = SCHEDULE(t)
    x_t = noise((3, 3, 2, 4), seed=1)
    features = basis(x_t, *coefficients(t, 3))[0][..., basis.functions[0].clusters]
    columns = torch.unique(STRIP.images.double().permute(0, 3, 1, 2).reshape(-1, 3, 2), dim=0)
    distance = (x_t.permute(0, 3, 1, 2)[:, :, None] - alpha * columns).square().sum((-1, -2))
    expected = torch.softmax(-distance / (2 * sigma**2), -1)
    assert_close(features.sort(-1).values, expected.sort(-1).values, atol=1e-9)


def test_pixels_go_to_classes_and_back():
    basis = LocalBasis(load("toy"), (5, 5), "zeros", 0)
    x = noise((2, 3, 6, 4), seed=5)
    assert torch.equal(basis.image(basis.rows(x)), x)
    assert sorted(basis.order.tolist()) == list(range(24)) and len(basis.sites) == 20


def test_bases_of_growing_size_are_nested():
    small, large = (LocalBasis(STRIP, (3, 1), "zeros", k, seed=2) for k in (5, 9))
    x_t = noise((4, 3, 2, 4), seed=2)
    for a, b in zip(small(x_t, *coefficients(0.5, 4)), large(x_t, *coefficients(0.5, 4)), strict=True):
        assert_close(a, b[..., : a.shape[-1]], atol=1e-12)


def test_features_do_not_depend_on_the_batch():
    basis = LocalBasis(load("digits"), (3, 3), "zeros", 6)
    x_t = noise((5, 1, 8, 8), seed=4)
    together = basis(x_t, *coefficients(0.6, 5))
    alone = basis(x_t[3:4], *coefficients(0.6, 1))
    for a, b in zip(together, alone, strict=True):
        assert_close(a[3:4], b, atol=1e-9)


def test_whitened_functions_are_orthonormal_and_nested():
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 9))  # rank 6: three columns depend on the others
    features = torch.from_numpy(raw)
    matrix, moments, sizes = whitening(features, [4, 7, 9])
    assert sizes == [4, 6, 6]
    white = raw @ matrix.numpy()
    assert_close(white.T @ white / 500, np.eye(6), atol=1e-8)
    assert_close(moments, raw.T @ raw / 500, atol=1e-10)
    smaller, _, _ = whitening(features[:, :7], [4, 7])
    assert_close((raw[:, :7] @ smaller.numpy())[:, :4], white[:, :4], atol=1e-8)


# The Galerkin problem ----------------------------------------------------------------------------


def sample(n: int = 7, counts=(1, 3), functions=(5, 4), seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    basis = [torch.from_numpy(rng.standard_normal((n, p, f))) for p, f in zip(counts, functions, strict=True)]
    target, els = (torch.from_numpy(rng.standard_normal((n, sum(counts), 2))) for _ in range(2))
    return Sample(basis, target, els)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_gradient_is_autograd_through_the_coefficients(name):
    head = Head(0.7, 1.3, FAMILIES[name].hard)
    problem = Galerkin(FAMILIES[name], head, sample(), [4, 3], 3, ridge=0.05)
    theta = noise((sum(problem.lengths),), seed=1).requires_grad_(True)
    out = forward(problem.roles(theta), head).out
    loss = (out - problem.sample.target).square().sum() / 7 + 0.05 * theta.square().sum()
    (gradient,) = torch.autograd.grad(loss, theta)
    value, half = problem.evaluate(theta.detach())
    assert_close(value, loss, rtol=1e-12)
    assert_close(2 * half, gradient, atol=1e-11)
    assert_close(problem.losses(theta.detach()).mean(), value - 0.05 * float(theta.detach().square().sum()), rtol=1e-10)


@pytest.mark.parametrize("name", ["literal", "identity", "full", "top1_full"])
def test_curvature_is_the_jacobian_squared(name):
    head = Head(0.7, 1.3, FAMILIES[name].hard)
    problem = Galerkin(FAMILIES[name], head, sample(n=2), [2, 2], 2, ridge=0.03)
    theta = noise((sum(problem.lengths),), seed=2)
    jacobian = torch.autograd.functional.jacobian(lambda x: forward(problem.roles(x), head).out, theta).flatten(0, 2)
    expected = jacobian.T @ jacobian / 2 + 0.03 * torch.eye(len(theta), dtype=torch.float64)
    columns = [problem.curvature(theta, e) for e in torch.eye(len(theta), dtype=torch.float64)]
    assert_close(torch.stack(columns, 1), expected, atol=1e-11)


def test_calibrated_target_has_no_sampling_error_in_the_basis():
    calibrated = sample(n=40).calibrated([3, 4])
    gap = calibrated.target - calibrated.els
    for basis, size, part in zip(calibrated.basis, [3, 4], gap.split([1, 3], 1), strict=True):
        assert_close(torch.einsum("npf,npc->fc", basis[..., :size], part), torch.zeros(size, 2), atol=1e-9)


def test_a_larger_basis_holds_the_same_functions():
    problem = Galerkin(FAMILIES["full"], Head(), sample(), [3, 2], 2)
    larger = Galerkin(FAMILIES["full"], Head(), sample(), [5, 4], 2)
    theta = noise((sum(problem.lengths),), seed=3)
    again = flattened(padded(problem.matrices(theta), [5, 4]))
    assert_close(larger.losses(again), problem.losses(theta), rtol=1e-12)


def test_least_squares_finds_the_best_values_of_a_hard_head():
    problem = Galerkin(FAMILIES["top1_full"], Head(hard=True), sample(n=60), [4, 3], 2, ridge=1e-3)
    start = noise((sum(problem.lengths),), seed=4)
    theta = least_squares(problem, start, rtol=1e-12, iterations=200)
    assert (problem.evaluate(theta)[1] * problem.values_mask()).abs().max() < 1e-9
    assert torch.equal(problem.roles(theta).q, problem.roles(start).q)  # attention stays as it is
    assert problem.evaluate(theta)[0] < problem.evaluate(start)[0]


def test_quasi_newton_ends_at_a_stationary_point_and_stops_early_on_watched_images():
    problem = Galerkin(FAMILIES["identity"], Head(), sample(n=60), [4, 3], 2, ridge=1e-2)
    start = noise((sum(problem.lengths),), seed=5)
    theta, history, still = quasi_newton(problem, start, 400, 1e-12)
    assert still and problem.evaluate(theta)[1].norm() < 1e-3 * problem.evaluate(start)[1].norm()
    assert all(b <= a + 1e-12 for a, b in zip(history, history[1:], strict=False))
    other = Galerkin(FAMILIES["identity"], Head(), sample(n=60, seed=9), [4, 3], 2)
    early, watched, _ = quasi_newton(problem, start, 400, 0.0, other)
    assert_close(other.losses(early).mean(), min(watched), rtol=1e-10)


# Order of the work -------------------------------------------------------------------------------


def test_levels_are_solved_outwards_from_equal_signal_and_noise():
    times = [0.1, 0.3, 0.5, 0.7, 0.9]
    order = outwards(times, SCHEDULE)
    assert order == [2, 1, 0, 3, 4]
    assert [before(order, i, times) for i in range(5)] == [None, 2, 1, 2, 3]


def test_families_bring_those_they_start_from():
    assert [f.name for f in with_parents(("top1_full", "literal"))] == ["literal", "identity", "full", "top1_full"]
    assert [f.name for f in with_parents(("top1_literal",))] == ["literal", "top1_literal"]
    assert [f.name for f in with_parents(("identity_free",))] == ["identity", "identity_free"]


def test_extrapolation_of_a_geometric_series_is_its_limit():
    values = [torch.full((50,), x, dtype=torch.float64) for x in (2.0, 1.5, 1.25)]
    assert_close(extrapolated(values)[0], 1.0, rtol=1e-12)
    assert extrapolated([values[0], values[1], values[1]])[0] == 1.5
    assert extrapolated([torch.full((9,), x, dtype=torch.float64) for x in (1.0, 0.6, 0.2)])[0] == 0  # never below the ideal score


# Theorems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score"])
def test_without_attention_the_solution_is_els(prediction):
    """lambda = 0, all families: 1e-6 of the closed form, at and between levels."""
    options = Options(**(QUICK | {"images": 200, "fresh": 200}), strength=0.0, prediction=prediction)
    families = tuple(f.name for f in SOFT)
    solved = solve(STRIP, SCHEDULE, families, times=(0.3, 0.6), options=options, dtype=torch.float64)
    els = EquivariantLocal(STRIP, SCHEDULE, patch_size=(3, 1))
    x_t = noise((5, 3, 2, 4), seed=6)
    for name in families:
        for t in (0.3, 0.45, 0.6):
            assert_close(solved[name].denoise(x_t, t), els.denoise(x_t, t), atol=1e-6)


@pytest.fixture(scope="module")
def level():
    """All families on the strip at sigma/alpha 1."""
    plan = Plan(STRIP, SCHEDULE, tuple(FAMILIES), (float(SCHEDULE.time(1.0)),), (3, 1), options=Options(**(QUICK | {"iterations": 200})))
    ((_, solved),) = plan.levels(lambda number: None)
    return {name: s.certificate for name, s in solved.items()}


def test_families_are_ordered_as_they_contain_each_other(level):
    chain = ["full", "identity_free", "identity"]
    for small, large in zip(chain, chain[1:], strict=False):
        gap = Estimate.of(level[large].losses - level[small].losses)
        assert gap.value > -3 * gap.stderr, (small, large)
    assert level["full"].gain > 0.3  # of 1.43: the reference solution gains about .5 with a basis of 150
    assert level["literal"].gain < -10 * level["literal"].gain_stderr  # two losses: it does not contain ELS
    assert all(level[name].holds for name in (*chain, "literal")), {n: c.status for n, c in level.items()}


def test_top1_is_a_feasible_point_between_els_and_its_soft_family(level):
    for name in ("identity_free", "full"):
        assert level[f"top1_{name}"].gain > -3 * level[f"top1_{name}"].gain_stderr
        assert level[f"top1_{name}"].loss_fresh > level[name].loss_fresh


def test_starved_solve_says_so_and_keeps_its_history():
    plan = Plan(STRIP, SCHEDULE, ("full",), (0.5,), (3, 1), options=Options(**(QUICK | {"iterations": 2, "tolerance": 0.0})))
    ((_, solved),) = plan.levels(lambda number: None)
    certificate = solved["full"].certificate
    assert not certificate.holds and "still falling" in certificate.status
    assert len(certificate.history) == 3 and all(len(h) == 2 for h in certificate.history)


def test_same_seed_same_solution():
    one, two = (
        solve(STRIP, SCHEDULE, ("identity",), times=(0.5,), options=Options(**(QUICK | {"images": 200, "iterations": 10})))
        for _ in range(2)
    )
    for a, b in zip(one["identity"].coefficients[0], two["identity"].coefficients[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Options(features=10), "features 10"),
        (lambda: Options(images=3), "images 3"),
        (lambda: Options(beta=0.0), "beta 0.0"),
        (lambda: Options(iterations=0), "iterations 0"),
        (lambda: Options(ridge=-1.0), "ridge -1.0"),
        (lambda: solve(STRIP, options=Options(prediction="velocity")), "prediction 'velocity'"),
        (lambda: solve(STRIP, families=("quadratic",)), "family 'quadratic'"),
        (lambda: one_size([3, 5]), "2 patch sizes"),
    ],
)
def test_bad_options_are_refused(call, words):
    with pytest.raises(InputError) as error:
        call()
    refused(error, words)


def test_one_training_image_has_nothing_to_attend_to_and_is_certified():
    """The posterior mean is that image whatever is seen: no loss, and rounding is no violation."""
    data = ImageSet(torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1, "one")
    options = Options(images=200, fresh=100, features=4, iterations=20)
    solved = solve(data, families=("identity", "full"), times=(0.3, 0.7), options=options, patch_size=3)
    for name, score in solved.items():
        assert score.certified, (name, score.certificates)
        assert score.certificates[0]["loss_fresh"] < 1e-8
