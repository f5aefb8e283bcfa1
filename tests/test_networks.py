"""Networks: what a pixel sees, what padding and heads compute, and that each is a denoiser."""

from itertools import product

import pytest
import torch

from empirical.denoiser import NetworkDenoiser
from empirical.networks import NETWORKS, build, heads
from empirical.networks.cnn import HEADS
from empirical.networks.unet import reach
from tests.helpers import assert_close, noise
from theory.errors import InputError
from theory.noise import CosineSchedule

SMALL = {"hidden": 8}


def seen(module, size: int) -> int:
    """Side of the widest window any output pixel depends on, by autograd, in both directions."""
    x = noise((1, 2, size, size), dtype=torch.float32).requires_grad_()
    out = module(x, torch.tensor([0.5]))
    widest = 0
    for p in range(size // 4, 3 * size // 4):
        (gradient,) = torch.autograd.grad(out[0, :, p, p].sum(), x, retain_graph=True)
        rows, cols = (gradient[0].abs().sum((0, d)).nonzero() for d in (2, 1))
        widest = max(widest, int(rows.max() - rows.min()) + 1, int(cols.max() - cols.min()) + 1)
    return widest


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("cnn", {}, 16),
        ("patch", {}, 16),
        *(("cnn", {"trunk": "resnet", "layers": n}, 16) for n in (1, 2, 3, 4)),
        ("resnet", {"layers": 3}, 16),
        ("resnet", {"layers": 8}, 40),
        ("unet", {}, 96),
    ],
)
def test_receptive_field_is_what_autograd_finds(name, options, size, padding):
    module = build(name, 2, padding=padding, **SMALL, **options)
    assert seen(module, size) == module.receptive_field


def test_published_resnet_sees_17_pixels_and_unet_is_wider():
    assert build("resnet", 3, hidden=4).receptive_field == 17 and reach() > 17


@pytest.mark.parametrize(
    ("name", "options"),
    [*((n, {}) for n in ("literal", "identity", "attention")), ("attention", {"trunk": "resnet"}), ("unet", {"attention": True})],
)
def test_attention_sees_the_whole_image(name, options):
    size = 96 if name == "unet" else 24  # wider than what its convolutions see
    module = build(name, 2, **SMALL, **options)
    assert module.receptive_field is None and seen(module, size) == size


@pytest.mark.parametrize("name", ["cnn", "patch", "literal", "identity", "top1", "attention", "resnet"])
def test_circular_networks_are_equivariant(name):
    module = build(name, 2, padding="circular", seed=1, **SMALL).double().eval()
    x, t = noise((2, 2, 8, 6)), torch.tensor([0.3, 0.8], dtype=torch.float64)
    with torch.no_grad():
        assert_close(module(x.roll((3, 2), (2, 3)), t), module(x, t).roll((3, 2), (2, 3)), atol=1e-12)


def test_unet_takes_sides_that_are_no_multiple_of_four():
    assert build("unet", 1, **SMALL)(torch.zeros(1, 1, 7, 6), torch.tensor([0.5])).shape == (1, 1, 7, 6)


def test_heads_share_the_trunk():
    states = {n: build(n, 3, seed=5, **SMALL).trunk.state_dict() for n in HEADS}
    for state in states.values():
        assert all(torch.equal(state[k], states["cnn"][k]) for k in states["cnn"])


def brute(z, logits, value):
    """``sum_y softmax_y(logits_xy) value_y`` by loops."""
    out = torch.zeros_like(value)
    for x in range(len(z)):
        weights = torch.stack([logits(x, y) for y in range(len(z))]).exp()
        out[x] = sum(w * value[y] for y, w in enumerate(weights / weights.sum()))
    return out


def test_heads_are_their_formulas():
    z = noise((1, 5, 8))
    literal, identity, full = (h(8, 3, 4).double() for h in (heads.Literal, heads.Identity, heads.Full))
    u = literal.embed(z)[0]
    assert_close(literal(z)[0], u + brute(u, lambda x, y: u[x] @ u[y], u), atol=1e-12)
    u = identity.embed(z)[0]
    assert_close(identity(z)[0], identity.readout(u + brute(u, lambda x, y: u[x] @ u[y] / 2, u)), atol=1e-12)
    q, k, v = full.query(z)[0], full.key(z)[0], full.value(z)[0]
    assert_close(full(z)[0], full.local(z)[0] + brute(q, lambda x, y: q[x] @ k[y] / 2, v), atol=1e-12)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_attention_on_a_residual_trunk_written_out(padding):
    """Pixel by pixel: convolutions as sums over neighbours, films and perceptrons of single vectors, attention as loops."""
    net = build("attention", 2, padding=padding, trunk="resnet", layers=2, hidden=4, embedding=3, classes=2, seed=3).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():  # films and embeddings of classes are the identity at first
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x, t, label = noise((2, 2, 4, 5)), torch.tensor([0.3, 0.8], dtype=torch.float64), torch.tensor([1, 0])
    w = net.state_dict()
    silu = torch.nn.functional.silu

    def conv(z, name):  # z: (C, H, W)
        out = torch.zeros(len(w[f"{name}.weight"]), *z.shape[1:], dtype=torch.float64)
        for y, u, dy, dx in product(range(4), range(5), range(-1, 2), range(-1, 2)):
            if padding == "circular" or (0 <= y + dy < 4 and 0 <= u + dx < 5):
                out[:, y, u] += w[f"{name}.weight"][:, :, dy + 1, dx + 1] @ z[:, (y + dy) % 4, (u + dx) % 5]
        return out + w[f"{name}.bias"][:, None, None]

    def pixelwise(f, z):
        return torch.stack([torch.stack([f(z[:, y, u]) for u in range(5)], 1) for y in range(4)], 1)

    def film(name, condition):
        gain, shift = (w[f"{name}.coefficients.weight"] @ condition + w[f"{name}.coefficients.bias"]).chunk(2)
        return lambda v: (1 + gain) * v / (v.square().mean() + 1e-6).sqrt() + shift

    def perceptron(name, condition):
        up, down = (lambda v, n=n: w[f"{name}.{n}.weight"][:, :, 0, 0] @ v + w[f"{name}.{n}.bias"] for n in ("up", "down"))
        return lambda v: v + down(silu(up(film(f"{name}.film", condition)(v))))

    for image, time, number, found in zip(x, t, label, net(x, t, label), strict=True):
        angle = time * torch.pi / 2 * 2.0 ** torch.arange(8, dtype=torch.float64)
        hidden = w["trunk.condition.mix.0.weight"] @ torch.cat([angle.sin(), angle.cos()]) + w["trunk.condition.mix.0.bias"]
        condition = w["trunk.condition.mix.2.weight"] @ silu(hidden) + w["trunk.condition.mix.2.bias"]
        condition = silu(condition + w["trunk.condition.label.weight"][number])
        z = pixelwise(perceptron("trunk.perceptrons.0", condition), conv(torch.cat([image, torch.ones_like(image[:1])]), "trunk.first"))
        z = z + conv(silu(pixelwise(film("trunk.films.0", condition), z)), "trunk.layers.0")
        z = pixelwise(perceptron("trunk.perceptrons.1", condition), z)
        z = silu(pixelwise(film("trunk.films.1", condition), z)).flatten(1).T
        h, q, k, v = (z @ w[f"head.{n}.weight"].T + w[f"head.{n}.bias"] for n in ("local", "query", "key", "value"))
        expected = h + brute(q, lambda a, b, q=q, k=k: q[a] @ k[b] / 3**0.5, v)
        assert_close(found.detach().flatten(1).T, expected, atol=3e-5)  # angles up to 200, of float32 frequencies


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_patch_is_trained_towards_the_window_around_each_pixel(padding):
    """Pixel by pixel, zero outside the image or around the border; its own pixel is what is used."""
    net = build("patch", 3, seed=2, padding=padding, **SMALL)
    image = torch.randn(2, 3, 6, 4)
    target = net.target(image)
    for y, x, dy, dx in product(range(6), range(4), range(-2, 3), range(-2, 3)):
        inside = 0 <= y + dy < 6 and 0 <= x + dx < 4
        expected = image[:, :, (y + dy) % 6, (x + dx) % 4] if inside or padding == "circular" else torch.zeros(2, 3)
        assert torch.equal(target.unflatten(1, (3, 5, 5))[:, :, dy + 2, dx + 2, y, x], expected)
    t = torch.full((2,), 0.5)
    whole, used = net.train()(image, t), net.eval()(image, t)
    assert whole.shape == target.shape
    assert_close(used, whole.unflatten(1, (3, 5, 5))[:, :, 2, 2])
    assert build("cnn", 3, **SMALL).target(image) is image


def test_top1_is_the_argmax_in_use_and_learns_in_training():
    head, z = heads.Top1(8, 3, 4).double(), noise((1, 5, 8)).requires_grad_()
    head.eval()
    u = head.embed(z)[0]
    best = torch.stack([torch.stack([u[x] @ u[y] for y in range(5)]).argmax() for x in range(5)])
    assert_close(head(z)[0], head.readout(u + u[best]), atol=1e-12)
    head.train()
    head(z).sum().backward()
    assert float(head.embed.weight.grad.abs().sum()) > 0


def test_straight_through_samples_follow_the_softmax():
    """Gumbel-max: the share of draws that pick a pixel is its softmax weight."""
    logits = torch.tensor([[0.0, 1.0, -1.0]]).repeat(20000, 1)
    torch.manual_seed(0)
    head = heads.Top1(2, 1, 1).train()
    share = head.attention(logits).detach().mean(0)
    expected = torch.softmax(logits[0], -1)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 20000).sqrt()).all()


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score"])
def test_denoiser_undoes_the_prediction_type(prediction):
    """A network that outputs the exact target stands for the exact mean."""
    schedule, x, mean, t = CosineSchedule(), noise((3, 2, 4, 4)), noise((3, 2, 4, 4), seed=2), 0.4
    alpha, sigma = (float(c) for c in schedule(t))
    epsilon = (x - alpha * mean) / sigma

    class Exact(torch.nn.Module):
        classes, receptive_field = 0, None

        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x_t, times, label):
            return {"sample": mean, "epsilon": epsilon, "score": -epsilon / sigma}[prediction]

    denoiser = NetworkDenoiser(Exact(), schedule, prediction, (2, 4, 4))
    assert_close(denoiser.denoise(x, t), mean, atol=1e-12)
    assert_close(denoiser.score(x, t), -epsilon / sigma, atol=1e-12)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_batch_equals_one_at_a_time(name, device):
    module = build(name, 2, classes=3, **SMALL)
    with torch.no_grad():
        for p in module.parameters():  # at the start, level and class have no influence yet
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    denoiser = NetworkDenoiser(module.to(device), CosineSchedule(), "epsilon", (2, 8, 8))
    x, times = noise((3, 2, 8, 8), dtype=torch.float32).to(device), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64).to(device)
    whole = denoiser.denoise(x, times, label=[0, 2, 1])
    for i, label in enumerate((0, 2, 1)):
        assert_close(whole[i], denoiser.denoise(x[i : i + 1], times[i], label=label)[0], atol=2e-5)


@pytest.mark.parametrize(
    ("x", "t", "label", "words"),
    [
        (torch.zeros(1, 3, 8, 8), 0.5, None, "(1, 3, 8, 8)"),
        (torch.full((1, 2, 8, 8), torch.nan), 0.5, None, "NaN"),
        (torch.zeros(1, 2, 8, 8), 0.0, None, "sigma_t = 0"),
        (torch.zeros(2, 2, 8, 8), torch.tensor([0.1, 0.2, 0.3]), None, "time t of shape (3,)"),
        (torch.zeros(1, 2, 8, 8), 0.5, 1, "without classes"),
    ],
    ids=["channels", "nan", "t=0", "times", "label"],
)
def test_denoiser_refuses(x, t, label, words):
    denoiser = NetworkDenoiser(build("cnn", 2, **SMALL), CosineSchedule(), "sample", (2, 8, 8))
    with pytest.raises(InputError) as error:
        denoiser(x, t, label)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gan", {}, "cnn"),
        ("cnn", {"layers": 3}, "'layers'"),
        ("cnn", {"padding": "reflect"}, "reflect"),
        ("resnet", {"layers": 1}, "at least 2"),
        ("attention", {"trunk": "vit"}, "'cnn' or 'resnet'"),
        ("patch", {"trunk": "resnet", "layers": 3}, "7 pixels"),
    ],
)
def test_build_refuses(name, options, words):
    with pytest.raises(InputError) as error:
        build(name, 3, **options)
    assert words in str(error.value)
