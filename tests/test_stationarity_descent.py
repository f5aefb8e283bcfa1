"""Numbers between levels, fresh images, and the descent on them, against brute force and autograd."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise
from theory.data import load
from theory.errors import InputError
from theory.machines import Ideal
from theory.noise import CosineSchedule
from theory.predictions import predicted, units
from theory.stationarity import FAMILIES, Options, Plan
from theory.stationarity.curve import Curve, Layout, hats, refined
from theory.stationarity.descent import BEGINNING, FLOOR, IMAGES, POOL, Descent, Pace, Pools, Range, Task
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


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score", "v"])
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
    assert pools.images == pools.count * pools.groups * IMAGES and 1 <= pools.groups <= POOL
    assert abs(pools.images - images) <= max(IMAGES * pools.groups / 2, IMAGES)


def test_a_loss_counts_as_a_share_of_that_of_els_and_a_floor():
    els = torch.tensor([0, 0.1, 0.5, 2.0, 1.0, 0.4, 0.2, 0.1, 0.0], dtype=torch.float64)
    levels = Range(torch.linspace(0.1, 0.9, 9, dtype=torch.float64), els, torch.ones_like(els))
    weights = levels.weights(torch.tensor([0.4, 0.35, 0.9], dtype=torch.float64))
    assert_close(1 / weights, torch.tensor([2.0, 1.25, 0.0], dtype=torch.float64) + FLOOR * 2, atol=1e-12)


def descent(name: str = "full", prediction: str = "sample", pools: tuple[int, int] = (1, 2), pace: Pace = BEGINNING, **options) -> Descent:
    made = source(prediction)
    chosen = model(name, made)
    levels = Range.of(made, TIMES[0], TIMES[-1], (9,))
    task = Task(chosen, made, levels, TIMES[1], Pools(*pools), pace, (5,), **options)
    return Descent(task, points(chosen, made)[1], made.groups(torch.tensor(TIMES[1:2], dtype=torch.float64), 20, (8,)))


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score", "v"])
@pytest.mark.parametrize("name", ["literal", "full"])
def test_the_descended_loss_is_that_of_the_point_as_a_posterior_mean(name, prediction):
    down = descent(name, prediction)
    alpha, sigma = SCHEDULE(torch.tensor(TIMES[1], dtype=torch.float64))
    draws, _ = down.watched
    given = points(down.task.model, down.task.source)[1]
    expected = down.task.model.loss(given, draws) / units(prediction, alpha, sigma) ** 2
    assert_close(down.loss(down.theta, draws), expected, rtol=1e-9)
    for mine, theirs in zip((*down.point().net, down.point().coefficients), (*given.net, given.coefficients), strict=True):
        assert_close(mine, theirs, rtol=1e-9)


def test_a_descent_lowers_the_loss_and_averages_its_weights():
    down = descent(pools=(4, 2))
    before = down.loss(down.average, down.watched[0]).mean()
    seen = []
    end = down.run(lambda: seen.append(down.average.clone()))
    assert len(seen) == 4 and down.step == down.task.steps == 2048 // BEGINNING.batch * BEGINNING.passes
    after = (down.loss(down.average, down.watched[0]) * down.watched[1]).mean()
    assert after < 0.9 * before and down.history[-1]["images"] == 2048
    assert down.history[-1]["loss"] == pytest.approx(float(after), rel=1e-12)
    lowest = (down.task.model.loss(end, down.watched[0]) * down.watched[1]).mean()
    assert float(lowest) == pytest.approx(min(h["loss"] for h in down.history), rel=1e-9)


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_one_step_is_adam_on_the_weighted_mean(prediction):
    """The first step of Adam moves every number by the rate against the sign of its gradient."""
    down = descent(prediction=prediction)
    t = torch.tensor(TIMES[1:2], dtype=torch.float64)
    draws, counts = down.task.source.groups(t, 6, (1,), torch.tensor([4.0], dtype=torch.float64)).together()
    assert float(counts.max()) > 1.01  # images count by how they were chosen
    value = (down.loss(down.theta, draws) * counts).mean() * down.task.levels.weights(t)
    (gradient,) = torch.autograd.grad(value, down.theta)
    before = down.theta.detach().clone()
    down._step(draws, counts)
    moved = gradient.abs() > 1e-4  # far above the epsilon of Adam, after clipping too
    rate = BEGINNING.rate * min(1.0, 1 / min(200, down.task.steps / 10))
    assert moved.any()
    assert_close((down.theta.detach() - before)[moved], -rate * gradient.sign()[moved], rtol=0.02)


def test_every_image_of_a_pool_is_used_as_often(monkeypatch):
    down, seen = descent(pace=Pace(128, 3, 1e-3)), []
    monkeypatch.setattr(down, "_step", lambda draws, counts: seen.append(draws.target.flatten(1)))
    down._pool(0)
    _, times = torch.cat(seen).unique(dim=0, return_counts=True)
    assert len(seen) == 2 * 2 * 3 and int(times.sum()) == 3 * 512 and (times % 3 == 0).all()


def test_interrupted_it_goes_on_to_the_same_bytes():
    whole, first, second = (descent(pools=(3, 1)) for _ in range(3))
    whole.run()

    class StopError(Exception):
        pass

    kept = {}

    def stop() -> None:
        if first.step == 2 * first.task.steps // 3:
            kept.update({name: x.clone() for name, x in first.tensors().items()})
            raise StopError

    with pytest.raises(StopError):
        first.run(stop)
    second.restore(kept, first.step, first.history)
    second.run()
    assert torch.equal(second.average, whole.average) and second.history == whole.history


def test_it_ends_where_it_lost_least_and_other_versions_are_refused(monkeypatch):
    """Steps lead down to values of size .3 and up again: the watched loss is lowest in between, also for one that was stopped there."""
    down, other = descent(pools=(5, 1)), descent(pools=(5, 1))
    begin, kept = down.average.clone(), {}

    def lead(self) -> None:
        def step(draws, counts) -> None:
            self.step += 1
            self.average.copy_(begin * (1 + abs(self.step * 5 / self.task.steps - 3)))

        monkeypatch.setattr(self, "_step", step)

    lead(down), lead(other)

    def after() -> None:
        if down.step * 5 == 4 * down.task.steps:
            kept.update(tensors={n: x.clone() for n, x in down.tensors().items()}, step=down.step, history=list(down.history))

    ends = [down.run(after)]
    other.restore(**kept)
    ends.append(other.run())
    losses = [h["loss"] for h in down.history]
    assert min(losses) == losses[2] < losses[-1] and other.history == down.history
    for end in ends:
        assert torch.equal(end.coefficients, down.point(begin).coefficients)
    with pytest.raises(InputError, match="another version"):
        other.restore({n: x for n, x in kept["tensors"].items() if n != "lowest"}, 1, [])


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
    down = descent("top1_full", sharper=4.0, rising=0.25, softened=0.25)
    soft, sharp, hard = (down.task.head(x) for x in (0.0, 0.2, 0.25))
    assert (soft.hard, soft.beta) == (False, 1.2) and not sharp.hard and 1.2 < sharp.beta < 4.8
    assert hard.hard and hard.through and hard.beta == pytest.approx(4.8)
    down.run()
    draws, counts = down.watched
    judged = (down.task.model.losses(down.point(), draws) * counts).mean()
    assert down.history[-1]["loss"] == pytest.approx(float(judged), rel=1e-9)


def test_what_was_found_sharp_goes_on_sharp_in_units_that_fit():
    """Logits change as much at a step however sharp they are: queries and keys of ``sqrt(4)`` times less are as long."""
    risen, sharp = (descent("top1_full", sharper=4.0, rising=rising, softened=0.9) for rising in (0.9, 0.0))
    assert [risen.task.head(x).beta for x in (0.0, 0.95)] == pytest.approx([1.2, 4.8])
    assert [sharp.task.head(x).beta for x in (0.0, 0.5, 0.95)] == pytest.approx([4.8] * 3)
    assert not sharp.task.head(0.5).hard and sharp.task.head(0.95).hard
    places = sharp.task.model.columns()
    scale = {f: [d.layout.point(d._scale).coefficients[..., places[f]] for d in (risen, sharp)] for f in places}
    for f, (mine, theirs) in scale.items():
        assert_close(mine / theirs, torch.full_like(mine, 2.0 if f in "qk" else 1.0), rtol=1e-6)
