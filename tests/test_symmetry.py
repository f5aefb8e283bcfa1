"""Groups of flips and rotations against the enlarged set, for machines and data."""

import numpy as np
import pytest
import torch

from tests import reference
from tests.helpers import assert_close, noise, random_set, refused
from theory.data import ImageSet, augmented, load
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal
from theory.noise import CosineSchedule
from theory.symmetry import GROUPS

# Written out once more, independently, with numpy: sizes are those of group theory.
POSITIONS = {
    "flip": [lambda k: k, lambda k: k[..., ::-1]],
    "flips": [lambda k: k, lambda k: k[..., ::-1], lambda k: k[..., ::-1, :], lambda k: k[..., ::-1, ::-1]],
    "rotations": [lambda k, i=i: np.rot90(k, i, (-2, -1)) for i in range(4)],
    "d4": [lambda k, i=i, t=t: np.rot90(k.swapaxes(-1, -2) if t else k, i, (-2, -1)) for t in (False, True) for i in range(4)],
}


def enlarged(images, weights, group):
    positions = POSITIONS[group]
    return np.concatenate([np.stack([g(k) for k in images]) for g in positions]), np.tile(weights, len(positions)) / len(positions)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_closed_and_have_their_sizes(group):
    image = torch.arange(9.0).reshape(1, 3, 3)
    positions = {tuple(g(image).flatten().tolist()) for g in GROUPS[group]}
    assert len(positions) == len(GROUPS[group]) == len(POSITIONS[group])
    assert positions == {tuple(g(image.numpy()).ravel().tolist()) for g in POSITIONS[group]}
    for g in GROUPS[group]:
        assert {tuple(h(g(image)).flatten().tolist()) for h in GROUPS[group]} == positions


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("machine", ["equivariant", "zeros", "circular"])
def test_machines_equal_brute_force_over_all_positions(machine, group):
    data, x = random_set(3, height=4, width=4), 0.7 * noise((1, 2, 4, 4), seed=1)
    alpha, sigma = (float(c) for c in CosineSchedule()(0.4))
    given = (x[0].numpy(), *enlarged(data.images.double().numpy(), data.weights.numpy(), group), alpha, sigma)
    if machine == "equivariant":
        model, expected = Equivariant(data, group=group), reference.equivariant(*given)
    else:
        model = EquivariantLocal(data, patch_size=3, border=machine, group=group)
        expected = reference.equivariant_local(*given, (3, 3), machine)
    for double in (True, False):
        found = model(x if double else x.float(), 0.4)
        assert_close(found.mean[0], expected[0], atol=1e-10 if double else 2e-5)
        assert_close(found.log_evidence[0], expected[1], rtol=1e-10 if double else 1e-5)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("border", ["zeros", "circular"])
def test_a_machine_commutes_with_its_group(group, border):
    data, x = random_set(3, height=4, width=4), 0.7 * noise((1, 2, 4, 4), seed=1)
    model, plain = EquivariantLocal(data, patch_size=3, border=border, group=group), EquivariantLocal(data, patch_size=3, border=border)
    for g in GROUPS[group]:
        assert_close(model.denoise(g(x), 0.4), g(model.denoise(x, 0.4)), atol=1e-12)
    g = GROUPS[group][1]
    assert (plain.denoise(g(x), 0.4) - g(plain.denoise(x, 0.4))).abs().max() > 1e-3


def test_augmented_data_are_all_positions_with_their_labels():
    data, x = random_set(3, height=4, width=4), noise((2, 2, 4, 4), seed=1)
    larger = augmented(data, "d4")
    assert len(larger) == 24 and larger.labels.tolist() == data.labels.tolist() * 8
    assert larger.name == "random:augment=d4" and larger.fingerprint != data.fingerprint
    images, weights = enlarged(data.images.numpy(), data.weights.numpy(), "d4")
    a, b = Ideal(larger)(x, 0.5, 1), Ideal(ImageSet(torch.from_numpy(images), "brute", weights=torch.from_numpy(weights)).select())(x, 0.5)
    assert (a.mean - b.mean).abs().max() > 1e-3  # a class, and all
    assert_close(Ideal(larger)(x, 0.5).mean, b.mean, atol=1e-12)


def test_load_augments_any_source():
    digits, flipped = load("digits"), load("digits:augment=flip")
    assert torch.equal(flipped.images[: len(digits)], digits.images)
    assert torch.equal(flipped.images[len(digits) :], digits.images.flip(3))
    assert load("photos:count=3,size=8", augment="rotations").name == "photos:count=3,size=8,seed=0,augment=rotations"
    toy = load("toy:augment=flips")  # pairs change places, and the inverse of a code is a code
    assert toy.rule is not None and bool(toy.rule.consistent(toy.images).all())


def test_a_rule_stays_only_where_all_positions_obey_it():
    class Bright:
        baseline = 0.5

        def decode(self, images):
            return (images[:, 0, :, 0] > 0).long()

        def consistent(self, images):
            return images[:, 0, 0, 0] > 0

    images = -torch.ones(1, 1, 3, 3)
    images[0, 0, 0] = 1.0  # a bright row above
    data = ImageSet(images, "bright", rule=Bright())
    assert augmented(data, "flip").rule is data.rule and augmented(data, "flips").rule is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Equivariant(random_set(), group="d8"), "group 'd8'"),
        (lambda: Equivariant(random_set(), group="d4"), "images of 5x4 pixels"),
        (lambda: EquivariantLocal(random_set(), patch_size=3, group="rotations"), "images of 5x4 pixels"),
        (lambda: EquivariantLocal(random_set(3, height=4), patch_size=(3, 1), group="rotations"), "patches of 3x1 pixels"),
        (lambda: EquivariantLocal(random_set(3, height=4), patch_size=3, group="d4").sweep(torch.zeros(1, 2, 4, 4), 0.5, [(1, 3)]), "1x3"),
        (lambda: load("toy:augment=d4"), "images of 6x4 pixels"),
        (lambda: load("digits:augment=mirror"), "group 'mirror'"),
        (lambda: augmented(ImageSet(torch.zeros(2, 1, 4, 4), "far", on_disk=True), "flip"), "on disk"),
    ],
)
def test_refuses(make, words):
    with pytest.raises(InputError) as error:
        make()
    refused(error, words)
