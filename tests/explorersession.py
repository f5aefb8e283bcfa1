"""What tests of the explorer look at: few samples of a machine, a solved score and a network with attention, on the toy data."""

import torch

from empirical.denoiser import NetworkDenoiser
from empirical.networks import build
from figures.explorer.models import Shown
from figures.explorer.session import Session
from figures.explorer.trace import Plan
from figures.results import COMMITTED
from theory.data import ImageSet, load
from theory.machines import EquivariantLocal, Ideal
from theory.noise import CosineSchedule
from theory.specification import patch_machine
from theory.stationarity import SolvedScore

PLAN = Plan(steps=5, levels=3, top=4)
TIMES = [1.0, 0.6, 0.2]  # of the levels


def network(head: str = "attention", prediction: str = "sample") -> NetworkDenoiser:
    """An untrained network: its attention is as good as any."""
    return NetworkDenoiser(build(head, 3, seed=1, hidden=8, embedding=6), CosineSchedule(), prediction, (3, 6, 4))


def toy_session(dataset: str = "toy", arguments: tuple[str, ...] = ("--dataset", "toy")) -> Session:
    """Four models on the toy grid."""
    data = load("toy")
    els = EquivariantLocal(data, patch_size=5)
    solved = SolvedScore.load(COMMITTED / "toy-grid" / "theory" / "attention" / "full", data)
    ideal, untrained = Ideal(data), network()
    shown = [
        Shown("ideal", "ideal", ideal, ideal),
        Shown("equivariant_local", "equivariant_local", els, els),
        Shown("full", "runs/toy/attention/full", solved, patch_machine(solved, data)),
        Shown("attention-0", "runs/train/toy-attention-0", untrained, els),
    ]
    return Session(dataset, data, shown, PLAN, 0, torch.device("cpu"), list(arguments))


def small_session(names: list[str], folder: str = "small") -> Session:
    """Two machines on a few random images, with hostile names where they may come from a user."""
    images = torch.rand(5, 1, 4, 5, generator=torch.Generator().manual_seed(2)) * 2 - 1
    data = ImageSet(images, folder)
    ideal, els = Ideal(data), EquivariantLocal(data, patch_size=3, engine="stream")
    shown = [Shown(names[0], names[0], ideal, ideal), Shown(names[1], names[1], els, els)]
    return Session(folder, data, shown, Plan(4, 3, 3), 0, torch.device("cpu"), ["--dataset", folder])
