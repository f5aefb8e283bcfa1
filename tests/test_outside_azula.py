"""azula's denoisers as ours, and its samplers on our machines."""

import pytest
import torch

from empirical.models import open_model
from tests.helpers import assert_close, refused
from theory.data import ImageSet
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal
from theory.noise import CosineSchedule, EDMSchedule, Noise
from theory.sampling import DDIM, Heun

pytest.importorskip("azula.denoise", reason="denoisers and samplers of azula need the extra azula")

import azula.noise
import azula.sample
from azula.denoise import KarrasDenoiser

from empirical.outside.azula import as_azula, from_azula


def images():
    pixels = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ImageSet(pixels, "random", range="signed")


def noisy():
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Linear(torch.nn.Module):
    """As azula calls a backbone."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, t, label=None):
        return self.gain * x + t.reshape(-1, 1, 1, 1) + (0 if label is None else label.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("kind", ["VPSchedule", "CosineSchedule", "VESchedule", "RectifiedSchedule"])
def test_a_denoiser_of_azula_comes_in_on_its_own_schedule(kind):
    theirs = KarrasDenoiser(Linear(), getattr(azula.noise, kind)())
    ours, x = from_azula(theirs, (1, 4, 4)), noisy().float()
    for t in (0.05, 0.5, 0.95):
        time = torch.tensor(t)
        alpha, sigma = theirs.schedule(time)
        with torch.no_grad():
            assert_close(ours.denoise(x, t), theirs(x, time).mean, rtol=1e-6)
            assert_close(ours.epsilon(x, t), (x - alpha * theirs(x, time).mean) / sigma, rtol=1e-4)
        assert_close(ours.schedule.time(float(sigma / alpha)), t, atol=1e-5)  # theirs is computed in float32
    each = torch.tensor([0.2, 0.5, 0.9])
    expected = torch.cat([ours.denoise(x[i : i + 1], float(t)) for i, t in enumerate(each)])
    assert_close(ours.denoise(x, each), expected, rtol=1e-6)


def test_from_a_file(tmp_path):
    (tmp_path / "net.py").write_text(
        "import azula.denoise, azula.noise, torch\n"
        "class Net(torch.nn.Module):\n    def forward(self, x, t, **more): return x * 0\n"
        "def make(): return azula.denoise.KarrasDenoiser(Net(), azula.noise.VPSchedule())\n"
        "def other(x, t): return x\n"
    )
    for kind in ("azula", "module"):
        assert open_model(f"{kind}:{tmp_path}/net.py:make", images()).schedule.name == "azula VPSchedule"
    with pytest.raises(InputError) as error:
        open_model(f"azula:{tmp_path}/net.py:other", images())
    refused(error, "azula.denoise.Denoiser", "module:")


def test_its_ddim_takes_our_machines_as_they_are():
    machine, x = EquivariantLocal(images(), patch_size=3, engine="dense"), noisy()
    theirs = azula.sample.DDIMSampler(machine, steps=6, silent=True, dtype=torch.float64)
    assert_close(theirs(x), DDIM(machine, steps=6)(x).images, atol=1e-12)


def test_its_heun_asks_at_the_end_where_a_machine_has_no_answer():
    """At sigma_0 = 0 there is no posterior: a machine refuses, and on times from sigma_min on it is our Heun's second order steps."""
    machine, x = Ideal(images(), CosineSchedule()), noisy()
    heun = lambda denoiser: azula.sample.HeunSampler(denoiser, steps=5, silent=True, dtype=torch.float64)  # noqa: E731
    with pytest.raises(InputError) as error:
        heun(machine)(x)
    refused(error, "sigma_t = 0")
    wrapped = as_azula(machine, sigma_min=0.01)
    times = wrapped.first + (1 - wrapped.first) * torch.linspace(1, 0, 6, dtype=torch.float64)
    alpha, sigma = machine.schedule(times[-1])
    assert_close(sigma / alpha, 0.01, atol=1e-12)
    state, sampler = x, Heun(machine)
    for t, s in zip(times[:-1], times[1:], strict=True):
        state = sampler.step(state, t, s, None, Noise(0))
    assert_close(heun(wrapped)(x), state, atol=1e-10)


def test_schedules_with_noise_at_the_end_keep_their_times():
    machine = Ideal(images(), EDMSchedule())
    assert as_azula(machine).first == 0
    x = noisy() * 80
    theirs = azula.sample.HeunSampler(machine, steps=4, silent=True, dtype=torch.float64)(x)
    state, sampler, times = x, Heun(machine), torch.linspace(1, 0, 5, dtype=torch.float64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        state = sampler.step(state, t, s, None, Noise(0))
    assert_close(theirs, state, atol=1e-10)


def test_labels_go_through():
    machine = Ideal(ImageSet(images().images, "two", labels=torch.tensor([0, 0, 1, 1, 1]), range="signed"))
    x = noisy()
    t = torch.tensor(0.5, dtype=torch.float64)
    wrapped = as_azula(machine)
    assert torch.equal(wrapped(x, t, label=1).mean, machine(x, wrapped.first + (1 - wrapped.first) * t, 1).mean)
