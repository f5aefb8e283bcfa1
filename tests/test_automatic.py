"""Which engine ``"auto"`` takes, and what a plan says."""

import logging

import pytest
import torch

import theory.engines.listed.fused as fused
from tests import otherdevice
from tests.helpers import random_set
from theory.data import load
from theory.engines import Case, Training, choice, choose
from theory.engines.windows.cuda import launcher
from theory.machines import MACHINES, AnalyticDenoiser, Equivariant, EquivariantLocal, Ideal, Local
from theory.meetings import everywhere, images

CUDA = torch.device("cuda")


@pytest.fixture(params=[None, "not installed", "compiler"])
def lacking(request, monkeypatch):
    """A machine with triton and a C compiler, without triton, and without a compiler."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(fused, "find_spec", lambda name: None if request.param == "not installed" else name)
    monkeypatch.setattr(fused.shutil, "which", lambda name: None if request.param == "compiler" else f"/usr/bin/{name}")
    choice._tell.cache_clear()
    return request.param


class OnCuda:
    """Stands for a tensor on CUDA, of which only that is asked."""

    dtype, device = torch.float32, CUDA

    def to(self, like) -> "OnCuda":
        return self


@pytest.fixture
def on_cuda(monkeypatch, as_users_run_it):
    """Cases of a training set on CUDA, of which nothing is computed."""
    data = random_set()
    training = Training(data, lambda mean: mean, 2**29, False)
    monkeypatch.setattr(training, "centred", lambda label, like: (data.images.float(), torch.zeros(len(data.images))))
    monkeypatch.setattr(training, "agreed", lambda choices: choices)
    monkeypatch.setattr(choice.torch, "tensor", lambda values, device: torch.Tensor(values))
    shape = tuple(data.images.shape[-2:])

    def taken(stated) -> str:
        training.free()
        return choose(Case(stated, training, None, OnCuda()), "auto").engine.name

    return lambda: (taken(everywhere(shape, (3, 3))), taken(images(shape)))


def test_patches_on_cuda_are_listed_without_cuda_core_which_is_said_once(lacking, on_cuda, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(launcher, "find_spec", lambda name: None)
    for _ in range(2):
        assert on_cuda() == ("stream" if lacking else "triton", "stream")
    (told,) = caplog.messages
    assert "needs cuda-core" in told and "pip install 'score-machines[cuda]'" in told


def test_patches_on_cuda_take_windows_where_its_kernels_can_run(on_cuda, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(launcher, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launcher, "_compiler_is_missing", lambda: None)
    for capability, engine in (((9, 0), "windows"), ((8, 0), "windows"), ((7, 5), "triton")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr(fused, "hindrance", lambda: None)
        assert on_cuda() == (engine, "stream")
    assert launcher.hindrance(CUDA).endswith("of compute capability 8.0 (Ampere) or later, not 7.5")
    assert not caplog.messages  # nothing that could be installed is missing


def test_a_compiler_named_in_the_environment_will_do(lacking, monkeypatch):
    monkeypatch.setenv("CC", "/opt/bin/cc")
    assert (fused.hindrance() is None) == (lacking != "not installed")


@pytest.mark.skipif(not otherdevice.AVAILABLE, reason="this torch has no backend for Python (2.13 has)")
@pytest.mark.parametrize("machine", [Ideal, Local])
def test_machines_ask_with_the_device_of_their_input(machine, monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "_fastest", lambda case, find=choice._fastest: asked.append(case.like.device.type) or find(case))
    data = random_set()
    options = {"patch_size": 3, "border": "zeros"} if machine.per_pixel else {}
    with otherdevice.Constants():
        x_t = data.images[:2].to(otherdevice.install())
        machine(data, **options)(x_t, 0.5)
        assert set(asked) == {otherdevice.NAME}
        asked.clear()
        machine(data, engine="stream", **options)(x_t, 0.5)
    assert not asked  # an engine asked for by name is taken


@pytest.mark.parametrize("name", list(MACHINES))
def test_a_plan_names_the_engine_its_cost_and_what_was_turned_down(name):
    data = random_set()
    machine = MACHINES[name](data, **({"patch_size": 3} if "patch_size" in MACHINES[name].settings else {}))
    told = machine.plan(data.images[:3], torch.tensor([0.2, 0.5, 0.9])).splitlines()
    if not isinstance(machine, AnalyticDenoiser):  # there is nothing to choose
        assert told == [f"{name}, class None: {machine.how}"] and machine.how
        return
    assert told[-1] == "  not pruned: rtol is 0: nothing may be left out"
    refused = [line.split(":")[0].strip() for line in told[1:-1]]
    if machine.per_pixel:
        assert ": stream (stream " in told[0] or ": windows (windows " in told[0]
        assert told[0].endswith("a noisy image on one core)") and refused == ["not fourier", "not triton"]
    else:
        assert told[0].endswith(": fourier" if name == "equivariant" else ": stream")
        assert refused == ["not windows", *([] if name == "equivariant" else ["not fourier"]), "not triton"]


def test_what_is_kept_is_freed(monkeypatch):
    machine = Equivariant(random_set())
    machine(machine.data.images[:1], 0.5)
    assert machine.training.room < machine.memory // 4
    machine.training.free()
    assert machine.training.room == machine.memory // 4
    toy = EquivariantLocal(load("toy"), patch_size=5)
    x_t = toy.data.images[:1]
    assert choose(toy.case(None, (5, 5), x_t), "auto").engine.name == "stream" and toy.training.room < toy.memory // 4
    crops = EquivariantLocal(random_set(40), patch_size=3)
    choose(crops.case(None, (3, 3), crops.data.images), "auto")
    assert crops.training.room == crops.memory // 4  # nothing is kept of a comparison that windows won
