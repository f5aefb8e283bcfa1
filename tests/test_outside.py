"""Networks of the user's own, EDM's and Kamb & Ganguli's: what they answer is what their own formula says, and nothing pickled runs."""

import os
import pickle
import sys
import types

import pytest
import torch
from torch import nn

from empirical.models import is_network, open_model
from empirical.outside.sigma import as_sigma
from tests.helpers import assert_close, refused
from theory.data import ImageSet
from theory.errors import InputError
from theory.machines import Ideal
from theory.noise import CosineSchedule, EDMSchedule, schedule


def images(size=6, channels=2, count=5):
    pixels = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ImageSet(pixels, "random", labels=torch.arange(count) % 3, range="signed")


def noisy(count=3, size=6, channels=2):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


CODE = """
import torch
from torch import nn
from helper_beside_it import FACTOR

def two(x_t, t):
    return FACTOR * x_t + t.reshape(-1, 1, 1, 1)

def three(x_t, t, label=None):
    return x_t * (0 if label is None else label.reshape(-1, 1, 1, 1))

class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self.dropout = nn.Dropout(.5)
    def forward(self, x_t, t):
        return self.dropout(self.layer(x_t))

def factory():
    torch.manual_seed(0)
    return Module()

torch.manual_seed(0)
made = Module()
half = Module().half()
nowhere = Module().to("meta")
one = lambda x: x
four = lambda a, b, c, d: a
empty = lambda x, t: x[:, :1]
nan = lambda x, t: x / 0 * 0
number = 3
text = lambda x, t: "text"
low = lambda x, t: x.half()
wrong = lambda x, t: x @ torch.zeros(5, 5)
random = lambda x, t: torch.randn_like(x)
def broken(): raise RuntimeError("no checkpoint")
def perfect(x, sigma): return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper_beside_it.py").write_text("FACTOR = .5\n")
    (tmp_path / "net.py").write_text(CODE)
    yield f"{tmp_path}/net.py"
    sys.modules.pop("helper_beside_it", None)


# ------------------------------------------------------------------------------------------------- the user's own


@pytest.mark.parametrize("noise", ["cosine", "vp", "edm", "linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample", "score"])
def test_a_callable_is_read_by_its_prediction(file, prediction, noise):
    model, x = open_model(f"module:{file}:two,prediction={prediction},schedule={noise}", images()), noisy()
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in model.schedule(t))
    clean = model.denoise(x.double(), t)
    out = 0.5 * x.double() + t.reshape(-1, 1, 1, 1)
    # By what each is defined as: noise, velocity and score of the clean image it stands for.
    noise_of = (x.double() - alpha * clean) / sigma
    told = {"sample": clean, "epsilon": noise_of, "score": -noise_of / sigma, "v": alpha * noise_of - sigma * clean}[prediction]
    assert_close(told, out, rtol=1e-9)
    assert is_network(model)


def test_modules_are_put_into_use_and_factories_called(file):
    x = noisy()
    outputs = [open_model(f"module:{file}:{name},prediction=sample", images()).denoise(x, 0.5) for name in ("made", "factory")]
    assert torch.equal(*outputs)  # of one seed, and without dropout
    assert open_model(f"module:{file}:Module", images()).module.training is False


def test_labels_reach_whoever_takes_them(file):
    model, x = open_model(f"module:{file}:three,prediction=sample", images()), noisy()
    assert torch.equal(model.denoise(x, 0.5, torch.tensor([1, 2, 0])), x * torch.tensor([1.0, 2, 0]).reshape(-1, 1, 1, 1))
    assert torch.equal(open_model(f"module:{file}:three,prediction=sample,label=2", images()).denoise(x, 0.5), 2 * x)
    with pytest.raises(InputError, match="takes"):
        open_model(f"module:{file}:two", images()).denoise(x, 0.5, 1)


def test_gradients_run_through(file):
    x = noisy().requires_grad_()
    open_model(f"module:{file}:made", images()).denoise(x, 0.5).sum().backward()
    assert x.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------ sigma, as EDM tells it


def test_the_convention_of_edm_and_k_diffusion_comes_in(file):
    """For standard normal images, ``D(x; sigma) = x / (1 + sigma^2)`` is the posterior mean on every schedule."""
    x = noisy()
    for noise in ("edm", "cosine", "ve"):
        model = open_model(f"module:{file}:perfect,time=sigma,schedule={noise}", images())
        for t in (0.1, 0.6):
            alpha, sigma = (float(c) for c in schedule(noise)(t))
            assert_close(model.denoise(x, t), alpha * x / (alpha**2 + sigma**2), rtol=1e-6)
    assert open_model(f"module:{file}:perfect,time=sigma", images()).schedule.name == "edm"


def test_and_goes_out():
    """A machine in that convention, by Euler's method of k-diffusion's ``sample_euler`` written out, ends where DDIM does."""
    from theory.sampling import DDIM

    data = images()
    machine = Ideal(data, CosineSchedule())
    denoiser = as_sigma(machine)
    t = torch.linspace(1, 0, 9, dtype=torch.float64)
    alpha, sigma = machine.schedule(t)
    sigmas = sigma / alpha
    x = noisy().double() / float(alpha[0])
    expected = DDIM(machine, steps=8)(noisy().double()).images
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoiser(x, now.expand(len(x)))) / now
        x = x + (then - now) * slope
    assert_close(x, expected, atol=1e-9)
    with pytest.raises(InputError, match="reaches"):
        as_sigma(machine)(x, torch.tensor(1e6))


# ------------------------------------------------------------------------------------ Kamb & Ganguli's checkpoints


class EmbeddingModule(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.fdim, self.conditional = width, bool(classes)
        if classes:
            self.class_embeddings = nn.Embedding(classes, width)

    def forward(self, t, label):
        d = self.fdim // 2
        angle = t[:, None] / (10000 ** (torch.arange(d) / (d - 1)))[None]
        out = torch.cat((angle.sin(), angle.cos()), 1)
        return out + self.class_embeddings(label) if self.conditional else out


class MinimalResNet(nn.Module):
    """Layers by the names of the published checkpoints, of PyTorch's own parts."""

    def __init__(self, channels=2, width=16, mode="zeros", layers=3, norm=False, classes=0, last=3, add_one=True):
        super().__init__()
        conv = lambda a, b, k: nn.Conv2d(a, b, k, padding="same", padding_mode=mode)  # noqa: E731
        self.num_layers = layers
        self.embedding = EmbeddingModule(width, classes)
        self.up_projection = conv(channels, width, 3)
        self.embs = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GroupNorm(8, width), nn.ReLU()) for _ in range(layers + add_one)
        )
        middle = [nn.GroupNorm(8, width)] if norm else []
        self.convs = nn.ModuleList(nn.Sequential(conv(width, width, 3), *middle, nn.ReLU()) for _ in range(layers))
        self.down_projection = nn.Sequential(nn.GroupNorm(8, width), conv(width, channels, last)) if norm else conv(width, channels, last)

    def forward(self, t, x, label=None):
        told, state = self.embedding(t, label), self.up_projection(x)
        for i in range(self.num_layers):
            state = state + self.convs[i](state + self.embs[i](told)[:, :, None, None])
        more = self.embs[-1](told)[:, :, None, None] if len(self.embs) > self.num_layers else state
        return self.down_projection(state + more)


class UBlock(nn.Module):
    def __init__(self, a, b, width, mode, norm):
        super().__init__()
        self.emb = nn.Sequential(nn.ReLU(), nn.Linear(width, a))
        parts = []
        for c in (a, b):
            parts += [nn.Conv2d(c, b, 3, padding="same", padding_mode=mode), *([nn.GroupNorm(min(32, b), b)] if norm else []), nn.ReLU()]
        self.model = nn.Sequential(*parts)

    def forward(self, x, told):
        return self.model(x + self.emb(told)[:, :, None, None])


class MinimalUNet(nn.Module):
    def __init__(self, channels=2, sizes=(8, 16, 32), mode="zeros", norm=False, classes=0, width=16):
        super().__init__()
        self.embedding = EmbeddingModule(width, classes)
        self.feature_blocks = nn.ModuleList(
            UBlock(a, b, width, mode, norm) for a, b in zip((channels, *sizes[:-2]), sizes[:-1], strict=True)
        )
        self.bottleneck = UBlock(sizes[-2], sizes[-1], width, mode, norm)
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.upsamples = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.output_blocks = nn.ModuleList(UBlock(2 * b, b, width, mode, norm) for _, b in pairs)
        self.last_emb = nn.Sequential(nn.ReLU(), nn.Linear(width, sizes[0]))
        self.output_conv = nn.Conv2d(sizes[0], channels, 3, padding="same", padding_mode=mode)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, t, x, label=None):
        told, kept = self.embedding(t, label), []
        for block in self.feature_blocks:
            x = block(x, told)
            kept.append(x)
            x = self.pool(x)
        x = self.bottleneck(x, told)
        for up, block, skip in zip(self.upsamples, self.output_blocks, reversed(kept), strict=True):
            x = block(torch.cat((skip, up(x)), 1), told)
        return self.output_conv(x + self.last_emb(told)[:, :, None, None])


class DDIM(nn.Module):
    def __init__(self, backbone, noise_schedule):
        super().__init__()
        self.in_channels, self.default_imsize, self.backbone, self.noise_schedule = 2, 8, backbone, noise_schedule


def cosine_noise_schedule(t):
    raise AssertionError("code of the checkpoint ran")


@pytest.fixture
def published(monkeypatch):
    """Modules under the names that the published code has, so that checkpoints name them; gone again when they are read."""

    def save(network, path, package="src.", wrap=True):
        models, noises = f"{package}models", f"{package}utils.noise_schedules"
        names = ["src", models, f"{package}utils", noises]
        with monkeypatch.context() as m:
            for name in names:
                m.setitem(sys.modules, name, types.ModuleType(name))
            for kind in (EmbeddingModule, MinimalResNet, MinimalUNet, UBlock, DDIM):
                m.setattr(kind, "__module__", models)
                setattr(sys.modules[models], kind.__name__, kind)
            m.setattr(cosine_noise_schedule, "__module__", noises)
            sys.modules[noises].cosine_noise_schedule = cosine_noise_schedule
            torch.save(DDIM(network, cosine_noise_schedule) if wrap else network, path)
        return path

    return save


NETWORKS = {
    "resnet": lambda mode: MinimalResNet(mode=mode),
    "resnet, normalised": lambda mode: MinimalResNet(mode=mode, norm=True),
    "resnet with classes": lambda mode: MinimalResNet(mode=mode, classes=3),
    "resnet without the last shift": lambda mode: MinimalResNet(mode=mode, add_one=False, last=1),
    "unet": lambda mode: MinimalUNet(mode=mode),
    "unet, normalised, with classes": lambda mode: MinimalUNet(mode=mode, norm=True, classes=3),
}


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("name", NETWORKS)
def test_published_checkpoints_answer_as_their_own_code(name, mode, published, tmp_path):
    torch.manual_seed(0)
    network = NETWORKS[name](mode).eval()
    label = torch.tensor([0, 2, 1]) if "classes" in name else None
    x, t = noisy(size=8), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        epsilon = network(t, x, label).double()
    alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in CosineSchedule()(t.double()))
    for package, wrap in (("src.", True), ("", True), ("src.", False)):
        model = open_model(f"kamb:{published(network, tmp_path / 'net.pt', package, wrap)}", images(8))
        assert_close(model.denoise(x, t.double(), label), (x.double() - sigma * epsilon) / alpha, rtol=1e-5)
        assert model.module.padding == mode
        assert model.receptive_field == ({"resnet": 11, "resnet with classes": 11, "resnet without the last shift": 9}.get(name))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    again = open_model(f"kamb:{tmp_path}/weights.pt,padding={mode}", images(8))
    assert torch.equal(again.denoise(x, t.double(), label), model.denoise(x, t.double(), label))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("spec", ["kamb:{}", "edm:{},code=."])
@pytest.mark.parametrize("how", ["torch.save", "pickle", "inside a state dict"])
def test_nothing_pickled_runs(how, spec, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "weights.pt"
    poison = Hostile(mark)
    if how == "pickle":
        path.write_bytes(pickle.dumps(poison))
    else:
        torch.save(poison if how == "torch.save" else {"up_projection.weight": torch.zeros(1), "x": poison}, path)
    with pytest.raises(InputError) as error:
        open_model(spec.format(path), images())
    refused(error, "nothing pickled is run")
    assert not mark.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the very file would have done it elsewhere


def test_names_stand_for_nothing_once_a_file_is_read(published, tmp_path):
    open_model(f"kamb:{published(MinimalResNet(), tmp_path / 'x.pt')}", images(8))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pt", weights_only=True)


# ----------------------------------------------------------------------------------------------------------- EDM

NETWORKS_PY = """
import torch
from torch import nn
from torch_utils import GAIN

class EDMPrecond(nn.Module):
    def __init__(self, img_resolution, img_channels, label_dim=0, use_fp16=False, sigma_data=.5):
        super().__init__()
        self.use_fp16, self.sigma_data = use_fp16, sigma_data
        self.layer = nn.Conv2d(img_channels, img_channels, 3, padding=1)
        self.label = nn.Linear(label_dim, img_channels) if label_dim else None
    def forward(self, x, sigma, class_labels=None, **options):
        assert not self.use_fp16
        s = sigma.reshape(-1, 1, 1, 1)
        skip, out = self.sigma_data**2 / (s**2 + self.sigma_data**2), s * self.sigma_data / (s**2 + self.sigma_data**2).sqrt()
        f = GAIN * self.layer(x / (s**2 + self.sigma_data**2).sqrt())
        if self.label is not None:
            f = f + self.label(class_labels)[:, :, None, None]
        return skip * x + out * f
"""


@pytest.fixture
def edm(tmp_path):
    """A stand-in for the clone: the interface of the published code, with one layer in place of its network."""

    def save(**options):
        (tmp_path / "training").mkdir(exist_ok=True)
        (tmp_path / "training" / "networks.py").write_text(NETWORKS_PY)
        (tmp_path / "torch_utils.py").write_text("GAIN = 2.\n")
        names: dict = {}
        sys.path.insert(0, str(tmp_path))
        try:
            exec(NETWORKS_PY, names)
        finally:
            sys.path.remove(str(tmp_path))
        torch.manual_seed(0)
        options = {"img_resolution": 6, "img_channels": 2, "use_fp16": True, **options}
        network = names["EDMPrecond"](**options)
        torch.save({"class": "EDMPrecond", "options": options, "weights": network.state_dict()}, tmp_path / "edm.pt")
        network.use_fp16 = False
        return network, f"edm:{tmp_path}/edm.pt,code={tmp_path}"

    yield save
    sys.modules.pop("torch_utils", None)


@pytest.mark.parametrize("classes", [0, 3])
def test_edms_network_in_its_own_convention(edm, classes):
    network, spec = edm(label_dim=classes)
    model, x = open_model(spec, images()), noisy()
    label = torch.tensor([2, 0, 1]) if classes else None
    for t in (0.05, 0.5, 1.0):
        sigma = EDMSchedule()(t)[1].float()
        with torch.no_grad():
            expected = network(x * sigma, sigma.expand(3), torch.eye(3)[label] if classes else None)
        assert_close(model.denoise(x * sigma, t, label), expected, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ bad input


def saved(path, content):
    torch.save(content, path / "x.pt")
    return f"{path}/x.pt"


def edm_of(size, channels):
    return {"class": "A", "options": {"img_resolution": size, "img_channels": channels}, "weights": {}}


def code(path, text):
    (path / "own.py").write_text(text)
    return f"module:{path}/own.py:net"


BAD = {
    "no file": (lambda p, f: f"module:{p}/none.py:net", ("none.py", "does not exist")),
    "no name": (lambda p, f: f"module:{f}", ("FILE.py:NAME",)),
    "no path": (lambda p, f: "module:", ("a path",)),
    "another name": (lambda p, f: f"module:{f}:net", ("without 'net'", "two")),
    "a file that does not import": (lambda p, f: code(p, "import nothing_of_that_name"), ("does not import", "ModuleNotFoundError")),
    "a file that exits": (lambda p, f: code(p, "raise SystemExit(3)"), ("does not import", "SystemExit")),
    "a syntax error": (lambda p, f: code(p, "def net(:"), ("does not import", "SyntaxError")),
    "one argument": (lambda p, f: f"module:{f}:one", ("takes 1 argument", "(x_t, t)")),
    "four arguments": (lambda p, f: f"module:{f}:four", ("takes 4 arguments",)),
    "a number": (lambda p, f: f"module:{f}:number", ("a int", "a callable")),
    "an unknown prediction": (lambda p, f: f"module:{f}:two,prediction=x0", ("prediction=x0", "score or v")),
    "an unknown schedule": (lambda p, f: f"module:{f}:two,schedule=sigmoid", ("schedule=sigmoid",)),
    "an unknown option": (lambda p, f: f"module:{f}:two,predict=v", ("'predict'",)),
    "an option twice": (lambda p, f: f"module:{f}:two,prediction=v,prediction=v", ("once",)),
    "timesteps of a continuous schedule": (lambda p, f: f"module:{f}:two,time=timestep,schedule=cosine", ("discrete levels",)),
    "half precision": (lambda p, f: f"module:{f}:half", ("torch.float16", ".float()")),
    "weights nowhere": (lambda p, f: f"module:{f}:nowhere", ("meta",)),
    "other channels out": (lambda p, f: f"module:{f}:empty", ("(2, 1, 6, 6)", "(2, 2, 6, 6)")),
    "NaN": (lambda p, f: f"module:{f}:nan", ("NaN",)),
    "text": (lambda p, f: f"module:{f}:text", ("returns str",)),
    "half precision out": (lambda p, f: f"module:{f}:low", ("torch.float16",)),
    "an exception": (lambda p, f: f"module:{f}:wrong", ("RuntimeError", "(2, 2, 6, 6)")),
    "random": (lambda p, f: f"module:{f}:random", ("differently each time",)),
    "a factory that fails": (lambda p, f: f"module:{f}:broken", ("no checkpoint",)),
    "kamb: no file": (lambda p, f: f"kamb:{p}/x.pt", ("does not exist",)),
    "kamb: other weights": (lambda p, f: f"kamb:{saved(p, {'a': torch.zeros(1)})},padding=zeros", ("with a", "up_projection")),
    "kamb: padding unknown": (lambda p, f: f"kamb:{saved(p, MinimalResNet().state_dict())}", ("padding=circular",)),
    "kamb: other channels": (lambda p, f: f"kamb:{saved(p, MinimalResNet(3).state_dict())},padding=zeros", ("3 channels",)),
    "kamb: part of a network": (
        lambda p, f: f"kamb:{saved(p, {'up_projection.weight': torch.zeros(4, 2, 3, 3)})},padding=zeros", ("without", "ResNet")
    ),
    "kamb: cut off": (lambda p, f: (p / "x.pt").write_bytes(b"PK\3\4 cut") and f"kamb:{p}/x.pt", ("weights alone",)),
    "edm: not converted": (lambda p, f: f"edm:{saved(p, {'ema': 1})},code={p}", ("with ema", "convert the pickle")),
    "edm: no code": (lambda p, f: f"edm:{saved(p, edm_of(6, 2))}", ("code=DIR",)),
    "edm: other images": (lambda p, f: f"edm:{saved(p, edm_of(32, 3))}", ("3 x 32 x 32",)),
    "azula missing or no denoiser": (lambda p, f: f"azula:{f}:two", ("azula",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case, tmp_path, file, as_users_run_it):
    make, words = BAD[case]
    with pytest.raises(InputError) as error:
        open_model(make(tmp_path, file), images())
    refused(error, *words)


@pytest.mark.parametrize("library", ["diffusers", "azula"])
def test_a_missing_extra_is_named(library, monkeypatch, tmp_path):
    for name in (library, f"{library}.denoise"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as error:
        open_model(f"{library}:{tmp_path}", images())
    refused(error, f"score-machines[{library}]")


def test_images_times_and_labels_that_do_not_fit(file, as_users_run_it):
    model = open_model(f"module:{file}:two", images())
    for call, word in (
        (lambda: model(noisy(channels=1), 0.5), "(B, 2, 6, 6)"),
        (lambda: model(noisy() * torch.nan, 0.5), "NaN"),
        (lambda: model(noisy(), torch.rand(2)), "shape (2,)"),
        (lambda: model(noisy(), 0.0), "sigma_t"),
        (lambda: model(noisy(), 0.5, torch.rand(3)), "integers"),
    ):
        with pytest.raises(InputError) as error:
            call()
        refused(error, word)
