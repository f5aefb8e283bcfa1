"""The kernels of windows on a card, without one: compiled for cards by NVRTC, and the same source run on the CPU (`tests.hostcuda`)."""

import functools
import itertools
import re

import pytest
import torch

from tests.helpers import assert_close, noise, random_images, random_set, refused
from tests.hostcuda import COMPILER, MISSING, Host
from theory import meetings
from theory.centred import Centred
from theory.data import ImageSet
from theory.engines import Case, Training, like
from theory.engines.listed.engine import Stream
from theory.engines.windows.cuda import launcher, sums, tables
from theory.engines.windows.cuda.plan import Limits, Plan
from theory.engines.windows.engine import Windows
from theory.engines.windows.layout import layout
from theory.engines.windows.rounding import TOLERANCE, bound
from theory.errors import InputError
from theory.machines import EquivariantLocal
from theory.meetings import Meetings

host = pytest.mark.skipif(COMPILER is None, reason=MISSING)

# Compiled for cards ------------------------------------------------------------------------------

SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}  # bytes that a block may have
BIG = (32, 32)
VARIANTS = {
    "circular 9": (meetings.everywhere(BIG, (9, 9)), 3, torch.float32),
    "zeros 17": (meetings.same_class(BIG, (17, 17)), 3, torch.float32),
    "zeros 17, float64": (meetings.same_class(BIG, (17, 17)), 3, torch.float64),
}
MORE = {
    **{f"circular {k}": (meetings.everywhere(BIG, (k, k)), 3, torch.float32) for k in (3, 5, 17, 33)},
    **{f"zeros {k}": (meetings.same_class(BIG, (k, k)), 3, torch.float32) for k in (3, 9, 33)},
    "circular 17, float64": (meetings.everywhere(BIG, (17, 17)), 3, torch.float64),
    "interior": (meetings.inside(BIG, (9, 9)), 3, torch.float32),
    "in place": (meetings.in_place(BIG, (17, 17), "zeros"), 3, torch.float32),
    "in place, circular": (meetings.in_place(BIG, (3, 3), "circular"), 3, torch.float32),
    "grey 28": (meetings.everywhere((28, 28), (9, 9)), 1, torch.float32),
    "64": (meetings.everywhere((64, 64), (9, 9)), 3, torch.float32),
    "96": (meetings.same_class((96, 96), (17, 17)), 3, torch.float32),
    "33 x 31": (meetings.everywhere((33, 31), (5, 5)), 3, torch.float32),
    "33 x 31, float64": (meetings.same_class((33, 31), (5, 7)), 3, torch.float64),
    "eight channels": (meetings.everywhere(BIG, (3, 3)), 8, torch.float32),
    "one pixel": (meetings.everywhere((1, 1), (3, 3)), 1, torch.float32),
}


class Log:
    """What the compiler says."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text) -> None:
        self.text += text if isinstance(text, str) else text.decode()


@functools.cache
def _compiler() -> str | None:
    """Why kernels can't be compiled for cards here."""
    try:
        launcher.compiled('extern "C" __global__ void nothing() {}', "sm_90", Log())
    except (ImportError, InputError) as error:
        return f"cuda-core and NVRTC compile kernels for cards, and are not here: pip install -e '.[cuda]' ({error})"
    return None


@functools.cache
def compiler_log(source: str, arch: str) -> str:
    log = Log()
    launcher.compiled(source, arch, log)
    return log.text


def check_compiled(variant: tuple[Meetings, int, torch.dtype], arch: str, most: int) -> None:
    """Registers for as many threads as there are, next to nothing kept in memory for want of them, and no more shared memory than is."""
    if reason := _compiler():
        pytest.skip(reason)
    stated, channels, dtype = variant
    plan = sums._choose(layout(stated), channels, dtype, Limits(SHARED[arch], 132), 0, most).plan
    log = compiler_log(sums.source(plan), arch)
    warps = -(-plan.threads // 128) * 4  # four at a time
    for name, limit in (("sum_windows", min(255, 65_536 // (32 * warps) // 8 * 8)), ("merge_parts", 64)):
        told = re.search(rf"'{name}'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers(.*?)\n", log, re.DOTALL)
        stack, _, registers = map(int, told.groups()[:3])
        # A few numbers that a stage needs once may wait in memory; what pixels and pairs need may not.
        assert stack <= 80 and registers <= limit
        assert "smem" not in told[4]
    assert plan.shared <= SHARED[arch]


@pytest.mark.parametrize("most", [1, 2])
def test_compiles_for_a_card(most):
    check_compiled(VARIANTS["circular 9"], "sm_90", most)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize("variant", {**VARIANTS, **MORE})
def test_compiles_for_all_cards(variant, arch):
    for most in (1, 2):
        check_compiled({**VARIANTS, **MORE}[variant], arch, most)


def test_what_does_not_compile_is_told_in_one_line():
    if reason := _compiler():
        pytest.skip(reason)
    with pytest.raises(InputError) as error:
        launcher.compiled('extern "C" __global__ void wrong() { unheard_of(); }', "sm_90", Log())
    refused(error, "does not compile for sm_90", '"unheard_of" is undefined', "use engine='stream'")


def test_instructions_are_no_more_than_what_the_plan_expects_of_them():
    """Box sums of ``k`` neighbours, as many together as fit, cost three additions each or less, up to windows of 9 pixels."""
    found = {k: sums._choose(layout(meetings.everywhere(BIG, (k, k))), 3, torch.float32, Limits(232_448, 132)).plan for k in (3, 9, 17)}
    assert [plan.along for plan in found.values()] == [2, 8, 8]
    assert found[3].summed < found[9].summed < found[17].summed < 1.25 * found[3].summed


def test_noisy_images_that_share_a_block_read_a_quarter_less_and_issue_a_tenth_less():
    """By the counts of the disassembly for sm_90 that docs/engines.md has: 11.5 + 17.3 instructions a pair alone, 10.9 + 14.2 for two."""
    for k in (3, 9, 17):
        alone, two = (
            sums._choose(layout(meetings.everywhere(BIG, (k, k))), 3, torch.float32, Limits(232_448, 132), 0, n).plan for n in (1, 2)
        )
        assert (alone.noisy, two.noisy) == (1, 2)
        per_pair = [p.made / (p.rows * p.programs * p.noisy) + p.summed / (p.q * p.noisy) for p in (alone, two)]
        assert per_pair[1] < 0.9 * per_pair[0]
        assert two.read < 0.78 * alone.read


# The same source on the CPU ----------------------------------------------------------------------


def problem(stated: Meetings, channels: int, count: int = 7, batch: int = 2, memory: int = 2**26) -> tuple[Training, torch.Tensor]:
    images = random_images(count, channels, *stated.shape)
    weights = torch.rand(count, generator=torch.Generator().manual_seed(0)).double()
    weights[1] = 0
    training = Training(ImageSet(images, "random", weights=weights), lambda mean: mean.mean((2, 3), keepdim=True), memory, False)
    return training, 0.7 * noise((batch, channels, *stated.shape), 1)


def coefficients(batch: int, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    sigma = torch.full((batch,), sigma, dtype=torch.float64)
    return (1 - sigma**2).sqrt(), sigma


def assert_same(a, b, rtol: float) -> None:
    for x, y in ((a.mean, b.mean), (a.log_sum, b.log_sum), (a.ess, b.ess)):
        assert_close(x, y, rtol=rtol, atol=rtol)


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.max, b.max), (a.sum, b.sum), (a.square, b.square), (a.weighted, b.weighted)))


SMALL = {
    "bands of rows, circular": (meetings.everywhere((36, 4), (5, 3)), 1),
    "bands of rows, zeros": (meetings.same_class((36, 5), (5, 3)), 1),
    "odd width, circular": (meetings.everywhere((3, 9), (3, 5)), 2),
    "more channels than one pass averages": (meetings.same_class((4, 4), (3, 3)), 5),
    "interior, few places": (meetings.inside((7, 9), (5, 7)), 1),
    "one row": (meetings.same_class((1, 6), (3, 3)), 1),
    "one column, circular": (meetings.everywhere((6, 1), (3, 3)), 1),
}


@host
@pytest.mark.parametrize("name", SMALL)
def test_equals_the_sum_over_listed_patches(name):
    stated, channels = SMALL[name]
    training, x = problem(stated, channels)
    exact = Stream().sum(Case(stated, training, None, like(x)), x, *coefficients(2, 0.4))
    kinds = ((torch.float32, 1e-5), (torch.float64, 1e-11)) if name == "bands of rows, zeros" else ((torch.float32, 1e-5),)
    for dtype, rtol in kinds:  # float64 at other sizes: tests/test_engines.py
        found = Windows(Host()).sum(Case(stated, training, None, like(x.to(dtype))), x.to(dtype), *coefficients(2, 0.4))
        assert_same(found, exact, rtol)


@host
@pytest.mark.slow
@pytest.mark.parametrize("name", ["circular 9", "zeros 3", "zeros 17", "interior", "in place", "grey 28", "33 x 31"])
def test_plans_of_a_large_card_are_right_too(name):
    """All warps and all shared memory that an H100 has for a block; two training images."""
    stated, channels, dtype = {**VARIANTS, **MORE}[name]
    training, x = problem(stated, channels, count=3, batch=2)
    x = 0.9 * training.data.images[2:].double() + 0.43 * x
    exact = Stream().sum(Case(stated, training, None, like(x)), x, *coefficients(2, 0.43))
    found = Windows(Host(Limits(232_448, 1))).sum(Case(stated, training, None, like(x.to(dtype))), x.to(dtype), *coefficients(2, 0.43))
    assert_close(found.mean, exact.mean, atol=5e-5)  # two images that differ everywhere: logits, exact to 1e-4, are all that counts
    assert_close(found.log_sum, exact.log_sum, rtol=1e-6)


def prepared(stated: Meetings, channels: int, dtype=torch.float32, most: int = 1) -> sums.Prepared:
    return sums.Prepared.of(layout(stated), channels, dtype, Host(), most)


@host
@pytest.mark.parametrize("stated", [meetings.everywhere((6, 5), (5, 3)), meetings.same_class((5, 4), (3, 3))], ids=["circular", "zeros"])
def test_noisy_images_that_share_a_block_are_summed_as_alone(stated):
    """Five of them, each with its own noise: the last shares its block with itself."""
    training, x = problem(stated, 2, batch=5)
    images, log_weights = (t.float() for t in training.centred(None, x))
    sigma = torch.linspace(0.2, 0.6, 5, dtype=torch.float64)
    args = x, (1 - sigma**2).sqrt(), sigma, images, log_weights
    alone, two = (sums._run(*args, prepared(stated, 2, most=most), 2**26, Host()) for most in (1, 2))
    assert prepared(stated, 2, most=2).tables[0].plan.noisy == 2
    assert_same(two, alone, 1e-5)
    assert [sums.together(n) for n in (1, 2, 3, 4, 5, 6)] == [1, 2, 1, 2, 2, 2]


@host
@pytest.mark.parametrize("stated", [meetings.everywhere((5, 4), (3, 3)), meetings.same_class((5, 4), (3, 3))], ids=["circular", "zeros"])
def test_no_order_of_threads_changes_a_byte(stated):
    """Threads in either order between two barriers, and copies that arrive at once or late, would tell a barrier that is missing."""
    training, x = problem(stated, 2, 20)
    images, log_weights = (t.float() for t in training.centred(None, x))
    states = [
        sums._run(x, *coefficients(2, 0.2), images[2:], log_weights[2:], prepared(stated, 2), 2**26, Host(backwards=backwards, late=late))
        for backwards, late in itertools.product((False, True), repeat=2)
    ]
    assert all(equal(states[0], other) for other in states[1:])


@host
def test_sums_are_taken_over_to_float64_in_between(monkeypatch):
    stated = meetings.everywhere((5, 4), (3, 3))
    training, x = problem(stated, 2, 40)
    case, x = Case(stated, training, None, like(x.float())), x.float()
    whole = Windows(Host()).sum(case, x, *coefficients(2, 0.3))
    training.free()
    monkeypatch.setattr(tables, "TERMS", 2)
    found = Windows(Host()).sum(case, x, *coefficients(2, 0.3))
    (kept,) = (v for k, v in training._kept.items() if k[0] == "card")
    assert kept.tables[0].plan.flush <= 2
    assert_same(found, whole, 1e-6)


@host
def test_pieces_of_the_training_images_and_of_the_batch_do_not_matter():
    """Images that don't fit the card, or lie on disk, are read in pieces; a small budget takes noisy images one by one."""
    stated = meetings.everywhere((5, 4), (3, 3))
    training, x = problem(stated, 2, 29, batch=3)
    images, log_weights = training.centred(None, x)
    whole = sums._run(x, *coefficients(3, 0.3), images, log_weights, prepared(stated, 2, torch.float64), 2**26, Host())
    read = Centred(training.own(None)[0], training.centre(None), torch.float64, torch.device("cpu"))
    card = Host()
    found = sums._run(x, *coefficients(3, 0.3), read, log_weights, prepared(stated, 2, torch.float64), 20_000, card)
    assert len(card.launched) > 2 * 3 * 2  # pieces and noisy images, two kernels each
    assert_same(found, whole, 1e-12)


class Full(Host):
    """A card that is nearly full."""

    def room(self) -> int:
        return 100


@host
def test_training_images_that_do_not_fit_the_card_are_read_piece_by_piece():
    stated = meetings.everywhere((5, 4), (3, 3))
    training, x = problem(stated, 2, 29)
    case = Case(stated, training, None, like(x))
    whole = Windows(Host()).sum(case, x, *coefficients(2, 0.3))
    assert any(k[0] == "centred" for k in training._kept)
    training.free()
    assert_same(Windows(Full()).sum(case, x, *coefficients(2, 0.3)), whole, 1e-12)
    assert not any(k[0] == "centred" for k in training._kept)


@host
def test_images_that_rounding_would_spoil_are_summed_again_in_float64(monkeypatch):
    """The second of two noisy images is so far from all data that a float32 logit has no digit after the point."""
    stated = meetings.same_class((5, 4), (3, 3))
    training, x = problem(stated, 2)
    x[1] *= 60
    asked = []
    monkeypatch.setattr(sums, "_run", lambda x, *a, run=sums._run: (asked.append((len(x), a[2].dtype)), run(x, *a))[1])
    found = Windows(Host()).sum(Case(stated, training, None, like(x.float())), x.float(), *coefficients(2, 0.4))
    assert asked == [(2, torch.float32), (1, torch.float64)]
    exact = Stream().sum(Case(stated, training, None, like(x)), x.float().double(), *coefficients(2, 0.4))
    assert_close(found.mean, exact.mean, atol=2 * TOLERANCE)
    assert_close(found.mean[:, 20:], exact.mean[:, 20:], atol=1e-9)


@host
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "noisy"])
def test_rounding_stays_below_its_bound(clean):
    """Where all pixels of a window are alike, whose rounding errors would add up if they were, and where there is no noise."""
    colours = torch.rand(2, 4, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = colours[0].expand(-1, -1, 12, 12).clone()
    stated, weights = meetings.everywhere((12, 12), (9, 9)), torch.zeros(2)
    programs = [prepared(stated, 3, dtype) for dtype in (torch.float32, torch.float64)]
    for sigma in (0.05, 0.3, 0.7):
        alpha, sigma = coefficients(2, sigma)
        x = alpha[0] * images[:2].double() + (0 if clean else sigma[0] * noise((2, 3, 12, 12), 9))
        single, double = (sums._run(x, alpha, sigma, images[2:].to(p.dtype), weights, p, 2**26, Host()) for p in programs)
        error = (single.log_sum - double.log_sum).abs().reshape(2, -1).amax(1)
        assert bool(
            (error <= bound(x, alpha, sigma, images[2:], double.max.reshape(2, -1), sums.SUMS) + 4e-6).all()
        )  # weights and their sums are rounded too


# What does not fit -------------------------------------------------------------------------------


class Exhausted(Host):
    """A card without memory."""

    def launch(self, *_) -> None:
        raise torch.OutOfMemoryError


@host
def test_memory_that_runs_out_is_told_in_one_line():
    stated = meetings.everywhere((5, 4), (3, 3))
    training, x = problem(stated, 2)
    with pytest.raises(InputError) as error:
        Windows(Exhausted()).sum(Case(stated, training, None, like(x)), x, *coefficients(2, 0.3))
    refused(error, "2 noisy images beside 6 training images on cpu, whose memory ran out", "smaller memory=")


def test_a_missing_compiler_is_a_reason_with_a_remedy(monkeypatch):
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="cuda-core is not installed")

    def missing(name: str) -> None:
        raise RuntimeError(f"no lib{name}.so anywhere\nand so on")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    assert launcher._compiler_is_missing.__wrapped__() == (
        "it needs NVIDIA's compiler NVRTC, which can't be loaded (no libnvrtc.so anywhere); pip install 'score-machines[cuda]' brings it"
    )


def test_a_shape_that_no_block_has_room_for_is_refused_in_one_line():
    wide = meetings.everywhere((4, 40_000), (3, 3))
    with pytest.raises(InputError) as error:
        sums.Prepared.of(layout(wide), 3, torch.float32, Host(Limits(232_448, 132)))
    refused(error, "3x4x40000", "232448 bytes of shared memory", "use engine='stream'")


@pytest.mark.parametrize("shared", [101_376, 166_912, 232_448])
def test_plans_keep_to_their_limits(shared):
    for stated, channels, dtype in VARIANTS.values():
        table = sums._choose(layout(stated), channels, dtype, Limits(shared, 132))
        plan: Plan = table.plan
        assert plan.shared <= shared and plan.threads <= 512 and plan.replicas >= 1 and plan.th <= 32


# On a card ---------------------------------------------------------------------------------------

ON_CARD = {
    **SMALL,
    **{name: (stated, channels) for name, (stated, channels, dtype) in {**VARIANTS, **MORE}.items() if dtype == torch.float32},
}


def moved(training: Training, stated: Meetings, x: torch.Tensor, sigma: float):
    """A state by the card, on the CPU."""
    x = x.cuda()
    state = Windows().sum(Case(stated, training, None, like(x)), x, *(c.cuda() for c in coefficients(len(x), sigma)))
    return type(state)(*(v.cpu() for v in vars(state).values()))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ON_CARD)
def test_a_card_sums_what_listed_patches_say(name):
    """At the sizes that cards are for, and at odd ones; in both precisions, twice with the same bytes."""
    if reason := launcher.hindrance(torch.device("cuda")):
        pytest.fail(reason)
    stated, channels = ON_CARD[name]
    training, x = problem(stated, channels, count=5)
    for sigma in (0.1, 0.5):
        xs = (1 - sigma**2) ** 0.5 * training.data.images[2:4].double() + sigma * x
        case, alpha_sigma = Case(stated, training, None, like(xs.cuda())), (c.cuda() for c in coefficients(2, sigma))
        exact = Stream().sum(case, xs.cuda(), *alpha_sigma)  # listed on the card: minutes on a CPU
        for dtype, tolerance in ((torch.float32, 8e-4), (torch.float64, 1e-9)):
            if dtype == torch.float64 and not sums.fits(layout(stated), channels, dtype, launcher.limits_of(torch.device("cuda"))):
                continue
            found = moved(training, stated, xs.to(dtype), sigma)
            assert_close(found.mean, exact.mean, atol=tolerance)
            assert_close(found.log_sum, exact.log_sum, atol=tolerance, rtol=1e-6 if dtype == torch.float32 else 1e-12)
            assert equal(found, moved(training, stated, xs.to(dtype), sigma))


@pytest.mark.cuda
def test_a_card_reads_what_it_has_no_room_for_piece_by_piece(monkeypatch):
    stated = meetings.everywhere((16, 16), (5, 5))
    training, x = problem(stated, 3, 600, memory=2**24)
    whole = moved(training, stated, x, 0.3)
    training.free()
    monkeypatch.setattr(launcher.Card, "room", lambda self: 100)
    assert_same(moved(training, stated, x, 0.3), whole, 1e-12)
    assert not any(k[0] == "centred" for k in training._kept)


@pytest.mark.cuda
def test_auto_takes_the_card():
    machine = EquivariantLocal(random_set(30), patch_size=3)
    x = noise((2, 2, 5, 4), 3)
    there, here = machine(x.cuda(), 0.3), machine(x, 0.3)
    assert "windows (" in machine.plan(x.cuda(), 0.3)
    for a, b in zip(there, here, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)
