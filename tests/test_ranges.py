"""Floating point images in [0, 1]: taken as they are with a warning, or scaled on request."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, noise, random_images, refused
from theory import solve
from theory.data import ImageSet, load
from theory.data import unit as scaled
from theory.errors import InputError, InputWarning
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.metrics import memorisation

UNIT = (random_images(20, 3, 6, 5) + 1) / 2
SIGNED = UNIT * 2 - 1
SMALL = ["--machines", "ideal", "--levels", "1", "--draws", "4", "--samples", "2", "--steps", "2"]


def stored(folder: Path, images: torch.Tensor = UNIT) -> tuple[str, str]:
    """The specifications of two files with these images."""
    np.savez(folder / "x.npz", images=images.numpy(), labels=np.arange(len(images)) // 10)
    np.save(folder / "x.npy", images.numpy())
    return f"npz:{folder}/x.npz", f"npy:{folder}/x.npy"


def test_images_in_the_unit_interval_are_taken_as_they_are_with_the_numbers_and_the_fix(tmp_path):
    low, high = f"{float(UNIT.min()):g}", f"{float(UNIT.max()):g}"
    made = {name: lambda name=name: load(name) for name in stored(tmp_path)} | {"mine": lambda: ImageSet(UNIT, "mine")}
    for name, make in made.items():
        with pytest.warns(InputWarning) as told:
            data = make()
        (line,) = (str(w.message) for w in told)
        assert line.startswith(f"{name}: pixels from {low} to {high}") and "range=unit" in line and "\n" not in line
        assert torch.equal(data.images, UNIT)


def test_a_range_that_is_named_is_taken_without_a_word(tmp_path):
    for name in stored(tmp_path):
        assert torch.equal(load(name, range="signed").images, UNIT)
        assert torch.equal(load(f"{name},range=unit").images, SIGNED)
    assert torch.equal(ImageSet(UNIT, "mine", range="unit").images, SIGNED)
    assert torch.equal(ImageSet(UNIT, "mine", range="signed").images, UNIT)
    expected = ImageSet(SIGNED, "signed")
    assert load(stored(tmp_path)[1], range="unit").fingerprint == expected.fingerprint


def test_nothing_is_said_of_images_that_are_known_to_be_bright(tmp_path):
    np.savez(tmp_path / "bright.npz", images=np.full((2, 4, 4), 200, np.uint8) + np.arange(4, dtype=np.uint8))
    load(f"npz:{tmp_path}/bright.npz")
    images = torch.cat([SIGNED, UNIT])
    data = ImageSet(images, "mine", labels=torch.arange(40) // 20)
    assert torch.equal(data.select(1).images, UNIT)
    ImageSet(torch.full((1, 1, 2, 2), 0.5), "one grey has no range")


ROWS = {
    "unknown": (lambda: ImageSet(UNIT, "mine", range="byte"), ["range='byte'", "'signed' or 'unit'"]),
    "dark": (lambda: ImageSet(SIGNED, "mine", range="unit"), ["mine: pixels from -", "range=unit", "[0, 1]", "leave out the range"]),
    "bright": (lambda: ImageSet(UNIT * 255, "mine", range="unit"), ["mine: pixels from 0", "range=unit", "[0, 1]", "scale them"]),
    "signed": (lambda: ImageSet(UNIT * 3, "mine", range="signed"), ["mine: pixels from 0", "[-1, 1]"]),
    "no number": (lambda: ImageSet(UNIT / 0, "mine", range="unit"), ["image 0 has NaN or infinite"]),
}


@pytest.mark.parametrize(("make", "words"), ROWS.values(), ids=ROWS)
def test_bad_ranges_are_refused(make, words):
    with pytest.raises(InputError) as error:
        make()
    refused(error, *words)


def test_integers_have_a_range_already(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(InputError) as error:
        load(f"npz:{tmp_path}/x.npz,range=unit")
    refused(error, "range=unit", "uint8", "from 0 to 255", "leave it out")


MAKES = {
    "ideal": Ideal,
    "equivariant": Equivariant,
    "local": lambda data, **options: Local(data, patch_size=3, **options),
    "els": lambda data, **options: EquivariantLocal(data, patch_size=3, **options),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("engine", ["auto", "stream"])
def test_scores_of_scaled_images_on_disk_are_those_of_scaled_images_in_memory(make, engine, tmp_path):
    data, x = load(stored(tmp_path)[1], range="unit"), noise((3, 3, 6, 5))
    for t in (0.05, 0.9):
        for a, b in zip(make(data, engine=engine)(x, t), make(ImageSet(SIGNED, "held"), engine=engine)(x, t), strict=True):
            assert_close(a, b, rtol=1e-12)


def test_every_way_to_read_scaled_images_on_disk_scales_them(tmp_path):
    images = load(stored(tmp_path)[1], range="unit").images
    assert images.shape == SIGNED.shape and len(images) == 20 and images.dtype == torch.float32 and images.numel() == SIGNED.numel()
    reads = {
        "part": lambda x: x[3:5],
        "part of a part": lambda x: x[3:9][1:2, :, ::2],
        "picked": lambda x: x[torch.tensor([4, 1, 4])],
        "chosen": lambda x: x[torch.arange(20) % 3 == 0],
        "pieces": lambda x: torch.cat(x.split(7)),
        "numpy": lambda x: torch.from_numpy(x.numpy()),
        "array": lambda x: torch.from_numpy(np.asarray(x)),
        "stack": lambda x: torch.stack([x[0], x[1]]),
        "one by one": lambda x: torch.stack(list(x)),
        "copied": lambda x: torch.empty_like(x).copy_(x),
        "filled in": lambda x: torch.empty(x.shape).copy_(x),
        "flat": lambda x: x.flatten(1),
        "double": lambda x: x.double(),
        "compared": lambda x: (x != x[:1]).float(),
        "named": lambda x: torch.sum(input=x, dim=0),
    }
    for name, read in reads.items():
        assert torch.equal(read(images), read(SIGNED)), name
        assert_close(read(images).double().numpy(), read(SIGNED).double().numpy())
    found, expected = (memorisation(SIGNED[:2] * 0.9, data) for data in (load(stored(tmp_path)[1], range="unit"), ImageSet(SIGNED, "held")))
    assert torch.equal(found.nearest, expected.nearest) and torch.equal(found.distance, expected.distance)


def test_scaled_images_on_disk_are_read_in_pieces(tmp_path, monkeypatch):
    images, read, plain = (random_images(5000, 3, 8, 8) + 1) / 2, [], scaled._scaled

    def watched(value):
        found = plain(value)
        if isinstance(value, scaled.Unit):
            read.append(len(found))
        return found

    monkeypatch.setattr(scaled, "_scaled", watched)
    data = load(stored(tmp_path, images)[1], range="unit")
    _ = data.fingerprint, data.select(), Ideal(data, engine="stream", memory=2**24)(noise((2, 3, 8, 8)).float(), 0.5)
    assert read and max(read) < len(images)


def test_a_command_warns_in_one_line_and_goes_on(tmp_path, capsys):
    for spec in stored(tmp_path):
        assert solve.main(["--dataset", spec, *SMALL, "--out", str(tmp_path / "out")]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line.lower()]
        assert len(told) == 1 and told[0].startswith(f"warning: {spec}: pixels from ") and "range=unit" in told[0]
        assert solve.main(["--dataset", f"{spec},range=unit", *SMALL, "--out", str(tmp_path / "out")]) == 0
        assert "warning" not in capsys.readouterr().err


def test_the_warning_of_a_command_as_users_see_it(tmp_path):
    command = [sys.executable, "-m", "theory.solve", "--dataset", stored(tmp_path)[0], "--label", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    warning, error = done.stderr.splitlines()
    assert done.returncode == 2 and warning.startswith("warning: npz:") and error.startswith("error: label 7")
