"""Which engine ``"auto"`` takes for listed candidates."""

import logging

import pytest
import torch

import theory.posterior as posterior
import theory.posterior.fused as fused
from tests import otherdevice
from tests.helpers import random_set
from theory.machines import Ideal, Local
from theory.machines import base as machines

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(params=[None, "not installed", "compiler"])
def lacking(request, monkeypatch):
    """A machine with triton and a C compiler, without triton, and without a compiler."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(fused, "find_spec", lambda name: None if request.param == "not installed" else name)
    monkeypatch.setattr(fused.shutil, "which", lambda name: None if request.param == "compiler" else f"/usr/bin/{name}")
    posterior._tell.cache_clear()
    return request.param


def test_choice(lacking, caplog):
    caplog.set_level(logging.WARNING)
    assert posterior.automatic(CPU, True) == posterior.automatic(CPU, False) == posterior.automatic(CUDA, False) == "stream"
    assert not caplog.messages
    for _ in range(2):
        assert posterior.automatic(CUDA, True) == ("stream" if lacking else "triton")
    assert [lacking in told for told in caplog.messages] == ([True] if lacking else [])  # told once, with the reason


def test_a_compiler_named_in_the_environment_will_do(lacking, monkeypatch):
    monkeypatch.setenv("CC", "/opt/bin/cc")
    assert (fused.hindrance() is None) == (lacking != "not installed")


@pytest.mark.skipif(not otherdevice.AVAILABLE, reason="this torch has no backend for Python (2.13 has)")
@pytest.mark.parametrize(("machine", "by_patches"), [(Ideal, False), (Local, True)])
def test_machines_ask_with_the_device_of_their_input(machine, by_patches, monkeypatch):
    asked = []
    monkeypatch.setattr(machines, "automatic", lambda *told: asked.append(told) or "stream")
    data = random_set()
    options = {"patch_size": 3, "border": "zeros"} if machine.per_pixel else {}
    with otherdevice.Constants():
        x_t = data.images[:2].to(otherdevice.install())
        machine(data, **options)(x_t, 0.5)
        assert asked
        assert {(device.type, patches) for device, patches in asked} == {(otherdevice.NAME, by_patches)}
        asked.clear()
        machine(data, engine="stream", **options)(x_t, 0.5)
    assert not asked  # an engine asked for by name is taken
