"""Candidates left out: the stated bound against exact float64 sums, and the bounds it is made of against brute force."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise, random_images, refused
from theory import meetings
from theory.data import ImageSet, load
from theory.engines.pruned import index, store, walk
from theory.engines.pruned import leaves as loops
from theory.engines.pruned.engine import forest as forest_of
from theory.engines.windows.layout import layout
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.patches import border_blocks

MACHINES = {
    "zeros": partial(EquivariantLocal, patch_size=5),
    "oblong": partial(EquivariantLocal, patch_size=(3, 9)),
    "circular": partial(EquivariantLocal, patch_size=7, border="circular"),
    "interior": partial(EquivariantLocal, patch_size=5, border="circular", patches="interior"),
    "local": partial(Local, patch_size=5),
    "local circular": partial(Local, patch_size=5, border="circular"),
    "ideal": Ideal,
}
PIXELS = 2.0  # range of the training pixels


@pytest.fixture
def always(monkeypatch):
    """Trees are walked whether that pays or not."""
    monkeypatch.setattr(walk, "affordable", lambda x, *_: torch.ones(len(x), dtype=torch.bool))
    monkeypatch.setattr(walk, "TASK", 0.0)


@pytest.fixture(scope="module")
def photos() -> ImageSet:
    return load("photos:count=60,size=12")


def noisy(data: ImageSet, machine, t: float, count: int = 2, seed: int = 0) -> torch.Tensor:
    return machine.schedule.perturb(data.images[:count].double(), t, noise((count, *data.images.shape[1:]), seed=seed))


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("rtol", [0.3, 1e-4])
def test_the_error_is_below_the_stated_bound(photos, always, name, rtol):
    exact, pruned = MACHINES[name](photos), MACHINES[name](photos, rtol=rtol)
    skipped = 0.0
    for t in (0.01, 0.1, 0.4, 0.9):
        x = noisy(photos, exact, t)
        a, b = exact(x, t), pruned(x, t)
        assert float(b.skipped.min()) >= 0
        assert float(b.skipped.max()) <= rtol
        bound = b.skipped[:, None] if exact.per_pixel else b.skipped[:, None, None, None]
        assert bool(((a.mean - b.mean).abs() <= PIXELS * bound + 1e-12).all())
        missing = a.log_evidence - b.log_evidence
        tiny = 1e-11 * a.log_evidence.abs().max()
        assert bool((missing >= -tiny).all())
        assert bool((missing <= -torch.log1p(-b.skipped) + tiny).all())
        skipped = max(skipped, float(b.skipped.max()))
    assert skipped > rtol / 1000  # something was left out


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_that_counts_is_left_out_at_the_smallest_tolerance(photos, always, name):
    exact, pruned = MACHINES[name](photos), MACHINES[name](photos, rtol=1e-13)
    x = noisy(photos, exact, 0.2)
    a, b = exact(x, 0.2), pruned(x, 0.2)
    assert_close(b.mean, a.mean, atol=1e-11)
    assert_close(b.log_evidence, a.log_evidence, rtol=1e-12)
    assert_close(b.ess, a.ess, rtol=1e-10)


@pytest.mark.parametrize("t", [0.01, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("size", [3, 7])
def test_float32_queries_are_summed_up_to_rounding(photos, always, size, t):
    """Windows of 27 numbers are compared by their coordinates alone, those of 147 number by number."""
    machine = EquivariantLocal(photos, patch_size=size, border="circular", rtol=1e-12)
    x = noisy(photos, machine, t).float()
    single, double = machine(x, t), machine(x.double(), t)
    assert_close(single.mean, double.mean, atol=PIXELS * walk.TOLERANCE)
    assert_close(single.log_evidence, double.log_evidence, atol=walk.TOLERANCE, rtol=1e-6)
    assert_close(single.ess, double.ess, rtol=2 * walk.TOLERANCE)


@pytest.mark.parametrize("size", [3, 7])
def test_the_bound_holds_in_float32_too(photos, always, size):
    exact, pruned = (EquivariantLocal(photos, patch_size=size, **o) for o in ({}, {"rtol": 1e-2}))
    for t in (0.05, 0.3):
        x = noisy(photos, exact, t)
        a, b = exact(x, t), pruned(x.float(), t)
        assert 0 < float(b.skipped.max()) <= 1e-2
        assert bool(((a.mean - b.mean).abs() <= PIXELS * (b.skipped[:, None] + walk.TOLERANCE)).all())


@pytest.mark.parametrize("size", [32, 80, 248, 872, 3072])
def test_distances_in_float32_are_as_good_as_they_say(size):
    """Numbers of many digits, of few, and of photographs; costs are distances at a scale of 1."""
    rng = np.random.default_rng(0)
    photo = load("photos").images.flatten()[: 300 * size // 4].repeat(4).numpy().reshape(-1, size)
    for keys in (rng.uniform(-1, 1, (300, size)), np.sign(rng.standard_normal((300, size))), photo):
        keys = keys.astype(np.float32)
        for sigma in (0.02, 0.3, 3.0):
            query = keys[7].astype(np.float64) + sigma * rng.standard_normal(size)
            true = ((query - keys) ** 2).sum(1)
            place = [np.uintp(i * size) for i in range(len(keys))]
            single, flat = query.astype(np.float32), keys.reshape(-1)
            found = np.array([loops._distance_single(flat, i, single, np.uintp(0), np.uintp(size)) for i in place])
            bound = [loops.rounding(d, 1.0, abs(query).max() + 1, np.uintp(size)) / math.log(2) for d in true]
            assert (abs(found - true) <= bound).all()
            assert np.max(abs(found - true) / bound) > 0.05  # and the bound is no empty one


def test_queries_far_away_are_not_compared_by_rounded_coordinates(always):
    data, x = ImageSet(random_images(200, 1, 3, 3), "few"), (30 * noise((1, 1, 3, 3), seed=1)).float()
    exact, pruned = (EquivariantLocal(data, patch_size=3, **o) for o in ({"engine": "stream"}, {"rtol": 1e-9}))
    assert_close(pruned(x, 0.05).mean, exact(x.double(), 0.05).mean, atol=1e-6)


@pytest.mark.parametrize("lowest", [-60, -290])
def test_weights_as_unequal_as_numbers_can_be(dtype, lowest, monkeypatch):
    """The nearest candidate weighs next to nothing: exponentials of the others must not be floored above it."""
    monkeypatch.setattr(walk, "TASK", 0.0)
    weights = 10 ** torch.linspace(lowest, 0, 400, dtype=torch.float64)
    data = ImageSet(random_images(400, 3, 8, 8), "unequal", weights=weights)
    x = 0.99 * data.images[[0, 200, 390]].to(dtype)
    for t in (0.02, 0.1):
        pruned = EquivariantLocal(data, patch_size=3, rtol=1e-5)(x, t)
        exact = EquivariantLocal(data, patch_size=3, engine="stream")(x.double(), t)
        assert float(pruned.skipped.max()) <= 1e-5
        assert bool(((pruned.mean - exact.mean).abs() <= PIXELS * pruned.skipped[:, None] + 1e-5).all())  # costs in float32: 4e-4 each


def test_equal_candidates_and_unequal_weights(always):
    """Images that repeat, some of weight zero: the same posterior, and effective numbers that count every candidate."""
    images = random_images(5, 2, 6, 5)[torch.tensor([0, 1, 0, 2, 3, 0, 4, 2])]
    weights = torch.tensor([0.1, 0.0, 0.4, 1e-9, 0.2, 0.05, 0.1, 0.3]).double()
    data, x = ImageSet(images, "repeated", weights=weights, labels=torch.arange(8) % 2), noise((2, 2, 6, 5), seed=1)
    for name, label in (("zeros", None), ("circular", 1), ("ideal", 0)):
        for t in (0.05, 0.5):
            a = MACHINES[name](data, engine="stream")(x, t, label)
            b = MACHINES[name](data, rtol=1e-13)(x, t, label)
            for field in ("mean", "log_evidence", "ess"):
                assert_close(getattr(b, field), getattr(a, field), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("count", [1, 2, 200])
def test_few_candidates_and_queries_far_from_all(count, always):
    """Costs of a million bits, and trees of a single leaf."""
    data = ImageSet(random_images(count, 1, 3, 3), "few")
    exact, pruned = (EquivariantLocal(data, patch_size=3, **o) for o in ({"engine": "stream"}, {"rtol": 1e-6}))
    for x in (30 * noise((2, 1, 3, 3), seed=1), torch.zeros(1, 1, 3, 3).double()):
        a, b = exact(x, 0.02), pruned(x, 0.02)
        assert bool(((a.mean - b.mean).abs() <= PIXELS * b.skipped[:, None] + 1e-9).all())
        assert_close(b.log_evidence, a.log_evidence, rtol=1e-9)


def test_equal_images_are_one_candidate(always):
    data = ImageSet(torch.full((50, 1, 4, 4), 0.3), "grey")
    out = EquivariantLocal(data, patch_size=3, rtol=1e-3)(noise((1, 1, 4, 4), seed=2), 0.5)
    assert_close(out.mean, torch.full((1, 1, 4, 4), 0.3), atol=1e-7)
    assert_close(out.ess[0, 1, 1], 200.0, rtol=1e-12)  # four inner pixels of 50 images
    tree = index.build(data.images, data.weights, meetings.same_class((4, 4), (3, 3)))[4]
    assert int((tree.weights > 0).sum()) == 1


@pytest.mark.parametrize("side", [5, 7])
def test_bounds_of_boxes_and_coordinates_hold(photos, side):
    """No candidate is nearer than its coordinates say, and none of a node nearer than its box."""
    pairs = meetings.everywhere((12, 12), (side, side))
    tree = index.build(photos.images, photos.weights, pairs)[0]
    planes, block = index.Planes.of(photos.images, pairs.border), pairs.blocks[0][1]
    leaves, width = tree.starts.shape
    keys = planes.rows(tree.starts.flatten().numpy(), block)
    queries = keys[:: len(keys) // 7] + 0.3 * np.random.default_rng(0).standard_normal((1, keys.shape[1]))
    full = (tree.weights > 0).flatten().numpy()
    points = index.coordinates(queries, tree.basis.numpy()).astype(np.float32)
    slack = 4 * loops.UNIT * (np.linalg.norm(queries, axis=1) + float(tree.reach))
    dims, tight = points.shape[1], []
    flat = [getattr(tree, name).flatten().numpy() for name in ("low", "high", "coords")]
    for q in range(len(queries)):
        true = np.where(full, ((queries[q] - keys) ** 2).sum(1), np.inf).reshape(leaves, width)
        levels = [true.min(1)]
        while len(levels[0]) > 1:
            levels.insert(0, levels[0].reshape(-1, 2).min(1))
        nodes = np.concatenate(levels)
        for node in range(len(tree.mass)):
            box = loops.box_distance(flat[0], flat[1], np.uintp(node * dims), points.reshape(-1), np.uintp(q * dims), np.uintp(dims))
            assert loops.cost_of(box, slack[q], 1.0, np.uintp(dims)) <= nodes[node]
        for leaf in range(leaves):
            near, place = np.empty(width, np.float32), np.uintp(leaf * dims * width)
            loops.coordinate_distances(flat[2], place, points.reshape(-1), np.uintp(q * dims), np.uintp(dims), np.uintp(width), near)
            low = np.array([loops.cost_of(d, slack[q], 1.0, np.uintp(dims)) for d in near])
            ok = np.isfinite(true[leaf])
            assert (low[ok] <= true[leaf][ok]).all()
            tight.extend(low[ok] / true[leaf][ok])
    assert np.median(tight) > 0.9  # and they are no empty bounds
    assert_close(tree.mass[0], 144.0, rtol=1e-12)  # weights of 60 images, each for 144 windows


def test_one_by_one_in_a_batch_and_on_any_number_of_threads(photos, always):
    machine = MACHINES["zeros"](photos, rtol=1e-3)
    x = noisy(photos, machine, 0.2, count=3)
    whole = machine(x, 0.2)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    again = machine(x, 0.2)
    torch.set_num_threads(before)
    for field, value in zip(whole._fields, whole, strict=True):
        assert torch.equal(value, getattr(again, field))
        for i in range(3):
            assert torch.equal(value[i], getattr(machine(x[i : i + 1], 0.2), field)[0])


def test_trees_are_built_once_and_for_what_they_are_made_of(photos, always, tmp_path, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    x = noisy(photos, MACHINES["zeros"](photos), 0.1)
    first = MACHINES["zeros"](photos, rtol=1e-3)(x, 0.1)
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(index, "build", lambda *_: pytest.fail("built again"))
        assert torch.equal(MACHINES["zeros"](photos, rtol=1e-3)(x, 0.1).mean, first.mean)
        assert torch.equal(MACHINES["zeros"](photos, rtol=1e-2)(x, 0.1).mean, MACHINES["zeros"](photos, rtol=1e-2)(x, 0.1).mean)
    other = ImageSet(photos.images, "other", weights=torch.arange(1, 61).double())
    for data, name in ((other, "zeros"), (photos, "circular"), (photos, "oblong")):
        MACHINES[name](data, rtol=1e-3)(x, 0.1)
    assert len(list(tmp_path.iterdir())) == 4
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError) as error:
        MACHINES["zeros"](photos, rtol=1e-3)(x, 0.1)
    refused(error, path.name, "delete the file")


def test_a_directory_that_cannot_be_written_to(photos, always, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "file" / "inside"))
    with pytest.raises(InputError) as error:
        MACHINES["zeros"](photos, rtol=1e-3)(noise((1, 3, 12, 12)), 0.1)
    refused(error, store.VARIABLE)


def test_each_image_takes_the_cheaper_way(monkeypatch):
    """A clean image is found in the tree; one of pure noise is as near to all candidates, and summed exactly."""
    data = load("photos:count=300,size=12")
    exact, machine = (EquivariantLocal(data, patch_size=5, **o) for o in ({}, {"rtol": 1e-3}))
    monkeypatch.setattr(walk, "TASK", 0.0)
    times = torch.tensor([0.01, 0.95], dtype=torch.float64)
    x = noisy(data, machine, times)
    a, b = exact(x, times), machine(x, times)
    assert float(b.skipped[0].max()) > 0
    assert float(b.skipped[1].max()) == 0
    assert torch.equal(a.mean[1], b.mean[1])


def test_the_probe_stops_at_what_it_is_allowed(photos, monkeypatch):
    machine = MACHINES["zeros"](photos, rtol=1e-6)
    forest = forest_of(machine.case(None, (5, 5), photos.images))
    x, one = noisy(photos, machine, 0.9), torch.ones(2).double()
    spent = []
    monkeypatch.setattr(walk, "_walk", lambda *a, step=walk._walk: (spent.append(step(*a)[1]), step(*a))[1])
    assert not walk.affordable(x, 0.1 * one, one, forest, 1e-6, 1e7).any()
    assert sum(spent) < 3e6  # of two images, 1e7 each
    assert walk.affordable(x, 0.1 * one, one, forest, 1e-6, math.inf).all()


def test_other_machines_stay_exact(photos):
    x = noise((1, 3, 12, 12), seed=3)
    out = Equivariant(photos, rtol=1e-2)(x, 0.2)
    assert torch.equal(out.mean, Equivariant(photos)(x, 0.2).mean)
    assert float(out.skipped.max()) == 0


@pytest.mark.parametrize("rtol", [-1e-3, 1.0, math.nan])
def test_refuses_a_tolerance_that_is_no_share(photos, rtol):
    with pytest.raises(InputError) as error:
        Ideal(photos, rtol=rtol)
    refused(error, "[0, 1)")


@pytest.mark.parametrize("name", ["windows", "stream", "dense"])
def test_refuses_a_tolerance_with_an_exact_engine(photos, name):
    with pytest.raises(InputError) as error:
        EquivariantLocal(photos, patch_size=3, rtol=1e-3, engine=name)
    refused(error, name)


def test_classes_are_those_of_the_layouts():
    """Every pixel meets as many candidates, with windows of as many pixels, as in the engine that shifts images."""
    data = ImageSet(random_images(2, 1, 6, 7), "any")
    for size in ((3, 3), (5, 3), (1, 7)):
        for machine in (EquivariantLocal(data, patch_size=size, border=b) for b in ("zeros", "circular")):
            meet = machine.meetings(size)
            assert_close(meet.partners, layout(meet).partners)
        local = Local(data, patch_size=size).meetings(size)
        assert_close(local.partners, layout(local).partners)
        assert len(meetings.same_class((6, 7), size).blocks) == len(border_blocks(6, 7, size))
