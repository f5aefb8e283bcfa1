"""The toy data against plain loops: every count, colour and posterior here is made without theory/."""

import importlib
import math
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
import torch

from theory.data import Toy, load

LAYOUTS = ("grid", "strip")
CELLS = (1, 2)
SIZE = {"grid": (6, 4), "strip": (2, 4)}
# Where key and value of each of the four pairs stand.
PAIRS = {
    "grid": [((0, 0), (1, 0)), ((0, 3), (1, 3)), ((4, 0), (5, 0)), ((4, 3), (5, 3))],
    "strip": [((0, 0), (1, 0)), ((0, 1), (1, 1)), ((0, 2), (1, 2)), ((0, 3), (1, 3))],
}
RGB = {"R": (1, -1, -1), "G": (-1, 1, -1), "B": (-1, -1, 1), "Y": (1, 1, -1), ".": (-1, -1, -1)}
NUMBER = {"R": 0, "G": 1, "B": 2, "Y": 3}


def draws():
    """How many of the 6144 equally likely draws (keys, bijection) give each colouring."""
    counts = Counter()
    for keys in product(range(4), repeat=4):
        for f in permutations(range(4)):
            counts[keys + tuple(f[k] for k in keys)] += 1
    return counts


def is_consistent(cells):
    pairs = list(zip(cells[:4], cells[4:], strict=True))
    return all((k == m) == (v == w) for k, v in pairs for m, w in pairs)


def never_contradicts(cells):
    pairs = list(zip(cells[:4], cells[4:], strict=True))
    return all(v == w for k, v in pairs for m, w in pairs if k == m)


def paint(colourings, layout, cell):
    """Pictures of colourings (four keys, then four values), pixel by pixel from the tables above."""
    height, width = SIZE[layout]
    pictures = np.full((len(colourings), 3, height * cell, width * cell), -1.0)
    table = np.array([RGB[c] for c in "RGBY"])
    colourings = np.array(colourings)
    for pair, (key, value) in enumerate(PAIRS[layout]):
        for number, (y, x) in ((pair, key), (pair + 4, value)):
            for dy, dx in product(range(cell), repeat=2):
                pictures[:, :, y * cell + dy, x * cell + dx] = table[colourings[:, number]]
    return torch.from_numpy(pictures)


def from_ascii(*rows):
    """A picture from one letter per pixel."""
    return torch.tensor([[RGB[c] for c in row] for row in rows]).permute(2, 0, 1)[None].float()


def cells_of(text):
    """``"RRGB GGYR"``: the four keys, then their values, as numbers."""
    return [NUMBER[c] for c in text.replace(" ", "")]


@pytest.fixture(scope="module")
def truth():
    return draws()


@pytest.fixture(scope="module", params=list(product(LAYOUTS, CELLS)), ids=lambda p: f"{p[0]}-{p[1]}")
def case(request):
    layout, cell = request.param
    return layout, cell, load("toy", layout=layout, cell=cell)


# ------------------------------------------------------------------------------------------ the data


def test_5056_distinct_images_of_16_1008_and_4032_weights(case, truth):
    data = case[2]
    assert len(truth) == 5056
    assert sum(truth.values()) == 6144
    assert Counter(truth.values()) == {6: 16, 2: 1008, 1: 4032}
    assert len(data) == 5056
    assert len(data.images.flatten(1).unique(dim=0)) == 5056
    assert Counter((data.weights * 6144).round().int().tolist()) == {6: 16, 2: 1008, 1: 4032}


def test_every_image_is_painted_right_and_has_its_weight(case, truth):
    layout, cell, data = case
    colourings = list(truth)
    expected = {
        picture.numpy().tobytes(): truth[colouring] / 6144
        for picture, colouring in zip(paint(colourings, layout, cell).float(), colourings, strict=True)
    }
    for picture, weight in zip(data.images, data.weights.tolist(), strict=True):
        # One rounding in the division and one in the sum it divides by.
        assert weight == pytest.approx(expected.pop(picture.numpy().tobytes()), rel=1e-15, abs=0)
    assert not expected


def test_weights_sum_to_one_in_float64(case):
    weights = case[2].weights
    assert weights.dtype == torch.float64
    assert math.fsum(weights.tolist()) == pytest.approx(1, abs=1e-14)


def test_share_of_consistent_colourings_is_7_715_percent(truth):
    count = sum(map(is_consistent, product(range(4), repeat=8)))
    assert count == 5056
    assert f"{100 * count / 4**8:.3f}" == "7.715"
    assert Toy().baseline == count / 4**8
    assert all(map(is_consistent, truth))


def test_share_of_colourings_without_contradiction_is_25_513_percent():
    share = f"{100 * sum(map(never_contradicts, product(range(4), repeat=8))) / 4**8:.3f}"
    assert share == "25.513"
    assert f"{share}%" in importlib.import_module("theory.data.toy").__doc__


def test_grid_has_the_value_below_the_key_and_gaps_of_two():
    picture = Toy("grid").render(torch.tensor([cells_of("RGBY GBYR")]))
    assert torch.equal(picture, from_ascii("R..G", "G..B", "....", "....", "B..Y", "Y..R"))


def test_strip_has_keys_above_values():
    assert torch.equal(Toy("strip").render(torch.tensor([cells_of("RGBY GBYR")])), from_ascii("RGBY", "GBYR"))


def test_cell_two_paints_every_cell_as_two_by_two_pixels():
    picture = Toy("strip", 2).render(torch.tensor([cells_of("RGBY GBYR")]))
    assert torch.equal(picture, from_ascii("RRGGBBYY", "RRGGBBYY", "GGBBYYRR", "GGBBYYRR"))


@pytest.mark.parametrize(("layout", "patch"), [("grid", (5, 5)), ("strip", (3, 1))])
def test_patch_size_of_one_pixel_cells(layout, patch):
    assert load("toy", layout=layout).patch_size == patch


def test_patch_at_a_cell_sees_its_own_pair_and_no_other(case):
    layout, cell, data = case
    owner = {
        (y * cell + dy, x * cell + dx): (pair, part)
        for pair, places in enumerate(PAIRS[layout])
        for part, (y, x) in enumerate(places)
        for dy, dx in product(range(cell), repeat=2)
    }
    rh, rw = data.patch_size[0] // 2, data.patch_size[1] // 2
    for (y, x), (pair, _) in owner.items():
        seen = {owner[p] for p in product(range(y - rh, y + rh + 1), range(x - rw, x + rw + 1)) if p in owner}
        assert seen == {(pair, 0), (pair, 1)}


# ---------------------------------------------------------------------------------- decode and the rule


# With larger cells every 13th, for speed.
@pytest.mark.parametrize(("layout", "cell", "step"), [("grid", 1, 1), ("strip", 1, 1), ("grid", 2, 13), ("strip", 2, 13)])
def test_all_65536_colourings_are_decoded_and_judged_right(layout, cell, step):
    colourings = list(product(range(4), repeat=8))[::step]
    rule, pictures = Toy(layout, cell), paint(colourings, layout, cell).float()
    assert rule.decode(pictures).tolist() == [list(c) for c in colourings]
    assert rule.consistent(pictures).tolist() == [is_consistent(c) for c in colourings]


def test_render_and_decode_are_inverse(case):
    _layout, _cell, data = case
    cells = data.rule.decode(data.images)
    assert torch.equal(data.rule.render(cells), data.images)
    assert sorted(map(tuple, cells.tolist())) == sorted(draws())


def test_every_training_image_is_consistent(case):
    assert case[2].rule.consistent(case[2].images).all()


@pytest.mark.parametrize(
    ("colours", "verdict"),
    [
        ("RRRR GGGG", True),
        ("RGBY YBGR", True),
        ("RGRG BYBY", True),
        ("RRGB GYBR", False),  # red has two values
        ("RGBY RRGB", False),  # red and green share a value
        ("RRRR GGGB", False),  # only the last pair contradicts
        ("RGBY RGBR", False),  # only the last pair is not one to one
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hand_made_pictures_are_judged_right(layout, colours, verdict):
    assert Toy(layout).consistent(paint([cells_of(colours)], layout, 1)).tolist() == [verdict]


# Two directions in colour space: along one axis, and along the diagonal.
@pytest.mark.parametrize("direction", [(0, 0, 1), (-1, 1, -1)])
@pytest.mark.parametrize(("distance", "is_colour"), [(0.49, True), (0.51, False)])
def test_a_cell_farther_than_half_from_every_colour_is_not_a_colour(case, direction, distance, is_colour):
    layout, cell, data = case
    colours = cells_of("RGBY GBYR")
    pictures = paint([colours] * 8, layout, cell)
    step = torch.tensor(direction, dtype=torch.float64) / math.dist(direction, (0, 0, 0))
    for number in range(8):  # another cell of each picture
        y, x = PAIRS[layout][number % 4][number // 4]
        # All of it on one pixel: only the mean of the cell counts.
        pictures[number, :, y * cell, x * cell] += distance * cell**2 * step
    expected = [[c if is_colour or i != number else -1 for i, c in enumerate(colours)] for number in range(8)]
    assert data.rule.decode(pictures).tolist() == expected
    assert data.rule.consistent(pictures).tolist() == [is_colour] * 8


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, float("nan")])
def test_black_grey_white_and_nan_cells_are_not_colours(value):
    picture = paint([cells_of("RRRR GGGG")], "strip", 1)
    picture[0, :, 0, 2] = value
    assert Toy("strip").decode(picture).tolist() == [[0, 0, -1, 0, 1, 1, 1, 1]]
    assert Toy("strip").consistent(picture).tolist() == [False]


def test_four_equal_cells_that_are_no_colour_are_not_consistent():
    assert Toy("strip").consistent(torch.full((1, 3, 2, 4), -1.0)).tolist() == [False]


# -------------------------------------------------------------------------------------- posterior mean


ENUMERATED = [("grid", 1), ("grid", 2), ("strip", 1), ("strip", 2), ("strip", 3)]


def float64(number):
    return torch.tensor(number, dtype=torch.float64)


def brute_force_mean(x_t, alpha, sigma, images, weights):
    """``sum_j p_j x_j`` with ``p_j ~ w_j exp(-||x_t - alpha x_j||^2 / (2 sigma^2))``, for one ``x_t``."""
    log_p = np.log(weights) - ((x_t - alpha * images) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
    p = np.exp(log_p - log_p.max())
    return np.tensordot(p / p.sum(), images, 1)


@pytest.fixture(scope="module")
def enumerated(truth):
    weights = np.array(list(truth.values())) / 6144
    return {(layout, cell): (paint(list(truth), layout, cell).numpy(), weights) for layout, cell in ENUMERATED}


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4, 0.7, 0.9, 0.99, 0.999])
@pytest.mark.parametrize(("layout", "cell"), ENUMERATED)
def test_factorised_posterior_mean_is_the_sum_over_all_images(enumerated, layout, cell, sigma):
    images, weights = enumerated[layout, cell]
    alpha = math.sqrt(1 - sigma**2)
    rng = np.random.default_rng(1)
    x_0 = images[rng.choice(len(images), 1)]
    x_t = np.concatenate([alpha * x_0 + sigma * rng.standard_normal(x_0.shape), rng.standard_normal(x_0.shape)])
    mean = Toy(layout, cell).posterior_mean(torch.from_numpy(x_t), float64(alpha), float64(sigma))
    expected = [brute_force_mean(x, alpha, sigma, images, weights) for x in x_t]
    # At sigma = 0.02 the pure noise rows have logits near 1e5, known to 1e-11 only.
    np.testing.assert_allclose(mean.numpy(), expected, rtol=0, atol=1e-12)


def test_posterior_mean_takes_one_sigma_per_image(enumerated):
    images, weights = enumerated["grid", 2]
    sigma = np.array([0.3, 0.6, 0.95])
    alpha = np.sqrt(1 - sigma**2)
    x_t = np.random.default_rng(2).standard_normal((3, *images.shape[1:]))
    mean = Toy("grid", 2).posterior_mean(*map(torch.from_numpy, (x_t, alpha, sigma)))
    expected = [brute_force_mean(*row, images, weights) for row in zip(x_t, alpha, sigma, strict=True)]
    np.testing.assert_allclose(mean.numpy(), expected, rtol=0, atol=1e-12)


def test_posterior_mean_of_pure_noise_is_the_weighted_mean_image(enumerated):
    images, weights = enumerated["strip", 1]
    x_t = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 3, 2, 4)))
    mean = Toy("strip").posterior_mean(x_t, float64(0.0), float64(1.0))
    np.testing.assert_allclose(mean[0].numpy(), np.tensordot(weights, images, 1), rtol=0, atol=1e-12)
