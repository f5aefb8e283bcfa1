"""What a patch tells, learned functions, the projected conditions and the solver, against brute force, autograd and theorems."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise, random_set, refused
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import EquivariantLocal
from theory.metrics import Estimate
from theory.noise import CosineSchedule
from theory.stationarity import FAMILIES, Options, Plan, solve, solver
from theory.stationarity.basis import LocalBasis, predicted, recovered
from theory.stationarity.certificate import contains_els, extrapolated
from theory.stationarity.equations import Head, Roles, forward, loss
from theory.stationarity.families import SOFT
from theory.stationarity.galerkin import Galerkin, whitening
from theory.stationarity.learned import Draws, Model, Point, learn
from theory.stationarity.optimise import least_squares
from theory.stationarity.run import one_size
from theory.stationarity.solver import before, outwards, with_parents

SCHEDULE = CosineSchedule()
STRIP = load("toy:layout=strip")
QUICK = {"images": 1500, "fresh": 1500, "features": 16, "embedding": 8, "iterations": 150}


def coefficients(t: float, count: int):
    return (c.expand(count) for c in SCHEDULE(t))


# What a patch tells ------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_els_is_the_els_machine(border):
    """In every prediction type; brute force for the machine is in test_machines."""
    data = random_set(7)
    x_t = noise((6, 2, 5, 4), seed=3)
    t = 0.4
    alpha, sigma = SCHEDULE(t)
    mean = EquivariantLocal(data, SCHEDULE, patch_size=3, border=border).denoise(x_t, t)
    for prediction in ("sample", "epsilon", "score"):
        basis = LocalBasis(data, (3, 3), border, prediction)
        told = basis(x_t, *coefficients(t, 6))
        els = basis.image(told.els)
        assert_close(basis.image(told.mean), mean, atol=1e-10)
        assert_close(els, predicted(prediction, mean, x_t, alpha, sigma), atol=1e-10)
        assert_close(recovered(prediction, els, x_t, alpha, sigma), mean, atol=1e-10)


def test_coordinates_are_the_posterior_of_the_patch():
    """The strip shows 16 distinct columns, equally likely, whose two pixels have independent noise: by brute force."""
    basis = LocalBasis(STRIP, (3, 1), "zeros")
    t = 0.5
    alpha, sigma = SCHEDULE(t)
    x_t = noise((3, 3, 2, 4), seed=1)
    u, *_ = basis(x_t, *coefficients(t, 3))
    columns = torch.unique(STRIP.images.double().permute(0, 3, 1, 2).reshape(-1, 3, 2), dim=0)
    seen = x_t.permute(0, 3, 1, 2)  # image, column, channel, row
    distance = (seen[:, :, None] - alpha * columns).square().sum((-1, -2))
    posterior = torch.softmax(-distance / (2 * sigma**2), -1)
    mean = torch.einsum("bxk,kcy->bxcy", posterior, columns)
    upper, lower = (u[:, basis.classes == c] for c in (0, 1))
    for row, part in ((0, upper), (1, lower)):
        window = part[..., :9].reshape(3, 4, 3, 3)  # channel, place; the first place is outside for the upper row
        assert_close(window[..., 1 - row : 3 - row], mean, atol=1e-9)
        assert_close(window[..., 2 * row], torch.zeros(3, 4, 3), atol=0)
        assert_close(part[..., 18:].sort(-1).values[..., -16:], posterior.sort(-1).values, atol=1e-9)


def test_a_noisy_patch_is_seen_along_the_principal_directions_with_variance_one():
    data = random_set(9)
    basis = LocalBasis(data, (3, 3), "circular")
    alpha, sigma = SCHEDULE(0.5)
    rng = torch.Generator().manual_seed(0)
    clean = data.images.double()[torch.multinomial(data.weights, 20000, replacement=True, generator=rng)]
    x_t = alpha * clean + sigma * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
    seen = basis(x_t, *coefficients(0.5, 20000))[0][..., 18:36].flatten(0, 1)  # full rank: all directions are kept
    assert_close(seen.T @ seen / len(seen), torch.eye(18), atol=0.03)  # 400,000 rows, 20 of each image dependent


def test_pixels_go_to_classes_and_back():
    basis = LocalBasis(load("toy"), (5, 5), "zeros")
    x = noise((2, 3, 6, 4), seed=5)
    assert torch.equal(basis.image(basis.rows(x)), x)
    assert sorted(basis.order.tolist()) == list(range(24)) and len(basis.sites) == 20
    assert basis.classes.tolist() == sorted(basis.classes.tolist())


def test_coordinates_do_not_depend_on_the_batch():
    basis = LocalBasis(load("digits"), (3, 3), "zeros")
    x_t = noise((5, 1, 8, 8), seed=4)
    together = basis(x_t, *coefficients(0.6, 5))
    alone = basis(x_t[3:4], *coefficients(0.6, 1))
    for a, b in zip(together, alone, strict=True):
        assert_close(a[3:4], b, atol=1e-9)


# Learned functions -------------------------------------------------------------------------------

CLASSES = torch.tensor([0, 1, 1, 1])


def model(name: str, head: Head | None = None, embedding: int = 3) -> Model:
    return Model(FAMILIES[name], head or Head(0.7, 1.3, FAMILIES[name].hard), CLASSES, 2, embedding)


def draws(n: int = 7, seed: int = 0) -> Draws:
    return Draws(noise((n, 4, 5), seed), noise((n, 4, 2), seed + 100), noise((n, 4, 2), seed + 200))


def random_point(chosen: Model, features: int = 4, seed: int = 0) -> Point:
    start = chosen.start(5, features, np.random.default_rng(seed), noise((1,)), 1.0)
    return Point(start.net, noise(start.coefficients.shape, seed + 1) / 2)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_roles_are_functions_of_the_coordinates_written_out(name):
    chosen = model(name)
    point, sample = random_point(chosen), draws()
    first, offset, second, shift = point.net
    out = torch.zeros(7, 4, sum(chosen.widths), dtype=torch.float64)
    for n in range(7):
        for p, c in enumerate(CLASSES.tolist()):
            hidden = sample.u[n, p] @ first + offset[c]
            z = torch.tanh((hidden / (1 + torch.exp(-hidden))) @ second + shift[c])
            out[n, p] = torch.cat([torch.ones(1, dtype=torch.float64), sample.els[n, p], z]) @ point.coefficients[c]
    expected = FAMILIES[name].roles(dict(zip(FAMILIES[name].functions, out.split(chosen.widths, -1), strict=True)))
    for mine, theirs in zip(chosen.roles(point, sample), expected, strict=True):
        assert_close(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("name", ["identity", "full"])
def test_new_features_change_nothing_until_they_are_used(name):
    chosen = model(name)
    point = random_point(chosen)
    larger = chosen.grown(point, 9, np.random.default_rng(1))
    assert larger.net.width == 9
    assert_close(chosen.losses(larger, draws()), chosen.losses(point, draws()), rtol=1e-12)


@pytest.mark.parametrize("name", [f.name for f in SOFT])
@pytest.mark.parametrize("strength", [-2.0, 0.5, 1.0])
def test_local_parts_start_from_els(name, strength):
    """So that all of ``out`` is ELS: for tied values where a pixel reads itself, for free ones but for faint values."""
    chosen = model(name, Head(strength))
    point = chosen.start(5, 4, np.random.default_rng(0), noise((1,)), 3.0)
    roles = chosen.roles(point, draws())
    share = 1 / (1 + strength) if roles.h is roles.v or torch.equal(roles.h, roles.v) else 1.0
    assert_close(roles.h, share * draws().els, atol=1e-12)


def test_learning_lowers_the_loss_and_returns_the_best_it_watched():
    chosen = model("full", Head())
    sample, watched, rng = draws(300), draws(200, seed=1), np.random.default_rng(0)
    start = chosen.start(5, 8, rng, noise((1,)), 1.0)
    point, history = learn(chosen, start, sample, watched, 80, 1.0, 1.0, rng)
    assert_close(float(chosen.losses(point, watched).mean()), min(history), rtol=1e-10)
    assert len(history) == 5 and float(chosen.losses(point, sample).mean()) < float(chosen.losses(start, sample).mean())


def test_calibrated_target_has_no_sampling_error_in_what_a_patch_tells():
    sample = draws(60)
    calibrated = sample.calibrated(CLASSES)
    gap = calibrated.target - calibrated.els
    for c in (0, 1):
        here = c == CLASSES
        told = torch.cat([torch.ones(60, int(here.sum()), 1), sample.els[:, here], sample.u[:, here]], -1)
        assert_close(torch.einsum("npi,npc->ic", told, gap[:, here]), torch.zeros(8, 2), atol=1e-9)
    assert (calibrated.target - sample.target).abs().max() > 0.01


def test_a_point_is_the_same_after_saving():
    point = random_point(model("full"))
    again = Point.of(point.tensors())
    assert torch.equal(again.coefficients, point.coefficients) and all(torch.equal(a, b) for a, b in zip(again.net, point.net, strict=True))


# The projected conditions ------------------------------------------------------------------------


def test_whitened_functions_are_orthonormal_and_nested():
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 9))  # rank 6: three columns depend on the others
    moments = torch.from_numpy(raw.T @ raw / 500)
    matrix, sizes = whitening(moments, [4, 7, 9])
    assert sizes == [4, 6, 6]
    white = raw @ matrix.numpy()
    assert_close(white.T @ white / 500, np.eye(6), atol=1e-8)
    smaller, _ = whitening(moments[:7, :7], [4, 7])
    assert_close((raw[:, :7] @ smaller.numpy())[:, :4], white[:, :4], atol=1e-8)


def whitened(problem: Galerkin, theta: list[torch.Tensor], sample: Draws) -> torch.Tensor:
    """The output at coefficients of the whitened functions, by way of a point."""
    chosen = problem.model
    basis = problem.basis(sample)
    parts = [basis[:, c == CLASSES] @ (m @ t) for c, (m, t) in enumerate(zip(problem.matrices, theta, strict=True))]
    values = dict(zip(chosen.family.functions, torch.cat(parts, 1).split(chosen.widths, -1), strict=True))
    return forward(chosen.family.roles(values), chosen.head).out


@pytest.mark.parametrize("name", list(FAMILIES))
def test_gradient_is_autograd_through_the_coefficients(name):
    """The projected stationarity condition, in the features and in held-out ones."""
    chosen, sample = model(name), draws()
    point = random_point(chosen)
    problem = Galerkin(chosen, point, sample, lambda u: torch.sin(u[..., :2]))
    assert_close(whitened(problem, problem.theta, sample), forward(chosen.roles(point, sample), chosen.head).out, atol=1e-9)
    theta = [t.clone().requires_grad_(True) for t in problem.theta]
    half = loss(whitened(problem, theta, sample), sample.target).mean() / 2
    for mine, expected in zip(problem.gradient(problem.theta), torch.autograd.grad(half, theta), strict=True):
        assert_close(mine, expected, atol=1e-10)


@pytest.mark.parametrize("name", ["literal", "identity", "full", "top1_full"])
def test_curvature_is_the_jacobian_squared(name):
    chosen, sample = model(name, embedding=2), draws(3)
    problem = Galerkin(chosen, random_point(chosen, features=2), sample)
    sizes = [t.numel() for t in problem.theta]

    def split(x: torch.Tensor) -> list[torch.Tensor]:
        return [part.reshape(t.shape) for part, t in zip(x.split(sizes), problem.theta, strict=True)]

    flat = torch.cat([t.flatten() for t in problem.theta])
    jacobian = torch.autograd.functional.jacobian(lambda x: whitened(problem, split(x), sample), flat).flatten(0, 2)
    columns = [torch.cat([c.flatten() for c in problem.curvature(problem.theta, split(e))]) for e in torch.eye(len(flat)).double()]
    assert_close(torch.stack(columns, 1), jacobian.T @ jacobian / 3, atol=1e-9)


def test_least_squares_finds_the_best_values_of_a_hard_head():
    chosen, sample = model("top1_full", Head(hard=True)), draws(60)
    problem = Galerkin(chosen, random_point(chosen), sample)
    theta = least_squares(problem, problem.theta, rtol=1e-12, iterations=300)
    assert all((g * problem.values_mask()).abs().max() < 1e-8 for g in problem.gradient(theta))
    point = problem.point(theta)
    assert_close(chosen.roles(point, sample).q, chosen.roles(problem.point(problem.theta), sample).q, atol=1e-9)
    assert chosen.losses(point, sample).mean() < chosen.losses(problem.point(problem.theta), sample).mean()


# Order of the work -------------------------------------------------------------------------------


def test_levels_are_solved_outwards_from_equal_signal_and_noise():
    times = [0.1, 0.3, 0.5, 0.7, 0.9]
    order = outwards(times, SCHEDULE)
    assert order == [2, 1, 0, 3, 4]
    assert [before(order, i, times) for i in range(5)] == [None, 2, 1, 2, 3]


def test_families_bring_those_they_start_from():
    assert [f.name for f in with_parents(("top1_full", "literal"))] == ["literal", "full", "top1_full"]
    assert [f.name for f in with_parents(("top1_literal",))] == ["literal", "top1_literal"]
    assert [f.name for f in with_parents(("full", "identity_free"))] == ["identity_free", "full"]


def test_extrapolation_of_a_geometric_series_is_its_limit():
    values = [torch.full((50,), x, dtype=torch.float64) for x in (2.0, 1.5, 1.25)]
    assert_close(extrapolated(values)[0], 1.0, rtol=1e-12)
    assert extrapolated([values[0], values[1], values[1]]) == (None, None)  # no gain tells nothing of the limit
    assert extrapolated([torch.full((9,), x, dtype=torch.float64) for x in (1.0, 0.6, 0.2)])[0] == 0  # never below the ideal score


def test_the_printed_equation_misses_something_and_the_exact_one_nothing(monkeypatch):
    options = Options(**(QUICK | {"iterations": 40}))
    plan = Plan(STRIP, SCHEDULE, ("literal",), (0.5,), (3, 1), options=options)
    ((_, solved),) = plan.levels(lambda number: None)
    assert solved["literal"].printed > 0.2

    def exact(z, output, residual, head):
        return sum(solver.variation(Roles(z, z, z, z), output, residual, head))

    monkeypatch.setattr(solver, "printed", exact)
    ((_, again),) = plan.levels(lambda number: None)
    assert again["literal"].printed < 1e-5
    plan = Plan(STRIP, SCHEDULE, ("literal",), (0.5,), (3, 1), options=Options(**(QUICK | {"strength": 0.0})))
    ((_, alone),) = plan.levels(lambda number: None)
    assert alone["literal"].printed is None  # no force, nothing to miss


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
    plan = Plan(STRIP, SCHEDULE, tuple(FAMILIES), (float(SCHEDULE.time(1.0)),), (3, 1), options=Options(**QUICK | {"images": 3000}))
    ((_, solved),) = plan.levels(lambda number: None)
    return {name: s.certificate for name, s in solved.items()}


@pytest.mark.slow
def test_families_are_ordered_as_they_contain_each_other(level):
    chain = ["full", "identity_free", "identity"]
    for small, large in zip(chain, chain[1:], strict=False):
        gap = Estimate.of(level[large].losses - level[small].losses)
        assert gap.value >= -3 * gap.stderr, (small, large)  # equal where the larger one starts from the smaller and finds nothing better
    assert level["full"].gain > 0.3  # of 1.43: the reference solution gains about .5 with a basis of 150
    assert level["literal"].gain < -10 * level["literal"].gain_stderr  # two losses: it does not contain ELS
    assert all(level[name].holds for name in (*chain, "literal")), {n: c.status for n, c in level.items()}


@pytest.mark.slow
def test_top1_is_a_feasible_point_between_els_and_its_soft_family(level):
    for name in ("identity_free", "full"):
        assert level[f"top1_{name}"].gain > -3 * level[f"top1_{name}"].gain_stderr
        assert level[f"top1_{name}"].loss_fresh > level[name].loss_fresh


def test_starved_solve_says_so_and_keeps_its_history():
    plan = Plan(STRIP, SCHEDULE, ("full",), (0.5,), (3, 1), options=Options(**(QUICK | {"iterations": 2})))
    ((_, solved),) = plan.levels(lambda number: None)
    certificate = solved["full"].certificate
    assert not certificate.holds and "6 iterations prove nothing" in certificate.status
    assert len(certificate.history) == 3 and all(len(h) >= 2 for h in certificate.history)


def test_a_family_with_free_values_is_never_worse_than_els_for_want_of_time():
    """Solved alone, with next to no iterations, at a noise so low that ELS is all but exact."""
    solved = solve(STRIP, SCHEDULE, ("full",), times=(0.05,), options=Options(**(QUICK | {"iterations": 2})))["full"]
    (certificate,) = solved.certificates
    assert certificate["loss_fresh"] <= certificate["els_loss"] + 1e-6
    assert not any("above els" in f for f in certificate["failures"])


def test_els_is_no_rival_of_tied_values_with_short_queries():
    """That tied values contain it is shown for embeddings longer than a colour."""
    for embedding, contained in ((3, False), (4, True)):
        model = Model(FAMILIES["identity"], Head(), torch.zeros(1, dtype=torch.long), 3, embedding)
        assert contains_els(model) is contained


def test_a_loss_beyond_all_numbers_is_a_failed_certificate(monkeypatch):
    def lost(model, point, *rest):
        return Point(point.net, point.coefficients * math.inf), [math.inf, math.nan]

    monkeypatch.setattr(solver, "learn", lost)
    solved = solve(STRIP, SCHEDULE, ("identity",), times=(0.5,), options=Options(**QUICK))["identity"]
    assert not solved.certified and "not finite" in solved.certificates[0]["status"]
    assert all(x is None or math.isfinite(x) for x in solved.certificates[0].values() if isinstance(x, float | None))


def test_same_seed_same_solution():
    one, two = (
        solve(STRIP, SCHEDULE, ("identity",), times=(0.5,), options=Options(**(QUICK | {"images": 200, "iterations": 10})))
        for _ in range(2)
    )
    a, b = (s["identity"].points[0].tensors() for s in (one, two))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Options(features=10), "features 10"),
        (lambda: Options(images=3), "images 3"),
        (lambda: Options(beta=0.0), "beta 0.0"),
        (lambda: Options(iterations=0), "iterations 0"),
        (lambda: Options(seed=-1), "seed -1"),
        (lambda: Options(strength=float("inf")), "strength inf"),
        (lambda: solve(STRIP, times=()), "no noise level"),
        (lambda: solve(STRIP, dtype=torch.float16), "dtype torch.float16"),
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
    options = Options(images=200, fresh=100, features=4, iterations=100)
    solved = solve(data, families=("identity", "full"), times=(0.3, 0.7), options=options, patch_size=3)
    for name, score in solved.items():
        assert score.certified, (name, score.certificates)
        assert score.certificates[0]["loss_fresh"] < 1e-6  # of 9 pixels of order 1: what a thousand steps of Adam leave
