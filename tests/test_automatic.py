"""Which engine ``"auto"`` takes for listed candidates."""

import logging

import pytest
import torch

import theory.posterior as posterior
from tests import otherdevice
from tests.helpers import random_set
from theory.machines import Ideal, Local
from theory.machines import base as machines

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["triton", "no triton"])
def triton(request, monkeypatch):
    monkeypatch.setattr(posterior, "has_triton", lambda: request.param)
    posterior._tell_of_triton.cache_clear()
    return request.param


def test_choice(triton, caplog):
    caplog.set_level(logging.WARNING)
    assert posterior.automatic(CPU, True) == posterior.automatic(CPU, False) == posterior.automatic(CUDA, False) == "stream"
    assert not caplog.messages
    for _ in range(2):
        assert posterior.automatic(CUDA, True) == ("triton" if triton else "stream")
    assert len(caplog.messages) == (0 if triton else 1)  # told once
    assert all("score-machines[gpu]" in told for told in caplog.messages)


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
