"""Images that stay on disk: the same scores, read in pieces that fit the budget, and bad files refused."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise, random_images, refused
from theory import metrics
from theory.centred import Centred, mean_image
from theory.data import ImageSet, load
from theory.engines.windows import cpu as engine
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.machines.checks import MINIMUM
from theory.metrics import memorisation
from theory.provenance import provenance

MAKES = {
    "ideal": Ideal,
    "equivariant": Equivariant,
    "local": lambda data, **options: Local(data, patch_size=3, **options),
    "local circular": lambda data, **options: Local(data, patch_size=3, border="circular", **options),
    "els": lambda data, **options: EquivariantLocal(data, patch_size=3, **options),
    "els circular": lambda data, **options: EquivariantLocal(data, patch_size=5, border="circular", **options),
    "els interior": lambda data, **options: EquivariantLocal(data, patch_size=3, border="circular", patches="interior", **options),
}


def on_disk(folder, images: torch.Tensor, labels=None) -> ImageSet:
    np.save(folder / "x.npy", images.numpy())
    if labels is None:
        return load(f"npy:{folder}/x.npy")
    np.save(folder / "y.npy", np.array(labels))
    return load(f"npy:{folder}/x.npy,labels={folder}/y.npy")


@pytest.mark.parametrize("engine", ["auto", "stream"])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_scores_are_those_of_the_same_images_in_memory(make, engine, dtype, tmp_path):
    images = random_images(40, height=7, width=6)
    x = noise((3, 2, 7, 6)).to(dtype)
    for t in (0.05, 0.9):
        stored, held = (make(data, engine=engine)(x, t) for data in (on_disk(tmp_path, images), ImageSet(images, "held")))
        for a, b in zip(stored, held, strict=True):
            assert_close(a, b, rtol=1e-12 if dtype == torch.float64 else 1e-6)  # rounding: a few units of either


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_no_more_is_read_at_once_than_the_budget_holds(make, tmp_path, monkeypatch):
    count, shape = 3000, (3, 24, 24)
    data = on_disk(tmp_path, random_images(count, *shape))
    pieces, read = [], Centred.__getitem__

    def watched(self, index):
        part = read(self, index)
        pieces.append(part.numel() * 4)
        return part

    monkeypatch.setattr(Centred, "__getitem__", watched)
    monkeypatch.setattr(engine, "NUMBERS", 2**20)  # as for images a few times as many
    make(data, memory=MINIMUM)(noise((1, *shape)).float(), 0.5)
    assert 0 < max(pieces) <= MINIMUM < data.images.nbytes
    assert sum(pieces) >= data.images.nbytes  # and all of it is


def test_in_pieces_of_any_size_the_same(tmp_path, monkeypatch):
    data = on_disk(tmp_path, random_images(40, height=7, width=6))
    x = noise((2, 2, 7, 6))
    whole = MAKES["els"](data, engine="windows")(x, 0.3)
    monkeypatch.setattr(engine, "NUMBERS", 1)
    assert_close(MAKES["els"](data, engine="windows")(x, 0.3).mean, whole.mean, rtol=1e-13)


def test_mean_image_is_the_mean(monkeypatch):
    images = random_images(50)
    monkeypatch.setattr("theory.centred.PIECE", 7 * images[0].numel())
    assert_close(mean_image(images), images.double().mean(0, keepdim=True), atol=1e-15)


def test_provenance_of_images_on_disk(tmp_path):
    images = random_images(20)
    x = images[:2] + 0.01 * noise((2, 2, 5, 4)).float()
    found, expected = (provenance(MAKES["els"](data), x, 0.05) for data in (on_disk(tmp_path, images), ImageSet(images, "held")))
    assert torch.equal(found.image, expected.image)
    assert torch.equal(found.pixel, expected.pixel)


def test_a_class_is_a_part_of_the_file_and_copies_nothing(tmp_path):
    data = on_disk(tmp_path, random_images(6), labels=[2, 2, 5, 5, 5, 7])
    chosen = data.select(5)
    assert chosen.on_disk
    assert torch.equal(chosen.images, data.images[2:5])
    assert chosen.images.data_ptr() == data.images[2].data_ptr()
    x = noise((1, 2, 5, 4))
    assert_close(Ideal(data)(x, 0.5, 5).mean, Ideal(ImageSet(random_images(6)[2:5], "held"))(x, 0.5).mean, rtol=1e-12)


def test_a_scattered_class_is_refused(tmp_path):
    data = on_disk(tmp_path, random_images(4), labels=[0, 1, 0, 1])
    with pytest.raises(InputError) as error:
        data.select(0)
    refused(error, "label 0", "side by side", "sort")


def test_one_channel_may_be_left_out(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 5, 4), np.float32))
    assert load(f"npy:{tmp_path}/x.npy").images.shape == (3, 1, 5, 4)


def test_nothing_done_to_the_images_changes_the_file(tmp_path):
    data = on_disk(tmp_path, random_images(3))
    before = (tmp_path / "x.npy").read_bytes()
    data.images.zero_()
    assert (tmp_path / "x.npy").read_bytes() == before


def test_fingerprint_is_that_of_the_images_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("theory.data.imageset.PIECE", 4)
    images = random_images(9)
    assert on_disk(tmp_path, images).fingerprint == ImageSet(images, "held").fingerprint


def test_a_bad_pixel_is_found_in_any_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("theory.data.imageset.PIECE", 4)
    images = random_images(9)
    images[6, 1, 2, 3] = torch.nan
    with pytest.raises(InputError) as error:
        on_disk(tmp_path, images)
    refused(error, "image 6", "NaN")


def test_memorisation_in_pieces_is_that_of_all_distances(monkeypatch):
    monkeypatch.setattr(metrics, "PIECE", 4)
    images = random_images(11)
    images[7] = images[2]
    samples = torch.cat([images[[2, 9]] + 0.02 * noise((2, 2, 5, 4)).float(), random_images(5, seed=3)])
    found = memorisation(samples, ImageSet(images, "held"))
    distances = (samples[:, None].double() - images.double()).flatten(2).norm(dim=2)
    distances[:, 7] = torch.inf  # the same image as number 2
    two = distances.sort(1)
    assert found.nearest.tolist() == two.indices[:, 0].tolist()
    assert_close(found.distance, two.values[:, 0] / 40**0.5, rtol=1e-12)
    assert found.memorised.tolist() == (3 * two.values[:, 0] <= two.values[:, 1]).tolist()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 1, 4, 4), np.uint8), ("uint8", "float32", "npz:")),
        (np.zeros((3, 1, 4, 4)), ("float64", "float32")),
        (np.asfortranarray(np.zeros((3, 2, 4, 5), np.float32)), ("Fortran", "row by row")),
        (np.zeros((3, 8, 8, 3), np.float32), ("(3, 8, 8, 3)", "channels first")),
        (np.zeros((3, 4), np.float32), ("(3, 4)", "(N, C, H, W)")),
        (np.full((3, 1, 4, 4), 2, np.float32), ("from 2 to 2", "[-1, 1]")),
        (np.zeros((0, 1, 4, 4), np.float32), ("(0, 1, 4, 4)",)),
        (np.array([{}]), ("x.npy", "plain numbers")),
    ],
    ids=["bytes", "double", "fortran", "channels last", "flat", "range", "empty", "objects"],
)
def test_other_arrays_are_refused(array, words, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError) as error:
        load(f"npy:{tmp_path}/x.npy")
    refused(error, *words)


@pytest.mark.parametrize("content", [b"", b"not an array", None], ids=["empty", "text", "missing"])
def test_other_files_are_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError) as error:
        load(f"npy:{tmp_path}/x.npy")
    refused(error, "x.npy", ".npy")


def test_a_file_cut_short_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 4, 4), np.float32))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-20])
    with pytest.raises(InputError) as error:
        load(f"npy:{tmp_path}/x.npy")
    refused(error, "x.npy")


@pytest.mark.parametrize("labels", [[0.5, 1.5], [1, 2, 3]], ids=["fractions", "too many"])
def test_other_labels_are_refused(labels, tmp_path):
    with pytest.raises(InputError) as error:
        on_disk(tmp_path, random_images(2), labels=labels)
    refused(error, "labels", "integers")


def test_an_index_of_images_on_disk_is_refused(tmp_path):
    with pytest.raises(InputError) as error:
        Ideal(on_disk(tmp_path, random_images(3)), rtol=1e-4)
    refused(error, "rtol", "on disk", "npz:")
