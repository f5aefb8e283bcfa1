"""The training patches behind every pixel, against loops over all of them."""

from collections import Counter
from itertools import combinations

import pytest
import torch
from helpers import assert_close, refused

from theory.candidates import candidates
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.patches import border_classes

T = 0.3
SHAPE = (2, 5, 4)


@pytest.fixture(scope="module")
def data():
    """Few-valued images, so that many patches are alike, and unequal weights."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 2, (6, *SHAPE), generator=generator).float() * 2 - 1
    images[:, :, :2] = -1  # a dark region
    return ImageSet(images, "random", torch.tensor([1.0, 2, 1, 3, 1, 0.5]), torch.tensor([0, 0, 1, 1, 1, 0]))


@pytest.fixture(scope="module")
def x_t():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def window(image, y, x, radius, circular):
    """The patch around a pixel: offset to colours."""
    _, height, width = image.shape
    out = {}
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            if circular:
                out[i, j] = tuple(image[:, (y + i) % height, (x + j) % width].tolist())
            elif 0 <= y + i < height and 0 <= x + j < width:
                out[i, j] = tuple(image[:, y + i, x + j].tolist())
    return out


def everything(machine, image, y, x):
    """Every training patch a pixel is compared with: (number, row, column), its pixels and its posterior weight."""
    circular = machine.border == "circular"
    classes = torch.zeros(5, 4) if circular else border_classes(5, 4, (3, 3))
    alpha, sigma = (float(c) for c in machine.schedule(T))
    query = torch.tensor(list(window(image, y, x, 1, circular).values()), dtype=torch.float64)
    found, logits = [], []
    for n, training in enumerate(machine.data.images.double()):
        for v in range(5):
            for u in range(4):
                if classes[v, u] != classes[y, x] or (machine.name == "local" and (v, u) != (y, x)):
                    continue
                key = tuple(window(training, v, u, 1, circular).values())
                distance = float((query - alpha * torch.tensor(key, dtype=torch.float64)).square().sum())
                logits.append(float(machine.data.weights[n].log()) - distance / (2 * sigma**2))
                found.append(((n, v, u), key))
    weights = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist()
    return [(*one, w) for one, w in zip(found, weights, strict=True)]


@pytest.mark.parametrize(
    ("kind", "border"), [(EquivariantLocal, "zeros"), (EquivariantLocal, "circular"), (Local, "zeros"), (Local, "circular")]
)
def test_patches_are_those_of_a_loop_over_all(data, x_t, kind, border):
    machine = kind(data, patch_size=3, border=border)
    found = candidates(machine, x_t, T, top=4)
    for b, y, x in [(b, y, x) for b in range(3) for y in range(5) for x in range(4)]:
        patches = everything(machine, x_t[b], y, x)
        weights, counts, first = Counter(), Counter(), {}
        for place, key, weight in patches:
            weights[key] += weight
            counts[key] += 1
            first.setdefault(key, place)
        expected = weights.most_common(4)
        assert_close(found.weight[b, y, x, : len(expected)], [w for _, w in expected], atol=1e-12)
        for k, (key, _) in enumerate(expected):
            if k and abs(expected[k - 1][1] - expected[k][1]) < 1e-12:
                continue  # equal weights, in either order
            if k + 1 < len(expected) and abs(expected[k + 1][1] - expected[k][1]) < 1e-12:
                continue
            assert (int(found.image[b, y, x, k]), *found.pixel[b, y, x, k].tolist()) == first[key]
            assert int(found.count[b, y, x, k]) == counts[key]
        assert (found.image[b, y, x, len(expected) :] == -1).all() and (found.weight[b, y, x, len(expected) :] == 0).all()
        assert float(found.effective[b, y, x]) == pytest.approx(1 / sum(w**2 for *_, w in patches), rel=1e-10)
        # The mosaic's patch is one of the heaviest ones.
        n, (v, u) = int(found.mosaic[b, y, x]), found.place[b, y, x].tolist()
        taken = next(key for place, key, _ in patches if place == (n, v, u))
        assert weights[taken] == pytest.approx(expected[0][1], rel=1e-10)


@pytest.mark.parametrize("kind", [Ideal, Equivariant])
def test_whole_images_are_those_of_a_loop_over_all(data, x_t, kind):
    machine = kind(data)
    alpha, sigma = (float(c) for c in machine.schedule(T))
    found = candidates(machine, x_t, T, top=3)
    shifts = [(0, 0)] if kind is Ideal else [(v, u) for v in range(5) for u in range(4)]
    for b in range(3):
        logits = torch.stack(
            [
                data.weights[n].log() - (x_t[b] - alpha * data.images[n].double().roll((-v, -u), (1, 2))).square().sum() / (2 * sigma**2)
                for n in range(6)
                for v, u in shifts
            ]
        )
        order = torch.softmax(logits, 0).sort(descending=True)
        assert_close(found.weight[b, 2, 3], order.values[:3], atol=1e-12)
        n, shift = divmod(int(order.indices[0]), len(shifts))
        assert (found.image[b, :, :, 0] == n).all() and (found.mosaic[b] == n).all()
        v, u = shifts[shift]
        assert found.pixel[b, 2, 3, 0].tolist() == [(2 + v) % 5, (3 + u) % 4] == found.place[b, 2, 3].tolist()


@pytest.mark.parametrize("machine", ["ideal", "equivariant", "local", "els"])
def test_shares_add_up_and_the_effective_number_is_that_of_the_engines(data, x_t, machine):
    """With all patches told, nothing is left out, their mean is the guess, and engines count as many."""
    made = {"ideal": Ideal, "equivariant": Equivariant}.get(machine)
    made = made(data) if made else {"local": Local, "els": EquivariantLocal}[machine](data, patch_size=3, engine="dense")
    found, posterior = candidates(made, x_t, T, top=200), made(x_t, T)
    assert_close(found.weight.sum(-1), torch.ones(3, 5, 4), atol=1e-12)
    assert_close(found.rest, torch.zeros(3, 5, 4), atol=1e-12)
    values = data.images.double()[found.image, :, found.pixel[..., 0], found.pixel[..., 1]]
    assert_close((found.weight[..., None] * values).sum(-2).permute(0, 3, 1, 2), posterior.mean, atol=1e-10)
    ess = posterior.ess if made.per_pixel else posterior.ess[:, None, None].expand(3, 5, 4)
    assert_close(found.effective, ess, rtol=1e-10)


def test_mosaics_take_few_images():
    """A picture that is a training image comes from one; one whose two halves occur in no image together, from two. All subsets tried."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 2, (5, 1, 2, 6), generator=generator).float() * 2 - 1
    images[3] = torch.cat([images[0, :, :, :3], images[1, :, :, 3:]], -1)  # halves of the first two, together
    machine = Local(ImageSet(images, "halves"), patch_size=1)
    for picture in (images[3], torch.cat([images[0, :, :, :3], images[2, :, :, 3:]], -1), torch.cat([images[2], images[1]], 2)[:, :, 3:9]):
        found = candidates(machine, picture[None], 0.05, top=1)
        held = [{(y, x) for y in range(2) for x in range(6) if images[n, 0, y, x] == picture[0, y, x]} for n in range(5)]
        wanted = {(y, x) for y in range(2) for x in range(6) if any((y, x) in h for h in held)}
        fewest = next(k for k in range(1, 6) if any(set().union(*some) == wanted for some in combinations(held, k)))
        copied = images[found.mosaic[0], 0, found.place[0, ..., 0], found.place[0, ..., 1]]
        assert_close(copied, picture[0])
        assert len(found.mosaic.unique()) == fewest


def test_obedient_samples_of_the_toy_come_from_one_image_and_others_do_not():
    """All 5056 pictures that obey the rule are training images; the others are none."""
    data = load("toy:layout=strip")
    machine = EquivariantLocal(data, patch_size=(3, 1))
    rule = torch.tensor([[0, 1, 2, 3, 1, 0, 3, 2], [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 3, 3, 3], [0, 1, 2, 3, 1, 1, 3, 2]])
    images = data.rule.render(rule)
    found = candidates(machine, images, 0.02)
    assert [len(m.unique()) == 1 for m in found.mosaic] == data.rule.consistent(images).tolist() == [True, True, False, False]


def test_no_piece_of_the_work_changes_the_answer(data):
    scale = torch.linspace(0.2, 1, 2400)[:, None, None, None]
    big = ImageSet(data.images.repeat(400, 1, 1, 1) * scale, "big")
    x_t = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(6))
    few, many = (candidates(EquivariantLocal(big, patch_size=3, memory=memory), x_t, T, top=5) for memory in (2**24, 2**31))
    assert_close(few.weight, many.weight, atol=1e-12)
    assert_close(few.effective, many.effective, rtol=1e-10)
    one = candidates(EquivariantLocal(big, patch_size=3), x_t[1:2], T, top=5)
    assert_close(one.weight[0], many.weight[1], atol=1e-12)
    assert (one.mosaic[0] == many.mosaic[1]).all() and (few.mosaic == many.mosaic).all()


def test_a_label_restricts_the_sources(data):
    found = candidates(EquivariantLocal(data, patch_size=3), data.images[2:3], 0.01, label=1)
    assert (found.mosaic == 0).all()  # numbered within the class


def test_what_can_not_be_asked(data, x_t):
    machine = Ideal(data)
    for given, words in (((x_t, T, 0), ["top=0"]), ((x_t, 0.0, 3), ["sigma_t = 0"]), ((x_t[:, :1], T, 3), ["(B, 2, 5, 4)"])):
        with pytest.raises(InputError) as error:
            candidates(machine, *given)
        refused(error, *words)
    whole = Ideal(data)
    whole.distributed = True  # as in a group of processes, of which there is none here
    with pytest.raises(InputError) as error:
        candidates(whole, x_t, T)
    refused(error, "distributed=True")
