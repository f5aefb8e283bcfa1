"""float32 means float32: products and convolutions in TF32 only where it is asked for."""

import pytest
import torch
from torch import nn

from empirical.denoiser import NetworkDenoiser
from empirical.precision import arithmetic
from empirical.train import Config, Trainer
from theory.data import load
from theory.noise import CosineSchedule

cudnn, cuda = torch.backends.cudnn, torch.backends.cuda


def old() -> tuple:
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32


def new() -> tuple:
    return cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


@pytest.fixture(params=["old settings", "new settings"], autouse=True)
def seen(request):
    """A program that has chosen TF32 by torch's old settings or by its new ones; how to read them."""
    if request.param == "old settings":
        before = old()
        torch.set_float32_matmul_precision("medium")
        cudnn.allow_tf32 = True
        yield old
        assert old() == ("medium", True)
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]
        return
    if not hasattr(cudnn, "conv"):
        pytest.skip("this torch has the old settings only")
    before = new()
    cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "tf32", "tf32", "ieee"
    yield new
    assert new() == ("tf32", "tf32", "ieee")
    cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before


EXACT = {old: ("highest", False), new: ("ieee", "ieee", "ieee")}
QUICK = {old: ("high", True), new: ("tf32", "tf32", "tf32")}


@pytest.mark.parametrize(("precision", "expected"), [("float32", EXACT), ("bf16", EXACT), ("tf32", QUICK)])
def test_arithmetic(precision, expected, seen):
    with arithmetic(precision):
        assert seen() == expected[seen]
        assert cudnn.deterministic
    with pytest.raises(ZeroDivisionError), arithmetic(precision):
        raise ZeroDivisionError
    assert not cudnn.deterministic


class Watched(nn.Module):
    classes, receptive_field = 0, None

    def __init__(self, seen):
        super().__init__()
        self.weight, self.seen, self.told = nn.Parameter(torch.ones(())), seen, []

    def forward(self, x, t, label):
        self.told.append(self.seen())
        return x * self.weight


def test_a_network_in_use(seen):
    module = Watched(seen)
    NetworkDenoiser(module, CosineSchedule(), "sample", (1, 2, 2)).denoise(torch.ones(3, 1, 2, 2), 0.5)
    assert module.told == [EXACT[seen]]


def test_a_training_step(seen):
    trainer = Trainer(Config("toy:layout=strip", "cnn", hidden=8, batch=4), load("toy:layout=strip"))
    told = []
    trainer.model.register_forward_hook(lambda *_: told.append(seen()))
    for parameter in trainer.model.parameters():
        parameter.register_hook(lambda grad: told.append(seen()))
    trainer.step()
    assert len(told) > 1  # forward, and backward into every parameter
    assert set(told) == {EXACT[seen]}
