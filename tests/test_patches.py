"""Windows, borders and border classes against hand-made tables and loops over single pixels."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import refused
from theory.errors import InputError
from theory.patches import (
    BORDERS,
    Block,
    PatchSchedule,
    border_blocks,
    border_classes,
    centres,
    check_border,
    interior_block,
    patch_rows,
    windows,
    wrap,
)

lengths = st.integers(1, 9)
odd = st.integers(0, 6).map(lambda r: 2 * r + 1)
counts = st.integers(1, 3)
few = settings(max_examples=40, deadline=None)


def numbered(batch, channels, height, width):
    """Images in which every number occurs once, so that a value tells its place."""
    return torch.arange(batch * channels * height * width, dtype=torch.float64).reshape(batch, channels, height, width)


def outside(y, x, height, width, size):
    """The window offsets that fall outside the image, seen from pixel ``(y, x)``."""
    rh, rw = size[0] // 2, size[1] // 2
    offsets = product(range(-rh, rh + 1), range(-rw, rw + 1))
    return frozenset((i, j) for i, j in offsets if not (0 <= y + i < height and 0 <= x + j < width))


# ---------------------------------------------------------------------------------------- border classes

TABLES = {
    "4x4, patch 3": ((4, 4), (3, 3), ["0112", "3445", "3445", "6778"]),
    "6x4, patch 5": ((6, 4), (5, 5), ["0123", "4567", "89ab", "89ab", "cdef", "ghij"]),
    "2x4, patch 3x1": ((2, 4), (3, 1), ["0000", "1111"]),
    "3x3, patch 5 covers it": ((3, 3), (5, 5), ["012", "345", "678"]),
    "2x3, patch 99": ((2, 3), (99, 99), ["012", "345"]),
    "3x4, patch 1": ((3, 4), (1, 1), ["0000"] * 3),
    "1x1, patch 7": ((1, 1), (7, 7), ["0"]),
    "5x1, patch 3x5": ((5, 1), (3, 5), ["0", "1", "1", "1", "2"]),
    "2x7, patch 1x5": ((2, 7), (1, 5), ["0122234"] * 2),
}


@pytest.mark.parametrize(("image", "size", "table"), TABLES.values(), ids=TABLES)
def test_border_classes_are_those_of_the_table(image, size, table):
    assert border_classes(*image, size).tolist() == [[int(c, 36) for c in row] for row in table]


@pytest.mark.parametrize(
    ("image", "size", "number"),
    [((4, 4), (3, 3), 9), ((6, 4), (5, 5), 20), ((2, 4), (3, 1), 2), ((28, 28), (5, 5), 25), ((8, 8), (17, 17), 64)],
)
def test_number_of_border_classes(image, size, number):
    assert len(border_blocks(*image, size)) == number


@few
@given(lengths, lengths, odd, odd)
def test_two_pixels_share_a_class_iff_the_same_offsets_fall_outside(height, width, kh, kw):
    classes = border_classes(height, width, (kh, kw)).flatten().tolist()
    cut = [outside(y, x, height, width, (kh, kw)) for y, x in product(range(height), range(width))]
    first = {}
    for number, key in zip(classes, cut, strict=True):
        assert first.setdefault(key, number) == number
    assert sorted(first.values()) == list(range(len(first)))


@few
@given(lengths, lengths, odd, odd)
def test_classes_are_numbered_in_the_order_they_are_met(height, width, kh, kw):
    met = list(dict.fromkeys(border_classes(height, width, (kh, kw)).flatten().tolist()))
    assert met == list(range(len(met)))


@few
@given(counts, counts, lengths, lengths, odd, odd)
def test_blocks_cover_every_pixel_once_with_the_window_that_lies_inside(batch, channels, height, width, kh, kw):
    images = numbered(batch, channels, height, width)
    met = []
    for block in border_blocks(height, width, (kh, kw)):
        found = windows(images, block)
        assert (found.shape[2:4], found.shape[4:6]) == (block.shape, block.window)
        for (row, y), (col, x) in product(enumerate(range(*block.rows)), enumerate(range(*block.cols))):
            rows = [i for i in range(y - kh // 2, y + kh // 2 + 1) if 0 <= i < height]
            cols = [j for j in range(x - kw // 2, x + kw // 2 + 1) if 0 <= j < width]
            expected = [[[[float(c[i, j]) for j in cols] for i in rows] for c in image] for image in images]
            assert found[:, :, row, col].tolist() == expected
            met.append((y, x))
    assert sorted(met) == list(product(range(height), range(width)))


@few
@given(lengths, lengths, odd, odd)
def test_centres_are_the_middle_of_their_windows(height, width, kh, kw):
    images = numbered(2, 2, height, width)
    for block in border_blocks(height, width, (kh, kw)):
        assert torch.equal(centres(images, block), windows(images, block)[..., block.above, block.left])


# ------------------------------------------------------------------------------------- wrapping and rows


@few
@given(counts, counts, lengths, lengths, odd, odd)
def test_wrapped_windows_are_those_of_modulo_indices(batch, channels, height, width, kh, kw):
    images = numbered(batch, channels, height, width)
    rh, rw = kh // 2, kw // 2
    found = windows(wrap(images, (kh, kw)), Block((rh, rh + height), (rw, rw + width), rh, rh, rw, rw))
    expected = torch.empty(batch, channels, height, width, kh, kw, dtype=torch.float64)
    for y, x, i, j in product(range(height), range(width), range(kh), range(kw)):
        expected[:, :, y, x, i, j] = images[:, :, (y + i - rh) % height, (x + j - rw) % width]
    assert torch.equal(found, expected)


def test_wrapping_by_a_patch_larger_than_the_image_repeats_it():
    assert wrap(numbered(1, 1, 1, 3), (3, 11)).tolist() == [[[[1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]] * 3]]


def test_patch_of_one_pixel_wraps_nothing():
    images = numbered(2, 3, 4, 5)
    assert torch.equal(wrap(images, (1, 1)), images)


def test_patch_rows_go_by_image_then_pixel_and_inside_by_channel_row_column():
    images = numbered(2, 2, 4, 5)
    block = Block(rows=(1, 3), cols=(2, 4), above=1, below=1, left=2, right=1)
    expected = [
        [float(images[b, c, y + i, x + j]) for c in range(2) for i in (-1, 0, 1) for j in (-2, -1, 0, 1)]
        for b in range(2)
        for y in (1, 2)
        for x in (2, 3)
    ]
    assert patch_rows(images, block).tolist() == expected


def test_patch_rows_of_a_corner_written_out():
    images = numbered(2, 1, 2, 2)  # 0 1 / 2 3 and 4 5 / 6 7
    block = Block(rows=(0, 1), cols=(0, 2), above=0, below=1, left=0, right=0)
    assert patch_rows(images, block).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]


# ---------------------------------------------------------------------------------------------- interior


@few
@given(lengths, lengths, odd, odd)
def test_interior_is_every_pixel_whose_window_lies_inside(height, width, kh, kw):
    inside = [p for p in product(range(height), range(width)) if not outside(*p, height, width, (kh, kw))]
    if not inside:
        with pytest.raises(InputError, match=rf"patch size {kh}x{kw} .* {height}x{width} images: expected"):
            interior_block(height, width, (kh, kw))
        return
    block = interior_block(height, width, (kh, kw))
    assert list(product(range(*block.rows), range(*block.cols))) == inside
    assert (block.above, block.below, block.left, block.right) == (kh // 2, kh // 2, kw // 2, kw // 2)


def test_interior_of_an_image_as_large_as_the_patch_is_its_centre():
    assert interior_block(5, 3, (5, 3)) == Block((2, 3), (1, 2), 2, 2, 1, 1)


@pytest.mark.parametrize("size", [(7, 3), (3, 7)])
def test_interior_of_an_image_smaller_than_the_patch_on_one_side_is_refused(size):
    with pytest.raises(InputError, match="patches='all'"):
        interior_block(5, 5, size)


# ---------------------------------------------------------------------------------- sizes as a function of t


@pytest.mark.parametrize(
    ("given_size", "sizes"),
    [
        (5, ((5, 5),)),
        (1, ((1, 1),)),
        ((3, 1), ((3, 1),)),
        ([3, 5, 7], ((3, 3), (5, 5), (7, 7))),
        ([3, (1, 5)], ((3, 3), (1, 5))),
        ([3, 1], ((3, 3), (1, 1))),  # a list is always a schedule, never a pair
        ([(9, 7)], ((9, 7),)),
    ],
    ids=str,
)
def test_sizes_from_a_number_a_pair_or_a_list(given_size, sizes):
    assert PatchSchedule.of(given_size).sizes == sizes


def test_a_schedule_of_sizes_is_taken_as_it_is():
    sizes = PatchSchedule(((3, 3), (7, 5)))
    assert PatchSchedule.of(sizes) is sizes


@pytest.mark.parametrize("t", [0.0, 1e-300, 0.5, 1.0])
def test_one_size_holds_at_all_times(t):
    assert PatchSchedule.of((3, 1))(t) == (3, 1)


def test_sizes_change_at_i_over_n_and_the_last_holds_at_one():
    sizes = PatchSchedule.of([3, 5, 7, 9])
    at = {0.0: 3, 0.2499999: 3, 0.25: 5, 0.4999999: 5, 0.5: 7, 0.7499999: 7, 0.75: 9, 0.9999999: 9, 1.0: 9}
    assert {t: sizes(t)[0] for t in at} == at


@pytest.mark.parametrize("n", range(1, 22))
def test_size_i_holds_at_i_over_n_and_before_the_next(n):
    sizes = PatchSchedule.of([2 * i + 1 for i in range(n)])
    for i in range(n):
        assert sizes(i / n) == (2 * i + 1, 2 * i + 1)
        assert sizes((i + 1) / n - 1e-9) == (2 * i + 1, 2 * i + 1)


@pytest.mark.parametrize(("i", "n"), [(15, 22), (3, 47), (1, 49)])  # 15/22 * 22 rounds to 14.999999999999998
def test_size_i_holds_at_i_over_n_where_the_product_rounds_down(i, n):
    assert PatchSchedule.of([2 * k + 1 for k in range(n)])(i / n) == (2 * i + 1, 2 * i + 1)


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "size",
    [
        *(4, 0, -1, -3, True, False, 3.0, 2.5, "3", None),
        (3, 4),
        (0, 3),
        (3, -1),
        (True, 3),
        (3, 5.0),
        (3,),
        (3, 3, 3),
        (),
    ],
    ids=repr,
)
def test_sizes_that_are_not_odd_positive_whole_numbers_are_refused(size, as_users_run_it):
    with pytest.raises(InputError) as error:
        PatchSchedule.of(size)
    refused(error, f"patch size {size!r}", "odd positive")


@pytest.mark.parametrize(("sizes", "bad"), [([3, 4], "4"), ([2, 3], "2"), ([3, (5, 6)], "(5, 6)"), ([3, [5, 5]], "[5, 5]")])
def test_one_bad_size_in_a_list_is_named(sizes, bad, as_users_run_it):
    with pytest.raises(InputError) as error:
        PatchSchedule.of(sizes)
    refused(error, f"patch size {bad}:", "odd positive")


def test_no_size_at_all_is_refused():
    with pytest.raises(InputError) as error:
        PatchSchedule.of([])
    refused(error, "an empty list of patch sizes:", "at least one size")


def test_a_border_is_circular_or_zeros():
    assert [check_border(b) for b in BORDERS] == ["circular", "zeros"]


@pytest.mark.parametrize("border", ["zero", "Circular", "reflect", "", None])
def test_other_borders_are_refused(border, as_users_run_it):
    with pytest.raises(InputError) as error:
        check_border(border)
    refused(error, repr(border), "'circular' or 'zeros'")
