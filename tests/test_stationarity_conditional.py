"""Conditional draws: they show the patch, follow the exact posterior, and average to the unconditional law."""

import math

import pytest
import torch
from scipy.stats import chi2

from tests.helpers import assert_close, noise, random_set, refused
from tests.reference import inside
from theory.data import ImageSet
from theory.errors import InputError
from theory.stationarity.conditional import _choose, draw_given_patch
from theory.stationarity.equations import first_order
from theory.stationarity.sites import all_sites

ALPHA, SIGMA = 0.8, 0.7
SIZE = (3, 3)


def offsets(pixel: int, height: int, width: int, border: str):
    """Offsets of the window of a pixel, from the reference; circular windows are whole."""
    if border == "circular":
        return tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))
    return inside(pixel // width, pixel % width, height, width, SIZE)


def cut(image: torch.Tensor, pixel: int, border: str) -> list[float]:
    """The patch at a pixel of one image, by loops."""
    channels, height, width = image.shape
    y, x = divmod(pixel, width)
    around = offsets(pixel, height, width, border)
    return [float(image[c, (y + i) % height, (x + j) % width]) for c in range(channels) for i, j in around]


def draw_patches(data: ImageSet, sites, count: int, seed: int) -> torch.Tensor:
    """Patches of the class from the marginal law: image by weight, pixel evenly, fresh noise."""
    generator = torch.Generator().manual_seed(seed)
    clean = sites.patches(data.images.double())
    image = torch.multinomial(data.weights, count, replacement=True, generator=generator)
    pixel = torch.randint(sites.count, (count,), generator=generator)
    clean = clean[image, pixel]
    return ALPHA * clean + SIGMA * noise(clean.shape, seed + 1)


def draw_images(data: ImageSet, count: int, seed: int) -> torch.Tensor:
    """Noisy images from the marginal law."""
    image = torch.multinomial(data.weights, count, replacement=True, generator=torch.Generator().manual_seed(seed))
    clean = data.images[image].double()
    return ALPHA * clean + SIGMA * noise(clean.shape, seed + 1)


def classes(height: int = 5, width: int = 4):
    """Every border class of a zero border, and the one of a circular one."""
    return [(border, number) for border in ("zeros", "circular") for number in range(len(all_sites(height, width, SIZE, border)))]


# ---------------------------------------------------------------------- the draw itself


@pytest.mark.parametrize(("border", "number"), classes())
def test_the_drawn_pixel_sees_the_patch(border, number):
    data = random_set()
    sites = all_sites(5, 4, SIZE, border)[number]
    patches = draw_patches(data, sites, 6, 0)
    images, pixels = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 5, 0)
    assert images.shape == (6, 5, 2, 5, 4) and images.dtype == torch.float64
    assert set(pixels.flatten().tolist()) <= set(sites.numbers(5, 4).tolist())
    for m in range(6):
        for i in range(5):
            assert cut(images[m, i], int(pixels[m, i]), border) == patches[m].tolist()


def signs(count: int, height: int, width: int) -> ImageSet:
    """Images of random signs, unequal weights: so different that a noisy one tells which it is."""
    images = noise((count, 1, height, width), 3).sign().float() * 0.9
    return ImageSet(images, "signs", weights=torch.arange(1.0, count + 1))


def nearest(data: ImageSet, image: torch.Tensor, pixel: int, border: str) -> torch.Tensor:
    """Number of the training image, from what lies outside the window (the patch is given, it tells nothing)."""
    _, _, height, width = data.images.shape
    y, x = divmod(pixel, width)
    outside = torch.ones(height, width, dtype=torch.bool)
    for i, j in offsets(pixel, height, width, border):
        outside[(y + i) % height, (x + j) % width] = False
    return (image[:, None, 0, outside] - ALPHA * data.images.double()[None, :, 0, outside]).square().sum(-1).argmin(1)


@pytest.mark.parametrize(("border", "number"), [("zeros", 0), ("zeros", 1), ("zeros", 4), ("circular", 0)])
def test_image_and_pixel_follow_the_brute_force_posterior(border, number):
    height, width, count = 8, 10, 6000
    data = signs(3, height, width)
    sites = all_sites(height, width, SIZE, border)[number]
    pixels = sites.numbers(height, width).tolist()
    # A patch far from all training patches: many of them stay plausible.
    patch = 0.4 * noise((1, sites.patches(data.images).shape[-1]), 5)
    images, drawn = draw_given_patch(data, sites, patch, ALPHA, SIGMA, count, 1)

    expected = torch.zeros(3, len(pixels), dtype=torch.float64)
    for n in range(3):
        for i, pixel in enumerate(pixels):
            clean = cut(data.images[n].double(), pixel, border)
            distance = sum((a - ALPHA * b) ** 2 for a, b in zip(patch[0].tolist(), clean, strict=True))
            expected[n, i] = (n + 1) * math.exp(-distance / (2 * SIGMA**2))
    expected *= count / expected.sum()
    found = torch.zeros_like(expected)
    for i, pixel in enumerate(pixels):
        here = images[0, drawn[0] == pixel]
        found[:, i] = torch.bincount(nearest(data, here, pixel, border), minlength=3)
    assert found.sum() == count

    common = expected >= 5  # the rest is pooled, as chi-square asks
    pooled_expected, pooled_found = (torch.cat([x[common], x[~common].sum()[None]]) for x in (expected, found))
    keep = pooled_expected > 0
    statistic = float(((pooled_found - pooled_expected)[keep].square() / pooled_expected[keep]).sum())
    assert int(common.sum()) >= 3
    assert statistic < chi2.isf(1e-4, int(keep.sum()) - 1)  # fixed seed: a true law fails one seed in ten thousand


def test_outside_the_patch_is_fresh_noise():
    """With one training image nothing is random but the noise and the pixel."""
    data = random_set(1)
    sites = all_sites(5, 4, SIZE, "zeros")[0]  # a corner: one pixel
    count = 4000
    images, _ = draw_given_patch(data, sites, draw_patches(data, sites, 1, 0), ALPHA, SIGMA, count, 0)
    free = torch.ones(5, 4, dtype=torch.bool)
    free[:2, :2] = False
    epsilon = ((images[0] - ALPHA * data.images[0].double()) / SIGMA)[:, :, free].flatten(1)
    assert float(epsilon.mean(0).abs().max()) * math.sqrt(count) < 4.5  # the largest of 32 standard normal numbers
    covariance = epsilon.T @ epsilon / count
    assert_close(covariance, torch.eye(32), atol=5.5 * math.sqrt(2 / count))  # 528 numbers, the largest variance 2/count


def test_same_seed_same_draws_and_more_begin_with_fewer():
    data = random_set()
    sites = all_sites(5, 4, SIZE, "zeros")[4]
    patches = draw_patches(data, sites, 3, 0)
    few, few_pixels = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 4, 7)
    many, many_pixels = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 9, 7)
    other, _ = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 4, 8)
    assert torch.equal(few, many[:, :4]) and torch.equal(few_pixels, many_pixels[:, :4])
    assert not torch.equal(few, other)
    none, _ = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 0, 7)
    assert none.shape == (3, 0, 2, 5, 4)


def test_lowest_noise_finds_the_one_patch():
    """Squared distances of 1e18 sigma^2: every weight but one underflows, none becomes NaN."""
    data, sigma = random_set(), 1e-9
    sites = all_sites(5, 4, SIZE, "zeros")[4]
    clean = sites.patches(data.images.double())
    images, pixels = draw_given_patch(data, sites, ALPHA * clean[:, 3], ALPHA, sigma, 4, 0)
    assert_close(images, ALPHA * data.images.double()[:, None].expand(images.shape), atol=10 * sigma)
    assert (pixels == sites.numbers(5, 4)[3]).all()
    far, _ = draw_given_patch(data, sites, torch.full_like(clean[:, 3], 1e3), ALPHA, sigma, 4, 0)
    assert far.isfinite().all()


def test_images_of_weight_zero_are_never_drawn():
    images = torch.stack([torch.full((1, 4, 4), value) for value in (-0.9, 0.1, 0.9)])
    data = ImageSet(images, "three", weights=torch.tensor([0.0, 1.0, 0.0]))
    sites = all_sites(4, 4, (1, 1), "zeros")[0]
    drawn, _ = draw_given_patch(data, sites, torch.tensor([[-0.9], [0.9]]), 1.0, 1e-3, 50, 0)
    assert_close(drawn.flatten(2).median(2).values, torch.full((2, 50), 0.1), atol=5e-3)


def test_inversion_at_its_ends():
    """Uniform numbers at 0 and just below 1 give the first and the last column of positive probability."""
    ends = torch.tensor([[0.0, math.nextafter(1.0, 0.0), 0.5]], dtype=torch.float64)
    logits = torch.tensor([[-math.inf, -1000.0, -1000.0, -math.inf]], dtype=torch.float64)
    assert _choose(logits, ends).tolist() == [[1, 2, 2]]


# ---------------------------------------------------------------------- averages over draws


def agree(one: torch.Tensor, other: torch.Tensor) -> None:
    """Means of independent rows within four standard errors, for every column; and the columns are not constant."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    assert float(error.min()) > 0
    z = (one.mean(0) - other.mean(0)) / error
    assert float(z.abs().max()) < 4, f"standard errors {z.flatten().tolist()}"


def statistics(images: torch.Tensor) -> torch.Tensor:
    """Nonlinear functions of images that mix near and far pixels, with shape ``(n, 5)``."""
    x = images.flatten(1)
    return torch.stack(
        [
            torch.tanh(x[:, 0] * x[:, -1]),
            x.max(1).values,
            torch.cos(3 * x.mean(1)),
            torch.tanh(x[:, :-1] * x[:, 1:]).mean(1),
            x.square().mean(1).sqrt(),
        ],
        1,
    )


AVERAGED = [("zeros", 0), ("zeros", 1), ("zeros", 3), ("zeros", 4), ("circular", 0)]  # corner, both edges, inside


def bounded(patches: torch.Tensor) -> torch.Tensor:
    """Bounded test functions of a patch, on the last axis."""
    direction = noise((patches.shape[-1], 2), 11)
    return torch.cat([torch.ones_like(patches[..., :1]), torch.tanh(patches[..., :1]), torch.cos(patches @ direction)], -1)


@pytest.mark.parametrize(("border", "number"), AVERAGED)
def test_images_given_marginal_patches_are_marginal_images(border, number):
    data = random_set(3, height=4, width=4)
    sites = all_sites(4, 4, SIZE, border)[number]
    patches = draw_patches(data, sites, 4000, 20)
    images, _ = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 1, 30)
    agree(statistics(images[:, 0]), statistics(draw_images(data, 20000, 40)))


@pytest.mark.parametrize(("border", "number"), AVERAGED)
def test_tower_property(border, number):
    """``E[f(x_t) mean_p g(Phi_p)] = E_Phi[g(Phi) E[f(x_t) | Phi]]``."""
    data = random_set(3, height=4, width=4)
    sites = all_sites(4, 4, SIZE, border)[number]
    patches = draw_patches(data, sites, 3000, 50)
    drawn, _ = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 3, 60)
    given = statistics(drawn.flatten(0, 1)).reshape(3000, 3, -1).mean(1)
    images = draw_images(data, 15000, 70)
    direct = bounded(sites.patches(images)).mean(1)
    agree((bounded(patches)[:, :, None] * given[:, None]).flatten(1), (direct[:, :, None] * statistics(images)[:, None]).flatten(1))


def integrand(data: ImageSet, images: torch.Tensor, border: str) -> torch.Tensor:
    """`first_order` with the exact posterior mean as target and some local function as ``z``, with shape ``(n, P, C)``."""
    channels = images.shape[1]
    weight = 0.4 * noise((channels, channels, *SIZE), 13)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="circular" if border == "circular" else "constant")
    z = torch.tanh(torch.nn.functional.conv2d(padded, weight)).flatten(2).mT
    clean = data.images.double().flatten(1)
    posterior = torch.softmax(data.weights.log() - torch.cdist(images.flatten(1), ALPHA * clean).square() / (2 * SIGMA**2), 1)
    target = (posterior @ clean).reshape(images.shape).flatten(2).mT
    return first_order(z.contiguous(), z - target, beta=1.5)


@pytest.mark.parametrize(("border", "number"), AVERAGED)
def test_first_order_given_patches_equals_direct_regression(border, number):
    """``mean_p E[B(Phi_p) f_p] = E_Phi[B(Phi) E[f_p | Phi]]`` with ``f_p`` read at the drawn pixel."""
    data = random_set(3, height=4, width=4)
    sites = all_sites(4, 4, SIZE, border)[number]
    patches = draw_patches(data, sites, 3000, 80)
    drawn, pixels = draw_given_patch(data, sites, patches, ALPHA, SIGMA, 3, 90)
    values = integrand(data, drawn.flatten(0, 1), border)
    given = values[torch.arange(len(values)), pixels.flatten()].reshape(3000, 3, -1).mean(1)
    images = draw_images(data, 15000, 100)
    direct = integrand(data, images, border)[:, sites.numbers(4, 4)]
    one = (bounded(patches)[:, :, None] * given[:, None]).flatten(1)
    other = torch.einsum("npb,npc->npbc", bounded(sites.patches(images)), direct).mean(1).flatten(1)
    agree(one, other)


# ---------------------------------------------------------------------- refusals


def test_a_patch_that_overlaps_itself_is_refused():
    data = random_set()
    sites = all_sites(5, 4, (3, 5), "circular")[0]
    with pytest.raises(InputError) as error:
        draw_given_patch(data, sites, torch.zeros(1, 30), ALPHA, SIGMA, 1, 0)
    refused(error, "3x5", "5x4", "circular")
    whole = all_sites(5, 4, (5, 3), "circular")[0]  # as large as the image is allowed
    assert draw_given_patch(data, whole, torch.zeros(1, 30), ALPHA, SIGMA, 1, 0)[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"patches": torch.zeros(2, 7)}, "18 numbers"),
        ({"patches": torch.full((2, 18), math.nan)}, "finite"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"alpha": math.inf}, "alpha"),
        ({"count": -1}, "-1 draws"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_input_is_refused(change, word):
    data = random_set()
    arguments = {"patches": torch.zeros(2, 18), "alpha": ALPHA, "sigma": SIGMA, "count": 1, "seed": 0, **change}
    with pytest.raises(InputError) as error:
        draw_given_patch(data, all_sites(5, 4, SIZE, "zeros")[4], **arguments)
    refused(error, word)
