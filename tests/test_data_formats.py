"""CIFAR-10, MNIST and Hugging Face files, written byte for byte as their formats say, read as what was written."""

import gzip
import io
import json
import pickle
import struct
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import refused
from theory.data import ImageSet, load
from theory.errors import InputError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def scaled(array):
    """What 0..255 is in [-1, 1], in float32 as the package rounds it."""
    return torch.from_numpy(np.array(array)).float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------------ CIFAR-10


def python_2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as the published files have it, opcode by opcode: protocol 2 of Python 2, whose text is bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + number(0) + b"tb"
    shape = b"".join(number(n) for n in data.shape) + b"\x86"
    state = b"(" + number(1) + shape + dtype + b"\x89" + b"T" + struct.pack("<i", data.nbytes) + data.tobytes() + b"tb"
    listed = b"](" + b"".join(number(n) for n in labels) + b"e"
    return (
        b"\x80\x02}(" + text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + listed + text(b"data") + array + state
        + text(b"filenames") + b"](" + text(b"a.png") + b"e" + b"u."
    )  # fmt: skip


def cifar_folder(path, version: str, records: int = 7):
    """Files of all splits with random records; returns labels and pixels of the training split, and of the test split."""
    held = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels, data = RNG.integers(0, 10, records), pixels(records, 3072)
        if version == "binary":
            content = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True))
            (path / f"{name}.bin").write_bytes(content)
        else:
            (path / name).write_bytes(python_2_pickle(data, labels.tolist()))
        held.append((labels, data))
    return [np.concatenate(parts) for parts in zip(*held[:5], strict=True)], held[5]


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("folder", [".", "in its archive's folder"])
def test_cifar10_is_what_was_written(tmp_path, version, folder):
    inner = tmp_path
    if folder != ".":
        inner = tmp_path / f"cifar-10-batches-{'bin' if version == 'binary' else 'py'}"
        inner.mkdir()
    train, test = cifar_folder(inner, version)
    for split, (labels, data) in (("train", train), ("test", test)):
        found = load(f"cifar10:{tmp_path},split={split}")
        planes = data.reshape(-1, 3, 32, 32)  # the format: 1024 red, 1024 green, 1024 blue, row by row
        assert torch.equal(found.images, scaled(planes))
        assert found.labels.tolist() == labels.tolist()


def test_the_pickle_of_the_test_is_one_that_python_reads():
    data = pixels(3, 3072)
    found = pickle.loads(python_2_pickle(data, [1, 300, 2]), encoding="bytes")
    assert np.array_equal(found[b"data"], data)
    assert found[b"labels"] == [1, 300, 2]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar10_pickled_anew_by_todays_numpy(tmp_path, protocol):
    data, labels = pixels(4, 3072), [3, 1, 4, 1]
    for i in range(1, 6):
        content = pickle.dumps({"data": data, "labels": labels}, protocol=protocol)
        (tmp_path / f"data_batch_{i}").write_bytes(content)
    if protocol == 5:  # NumPy pickles by another function there, which is not the format of CIFAR-10
        with pytest.raises(InputError, match="_frombuffer"):
            load(f"cifar10:{tmp_path}")
        return
    assert torch.equal(load(f"cifar10:{tmp_path}").images[:4], scaled(data.reshape(-1, 3, 32, 32)))


class Hostile:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("depth", ["alone", "in a list of labels", "as data", "as a key"])
def test_nothing_hostile_runs(tmp_path, protocol, depth):
    mark = tmp_path / "ran"
    poison = Hostile(open, str(mark), "w")
    held = {
        "alone": poison,
        "in a list of labels": {"data": np.zeros((1, 3072), np.uint8), "labels": [poison]},
        "as data": {"data": poison, "labels": [0]},
        "as a key": {Hostile(open, str(mark), "w"): 1},
    }[depth]
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(pickle.dumps(held, protocol=protocol))
    with pytest.raises(InputError) as error:
        load(f"cifar10:{tmp_path}")
    refused(error, "nothing else in a pickle is ever run")
    assert not mark.exists()
    pickle.loads(pickle.dumps(poison, protocol=protocol)).close()
    assert mark.exists()  # the very file would have done it elsewhere


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, np.load, np.frombuffer, bytearray])
def test_no_function_is_called_however_harmless(tmp_path, function):
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(pickle.dumps({"data": Hostile(function, "1"), "labels": [0]}))
    with pytest.raises(InputError, match="the name"):
        load(f"cifar10:{tmp_path}")


def test_an_array_that_says_another_shape_than_it_has(tmp_path):
    content = python_2_pickle(pixels(2, 3072), [0, 1]).replace(b"K\x02M\x00\x0c\x86", b"K\x09M\x00\x0c\x86")
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(content)
    with pytest.raises(InputError, match=r"shape \(9, 3072\) with 6144 bytes"):
        load(f"cifar10:{tmp_path}")


# --------------------------------------------------------------------------------------------------------- MNIST


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


def mnist_folder(path, ending="", dash="-", train=20, test=5):
    path.mkdir(parents=True, exist_ok=True)
    held = {}
    for split, name, count in (("train", "train", train), ("test", "t10k", test)):
        images, labels = pixels(count, 28, 28), RNG.integers(0, 10, count).astype(np.uint8)
        for what, array in (("images", images), ("labels", labels)):
            content = idx(array)
            file = path / f"{name}-{what}{dash}idx{array.ndim}-ubyte{ending}"
            file.write_bytes(gzip.compress(content) if ending else content)
        held[split] = images, labels
    return held


@pytest.mark.parametrize("dash", "-.")
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("folder", [".", "MNIST/raw", "FashionMNIST/raw"])
def test_mnist_is_what_was_written(tmp_path, folder, ending, dash):
    held = mnist_folder(tmp_path / folder, ending, dash)
    for split, (images, labels) in held.items():
        found = load(f"mnist:{tmp_path},split={split}")
        assert torch.equal(found.images, scaled(images)[:, None])
        assert found.labels.tolist() == labels.tolist()


def test_60000_images_load_within_5_seconds(tmp_path):
    images, labels = mnist_folder(tmp_path, train=60_000, test=1)["train"]
    start = time.process_time()
    found = load(f"mnist:{tmp_path}")
    assert len(found.fingerprint) == 64
    assert time.process_time() - start < 5  # a promise to users, with some five times what it takes here
    assert torch.equal(found.images[::7919], scaled(images[::7919])[:, None])
    assert len(labels) == len(found)


# -------------------------------------------------------------------------------------------------- their options


def test_the_first_of_some_classes_in_their_order(tmp_path):
    images, labels = mnist_folder(tmp_path, train=200)["train"]
    found = load(f"mnist:{tmp_path},classes=3+5,count=12")
    places = [i for i, label in enumerate(labels) if label in (3, 5)][:12]
    assert torch.equal(found.images, scaled(images[places])[:, None])
    assert found.labels.tolist() == labels[places].tolist()
    assert load(found.name).fingerprint == found.fingerprint  # the name is a specification


def test_cifar_classes_have_names(tmp_path):
    (labels, data), _ = cifar_folder(tmp_path, "binary", records=30)
    cats = load(f"cifar10:{tmp_path},classes=cat+9")
    assert torch.equal(cats.images, scaled(data[np.isin(labels, [3, 9])].reshape(-1, 3, 32, 32)))


def test_grey_and_size_are_pillows(tmp_path):
    (_, data), _ = cifar_folder(tmp_path, "binary")
    found = load(f"cifar10:{tmp_path},grey=true,size=16,count=5")
    for image, row in zip(found.images, data[:5], strict=True):
        picture = Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).convert("L")
        assert torch.equal(image[0], scaled(np.asarray(picture.resize((16, 16), Image.Resampling.LANCZOS))))


# -------------------------------------------------------------------------------------------------- Hugging Face


def encoded(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def table(images, labels=None, kind="struct"):
    pa = pytest.importorskip("pyarrow", reason="parquet and arrow files need the extra hf")
    columns = {"image": [{"bytes": encoded(x), "path": None} if kind == "struct" else encoded(x) for x in images]}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    made = pa.table(columns)
    names = {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": names})})


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_parquet_in_the_layout_of_the_hub(tmp_path, kind):
    images, labels = pixels(6, 9, 7, 3), [0, 1, 1, 0, 1, 0]
    made = table(images, labels, kind)
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(made.slice(0, 4), tmp_path / "data" / "train-00000-of-00002.parquet")
    pq.write_table(made.slice(4), tmp_path / "data" / "train-00001-of-00002.parquet")
    pq.write_table(made.slice(0, 1), tmp_path / "data" / "test-00000-of-00001.parquet")
    found = load(f"hf:{tmp_path}")
    assert torch.equal(found.images, scaled(images.transpose(0, 3, 1, 2)))
    assert found.labels.tolist() == labels
    assert len(load(f"hf:{tmp_path},split=test")) == 1
    dogs = load(f"hf:{tmp_path},classes=dog,grey=true")
    expected = [np.asarray(Image.fromarray(images[i]).convert("L")) for i in (1, 2, 4)]
    assert torch.equal(dogs.images[:, 0], scaled(np.stack(expected)))


def test_what_save_to_disk_writes(tmp_path):
    datasets = pytest.importorskip("datasets", reason="writing with the library needs the extra hf")
    images = pixels(5, 8, 8)
    made = datasets.Dataset.from_dict({"img": [Image.fromarray(x) for x in images], "label": [0, 1, 2, 0, 1]})
    datasets.DatasetDict({"train": made, "test": made.select([3])}).save_to_disk(str(tmp_path / "saved"))
    found = load(f"hf:{tmp_path / 'saved'}")
    assert torch.equal(found.images, scaled(images)[:, None])  # grey pictures stay grey
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(load(f"hf:{tmp_path / 'saved'},split=test").images[0, 0], scaled(images[3]))
    assert torch.equal(ImageSet.of(made.select_columns(["img", "label"])).images, found.images)


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_arrays_in_parquet(tmp_path, first):
    pa = pytest.importorskip("pyarrow", reason="parquet files need the extra hf")
    import pyarrow.parquet as pq

    arrays = RNG.random((4, 3, 6, 6)).astype(np.float32)
    rows = (arrays if first else arrays.transpose(0, 2, 3, 1)).tolist()
    pq.write_table(pa.table({"x": pa.array(rows, pa.list_(pa.list_(pa.list_(pa.float32()))))}), tmp_path / "train.parquet")
    found = load(f"hf:{tmp_path}/train.parquet,range=unit,column=x")
    assert torch.equal(found.images, torch.from_numpy(arrays.astype(np.float64) * 2 - 1).float())


# --------------------------------------------------------------------------------------------- datasets in Python


class TorchSet(torch.utils.data.Dataset):
    def __init__(self, images, labels, transform=lambda x: x):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i]), self.labels[i]


def test_a_torch_dataset_of_pictures_tensors_and_arrays():
    images, labels = pixels(6, 10, 8, 3), [3, 1, 3, 1, 2, 3]
    expected = scaled(images.transpose(0, 3, 1, 2))
    for transform in (Image.fromarray, lambda x: x, lambda x: torch.from_numpy(x.transpose(2, 0, 1).copy())):
        found = ImageSet.of(TorchSet(images, labels, transform))
        assert torch.equal(found.images, expected)
        assert found.labels.tolist() == labels
    unit = ImageSet.of(TorchSet(images, labels, lambda x: torch.from_numpy(x.transpose(2, 0, 1) / 255.0)), range="unit")
    assert float((unit.images - expected).abs().max()) < 2e-7  # another order of roundings
    some = ImageSet.of(TorchSet(images, labels), classes="3", count=2)
    assert torch.equal(some.images, expected[[0, 2]])
    assert some.labels.tolist() == [3, 3]
    assert torch.equal(ImageSet.of(torch.utils.data.Subset(TorchSet(images, labels), [4, 0])).images, expected[[4, 0]])


def test_a_count_reads_no_more_items():
    images = pixels(6, 4, 4, 3)

    class Few(TorchSet):
        def __getitem__(self, i):
            assert i < 2
            return super().__getitem__(i)

    assert len(ImageSet.of(Few(images, [0] * 6), count=2)) == 2


# ------------------------------------------------------------------------------------------- folders of thousands


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_MACHINES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.modules["theory.data.folder"], "MANY", 5)  # the package has a function of that name
    (tmp_path / "pictures").mkdir()
    images = pixels(12, 20, 16, 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i:02}.png")
    return tmp_path, images


def test_a_second_start_reads_what_was_decoded(cached, monkeypatch):
    path, _ = cached
    first = load(f"folder:{path}/pictures,size=8")

    def forbidden(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(sys.modules["theory.data.folder"], "decoded", forbidden)
    again = load(f"folder:{path}/pictures,size=8")
    assert torch.equal(first.images, again.images)
    for other in ("size=10", "size=8,grey=true", "size=8,count=11"):
        with pytest.raises(AssertionError, match="decoded again"):
            load(f"folder:{path}/pictures,{other}")


def test_changed_pictures_are_decoded_anew(cached):
    path, images = cached
    assert torch.equal(load(f"folder:{path}/pictures").images, scaled(images.transpose(0, 3, 1, 2)))
    images[3] = 255 - images[3]
    Image.fromarray(images[3]).save(path / "pictures" / "03.png")
    assert torch.equal(load(f"folder:{path}/pictures").images, scaled(images.transpose(0, 3, 1, 2)))


def test_a_damaged_cache_is_not_believed(cached):
    path, images = cached
    load(f"folder:{path}/pictures")
    (file,) = (path / "cache" / "pictures").glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert torch.equal(load(f"folder:{path}/pictures").images, scaled(images.transpose(0, 3, 1, 2)))
    file.write_bytes(content[:100])
    assert torch.equal(load(f"folder:{path}/pictures").images, scaled(images.transpose(0, 3, 1, 2)))


# ------------------------------------------------------------------------------------------------------ bad input


def write(path, name, content):
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(content)
    return path


def cifar_with(path, content, ending=".bin"):
    for i in range(1, 6):
        write(path, f"data_batch_{i}{ending}", content)
    return load(f"cifar10:{path}")


def mnist_with(path, images, labels=b""):
    write(path, "train-images-idx3-ubyte", images)
    return load(f"mnist:{write(path, 'train-labels-idx1-ubyte', labels or idx(np.zeros(2, np.uint8)))}")


def parquet_with(path, **columns):
    pa = pytest.importorskip("pyarrow", reason="parquet files need the extra hf")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path / "train.parquet")
    return path / "train.parquet"


TWO = idx(np.zeros((2, 28, 28), np.uint8))
BAD = {
    "cifar: no files": (lambda p: load(f"cifar10:{p}"), "data_batch_1.bin"),
    "cifar: one missing": (lambda p: load(f"cifar10:{write(p, 'data_batch_1.bin', b'x' * 3073)}"), "without data_batch_2.bin"),
    "cifar: cut off": (lambda p: cifar_with(p, b"\0" * 3000), "3000 bytes"),
    "cifar: empty": (lambda p: cifar_with(p, b""), "0 bytes"),
    "cifar: class 12": (lambda p: cifar_with(p, b"\x0c" + b"\0" * 3072), "class 12"),
    "cifar: no pickle": (lambda p: cifar_with(p, b"hello", ""), "dictionary"),
    "cifar: cut off pickle": (lambda p: cifar_with(p, python_2_pickle(pixels(2, 3072), [0, 1])[:500], ""), "dictionary"),
    "cifar: another shape": (lambda p: cifar_with(p, python_2_pickle(pixels(2, 100), [0, 1]), ""), "(2, 100)"),
    "cifar: few labels": (lambda p: cifar_with(p, python_2_pickle(pixels(2, 3072), [0]), ""), "2 integers"),
    "cifar: split": (lambda p: load(f"cifar10:{p},split=val"), "split='val'"),
    "cifar: class by another name": (lambda p: cifar_with(p, b"\0" * 3073) and load(f"cifar10:{p},classes=cow"), "'cow'"),
    "cifar: range": (lambda p: load(f"cifar10:{p},range=unit"), "parameter 'range'"),
    "mnist: no files": (lambda p: load(f"mnist:{p}"), "idx3-ubyte"),
    "mnist: no path": (lambda p: load("mnist"), "a path"),
    "mnist: labels for images": (lambda p: mnist_with(p, idx(np.zeros(5, np.uint8))), "00 00 08 03"),
    "mnist: a page of html": (lambda p: mnist_with(p, b"<!doctype html>"), "3c 21 64 6f"),
    "mnist: cut off": (lambda p: mnist_with(p, TWO[:-9]), "1559 bytes"),
    "mnist: three labels": (lambda p: mnist_with(p, TWO, idx(np.zeros(3, np.uint8))), "2 images"),
    "mnist: damaged gzip": (
        lambda p: (
            write(p, "train-labels-idx1-ubyte.gz", gzip.compress(b"x" * 999)[:20])
            and load(f"mnist:{write(p, 'train-images-idx3-ubyte.gz', gzip.compress(TWO)[:30])}")
        ),
        "train-images",
    ),
    "mnist: two data sets": (
        lambda p: [mnist_folder(p / name / "raw") for name in ("MNIST", "FashionMNIST")] and load(f"mnist:{p}"),
        "MNIST/raw and FashionMNIST/raw",
    ),
    "mnist: too many": (lambda p: mnist_with(p, TWO) and load(f"mnist:{p},count=3"), "1 to 2"),
    "mnist: none": (lambda p: mnist_with(p, TWO) and load(f"mnist:{p},count=0"), "1 to 2"),
    "mnist: no such class": (lambda p: mnist_with(p, TWO) and load(f"mnist:{p},classes=0+7"), "class '7'"),
    "mnist: size": (lambda p: mnist_with(p, TWO) and load(f"mnist:{p},size=0"), "size=0"),
    "hf: no such file": (lambda p: load(f"hf:{p}/none.parquet"), "does not exist"),
    "hf: no rows of the split": (lambda p: load(f"hf:{parquet_with(p, image=[b'x']).parent},split=dev"), "split 'dev'"),
    "hf: no column": (lambda p: load(f"hf:{parquet_with(p, photo=[b'x'])}"), "columns photo"),
    "hf: column by another name": (lambda p: load(f"hf:{parquet_with(p, image=[b'x'])},column=img"), "'img'"),
    "hf: text": (lambda p: load(f"hf:{parquet_with(p, image=['a', 'b'])}"), "encoded pictures"),
    "hf: no picture": (lambda p: load(f"hf:{parquet_with(p, image=[b'x'])}"), "row 0"),
    "hf: nothing in a row": (lambda p: load(f"hf:{parquet_with(p, image=[{'bytes': None, 'path': 'a.png'}])}"), "a.png"),
    "hf: text labels": (lambda p: load(f"hf:{parquet_with(p, image=[encoded(pixels(2, 2))], label=['a'])}"), "labels"),
    "hf: damaged": (lambda p: load(f"hf:{write(p, 'train.parquet', b'PAR1' * 9)}/train.parquet"), "whole parquet"),
    "hf: mixed channels": (
        lambda p: load(f"hf:{parquet_with(p, image=[encoded(pixels(2, 2)), encoded(pixels(2, 2, 3))])}"),
        "2x2 pixels and 3 channels",
    ),
    "dataset: no length": (lambda p: ImageSet.of(iter([1])), "without a length"),
    "dataset: empty": (lambda p: ImageSet.of([]), "without items"),
    "dataset: random": (
        lambda p: ImageSet.of(TorchSet(pixels(2, 4, 4), [0, 0], lambda x: np.roll(x, RNG.integers(1 << 30) % 4 + 1, 0) + pixels(1))),
        "random",
    ),
    "dataset: words": (lambda p: ImageSet.of(["a", "b"]), "str"),
    "dataset: mixed sizes": (lambda p: ImageSet.of([pixels(4, 4), pixels(5, 5)]), "item 1"),
    "dataset: some labels": (lambda p: ImageSet.of([(pixels(4, 4), 1), (pixels(4, 4), None)]), "1 of 2"),
    "dataset: dictionary": (lambda p: ImageSet.of([{"picture": 1}]), "picture"),
    "dataset: range of bytes": (lambda p: ImageSet.of([pixels(4, 4)], range="unit"), "0 to 255"),
    "dataset: pixels to 255": (lambda p: ImageSet.of([pixels(4, 4).astype(float)], range="unit"), "pixels from"),
    "folder: no such class": (
        lambda p: (p / "a").mkdir() or Image.new("RGB", (2, 2)).save(p / "a" / "x.png") or load(f"folder:{p},classes=b"),
        "class 'b'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case, tmp_path, as_users_run_it):
    if case.startswith("hf"):
        pytest.importorskip("pyarrow", reason="parquet files need the extra hf")
    make, word = BAD[case]
    with pytest.raises(InputError) as error:
        make(tmp_path)
    refused(error, word)


@pytest.mark.parametrize("missing", ["pyarrow", "datasets"])
def test_a_missing_extra_is_named(missing, monkeypatch):
    if missing == "datasets":
        pytest.importorskip("pyarrow", reason="names need pyarrow first")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"score-machines\[hf\]"):
        load("hf:ylecun/mnist")
