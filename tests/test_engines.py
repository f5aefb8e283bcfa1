"""The contract of engines: each sums every statement that it accepts, as brute force does; and the tutorial's machine on all of them."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from tests import hostcuda, reference
from tests.helpers import assert_close, noise, random_set
from theory import meetings
from theory.data import ImageSet
from theory.engines import ENGINES, Case, Training, like
from theory.engines.listed.problems import problems
from theory.engines.pruned.engine import Pruned
from theory.engines.state import State
from theory.engines.windows.engine import Windows
from theory.machines import EquivariantLocal, Local
from theory.meetings import Meetings, Run
from theory.patches import runs

SHAPE, WINDOW = (5, 4), (3, 3)


def between(length: int, size: int) -> tuple[Run, ...]:
    """Pixels of the same border class at most one pixel away."""
    return tuple(
        Run((p, p + 1), (max(a, p - 1), min(b, p + 2)), before, after) for (a, b), before, after in runs(length, size) for p in range(a, b)
    )


STATEMENTS = {
    "images": meetings.images(SHAPE),
    "shifts": meetings.shifts(SHAPE),
    "in place": meetings.in_place(SHAPE, WINDOW, "zeros"),
    "in place, circular": meetings.in_place(SHAPE, WINDOW, "circular"),
    "same class": meetings.same_class(SHAPE, WINDOW),
    "same class, oblong": meetings.same_class(SHAPE, (3, 1)),
    "same class, beyond the image": meetings.same_class(SHAPE, (9, 7)),
    "everywhere": meetings.everywhere(SHAPE, WINDOW),
    "everywhere, beyond the image": meetings.everywhere(SHAPE, (7, 7)),
    "inside": meetings.inside(SHAPE, WINDOW),
    "between": meetings.along(SHAPE, WINDOW, between),
}
CARD = "windows by the kernels of a card"  # compiled for the CPU
TRIED = {**ENGINES, "pruned": Pruned(1e-9), CARD: Windows(hostcuda.Host())}
PAIRS = [
    pytest.param(e, s, marks=[pytest.mark.skipif(hostcuda.COMPILER is None, reason=hostcuda.MISSING)] if e == CARD else [])
    for e, s in itertools.product(TRIED, STATEMENTS)
    if TRIED[e].refuses(STATEMENTS[s], torch.zeros(0)) is None
]


def case(stated: Meetings, data: ImageSet, dtype=torch.float64, label: int | None = None, memory: int = 2**26) -> Case:
    centre = (lambda mean: mean) if stated.in_place else (lambda mean: mean.mean((2, 3), keepdim=True))
    return Case(stated, Training(data, centre, memory, False), label, like(torch.zeros(0, dtype=dtype)))


def summed(engine: str, asked: Case, x: torch.Tensor, t: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means of values as they are in the images, log sums, and effective numbers of candidates."""
    alpha, sigma = (c.expand(len(x)) for c in reference_coefficients(t))
    state = TRIED[engine].sum(asked, x, alpha, sigma)
    centre = asked.training.centre(asked.label) if TRIED[engine].centred else torch.zeros(1, dtype=torch.float64)
    mean = state.mean.reshape(x.shape) if asked.meetings.whole else state.mean.reshape(len(x), *SHAPE, -1).permute(0, 3, 1, 2)
    return mean + centre, state.log_sum.reshape(len(x), -1), state.ess.reshape(len(x), -1)


def reference_coefficients(t) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [reference.coefficients(float(one)) for one in torch.as_tensor(t, dtype=torch.float64).reshape(-1)]
    return tuple(torch.tensor(c, dtype=torch.float64) for c in zip(*pairs, strict=True))


def brute(stated: Meetings, data: ImageSet, x: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loops over the pixels of every run, from the definition of a run alone."""
    alpha, sigma = reference.coefficients(t)
    images, weights = data.images.double(), data.weights.tolist()

    means, sums, sizes = torch.zeros(x.shape, dtype=torch.float64), [], []
    for b, noisy in enumerate(x.double()):
        found = {}
        for rows, cols in itertools.product(stated.rows, stated.cols):
            for y, x_ in itertools.product(range(*rows.queries), range(*cols.queries)):
                places = list(itertools.product(range(*rows.keys), range(*cols.keys)))
                keys = [
                    (key := patch_at(image, i, j, rows, cols), key if stated.whole else image[:, i, j].tolist(), weight)
                    for image, weight in zip(images, weights, strict=True)
                    for i, j in places
                ]
                query = patch_at(noisy, y, x_, rows, cols)
                mean, evidence, ess = reference.posterior(query, keys, alpha, sigma)
                found[y, x_] = evidence + len(query) / 2 * math.log(2 * math.pi * sigma**2), ess
                if stated.whole:
                    means[b] = torch.from_numpy(mean).reshape(x.shape[1:])
                else:
                    means[b, :, y, x_] = torch.from_numpy(mean)
        sums.append([found[key][0] for key in sorted(found)])
        sizes.append([found[key][1] for key in sorted(found)])
    return means, torch.tensor(sums, dtype=torch.float64), torch.tensor(sizes, dtype=torch.float64)


def patch_at(image: torch.Tensor, y: int, x: int, rows: Run, cols: Run) -> list[float]:
    """A window, wrapped where it leaves the image: windows that are cut off never do."""
    ys = torch.arange(y - rows.before, y + rows.after + 1) % SHAPE[0]
    xs = torch.arange(x - cols.before, x + cols.after + 1) % SHAPE[1]
    return image[:, ys[:, None], xs].flatten().tolist()


@pytest.mark.parametrize(("engine", "statement"), PAIRS)
def test_equals_brute_force(engine, statement):
    """With an image of no weight among unequal ones."""
    data = random_set()
    weights = data.weights.clone()
    weights[2] = 0
    data = ImageSet(data.images, "weighted", weights=weights)
    for t in (0.05, 0.7):
        x = noise((2, 2, *SHAPE), seed=3) * 0.7
        expected = brute(STATEMENTS[statement], data, x, t)
        for mine, theirs in zip(summed(engine, case(STATEMENTS[statement], data), x, t), expected, strict=True):
            assert_close(mine, theirs, rtol=1e-8, atol=1e-8)  # pruned leaves out 1e-9 of the weight


@pytest.mark.parametrize(("engine", "statement"), PAIRS)
def test_neither_batch_nor_order_nor_memory_matters(engine, statement):
    data, x = random_set(20), noise((5, 2, *SHAPE), seed=4)
    small = 2**24 if engine != "dense" else 2**27  # dense needs room for all logits, whatever the budget
    times = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    stated = STATEMENTS[statement]
    whole = summed(engine, case(stated, data), x, times)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = ImageSet(data.images[order], "shuffled", weights=data.weights[order])
    for other in (summed(engine, case(stated, shuffled), x, times), summed(engine, case(stated, data, memory=small), x, times)):
        for a, b in zip(whole, other, strict=True):
            assert_close(a, b, rtol=1e-7)
    for i in (0, 3):
        alone = summed(engine, case(stated, data), x[i : i + 1], times[i : i + 1])
        for a, b in zip(whole, alone, strict=True):
            assert_close(a[i : i + 1], b, rtol=1e-7)


@pytest.mark.parametrize(("engine", "statement"), PAIRS)
def test_a_label_is_the_training_set_of_its_class(engine, statement):
    data, x = random_set(12), noise((2, 2, *SHAPE), seed=5)
    stated, one = STATEMENTS[statement], data.select(1)
    for a, b in zip(summed(engine, case(stated, data, label=1), x, 0.4), summed(engine, case(stated, one), x, 0.4), strict=True):
        assert_close(a, b, rtol=1e-7)


@pytest.mark.parametrize(("engine", "statement"), PAIRS)
def test_float32_is_within_its_bound(engine, statement):
    """Logits are kept to 4e-4; a mean moves by at most that times the spread of the values, 2. Dense has no bound: noise is large here."""
    data, x = random_set(30), noise((3, 2, *SHAPE), seed=6)
    for t in (0.05, 0.3, 0.9) if engine != "dense" else (0.3, 0.9):
        single = summed(engine, case(STATEMENTS[statement], data, torch.float32), x.float(), t)
        double = summed(engine, case(STATEMENTS[statement], data), x.float().double(), t)
        assert_close(single[0], double[0], atol=8e-4)
        assert_close(single[1], double[1], atol=8e-4, rtol=1e-6)


@pytest.mark.parametrize(("engine", "statement"), PAIRS)
def test_states_of_parts_of_the_images_merge_to_that_of_all(engine, statement):
    data, x = random_set(13), noise((2, 2, *SHAPE), seed=7)
    alpha, sigma = (c.expand(2) for c in reference_coefficients(0.3))
    training = Training(data, lambda mean: 0 * mean[..., :1, :1], 2**26, False)

    def state(rows: slice) -> State:
        part = Training(data, training._centre, 2**26, False)
        part.kept(("chosen", None), lambda: (data.images[rows], data.weights[rows]))
        return TRIED[engine].sum(Case(STATEMENTS[statement], part, None, like(x)), x, alpha, sigma)

    whole, merged = state(slice(None)), state(slice(0, 5)).merge(state(slice(5, None)))
    for a, b in ((whole.mean, merged.mean), (whole.log_sum, merged.log_sum), (whole.ess, merged.ess)):
        assert_close(a, b, rtol=1e-7)


def test_a_statement_that_shifts_do_not_say_is_not_taken_by_windows():
    """Clipped windows compared with pixels whose own windows are whole: a shift would see more of these than the statement says."""
    across = meetings.along(SHAPE, WINDOW, lambda n, k: (Run((0, 1), (1, 2), 0, 1), Run((1, n), (1, n - 1), 1, 0)))
    assert "the same shift" in ENGINES["windows"].refuses(across, torch.zeros(0))
    apart = meetings.along(SHAPE, (1, 1), lambda n, k: (Run((0, 1), (0, 1), 0, 0), Run((1, 2), (3, 4), 0, 0), Run((2, n), (2, n), 0, 0)))
    assert "the same shift" in ENGINES["windows"].refuses(apart, torch.zeros(0))


@pytest.mark.parametrize("statement", list(STATEMENTS))
def test_what_is_listed_is_what_is_counted(statement):
    """Partners and areas, which normalise the evidence, against the lists themselves."""
    stated, data = STATEMENTS[statement], random_set()
    partners, area = torch.zeros_like(stated.partners), torch.zeros_like(stated.area)
    for problem in problems(stated, data.images.double(), torch.zeros(6)):
        ones = problem.queries(torch.ones(1, 2, *SHAPE, dtype=torch.float64)).sum(-1, keepdim=True) / 2
        place = (..., problem.rows, problem.cols)
        area[place] = problem.place(ones)[0, 0]
        partners[place] = problem.place(torch.full_like(ones, problem.source.rows))[0, 0]
    assert_close(stated.partners, partners)
    assert_close(stated.area, area)


# The tutorial ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nearby():
    page = (Path(__file__).parent.parent / "docs" / "tutorials" / "add-a-denoiser.md").read_text()
    code, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict = {}
    exec(code, space)
    return space["Nearby"]


@pytest.mark.parametrize(
    "engine", ["auto", *(name for name, e in ENGINES.items() if e.refuses(STATEMENTS["between"], torch.zeros(0)) is None)]
)
def test_the_tutorials_machine_lies_between_ls_and_els(nearby, engine):
    data, x = random_set(12), noise((2, 2, *SHAPE), seed=8)
    for t in (0.1, 0.6):
        ends = Local(data, patch_size=3)(x, t), EquivariantLocal(data, patch_size=3)(x, t)
        for reach, end in zip((0, 9), ends, strict=True):
            for a, b in zip(nearby(data, patch_size=3, reach=reach, engine=engine)(x, t), end, strict=True):
                assert_close(a, b, rtol=1e-9, atol=1e-10)
        middle = nearby(data, patch_size=3, reach=1, engine=engine)
        mean, _, ess = brute(middle.meetings((3, 3)), data, x, t)
        found = middle(x, t)
        assert_close(found.mean, mean, rtol=1e-9, atol=1e-10)
        assert_close(found.ess.flatten(1), ess, rtol=1e-8)


def test_the_tutorials_machine_leaves_out_what_does_not_matter(nearby):
    data, x = random_set(12), noise((2, 2, *SHAPE), seed=8)
    exact, pruned = (nearby(data, patch_size=3, reach=1, rtol=r)(x, 0.3) for r in (0.0, 1e-3))
    assert bool(((exact.mean - pruned.mean).abs() <= 2 * pruned.skipped[:, None] + 1e-10).all())
