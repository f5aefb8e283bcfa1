"""float32 means float32: products and convolutions in TF32 only where it is asked for."""

import pytest
import torch
from torch import nn

from empirical.denoiser import NetworkDenoiser
from empirical.precision import arithmetic
from empirical.train import Config, Trainer
from theory.data import load
from theory.noise import CosineSchedule


@pytest.fixture(autouse=True)
def careless():
    """What torch starts with, and a user may have chosen."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    yield
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def seen() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", ("highest", False)), ("bf16", ("highest", False)), ("tf32", ("high", True))]
)
def test_arithmetic(precision, expected):
    with arithmetic(precision):
        assert seen() == expected
    with pytest.raises(ZeroDivisionError), arithmetic(precision):
        raise ZeroDivisionError


class Watched(nn.Module):
    classes, receptive_field = 0, None

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x, t, label):
        self.seen.append(seen())
        return x * self.weight


def test_a_network_in_use():
    module = Watched()
    NetworkDenoiser(module, CosineSchedule(), "sample", (1, 2, 2)).denoise(torch.ones(3, 1, 2, 2), 0.5)
    assert module.seen == [("highest", False)]


def test_a_training_step(monkeypatch):
    trainer = Trainer(Config("toy:layout=strip", "cnn", hidden=8, batch=4), load("toy:layout=strip"))
    watched = []
    trainer.learner.model.register_forward_hook(lambda *_: watched.append(seen()))
    for parameter in trainer.learner.model.parameters():
        parameter.register_hook(lambda grad: watched.append(seen()))
    trainer.step()
    assert len(watched) > 1  # forward, and backward into every parameter
    assert set(watched) == {("highest", False)}
