"""Where pixels come from, against loops over all training patches."""

import pytest
import torch
from helpers import assert_close

from theory.data import ImageSet
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.patches import border_classes
from theory.provenance import provenance

T = 0.3


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(6, 2, 5, 4, generator=generator) * 2 - 1
    return ImageSet(images, "random", torch.tensor([1.0, 2, 1, 3, 1, 0.5]), torch.tensor([0, 0, 1, 1, 1, 0]))


def window(image, y, x, radius, circular):
    """The patch around a pixel as a dictionary: offset to colours."""
    height, width = image.shape[-2:]
    out = {}
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            if circular:
                out[i, j] = image[:, (y + i) % height, (x + j) % width]
            elif 0 <= y + i < height and 0 <= x + j < width:
                out[i, j] = image[:, y + i, x + j]
    return out


def weights(data, x_t, y, x, places, radius, circular, alpha, sigma):
    """Posterior weight of every (image, row, column) among the places a pixel is compared with."""
    query = window(x_t, y, x, radius, circular)
    logits = {}
    for n, image in enumerate(data.images.double()):
        for v, u in places:
            key = window(image, v, u, radius, circular)
            assert key.keys() == query.keys()
            distance = sum(float((query[k] - alpha * key[k]).square().sum()) for k in query)
            logits[n, v, u] = -distance / (2 * sigma**2) + float(data.weights[n].log())
    numbers = torch.tensor(list(logits.values()), dtype=torch.float64)
    return dict(zip(logits, torch.softmax(numbers, 0).tolist(), strict=True))


@pytest.mark.parametrize(
    ("kind", "border"), [(EquivariantLocal, "zeros"), (EquivariantLocal, "circular"), (Local, "zeros"), (Local, "circular")]
)
def test_the_heaviest_patch_is_that_of_a_loop_over_all(data, kind, border):
    machine = kind(data, patch_size=3, border=border, memory=2**24)
    x_t = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = provenance(machine, x_t, T)
    alpha, sigma = (float(c) for c in machine.schedule(T))
    classes = border_classes(5, 4, (3, 3)) if border == "zeros" else torch.zeros(5, 4)
    for b in range(2):
        for y in range(5):
            for x in range(4):
                everywhere = [(v, u) for v in range(5) for u in range(4) if classes[v, u] == classes[y, x]]
                places = everywhere if kind is EquivariantLocal else [(y, x)]
                expected = weights(data, x_t[b], y, x, places, 1, border == "circular", alpha, sigma)
                best = max(expected, key=expected.get)
                assert (int(found.image[b, y, x]), *found.pixel[b, y, x].tolist()) == best
                assert float(found.weight[b, y, x]) == pytest.approx(expected[best], rel=1e-9)


def test_copies_are_traced_to_where_they_were_copied_from(data):
    """A training image comes from itself; a shifted one, from itself by the shift."""
    shifted = data.images[4:5].double().roll((1, 2), (2, 3))
    t = 0.01
    for machine in (Equivariant(data), EquivariantLocal(data, patch_size=3, border="circular")):
        found = provenance(machine, shifted, t)
        assert (found.image == 4).all() and len(found.pieces().unique()) == 1
        rebuilt = data.images[found.image[0], :, found.pixel[0, ..., 0], found.pixel[0, ..., 1]].permute(2, 0, 1)
        assert_close(rebuilt[None].double(), shifted)
        assert_close(found.weight, torch.ones_like(found.weight))
    same = provenance(Ideal(data), data.images[2:3], t)
    assert (same.image == 2).all() and (same.pieces() == 2 * 20).all()


def test_pieces_change_where_image_or_shift_changes(data):
    """A mosaic of two halves has two pieces, and the patches that straddle them belong to either."""
    machine = Local(data, patch_size=1)
    mosaic = torch.cat([data.images[:1, :, :, :2], data.images[3:4, :, :, 2:]], 3)
    found = provenance(machine, mosaic, 0.01)
    assert (found.image[0, :, :2] == 0).all() and (found.image[0, :, 2:] == 3).all()
    assert len(found.pieces().unique()) == 2


def test_no_piece_of_the_work_changes_the_answer(data):
    big = EquivariantLocal(
        ImageSet(data.images.repeat(400, 1, 1, 1) * torch.linspace(0.2, 1, 2400)[:, None, None, None], "big"), patch_size=3
    )
    x_t = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(6))
    few, many = (provenance(EquivariantLocal(big.data, patch_size=3, memory=memory), x_t, T) for memory in (2**24, 2**31))
    assert (few.image == many.image).all() and (few.pixel == many.pixel).all()
    assert_close(few.weight, many.weight)


def test_a_label_restricts_the_sources(data):
    found = provenance(EquivariantLocal(data, patch_size=3), data.images[2:3], 0.01, label=1)
    assert (found.image == 0).all()  # numbered within the class
