"""The window engine against lists of patches, brute force and float64; its parts against numpy."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from numba import njit

from tests.helpers import assert_close, noise, random_images
from theory import meetings
from theory.data import ImageSet, load
from theory.engines import choose, lanes
from theory.engines.exponential import exp2
from theory.engines.lanes import LANES
from theory.engines.windows import boxes, kernel, rounding
from theory.engines.windows import cpu as engine
from theory.engines.windows.layout import layout
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.patches import border_classes

SIZES = [(1, 1), (3, 3), (3, 5), (7, 1), (9, 9), (13, 13)]  # of images with 5 x 6 pixels: some windows wrap more than once


def machines(size):
    yield partial(EquivariantLocal, patch_size=size, border="zeros")
    yield partial(EquivariantLocal, patch_size=size, border="circular")
    if size[0] <= 5 and size[1] <= 6:
        yield partial(EquivariantLocal, patch_size=size, border="circular", patches="interior")
    yield partial(Local, patch_size=size, border="zeros")
    yield partial(Local, patch_size=size, border="circular")


def images(count=7, channels=2, height=5, width=6, seed=0) -> ImageSet:
    """Images with unequal weights, one of them zero; their number is no multiple of the kernel's."""
    weights = torch.rand(count, generator=torch.Generator().manual_seed(seed)).double()
    weights[1] = 0
    return ImageSet(random_images(count, channels, height, width, seed=seed), "random", weights=weights)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_equals_the_sum_over_listed_patches(size, channels):
    data = images(channels=channels)
    x = noise((2, channels, 5, 6), seed=1)
    for machine, t in itertools.product(machines(size), (0.03, 0.5, 0.97)):
        for a, b in zip(machine(data, engine="windows")(x, t), machine(data, engine="stream")(x, t), strict=True):
            assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("engine_name", ["windows", "stream"])
@pytest.mark.parametrize("kind", [Local, EquivariantLocal])
@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_a_sweep_over_sizes_is_each_size_by_itself(kind, border, engine_name, channels):
    """Oblong sizes, sizes beyond the image and sizes without order; half of the images are of one class, some of no weight."""
    data = images(19, channels=channels)
    data = ImageSet(data.images, "classes", weights=data.weights, labels=torch.arange(19) % 2)
    x, t, label = noise((3, channels, 5, 6), seed=2), torch.tensor([0.05, 0.5, 0.9]), torch.tensor([1, 0, 1])
    sizes = [5, (1, 1), (3, 7), 13, 3]
    swept = kind(data, patch_size=1, border=border, engine=engine_name).sweep(x, t, sizes, label)
    for size, found in zip(sizes, swept, strict=True):
        alone = kind(data, patch_size=size, border=border, engine=engine_name)(x, t, label)
        for a, b in zip(found, alone, strict=True):
            assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_sizes_may_be_integers_of_numpy():
    machine, x = EquivariantLocal(images(), patch_size=np.int64(3)), noise((1, 2, 5, 6), seed=2)
    (swept,) = machine.sweep(x, 0.5, [np.int32(3)])
    assert_close(swept.mean, machine(x, 0.5).mean, rtol=1e-12)


def test_float32_between_two_training_images_at_low_noise():
    """Halfway both weigh the same, and any rounding of the training images would show."""
    data = ImageSet(random_images(20, 3, 6, 6), "random")
    for make in (partial(EquivariantLocal, patch_size=5, border="circular"), partial(Local, patch_size=3), Equivariant):
        machine = make(data)
        for t in (0.003, 0.01):
            alpha, _ = machine.schedule(torch.tensor(t, dtype=torch.float64))
            x = (alpha * (data.images[:1].double() + data.images[1:2]) / 2).float()
            single, double = machine(x, t), machine(x.double(), t)
            assert_close(single.mean, double.mean, atol=1e-6)


def test_a_sweep_over_interior_patches():
    data, x = images(19), noise((2, 2, 5, 6), seed=2)
    machine = partial(EquivariantLocal, data, border="circular", patches="interior")
    for size, found in zip((1, 3, 5), machine(patch_size=3).sweep(x, 0.4, [1, 3, 5]), strict=True):
        for a, b in zip(found, machine(patch_size=size)(x, 0.4), strict=True):
            assert_close(a, b, rtol=1e-11, atol=1e-12)
    with pytest.raises(InputError, match="patch size 7x7 with patches='interior'"):
        machine(patch_size=3).sweep(x, 0.4, [3, 7])


def test_sweeps_of_single_images_with_one_row_or_column():
    for shape in ((1, 1), (1, 4), (3, 1)):
        data, x = ImageSet(random_images(5, 1, *shape), "thin"), noise((1, 1, *shape), 3)
        for border in ("zeros", "circular"):
            for size, found in zip((3, 5, 7), EquivariantLocal(data, patch_size=3, border=border).sweep(x, 0.5, [3, 5, 7]), strict=True):
                assert_close(found.mean, EquivariantLocal(data, patch_size=size, border=border, engine="stream")(x, 0.5).mean, atol=1e-12)


def test_a_sweep_in_float32_and_with_an_index():
    data = load("photos", count=40)
    x = (data.images[:2] + 0.1 * noise((2, 3, 32, 32), 1)).float()
    for rtol in (0.0, 1e-4):
        machine = EquivariantLocal(data, patch_size=3, rtol=rtol)
        for size, found in zip((3, 7), machine.sweep(x, 0.1, [3, 7]), strict=True):
            alone = EquivariantLocal(data, patch_size=size, rtol=rtol)(x, 0.1)
            assert_close(found.mean, alone.mean, atol=1e-6)
            assert torch.equal(found.skipped, alone.skipped)


BAD_SIZES = {
    "none": ([], "patch sizes"),
    "number": (5, "patch sizes 5"),
    "even": ([4], "patch size 4"),
    "negative": ([3, -1], "patch size -1"),
    "text": (["3"], "patch size '3'"),
    "schedule": ([[3, 5]], "in a sweep"),
}


@pytest.mark.parametrize(("sizes", "words"), BAD_SIZES.values(), ids=BAD_SIZES)
def test_a_sweep_refuses(sizes, words, as_users_run_it):
    with pytest.raises(InputError, match=words):
        EquivariantLocal(images(), patch_size=3).sweep(torch.zeros(1, 2, 5, 6), 0.5, sizes)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("size", [3, 7, 15])
def test_float32_is_within_the_stated_error_of_float64(sigma, size):
    data = load("photos", count=12)
    x = data.images[:2] * (1 - sigma**2) ** 0.5 + sigma * noise((2, 3, 32, 32), dtype=torch.float32)
    machine = EquivariantLocal(data, patch_size=size, border="circular", engine="windows")
    t = float(machine.schedule.time(sigma / (1 - sigma**2) ** 0.5))
    single, double = machine(x, t), machine(x.double(), t)
    # An error e of a logit moves a mean by at most e times the spread of the values, here 2.
    assert_close(single.mean.double(), double.mean, atol=2 * rounding.TOLERANCE)
    assert_close(single.log_evidence.double(), double.log_evidence, atol=2 * rounding.TOLERANCE, rtol=1e-6)


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "noisy"])
@pytest.mark.parametrize("kind", ["one colour", "two colours", "photos"])
def test_rounding_stays_below_its_bound(kind, clean):
    """Also where all pixels of a window are alike, whose rounding errors would add up if they were, and where there is no noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(2, 18, 3, 1, 1, generator=generator) * 2 - 1
    data = colours[0].expand(-1, -1, 20, 20).clone()
    if kind == "two colours":
        data[..., 10:] = colours[1]
    data = load("photos", count=18, size=20).images if kind == "photos" else data
    x, weights = data[:2].double(), torch.zeros(16)
    for k, sigma in itertools.product((3, 9, 17), (0.05, 0.3, 0.7)):
        alpha, sigma = torch.full((2,), (1 - sigma**2) ** 0.5).double(), torch.full((2,), sigma).double()
        noisy = alpha[0] * x + (0 if clean else sigma[0] * noise(x.shape, k))
        table = layout(meetings.everywhere((20, 20), (k, k)))
        with ThreadPoolExecutor(1) as threads:
            (single,), (double,) = (
                engine._run(threads, noisy, alpha, sigma, data[2:], weights, [table], dtype, 16) for dtype in (torch.float32, torch.float64)
            )
        bound = rounding.bound(noisy, alpha, sigma, data[2:], double.max.reshape(2, -1), engine.SUMS)
        error = (single.log_sum - double.log_sum).abs().reshape(2, -1).amax(1)
        assert bool((error <= bound + 1e-6).all())  # sums of exponentials are rounded too


def test_noisy_images_are_rounded_without_bias():
    """All pixels alike: rounding to nearest would give all of them the same error, up to half a unit in the last place."""
    x = torch.full((1, 3, 40, 40), 1 / 3 + 1e-9, dtype=torch.float64)
    error = (rounding.rounded(x, torch.float32).double() - x) / 2.0**-25
    assert float(error.abs().max()) <= 1
    assert abs(float(error.mean())) < 5 / error.numel() ** 0.5  # five standard errors, at most
    assert torch.equal(rounding.rounded(x, torch.float64), x)


@pytest.mark.parametrize("sigma", [0.013, 0.11, 0.23, 0.37, 0.71])
def test_the_rounded_factor_of_training_images_leaves_no_error_of_one_sign(sigma):
    """Distances of a black image from another: all errors that remain are independent, and their mean is far below one of them."""
    image, alpha = random_images(1, 3, 40, 40) + 2, torch.full((1,), (1 - sigma**2) ** 0.5).double()
    x, sigma = torch.zeros(1, 3, 40, 40, dtype=torch.float64), torch.full((1,), sigma).double()
    table = layout(meetings.in_place((40, 40), (3, 3), "circular"))
    with ThreadPoolExecutor(1) as threads:
        (single,), (double,) = (
            engine._run(threads, x, alpha, sigma, image, torch.zeros(1), [table], dtype, 16) for dtype in (torch.float32, torch.float64)
        )
    assert abs(float((single.log_sum / double.log_sum - 1).mean())) < 2e-8


def test_queries_far_from_all_data_are_summed_in_float64(monkeypatch):
    """Distances of 1e5 leave a float32 logit no digit after the point."""
    data, x = images(), (40 * noise((1, 2, 5, 6), seed=3)).float()
    asked = []
    monkeypatch.setattr(engine, "_run", lambda *a, run=engine._run: (asked.append(a[-2]), run(*a))[1])
    machine = EquivariantLocal(data, patch_size=3, engine="windows")
    single, double = machine(x, 0.1), machine(x.double(), 0.1)
    assert asked == [torch.float32, torch.float64, torch.float64]
    assert_close(single.mean.double(), double.mean, atol=1e-6)


def test_pieces_and_threads_do_not_matter(monkeypatch):
    data, x = images(23), noise((2, 2, 5, 6), seed=4)
    machine = EquivariantLocal(data, patch_size=3, engine="windows")
    whole = machine(x, 0.3)
    monkeypatch.setattr(engine, "PIECE", 1)
    pieces = machine(x, 0.3)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    other = machine(x, 0.3)
    torch.set_num_threads(before)
    for a, b, c in zip(whole, pieces, other, strict=True):
        assert_close(a, b, rtol=1e-12)
        assert torch.equal(b, c)  # pieces are merged in their order, whoever computed them


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_small_images(dtype):
    """So many weights of a pixel that float32 sums are taken over to float64 in between, and in one piece."""
    data, x = images(8000, 1, 3, 3), noise((2, 1, 3, 3), seed=4).to(dtype)
    table = layout(meetings.everywhere((3, 3), (3, 3)))
    assert engine._step([table], 9, 2**29) > 8000 > LANES * kernel.TERMS / 9
    whole, listed = (EquivariantLocal(data, patch_size=3, border="circular", engine=name)(x, 0.6) for name in ("windows", "stream"))
    for a, b in zip(whole, listed, strict=True):
        assert_close(a, b, rtol=1e-10 if dtype == torch.float64 else 1e-5)


def test_working_memory_bounds_the_cores_and_what_they_read(monkeypatch):
    """Images so large that the budget holds the working memory of no more than a few cores; the result is that of any budget."""
    data, x = images(40, 1, 100, 90), noise((1, 1, 100, 90), seed=4)
    asked = []
    pool = engine.ThreadPoolExecutor
    monkeypatch.setattr(engine, "ThreadPoolExecutor", lambda cores: asked.append(cores) or pool(cores))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    small, large = (Local(data, patch_size=5, engine="windows", memory=memory)(x, 0.3) for memory in (2**24, 2**30))
    assert asked[0] < 3 < asked[1]
    for a, b in zip(small, large, strict=True):
        assert_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layout_pairs_pixels_of_one_border_class(size):
    classes = border_classes(5, 6, size)
    same = classes.flatten()[:, None] == classes.flatten()
    table = layout(meetings.same_class((5, 6), size))
    met = torch.zeros(30, 30, dtype=torch.bool)
    for (dy, y0, y1, *_), (dx, x0, x1, *_) in itertools.product(table.rows, table.cols):
        for y, x in itertools.product(range(y0, y1), range(x0, x1)):
            assert not met[y * 6 + x, (y + dy) * 6 + x + dx]
            met[y * 6 + x, (y + dy) * 6 + x + dx] = True
    assert torch.equal(met, same)
    assert torch.equal(table.partners.flatten(), same.double().sum(1)) and table.pairs == int(same.sum())


@njit
def one_by_one(x):
    return np.array([exp2(value) for value in x])


@njit
def side_by_side(x):
    out = np.empty_like(x)
    for i in range(0, len(x), LANES):
        lanes.store(lanes.pointer(out), np.uintp(i), exp2(lanes.load(lanes.pointer(x), np.uintp(i))))
    return out


@pytest.mark.parametrize("run", [one_by_one, side_by_side])
@pytest.mark.parametrize(("dtype", "floor", "tolerance"), [(np.float32, -120, 2.5e-7), (np.float64, -1000, 5e-16)])
def test_exponential(run, dtype, floor, tolerance):
    x = -np.logspace(-9, 2, 16 * 313).astype(dtype)
    for argument in (x, -x[-x < kernel.SLACK][: 16 * 200]):  # a cost may lie a little below the best one known
        exact = 2.0 ** argument.astype(np.longdouble)
        values = run(argument)
        assert values.dtype == dtype
        assert float(np.max(np.abs(values / exact - 1))) < tolerance
    ends = np.array([0.0, floor, 2 * floor, -1e30] * 4, dtype)
    assert list(run(ends)[:4]) == [1, 2.0**floor, 2.0**floor, 2.0**floor]


@njit
def boxes_along(row, fours, out, k, n):
    boxes._fours(lanes.pointer(fours), lanes.pointer(row), np.uintp(LANES), np.uintp(n + k - 4 if k > 3 else 0))
    boxes._along(lanes.pointer(out), lanes.pointer(row), lanes.pointer(fours), np.uintp(k), np.uintp(n))


@njit
def boxes_down(rows, ring, fours, out, k, n):
    pitch = n * LANES
    for r in range(len(rows) // pitch):
        for i in range(pitch):
            ring[r % 4 * pitch + i] = rows[r * pitch + i]
        place = lanes.after(lanes.pointer(out), np.uintp(max(0, r + 1 - k) * pitch))
        boxes._down(place, lanes.pointer(ring), lanes.pointer(fours), np.uintp(r), np.uintp(k), np.uintp(n))


@pytest.mark.parametrize("k", range(1, 36, 2))
def test_box_sums(k):
    """Along rows and down them, against numpy; sums of four and rings of rows are not seen from outside."""
    rng, n, count = np.random.default_rng(k), 5, 20
    row, out = rng.random((n + k - 1, LANES)), np.zeros((n, LANES))
    boxes_along(row.reshape(-1), np.zeros(row.size), out.reshape(-1), k, n)
    np.testing.assert_allclose(out, [row[j : j + k].sum(0) for j in range(n)], rtol=1e-14)
    rows, out = rng.random((count + k - 1, n * LANES)), np.zeros((count, n * LANES))
    boxes_down(rows.reshape(-1), np.zeros(4 * n * LANES), np.zeros(max(4, k) * n * LANES), out.reshape(-1), k, n)
    np.testing.assert_allclose(out, [rows[j : j + k].sum(0) for j in range(count)], rtol=1e-14)


def test_auto_lists_patches_where_few_are_distinct_and_windows_elsewhere():
    for data, expected in ((load("toy"), "stream"), (load("photos", count=4), "windows")):
        machine = EquivariantLocal(data, patch_size=5)
        choice = choose(machine.case(None, (5, 5), torch.zeros(1)), "auto")
        assert choice.engine.name == expected and set(choice.seconds) == {"stream", "windows"}
        assert choice.seconds[expected] == min(choice.seconds.values())


def test_windows_are_refused_where_there_are_none():
    with pytest.raises(InputError, match="engine='windows' here, where it needs a machine that sees patches"):
        Ideal(images(), engine="windows")(torch.zeros(1, 2, 5, 6), 0.5)
