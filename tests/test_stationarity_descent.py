"""Numbers between levels, fresh images, and the descent on them, against brute force and autograd."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise
from theory.data import load
from theory.machines import Ideal
from theory.noise import CosineSchedule
from theory.stationarity import FAMILIES, Options, Plan
from theory.stationarity.basis import predicted
from theory.stationarity.curve import Curve, Layout, hats, refined, units
from theory.stationarity.descent import FLOOR, GROUPS, IMAGES, MANY, PASSES, POOL, Descent, Pools, Range, Task
from theory.stationarity.equations import Head, Roles, forward, loss
from theory.stationarity.learned import Model, Point
from theory.stationarity.level import Level

SCHEDULE = CosineSchedule()
STRIP = load("toy:layout=strip")
TIMES = (0.3, 0.5, 0.8)


def source(prediction: str = "sample", dtype: torch.dtype = torch.float64):
    return Plan(STRIP, SCHEDULE, ("full",), TIMES, (3, 1), options=Options(prediction=prediction), dtype=dtype).source()


def model(name: str, made) -> Model:
    return Model(FAMILIES[name], Head(0.8, 1.2, FAMILIES[name].hard), made.basis.classes, 3, 4)


def points(chosen: Model, made, count: int = 3) -> list[Point]:
    out = []
    for i in range(count):
        start = chosen.start(made.basis.size, 6, np.random.default_rng(i), noise((1,)).to(made.dtype), 1.0)
        out.append(Point(start.net, start.coefficients + noise(start.coefficients.shape, i).to(made.dtype) / 10))
    return out


# Between levels ----------------------------------------------------------------------------------


def test_hats_interpolate_linearly_and_hold_beyond_the_knots():
    knots, s = torch.tensor([-1.0, 0.5, 2.0, 2.5], dtype=torch.float64), torch.linspace(-2, 3, 41).double()
    values = np.random.default_rng(0).standard_normal(4)
    weights = hats(knots, s)
    assert_close(weights @ torch.from_numpy(values), np.interp(s, knots, values), atol=1e-12)  # numpy holds beyond the ends too
    assert_close(weights.sum(1), torch.ones(41), atol=1e-12)
    assert (weights >= 0).all()
    assert torch.equal(hats(knots, knots), torch.eye(4).double())
    assert torch.equal(hats(torch.zeros(1).double(), s), torch.ones(41, 1).double())


def test_refined_knots_are_the_old_ones_and_midpoints():
    s = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
    assert refined(s, 0).tolist() == [-2.0, 0.0, 1.0]
    assert refined(s, 1).tolist() == [-2.0, -1.0, 0.0, 0.5, 1.0]
    assert refined(s, 2).tolist() == [-2.0, -1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert refined(s[:1], 3).tolist() == [-2.0]


def test_a_layout_takes_points_apart_and_together():
    made = source()
    point = points(model("full", made), made, 1)[0]
    layout = Layout.of(point)
    again = layout.point(torch.stack([layout.flat(point), 2 * layout.flat(point)]))
    for one, two in zip((*point.net, point.coefficients), (*again.net, again.coefficients), strict=True):
        assert torch.equal(two[0], one) and torch.equal(two[1], 2 * one)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score"])
def test_a_curve_is_its_points_at_the_knots_and_keeps_els_between_them(prediction):
    """Features count in units of the output, so that a local part that is ELS at two knots is ELS between them too."""
    made = source(prediction)
    chosen = model("full", made)
    given = points(chosen, made)
    alpha, sigma = SCHEDULE(torch.tensor(TIMES, dtype=torch.float64))
    unit, s = units(prediction, alpha, sigma), (sigma / alpha).log()
    curve = Curve(chosen, given[::-1], s.flip(0), unit.flip(0))  # in any order
    at = curve.at(s, unit, s)
    for i, point in enumerate(given):
        assert_close(at.coefficients[i], point.coefficients, rtol=1e-12)
        assert_close(at.net.first[i], point.net.first, rtol=1e-12)
    middle = curve.at((s[:1] + s[1:2]) / 2, unit[1:2], s)
    scale = torch.ones(3, *given[0].coefficients.shape).double()
    outputs = torch.cat([torch.full((w,), f in "hv") for f, w in zip(chosen.family.functions, chosen.widths, strict=True)])
    scale[:, :, :, outputs] = unit[:, None, None, None]
    scale[:, :, 1:4] = 1
    mean = (given[0].coefficients / scale[0] + given[1].coefficients / scale[1]) / 2 * scale[1]
    assert_close(middle.coefficients[0], mean, rtol=1e-12)


# Fresh images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_groups_are_noisy_images_at_their_times_with_exact_targets(prediction):
    made = source(prediction)
    t = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64)
    groups = made.groups(t, 5, (3, 1))
    x_t = made.noisy(t.repeat_interleave(5), (3, 1))
    for g in range(3):
        images = x_t[5 * g : 5 * g + 5]
        alpha, sigma = SCHEDULE(t[g])
        target = predicted(prediction, Ideal(STRIP, SCHEDULE).denoise(images, t[g]), images, alpha, sigma)
        assert_close(made.basis.image(groups.draws.target[g]), target, atol=1e-9)
        assert_close(groups.draws.u[g], made.basis(images, alpha.expand(5), sigma.expand(5)).u, atol=1e-9)
    assert torch.equal(groups.part(torch.tensor([2, 0])).draws.u, groups.draws.u[[2, 0]])
    assert torch.equal(groups.part(torch.tensor([2, 0])).t, t[[2, 0]])
    assert not torch.equal(made.noisy(t, (3, 2)), made.noisy(t, (3, 1)))


def test_noisy_images_have_the_moments_of_the_forward_process():
    """20,000 images: the standard error of a mean is at most .01, of a second moment .015 (pixels and noise of order 1)."""
    t = torch.full((20000,), 0.5).double()
    x_t = source().noisy(t, (0,))
    alpha, sigma = SCHEDULE(0.5)
    weights = STRIP.weights.double() / STRIP.weights.sum()
    clean = STRIP.images.double().flatten(1)
    assert_close(x_t.flatten(1).mean(0), alpha * (weights @ clean), atol=0.04)
    second = alpha**2 * clean.T @ (weights[:, None] * clean) + sigma**2 * torch.eye(24)
    assert_close(x_t.flatten(1).T @ x_t.flatten(1) / 20000, second, atol=0.06)


def test_losses_of_a_mean_are_those_of_the_coordinates():
    """ELS and the exact mean as images, measured where the solver's own losses are."""
    made = source("epsilon")
    level = Level.of(made, 0.5, 30, (1,))
    alpha, sigma = SCHEDULE(0.5)
    els = made.basis.image(made.basis(level.x_t, alpha.expand(30), sigma.expand(30)).mean)
    assert_close(level.losses(els), level.els_losses, rtol=1e-9)
    assert_close(level.losses(Ideal(STRIP, SCHEDULE).denoise(level.x_t, 0.5)), torch.zeros(30), atol=1e-12)
    assert_close(level.unit, float(alpha / sigma), rtol=1e-12)


# Descent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 256, 1000, 4864, 100_000])
def test_pools_use_up_about_the_images_asked_for(images):
    pools = Pools.of(images)
    used = pools.count * pools.steps * GROUPS * IMAGES
    assert pools.total == pools.count * pools.steps * PASSES and 1 <= pools.steps <= POOL
    assert abs(used - images) <= max(GROUPS * IMAGES * pools.steps / 2, GROUPS * IMAGES)


def test_many_images_are_used_half_as_often():
    assert Pools.of(MANY - 1, MANY).passes == PASSES and Pools.of(10 * MANY).passes == PASSES
    many = Pools.of(MANY, MANY)
    assert many.passes == PASSES // 2 and many.images == Pools.of(MANY).images and 2 * many.total == Pools.of(MANY).total


def test_levels_open_from_where_els_loses_most():
    els = torch.tensor([0, 0.1, 0.5, 2.0, 1.0, 0.4, 0.2, 0.1, 0.0], dtype=torch.float64)
    levels = Range(torch.linspace(0.1, 0.9, 9, dtype=torch.float64), els, torch.ones_like(els))
    low, high = levels.open(0.0)
    assert low < 0.4 < high and high - low < 0.05
    ends = [levels.open(x) for x in np.linspace(0, 1, 30)]
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in zip(ends, ends[1:], strict=False))
    assert_close(torch.tensor(levels.open(1.0), dtype=torch.float64), torch.tensor([0.1, 0.9], dtype=torch.float64), atol=1e-12)
    weights = levels.weights(torch.tensor([0.4, 0.35, 0.9], dtype=torch.float64))
    assert_close(1 / weights, torch.tensor([2.0, 1.25, 0.0], dtype=torch.float64) + FLOOR * 2, atol=1e-12)


def descent(name: str = "full", prediction: str = "sample", images: int = 512, dtype: torch.dtype = torch.float64, **options) -> Descent:
    made = source(prediction, dtype)
    chosen = model(name, made)
    levels = Range.of(made, TIMES[0], TIMES[-1], (9,))
    task = Task(chosen, made, levels, TIMES, Pools.of(images), (5,), **options)
    return Descent(task, points(chosen, made), made.groups(torch.tensor(TIMES, dtype=torch.float64), 20, (8,)))


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize("name", ["literal", "full"])
def test_the_descended_loss_is_that_of_the_interpolated_points(name, prediction):
    """Group by group through `Curve`, which a solved score uses: what is descended is what is used."""
    down = descent(name, prediction)
    chosen, made = down.task.model, down.task.source
    t = torch.tensor([0.35, 0.5, 0.71], dtype=torch.float64)
    groups = made.groups(t, 4, (2,))
    alpha, sigma = SCHEDULE(torch.tensor(TIMES, dtype=torch.float64))
    curve = Curve(chosen, down.points(), (sigma / alpha).log(), units(prediction, alpha, sigma))
    alpha, sigma = SCHEDULE(t)
    unit = units(prediction, alpha, sigma)
    at = curve.at((sigma / alpha).log(), unit, groups.draws.u)
    expected = chosen.loss(at, groups.draws) / unit.square()[:, None]
    assert_close(down.loss(down.theta, groups), expected, rtol=1e-9)


def test_points_survive_the_way_into_a_descent():
    for prediction in ("sample", "score"):
        down = descent("identity", prediction)
        chosen, made = down.task.model, down.task.source
        for mine, given in zip(down.points(), points(chosen, made), strict=True):
            assert_close(mine.coefficients, given.coefficients, rtol=1e-9)


def test_a_descent_lowers_the_loss_and_averages_its_weights():
    down = descent(images=2048)
    before = down.loss(down.average, down.watched).mean()
    seen = []
    down.run(lambda: seen.append(down.average.clone()))
    assert len(seen) == down.task.pools.count and down.step == down.task.pools.total
    assert down.loss(down.average, down.watched).mean() < 0.9 * before
    assert down.history[-1]["images"] == 2048
    assert_close(torch.tensor(down.history[-1]["losses"], dtype=torch.float64), down.loss(down.average, down.watched).mean(1), rtol=1e-12)


def test_one_step_is_adam_on_the_weighted_mean():
    """The first step of Adam moves every number by the rate against the sign of its gradient."""
    down = descent()
    groups = down.task.source.groups(torch.tensor([0.3, 0.6], dtype=torch.float64), 3, (1,), torch.tensor([4.0, 2.0], dtype=torch.float64))
    assert float(groups.counts.max()) > 1.01  # images count by how they were chosen
    weights = down.task.levels.weights(groups.t)
    value = ((down.loss(down.theta, groups) * groups.counts).mean(1) * weights).mean()
    (gradient,) = torch.autograd.grad(value, down.theta)
    before = down.theta.detach().clone()
    down._step(groups)
    moved = gradient.abs() > 1e-4  # far above the epsilon of Adam, after clipping too
    rate = 3e-3 * min(1.0, 1 / min(200, down.task.pools.total / 10))
    assert_close((down.theta.detach() - before)[moved], -rate * gradient.sign()[moved], rtol=0.02)


def test_a_level_by_itself_moves_at_the_same_rate():
    """Not at twice of it, as two parts that add would."""
    many = descent()
    task = Task(**{**vars(many.task), "times": (0.5,), "levels": many.task.levels.at(0.5)})
    groups = task.source.groups(torch.tensor([0.5] * 2, dtype=torch.float64), 3, (1,))
    down = Descent(task, [many.points()[0]], groups)
    before = down._scale(torch.ones(1)) * down.theta.detach().clone().sum(0)
    assert_close(down.layout.flat(down.points()[0])[None], before, rtol=1e-6)
    down._step(groups)
    moved = (down._scale(torch.ones(1)) * down.theta.detach().sum(0) - before).abs() / down._rates
    assert float(moved.max()) < 1.02 * 3e-3 / min(200, task.pools.total / 10)


def test_interrupted_it_goes_on_to_the_same_bytes():
    whole = descent(images=256 * 19 * 2)
    whole.task = Task(**{**vars(whole.task), "pools": Pools(3, 1)})
    first = descent(images=256)
    first.task = Task(**{**vars(first.task), "pools": Pools(3, 1)})
    whole.run()

    class StopError(Exception):
        pass

    kept = {}

    def stop() -> None:
        if first.step == 2 * PASSES:
            kept.update({name: x.clone() for name, x in first.tensors().items()})
            raise StopError

    with pytest.raises(StopError):
        first.run(stop)
    second = descent(images=256)
    second.task = first.task
    second.restore(kept, first.step, first.history)
    second.run()
    assert torch.equal(second.average, whole.average) and second.history == whole.history


def test_straight_through_changes_no_value_and_descends_as_the_softmax():
    q, k, h, v = (noise((2, 5, n), i).requires_grad_(True) for i, n in enumerate((3, 3, 2, 2)))
    target = noise((2, 5, 2), 9)
    hard, through = (Head(0.7, 1.3, True, through) for through in (False, True))
    roles = Roles(h, q, k, v)
    assert_close(forward(roles, through).out, forward(roles, hard).out, atol=1e-12)
    mine = torch.autograd.grad(loss(forward(roles, through).out, target).sum(), (h, q, k, v))
    residual = 2 * (forward(roles, hard).out - target).detach()
    soft = torch.softmax(1.3 * q @ k.mT, -1)
    pulled = (residual * 0.7 * (soft @ v.detach())).sum()  # the softmax where the argmax was, values as they are
    expected = torch.autograd.grad(pulled, (q, k))
    assert_close(mine[1], expected[0], atol=1e-9)
    assert_close(mine[2], expected[1], atol=1e-9)
    alpha = torch.nn.functional.one_hot((q @ k.mT).argmax(-1), 5).double()
    assert_close(mine[3], 0.7 * alpha.mT @ residual, atol=1e-9)


def test_a_hard_head_is_softened_first_and_judged_hard():
    down = descent("top1_full", sharper=4.0, softened=0.25)
    soft, sharp, hard = (down.task.head(x) for x in (0.0, 0.2, 0.25))
    assert (soft.hard, soft.beta) == (False, 1.2) and not sharp.hard and 1.2 < sharp.beta < 4.8
    assert hard.hard and hard.through and hard.beta == pytest.approx(4.8)
    down.run()
    values = [down.task.model.losses(p, type(down.watched.draws)(*(x[i] for x in vars(down.watched.draws).values()))).mean()
              for i, p in enumerate(down.points())]  # fmt: skip
    assert_close(torch.tensor(down.history[-1]["losses"], dtype=torch.float64), torch.stack(values), rtol=1e-9)
