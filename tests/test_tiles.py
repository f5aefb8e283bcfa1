"""What is left out on a card, by its kernels run on the CPU: bounds against all windows, and posteriors against exact ones."""

import math

import pytest
import torch

from tests.helpers import assert_close, noise
from tests.hostcuda import COMPILER, MISSING, Host
from theory import meetings
from theory.data import ImageSet, load
from theory.engines import Case, State, Training, like
from theory.engines.listed.engine import Stream
from theory.engines.windows.cuda import sums, tiles
from theory.engines.windows.engine import Windows
from theory.engines.windows.layout import layout
from theory.meetings import Meetings

pytestmark = pytest.mark.skipif(COMPILER is None, reason=MISSING)

SIDE = 12
STATED = {
    "circular": meetings.everywhere((SIDE, SIDE), (5, 5)),
    "zeros, oblong": meetings.same_class((SIDE, SIDE), (5, 3)),
    "interior": meetings.inside((SIDE, SIDE), (5, 5)),
}


def photos(count: int) -> ImageSet:
    data = load("photos", count=count, size=SIDE)
    weights = 0.1 + torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ImageSet(data.images, "photos", weights=weights)


def problem(stated: Meetings, sigma: float, dtype=torch.float64, count: int = 24) -> tuple[Case, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two noisy images, and their coefficients."""
    data = photos(count)
    alpha = math.sqrt(1 - sigma**2)
    x = (alpha * data.images[[3, 5]].double() + sigma * noise((2, *data.images.shape[1:]), 5)).to(dtype)
    training = Training(data, lambda mean: mean.mean((2, 3), keepdim=True), 2**26, False)
    return Case(stated, training, None, like(x)), x, *(torch.full((2,), c, dtype=torch.float64) for c in (alpha, sigma))


@pytest.mark.filterwarnings("ignore::theory.errors.InputWarning")  # of one image alone
@pytest.mark.parametrize("name", STATED)
@pytest.mark.parametrize("sigma", [0.003, 0.3])
def test_no_window_costs_less_than_its_bound(name, sigma):
    """Against the distances of all pairs that meet, from the definition; and bounds are not idle."""
    case, x, alpha, sigma = problem(STATED[name], sigma, count=8)
    images = case.training.centred(None, x)[0]
    known = tiles.Tiles.of(layout(case.meetings), case.meetings.wraps[1], images)
    shifted = case.training.shifted(None, x, alpha)
    costs = known.costs(shifted[:1], alpha[:1], sigma[:1], layout(case.meetings), Host()).reshape(8, SIDE, SIDE)
    ratios = []
    for n in range(8):
        alone = Training(ImageSet(case.training.data.images[n : n + 1], "one"), lambda _: case.training.centre(None), 2**26, False)
        state = Stream().sum(Case(case.meetings, alone, None, case.like), x[:1], alpha[:1], sigma[:1])
        nearest = (-state.max / math.log(2)).reshape(SIDE, SIDE)
        assert bool((costs[n] <= nearest * (1 + 1e-12)).all())
        ratios.append(float((costs[n] / nearest).median()))
    assert max(ratios) > 0.3


@pytest.mark.parametrize(
    ("name", "rtol", "dtype"), [*((name, 1e-4, torch.float64) for name in STATED), *((name, 1e-2, torch.float32) for name in STATED)]
)
def test_the_error_is_below_what_is_told_and_that_below_the_tolerance(name, rtol, dtype, monkeypatch):
    case, x, *coefficients = problem(STATED[name], 0.02, dtype)
    met = []
    summed = sums.sum_windows
    monkeypatch.setattr(sums, "sum_windows", lambda *a: (met.append(len(a[3])), summed(*a))[1])
    exact = Stream().sum(case, x, *coefficients)
    found = Windows(Host()).leaving_out(rtol, case).sum(case, x, *coefficients)
    assert sum(met) < 0.75 * 2 * case.count  # of two noisy images
    told = found.skipped_share
    assert 0 < float(told.max()) <= rtol
    rounding = 1e-9 if dtype == torch.float64 else 2e-4
    reach = case.training.data.images.max() - case.training.data.images.min()
    assert bool(((found.mean - exact.mean).abs().amax(-1) <= told * reach + rounding).all())
    missing = exact.log_sum - found.log_sum
    assert bool((missing <= -torch.log1p(-told) + rounding).all() and (missing >= -rounding).all())


@pytest.mark.parametrize("rtol", [1e-3, 0.03, 0.3])
def test_as_many_are_left_out_as_the_tolerance_allows_and_all_that_is_missing_is_told(rtol):
    """With bounds that are what images do weigh, of three pixels: the missing weight is known."""
    generator = torch.Generator().manual_seed(0)
    bits = (40 * torch.rand(60, 3, generator=generator)).float()  # that a window costs: all windows of an image cost the same
    log_weights = torch.rand(60, generator=generator).double().log()
    weights = torch.exp2(-bits.double()) * 3 * log_weights.exp()[:, None]
    met = []

    def summed(rows: torch.Tensor | None) -> State:
        rows = torch.arange(60) if rows is None else rows
        met.extend(rows.tolist())
        top = weights[rows].amax(0)
        return State(top.log()[None], (weights[rows].sum(0) / top)[None], torch.ones(1, 3).double(), torch.zeros(1, 3, 1).double())

    found = tiles.sum_pruned(bits, log_weights, rtol, summed)
    assert len(set(met)) == len(met)
    left = sorted(set(range(60)) - set(met))
    assert_close(found.skipped[0] * found.max[0].exp(), weights[left].sum(0), rtol=1e-9)
    first = sorted(set(weights.argmax(0).tolist()))
    shares = (weights / (tiles.EXACT * weights[first].sum(0))).amax(1)
    assert float(shares[left].sum()) <= rtol
    others = [n for n in met if n not in first]
    assert float(shares[left].sum() + shares[others].min()) > rtol and float(found.skipped_share.max()) <= rtol


def test_where_little_can_be_left_out_all_is_summed():
    """At high noise, where nothing else is known of the signal either, and where the bounds find no room."""
    for sigma in (0.9, 1.0):
        case, x, *coefficients = problem(STATED["circular"], sigma, count=9)
        exact, found = (Windows(Host()).leaving_out(r, case).sum(case, x, *coefficients) for r in (0.0, 1e-4))
        assert_close(found.log_sum, exact.log_sum, rtol=1e-12)
        assert float(found.skipped.abs().max()) == 0
    case, x, *coefficients = problem(STATED["circular"], 0.02)
    case.training.memory = 2**10
    found = Windows(Host()).leaving_out(1e-4, case).sum(case, x[:1], *(c[:1] for c in coefficients))
    assert float(found.skipped.abs().max()) == 0


def test_pixels_that_meet_few_windows_of_an_image_are_summed_exactly_and_so_are_large_images():
    assert not tiles.suits(meetings.everywhere((256, 256), (3, 3)))
    assert all(tiles.suits(stated) for stated in STATED.values())
    for border in ("zeros", "circular"):
        case, *_ = problem(meetings.in_place((SIDE, SIDE), (5, 5), border), 0.02, count=6)
        engine = Windows(Host())
        assert engine.leaving_out(1e-4, case) is engine


def test_rounding_and_directions_only_make_bounds_smaller():
    """Boxes hold the coordinates that they are of, in float32 too, and directions are orthonormal."""
    case, x, *_ = problem(STATED["circular"], 0.02, count=6)
    images, plan = case.training.centred(None, x)[0], layout(case.meetings)
    known = tiles.Tiles.of(plan, True, images)
    assert_close(known.basis.T @ known.basis, torch.eye(tiles.DIRECTIONS, dtype=torch.float64), atol=1e-12)
    padded = tiles.bordered(images, *(tiles.border(SIDE, 5, True),) * 2)
    found, length = tiles._coordinates(padded, known.middle, known.basis, (5, 5))
    windows = padded.unfold(2, 5, 1).unfold(3, 5, 1).permute(0, 2, 3, 1, 4, 5).flatten(3) - known.middle
    assert_close(windows.norm(dim=-1), length[:, 0], rtol=1e-9)
    assert_close(found.square().sum(1), length[:, 0] ** 2, rtol=1e-9)
    cells = torch.arange(SIDE) // tiles.TILE
    middle, half = known.boxes[:, cells[:, None] * 2 + cells].double().unbind(-1)
    assert bool(((found.permute(0, 2, 3, 1) - middle).abs() <= half).all())


@pytest.mark.cuda
@pytest.mark.parametrize("name", STATED)
def test_a_card_leaves_out_what_its_kernels_do_on_the_cpu(name):
    case, x, *coefficients = problem(STATED[name], 0.02)
    here = Windows(Host()).leaving_out(1e-4, case).sum(case, x, *coefficients)
    moved = Case(case.meetings, case.training, None, like(x.cuda()))
    there = Windows().leaving_out(1e-4, moved).sum(moved, x.cuda(), *(c.cuda() for c in coefficients))
    assert_close(there.log_sum.cpu(), here.log_sum, rtol=1e-9)
    assert 0 < float(there.skipped_share.max()) <= 1e-4
    assert_close(there.skipped.cpu(), here.skipped, rtol=1e-2, atol=1e-12)
