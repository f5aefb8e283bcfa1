"""What a CUDA graph captures, without a card: on a second device made of the CPU, on which every wait of the host is seen."""

import pytest
import torch

from tests import otherdevice
from tests.helpers import assert_close, noise, random_set, refused
from tests.hostcuda import COMPILER, Host
from theory.captured import Captured, answer, unanswered
from theory.data import ImageSet
from theory.engines import choice
from theory.engines.listed import stream
from theory.engines.windows.engine import Windows
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.noise import Noise
from theory.sampling import DDIM, Heun

pytestmark = pytest.mark.skipif(not otherdevice.AVAILABLE, reason="this torch has no backend for Python (2.13 has)")
aten = torch.ops.aten
ASKS = (aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default)
T, S = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)


class Elsewhere(Host):
    """A card's kernels, on the CPU, for tensors of the second device."""

    @property
    def device(self) -> torch.device:
        return torch.device(otherdevice.NAME, 0)

    def launch(self, module, name, grid, block, shared, args) -> None:
        super().launch(module, name, grid, block, shared, [getattr(a, "inner", a) for a in args])


@pytest.fixture
def device():
    with otherdevice.Constants():
        yield torch.device(otherdevice.install())


@pytest.fixture
def waits(monkeypatch) -> list[str]:
    """Each time that the host waited, or moved something to the device, since the list was cleared."""
    seen, there = [], otherdevice.on_cpu

    def watched(func, args: tuple, kwargs: dict):
        moved = func in otherdevice.COPIES and (
            str(kwargs.get("device")) == "cpu" or any(type(a) is torch.Tensor for a in args if isinstance(a, torch.Tensor))
        )
        if func in ASKS or moved:
            seen.append(str(func))
        return there(func, args, kwargs)

    monkeypatch.setattr(otherdevice, "on_cpu", watched)
    return seen


MACHINES = {
    "ELS": lambda: EquivariantLocal(random_set(), patch_size=3, engine="windows"),
    "LS": lambda: Local(random_set(), patch_size=3, border="circular", engine="windows"),
    "IS": lambda: Ideal(random_set(), engine="stream"),
    "ES": lambda: Equivariant(random_set(), engine="fourier"),
}


@pytest.mark.parametrize("sampler", [DDIM, Heun])
@pytest.mark.parametrize("name", MACHINES)
def test_a_step_waits_for_nothing_while_it_is_captured_and_once_when_it_is_replayed(name, sampler, device, waits, monkeypatch):
    if name in ("ELS", "LS") and COMPILER is None:
        pytest.skip("no g++")
    monkeypatch.setitem(choice.ENGINES, "windows", Windows(Elsewhere()))
    monkeypatch.setattr(stream, "FAR", (otherdevice.NAME,))
    steps = sampler(MACHINES[name](), 4)
    images = 0.7 * noise((2, 2, 5, 4), 1).float(), 0.5 * noise((2, 2, 5, 4), 2).float()
    asked = []

    def record(call):
        waits.clear()
        call()
        asked.extend(waits)
        return call

    step = lambda x: steps.step(x, T, S, None, Noise(0))  # noqa: E731
    captured = Captured(step, images[0].to(device), record)
    assert asked == []
    expected = [step(x.to(device)).cpu() for x in images]
    for x, right in zip(images, expected, strict=True):
        x = x.to(device)
        waits.clear()
        found = captured(x)
        assert waits == [str(ASKS[0])]
        assert torch.equal(found.cpu(), right)


def test_where_rounding_would_show_the_call_is_made_again(device, monkeypatch):
    """Far from all images, where two that are nearly alike share the weight, float32 logits are not good enough: float64 ones are taken."""
    monkeypatch.setattr(stream, "FAR", (otherdevice.NAME,))
    images = random_set().images
    images = torch.cat([images, images + 2e-5 * noise(images.shape, 6)]).clamp(-1, 1).float()
    machine = Ideal(ImageSet(images, "in pairs"), engine="stream")
    x = 0.7 * noise((2, 2, 5, 4), 1).float()
    share = lambda x: machine(x, 0.2).ess  # noqa: E731
    captured = Captured(share, x.to(device), lambda call: call)
    far = (300 * x).to(device)
    assert torch.equal(captured(far).cpu(), share(far).cpu())
    with unanswered() as doubts:
        rough = share(far)
    assert bool(torch.stack(doubts).any().cpu())
    assert not torch.equal(rough.cpu(), share(far).cpu())


def test_questions_are_asked_at_once_or_kept():
    yes, no = torch.tensor(True), torch.tensor(False)
    assert answer(yes, True) and answer(yes, False) and not answer(no, True)
    with unanswered() as doubts:
        assert answer(no, True) and not answer(yes, False) and answer(yes, True)
    assert [bool(d) for d in doubts] == [True, True, False]


def test_a_captured_function_refuses_other_images_and_places():
    with pytest.raises(InputError) as error:
        Captured(lambda x: x, torch.zeros(1, 1, 2, 2))
    refused(error, "a CUDA graph of images on cpu", "CUDA device", "call the function as it is")
    captured = Captured(lambda x: x + 1, torch.zeros(1, 1, 2, 2), lambda call: call)
    assert_close(captured(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 2.0))
    with pytest.raises(InputError) as error:
        captured(torch.zeros(2, 1, 2, 2))
    refused(error, "(2, 1, 2, 2)", "(1, 1, 2, 2)", "capture the function again")


@pytest.mark.cuda
@pytest.mark.parametrize("name", MACHINES)
def test_a_step_as_a_cuda_graph(name):
    steps = DDIM(MACHINES[name](), 4)
    step = lambda x: steps.step(x, T, S, None, Noise(0))  # noqa: E731
    x = 0.7 * noise((2, 2, 5, 4), 1).float().cuda()
    captured = Captured(step, x)
    for scale in (1.0, 0.5, 300.0):
        assert_close(captured(scale * x), step(scale * x), rtol=1e-6, atol=1e-6)
