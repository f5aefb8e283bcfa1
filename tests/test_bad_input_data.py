"""Every bad input to the data sources is refused in one line that says what was given and what was expected."""

import struct
import zlib

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from theory.data import ImageSet, load
from theory.errors import InputError

IMAGES = np.zeros((3, 4, 4), dtype=np.float32)


def picture(path, size=(6, 4), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **options)
    return path


def npz(path, **arrays):
    np.savez(path / "x.npz", **arrays)
    return load(f"npz:{path}/x.npz")


def written(path, content):
    path.write_bytes(content)
    return path


def with_pixel(value, dtype=np.float32):
    images = np.zeros((3, 4, 4), dtype=dtype)
    images[1, 2, 3] = value
    return images


def image_set(**changed):
    return ImageSet(**{"images": torch.zeros(3, 1, 2, 2), "name": "mine", **changed})


def damaged(content, share):
    """The first part of a file."""
    return content[: int(len(content) * share)]


def truncated_picture(path, name, share=0.5):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path / name)
    return load(f"folder:{written(path / name, damaged((path / name).read_bytes(), share)).parent}")


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def sixteen_bit_png(path):
    """One red-green-blue pixel of 16 bits, that Pillow opens in mode RGB."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 256, 300, 511)))
    return written(path / "a.png", b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b""))


def deep_ppm(path, maximum):
    """One red-green-blue pixel of two bytes each."""
    return load(f"folder:{written(path / 'a.ppm', b'P6 1 1 %d ' % maximum + struct.pack('>HHH', 256, 300, 511)).parent}")


def sizes(path, *pairs):
    for i, pair in enumerate(pairs):
        picture(path / f"{i}.png", pair)
    return load(f"folder:{path}")


def sixteen_bit_grey(path):
    Image.fromarray(np.zeros((4, 6), dtype=np.uint16)).save(path / "a.png")
    return load(f"folder:{path}")


def corrupt_npz(path, share):
    np.savez(path / "x.npz", images=IMAGES)
    written(path / "x.npz", damaged((path / "x.npz").read_bytes(), share))
    return load(f"npz:{path}/x.npz")


def flipped_npz(path):
    """One bit of the pixels is wrong."""
    np.savez(path / "x.npz", images=IMAGES)
    content = bytearray((path / "x.npz").read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 0x10
    written(path / "x.npz", bytes(content))
    return load(f"npz:{path}/x.npz")


def wrongly_compressed_npz(path):
    """The compressed stream begins with a block of the type that does not exist."""
    np.savez_compressed(path / "x.npz", images=IMAGES)
    content = bytearray((path / "x.npz").read_bytes())
    name, extra = struct.unpack("<HH", content[26:30])  # lengths, at the end of the local header of the zip format
    content[30 + name + extra] = 0b111
    written(path / "x.npz", bytes(content))
    return load(f"npz:{path}/x.npz")


def npy_named_npz(path):
    with open(path / "x.npz", "wb") as file:
        np.save(file, IMAGES)
    return load(f"npz:{path}/x.npz")


def huge_bmp(path):
    """A header that promises 100,000 x 100,000 pixels."""
    content = bytearray(picture(path / "a.bmp").read_bytes())
    content[18:26] = struct.pack("<ii", 100_000, 100_000)
    written(path / "a.bmp", bytes(content))
    return load(f"folder:{path}")


# What is done in a directory of its own, and words that the message must contain ({dir} is that directory).
ROWS = {
    # specification
    "unknown data set": (lambda d: load("cifar"), ["data set 'cifar'", "'toy', 'digits'", "choose"]),
    "no data set": (lambda d: load(""), ["data set ''", "'toy', 'digits'"]),
    "wrong case": (lambda d: load("Digits"), ["data set 'Digits'", "'digits'"]),
    "unknown parameter": (lambda d: load("toy:colour=3"), ["parameter 'colour'", "'toy'", "'layout' or 'cell'"]),
    "unknown keyword": (lambda d: load("photos", number=3), ["parameter 'number'", "'count', 'size' or 'seed'"]),
    "parameter of none": (lambda d: load("digits:size=3"), ["parameter 'size'", "'digits'", "no parameters"]),
    "value without name": (lambda d: load("toy:strip"), ["'strip' in 'toy:strip'", "key=value", "'layout' or 'cell'"]),
    "no whole number": (lambda d: load("toy:cell=two"), ["cell='two'", "whole number", "correct"]),
    "fraction": (lambda d: load("photos:count=2.5"), ["count='2.5'", "whole number"]),
    "empty value": (lambda d: load("toy:cell="), ["cell=''", "whole number"]),
    "no bool": (lambda d: load(f"folder:{d},grey=1"), ["grey='1'", "true or false"]),
    "text for a number": (lambda d: load("toy", cell="2"), ["cell='2'", "whole number"]),
    "fraction as keyword": (lambda d: load("toy", cell=1.5), ["cell=1.5", "whole number"]),
    "bool for a number": (lambda d: load("toy", cell=True), ["cell=True", "whole number"]),
    "number for a bool": (lambda d: load(f"folder:{d}", grey=1), ["grey=1", "true or false"]),
    "number for a text": (lambda d: load("toy", layout=2), ["layout=2", "text"]),
    "none for a number": (lambda d: load("toy", cell=None), ["cell=None", "whole number"]),
    "number beyond int64": (lambda d: load("photos:count=99999999999999999999"), ["count='99999999999999999999'", "whole number"]),
    "parameter given twice": (
        lambda d: load("photos:count=5,count=7"),
        ["'count=7' in 'photos:count=5,count=7'", "key=value, each key once", "'count', 'size' or 'seed'"],
    ),
    "no path": (lambda d: load("npz"), ["data set 'npz'", "a path, as in npz:PATH", "after a colon"]),
    "empty path": (lambda d: load("folder:"), ["data set 'folder:'", "a path, as in folder:PATH"]),
    "empty path and size": (lambda d: load("folder:,size=4"), ["data set 'folder:,size=4'", "a path, as in folder:PATH"]),
    "size and no path": (lambda d: load("folder:size=4"), ["data set 'folder:size=4'", "a path, as in folder:PATH"]),
    # toy and photos
    "toy layout": (lambda d: load("toy:layout=ring"), ["layout 'ring'", "'grid' or 'strip'"]),
    "toy cell 0": (lambda d: load("toy:cell=0"), ["cell 0", "at least 1 pixel"]),
    "toy cell -2": (lambda d: load("toy", cell=-2), ["cell -2", "at least 1 pixel"]),
    "photos too large": (lambda d: load("photos:size=428,count=1"), ["size 428", "1 to 427 pixels", "smaller"]),
    "photos of size 0": (lambda d: load("photos:size=0"), ["size 0", "1 to 427 pixels"]),
    "no photos": (lambda d: load("photos:count=0"), ["0 photos", "count from 1 to"]),
    "-3 photos": (lambda d: load("photos:count=-3"), ["-3 photos", "count from 1 to"]),
    "photos seed -1": (lambda d: load("photos:count=2,seed=-1"), ["2 photos with seed -1", "seed of at least 0"]),
    "more photos than memory": (
        lambda d: load("photos:count=999999999999999999"),
        ["999999999999999999"],
    ),
    # folder
    "missing folder": (lambda d: load(f"folder:{d}/none"), ["folder {dir}/none", "existing folder", "check the path"]),
    "folder is a file": (lambda d: load(f"folder:{picture(d / 'a.png')}"), ["folder {dir}/a.png", "existing folder"]),
    "empty folder": (lambda d: load(f"folder:{d}"), ["folder {dir}", "without pictures", ".jpg", ".png"]),
    "folder of texts": (lambda d: load(f"folder:{written(d / 'a.txt', b'a').parent}"), ["{dir}", "without pictures"]),
    "size 0": (lambda d: load(f"folder:{d},size=0"), ["size=0", "positive number of pixels"]),
    "corrupt image": (
        lambda d: load(f"folder:{written(d / 'a.png', b'not a picture').parent}"),
        ["{dir}/a.png", "can't be read", "intact picture", "remove or replace"],
    ),
    "empty image": (lambda d: load(f"folder:{written(d / 'a.jpg', b'').parent}"), ["{dir}/a.jpg", "intact picture"]),
    "truncated png": (lambda d: truncated_picture(d, "a.png"), ["{dir}/a.png", "can't be read", "intact picture"]),
    "truncated jpeg": (lambda d: truncated_picture(d, "a.jpg"), ["{dir}/a.jpg", "can't be read", "intact picture"]),
    "truncated bmp": (lambda d: truncated_picture(d, "a.bmp"), ["{dir}/a.bmp", "can't be read", "intact picture"]),
    "truncated header": (lambda d: truncated_picture(d, "a.png", 0.01), ["{dir}/a.png", "intact picture"]),
    "huge bmp": (huge_bmp, ["{dir}/a.bmp", "can't be read", "intact picture"]),
    "transparent png": (
        lambda d: load(f"folder:{picture(d / 'a.png', mode='RGBA').parent}"),
        ["{dir}/a.png", "mode RGBA", "without transparency", "flatten"],
    ),
    "transparent grey": (
        lambda d: load(f"folder:{picture(d / 'a.png', mode='LA').parent}"),
        ["{dir}/a.png", "mode LA"],
    ),
    "transparent grey on request": (
        lambda d: load(f"folder:{picture(d / 'a.png', mode='LA').parent},grey=true"),
        ["{dir}/a.png", "mode LA", "transparency"],
    ),
    "transparent colour": (
        lambda d: load(f"folder:{picture(d / 'a.png', transparency=(0, 0, 0)).parent}"),
        ["{dir}/a.png", "without transparency"],
    ),
    "transparent palette": (
        lambda d: load(f"folder:{picture(d / 'a.png', mode='P', transparency=0).parent}"),
        ["{dir}/a.png", "without transparency"],
    ),
    "cmyk": (lambda d: load(f"folder:{picture(d / 'a.jpg', mode='CMYK').parent}"), ["{dir}/a.jpg", "mode CMYK", "RGB"]),
    "16 bit grey": (sixteen_bit_grey, ["{dir}/a.png", "mode I;16 with more than 8 bits", "8-bit"]),
    "16 bit colour": (
        lambda d: load(f"folder:{sixteen_bit_png(d).parent}"),
        ["{dir}/a.png", "mode RGB with more than 8 bits", "8-bit"],
    ),
    "16 bit portable": (lambda d: deep_ppm(d, 65535), ["{dir}/a.ppm", "mode RGB with more than 8 bits", "8-bit"]),
    "10 bit portable": (lambda d: deep_ppm(d, 1023), ["{dir}/a.ppm", "8-bit"]),
    "mixed sizes": (
        lambda d: sizes(d, (6, 4), (6, 4), (4, 6)),
        ["{dir}/2.png", "4x6 pixels", "6x4 pixels, the size of 0.png", "size=32"],
    ),
    # npz
    "missing npz": (lambda d: load(f"npz:{d}/x.npz"), ["file {dir}/x.npz", "existing .npz", "check the path"]),
    "npz is a folder": (lambda d: load(f"npz:{d}"), ["file {dir}", "existing .npz"]),
    "npz of text": (
        lambda d: load(f"npz:{written(d / 'x.npz', b'text')}"),
        ["file {dir}/x.npz", "readable .npz", "savez"],
    ),
    "empty npz": (lambda d: load(f"npz:{written(d / 'x.npz', b'')}"), ["file {dir}/x.npz", "readable .npz"]),
    "truncated npz": (lambda d: corrupt_npz(d, 0.6), ["file {dir}/x.npz", "readable .npz", "plain arrays"]),
    "truncated npz header": (lambda d: corrupt_npz(d, 0.05), ["file {dir}/x.npz", "readable .npz"]),
    "flipped npz": (flipped_npz, ["file {dir}/x.npz", "readable .npz"]),
    "compressed npz": (wrongly_compressed_npz, ["file {dir}/x.npz", "readable .npz"]),
    "npy named npz": (
        npy_named_npz,
        ["file {dir}/x.npz", "readable .npz"],
    ),
    "npz of objects": (
        lambda d: npz(d, images=np.array([{}, None], dtype=object)),
        ["file {dir}/x.npz", "plain arrays", "savez"],
    ),
    "npz of object labels": (
        lambda d: npz(d, images=IMAGES, labels=np.array(["a", 1, None], dtype=object)),
        ["plain arrays"],
    ),
    "npz without images": (lambda d: npz(d, pictures=IMAGES, y=IMAGES), ["{dir}/x.npz", "'pictures', 'y'", "'images'"]),
    "npz of nothing": (lambda d: npz(d), ["{dir}/x.npz", "[]", "'images'"]),
    "zero images": (lambda d: npz(d, images=IMAGES[:0]), ["shape (0, 1, 4, 4)", "at least one image"]),
    "zero bytes": (lambda d: npz(d, images=np.zeros((0, 3, 4, 4), np.uint8)), ["(0, 3, 4, 4)", "at least one image"]),
    "images of no width": (lambda d: npz(d, images=np.zeros((3, 4, 0))), ["shape (3, 1, 4, 0)", "at least one image"]),
    "two dimensions": (lambda d: npz(d, images=IMAGES[0]), ["shape (4, 4)", "(N, C, H, W) or (N, H, W)"]),
    "five dimensions": (lambda d: npz(d, images=IMAGES[None, None]), ["(1, 1, 3, 4, 4)", "(N, C, H, W) or (N, H, W)"]),
    "channels last": (
        lambda d: npz(d, images=np.zeros((2, 8, 8, 3))),
        ["shape (2, 8, 8, 3)", "(N, C, H, W)", "transpose(0, 3, 1, 2)"],
    ),
    "nan": (lambda d: npz(d, images=with_pixel(np.nan)), ["image 1 has NaN", "finite pixels"]),
    "inf": (lambda d: npz(d, images=with_pixel(np.inf)), ["image 1 has NaN or infinite", "finite pixels"]),
    "-inf": (lambda d: npz(d, images=with_pixel(-np.inf)), ["image 1 has NaN or infinite", "finite pixels"]),
    "too bright": (lambda d: npz(d, images=with_pixel(1.5)), ["from 0 to 1.5", "[-1, 1]", "x / 127.5 - 1"]),
    "too dark": (lambda d: npz(d, images=with_pixel(-2)), ["from -2 to 0", "[-1, 1]"]),
    "0..255 in float": (lambda d: npz(d, images=with_pixel(255)), ["from 0 to 255", "[-1, 1]"]),
    # Rounded to float32 first, it would be 1.
    "hardly too bright": (lambda d: npz(d, images=with_pixel(1 + 1e-9, np.float64)), ["[-1, 1]"]),
    "int64 pixels": (lambda d: npz(d, images=IMAGES.astype(np.int64)), ["dtype int64", "uint8", "floating point"]),
    "int8 pixels": (lambda d: npz(d, images=IMAGES.astype(np.int8)), ["dtype int8", "uint8", "floating point"]),
    "bool pixels": (lambda d: npz(d, images=IMAGES.astype(bool)), ["dtype bool", "uint8"]),
    "complex pixels": (lambda d: npz(d, images=IMAGES.astype(complex)), ["dtype complex128", "floating point"]),
    "text pixels": (lambda d: npz(d, images=np.array([[["a"]]])), ["dtype <U1", "floating point"]),
    "negative weight": (
        lambda d: npz(d, images=IMAGES, weights=np.array([1, -1, 1])),
        ["weights [1.0, -1.0, 1.0] of shape (3,)", "none negative"],
    ),
    "no weight": (lambda d: npz(d, images=IMAGES, weights=np.zeros(3)), ["weights [0.0, 0.0, 0.0] of shape (3,)", "some positive"]),
    "nan weight": (lambda d: npz(d, images=IMAGES, weights=np.array([1, np.nan, 1])), ["weights [1.0, nan, 1.0]", "3 finite weights"]),
    "inf weight": (lambda d: npz(d, images=IMAGES, weights=np.array([1, np.inf, 1])), ["weights [1.0, inf, 1.0]", "3 finite weights"]),
    "two weights": (lambda d: npz(d, images=IMAGES, weights=np.ones(2)), ["weights [1.0, 1.0] of shape (2,)", "3 finite weights"]),
    "table of weights": (
        lambda d: npz(d, images=IMAGES, weights=np.ones((3, 1))),
        ["weights [1.0, 1.0, 1.0] of shape (3, 1)", "3 finite weights"],
    ),
    "empty weights": (
        lambda d: npz(d, images=IMAGES, weights=np.ones(0)),
        ["weights [] of shape (0,)", "3 finite weights"],
    ),
    "weights too large to add": (
        lambda d: npz(d, images=IMAGES, weights=np.full(3, 1e308)),
        ["weights [1e+308, 1e+308, 1e+308]", "3 finite weights"],
    ),
    "text weights": (
        lambda d: npz(d, images=IMAGES, weights=np.array(["a", "b", "c"])),
        ["weights of dtype <U1", "real numbers of at most 64 bits", "convert"],
    ),
    "complex weights": (
        lambda d: npz(d, images=IMAGES, weights=np.array([1, 1j, 1])),
        ["weights of dtype complex128", "real numbers of at most 64 bits"],
    ),
    "two labels": (lambda d: npz(d, images=IMAGES, labels=np.arange(2)), ["labels [0, 1] of shape (2,)", "3 integers of at most 63 bits"]),
    "table of labels": (
        lambda d: npz(d, images=IMAGES, labels=np.zeros((3, 1), int)),
        ["labels [0, 0, 0] of shape (3, 1)", "3 integers of at most 63 bits"],
    ),
    "float labels": (
        lambda d: npz(d, images=IMAGES, labels=np.ones(3)),
        ["labels of dtype float64", "integers of at most 64 bits", "convert"],
    ),
    "text labels": (
        lambda d: npz(d, images=IMAGES, labels=np.array(["a", "b", "c"])),
        ["labels of dtype <U1", "integers of at most 64 bits"],
    ),
    "labels beyond int64": (
        lambda d: npz(d, images=IMAGES, labels=np.array([0, 1, 2**63 + 5], dtype=np.uint64)),
        ["labels of dtype uint64", "integers of at most 64 bits"],
    ),
    # ImageSet itself
    "set of bytes": (
        lambda d: image_set(images=torch.zeros(3, 1, 2, 2, dtype=torch.uint8)),
        ["torch.uint8", "[-1, 1]"],
    ),
    "set of int64": (
        lambda d: image_set(images=torch.zeros(3, 1, 2, 2).long()),
        ["dtype torch.int64", "floating point"],
    ),
    "set of nan": (
        lambda d: image_set(images=torch.full((3, 1, 2, 2), torch.nan)),
        ["mine: image 0 has NaN", "finite"],
    ),
    "set too bright": (
        lambda d: image_set(images=torch.full((3, 1, 2, 2), 1.01)),
        ["mine: pixels from 1.01", "[-1, 1]"],
    ),
    "set without channels": (lambda d: image_set(images=torch.zeros(3, 2, 2)), ["shape (3, 2, 2)", "(N, C, H, W)"]),
    "set of nothing": (
        lambda d: image_set(images=torch.zeros(0, 1, 2, 2)),
        ["shape (0, 1, 2, 2)", "at least one image"],
    ),
    "set with negative weight": (
        lambda d: image_set(weights=torch.tensor([1.0, -0.5, 1])),
        ["mine: weights [1.0, -0.5, 1.0] of shape (3,)", "none negative"],
    ),
    "set with complex weights": (
        lambda d: image_set(weights=torch.tensor([1, 1j, 1])),
        ["mine: weights"],
    ),
    "set with two labels": (
        lambda d: image_set(labels=torch.tensor([0, 1])),
        ["mine: labels [0, 1] of shape (2,)", "3 integers of at most 63 bits", "number the classes"],
    ),
    "set with five labels": (
        lambda d: image_set(labels=torch.arange(5)),
        ["mine: labels [0, 1, 2, 3]... of shape (5,)", "3 integers of at most 63 bits"],
    ),
    "set with float labels": (
        lambda d: image_set(labels=torch.tensor([0.0, 1.5, 2.0])),
        ["mine: labels [0.0, 1.5, 2.0] of shape (3,) of dtype torch.float32", "3 integers of at most 63 bits"],
    ),
    "set with whole float labels": (lambda d: image_set(labels=torch.ones(3).double()), ["dtype torch.float64", "3 integers"]),
    "set with labels beyond int64": (
        lambda d: image_set(labels=torch.tensor([0, 1, 2**63 + 5], dtype=torch.uint64)),
        ["mine: labels"],
    ),
    "draw with seed -1": (lambda d: load("digits").draw(1, -1), ["1 draws with seed -1", "negative", "correct"]),
    "-1 draws": (lambda d: load("digits").draw(-1, 1), ["-1 draws with seed 1", "negative"]),
    "label not in the set": (lambda d: load("digits").select(10), ["label 10", "'digits': 0, 1, 2, 3", "choose"]),
    "negative label": (lambda d: load("digits").select(-1), ["label -1", "'digits': 0, 1, 2, 3"]),
    "many labels": (
        lambda d: image_set(images=torch.zeros(30, 1, 1, 1), labels=torch.arange(30)).select(30),
        ["label 30", "18, 19, ..."],
    ),
    "label on a set without": (
        lambda d: load("toy").select(1),
        ["label 1", "no label", "'toy:layout=grid' has none", "leave out"],
    ),
    "label without weight": (
        lambda d: image_set(labels=torch.tensor([0, 1, 0]), weights=torch.tensor([1.0, 0, 1])).select(1),
        ["label 1", "positive weight"],
    ),
}


@pytest.fixture(autouse=True)
def as_users_run_it(monkeypatch):
    """Without the type checker of the tests, which would be the first to refuse a wrong type."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened."""
    files, really_open = [], open

    def recorder(*args, **options):
        files.append(really_open(*args, **options))
        return files[-1]

    monkeypatch.setattr("builtins.open", recorder)
    return files


@pytest.mark.parametrize(("attempt", "words"), [pytest.param(*row, id=name) for name, row in ROWS.items()])
def test_bad_input_is_refused_in_one_line(tmp_path, attempt, words):
    with pytest.raises(InputError) as error:
        attempt(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert "\r" not in message
    assert ": expected " in message
    assert "; " in message
    assert message.endswith(".")
    assert not message.endswith("..")
    for word in words:
        assert word.format(dir=tmp_path) in message


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda d: corrupt_npz(d, 0.6), id="truncated npz"),
        pytest.param(lambda d: corrupt_npz(d, 0), id="empty npz"),
        pytest.param(flipped_npz, id="flipped npz"),
        pytest.param(lambda d: npz(d, pictures=IMAGES), id="npz without images"),
        pytest.param(lambda d: truncated_picture(d, "a.png"), id="truncated png"),
        pytest.param(lambda d: load(f"folder:{picture(d / 'a.png', mode='RGBA').parent}"), id="transparent png"),
    ],
)
def test_a_refused_file_is_closed(tmp_path, opened, attempt):
    with pytest.raises(InputError):
        attempt(tmp_path)
    assert opened
    assert all(file.closed for file in opened)


def test_a_line_break_in_what_was_given_does_not_break_the_line():
    with pytest.raises(InputError) as error:
        load("folder:/no\nsuch\r\nfolder")
    assert str(error.value) == "folder /no such folder: expected an existing folder; check the path."


def test_an_input_error_is_a_value_error_with_its_three_parts():
    error = InputError("patch 4", "an odd number", "use 5")
    assert isinstance(error, ValueError)
    assert str(error) == "patch 4: expected an odd number; use 5."
    assert (error.given, error.expected, error.remedy) == ("patch 4", "an odd number", "use 5")
