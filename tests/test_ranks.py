"""Training images divided over processes: the scores of one process, and a clear end when one is lost."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from tests.helpers import assert_close, noise
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.provenance import provenance

WORLD = 2


def cases():
    digits, toy = load("digits"), load("toy:layout=strip")
    data = ImageSet(digits.images[:41], "digits", weights=torch.rand(41).double() + 0.1, labels=digits.labels[:41])
    return {
        "ideal": (Ideal, data, {}),
        "equivariant": (Equivariant, data, {}),
        "local": (Local, data, {"patch_size": 3}),
        "zeros": (EquivariantLocal, data, {"patch_size": [3, 5]}),
        "circular": (EquivariantLocal, data, {"patch_size": 5, "border": "circular"}),
        "stream": (EquivariantLocal, data, {"patch_size": 3, "engine": "stream"}),
        "toy": (EquivariantLocal, toy, {"patch_size": 3}),
    }


def answers(**options) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found = {}
    for name, (machine, data, given) in cases().items():
        x = noise((3, *data.images.shape[1:]), seed=1)
        labels = [None, 3] if data.labels is not None and name != "toy" else [None]
        for label in labels:
            out = machine(data, **given, **options)(x, torch.tensor([0.1, 0.4, 0.9]), label=label)
            found |= {f"{name} {label} {field}": value for field, value in zip(out._fields, out, strict=True)}
    return found


def certify() -> None:
    """What each process leaves out of its own share adds up to a bound on all."""

    from theory.engines.pruned import walk

    walk.affordable = lambda x, *_: torch.arange(len(x)) % 2 == dist.get_rank()  # processes of two minds do as the first says
    walk.TASK = 0.0
    data, x = load("photos:count=40,size=8"), noise((2, 3, 8, 8), seed=1)
    exact, pruned = (EquivariantLocal(data, patch_size=3, **o)(x, 0.1) for o in ({}, {"rtol": 1e-2, "distributed": True}))
    assert bool(((exact.mean - pruned.mean).abs() <= 2 * pruned.skipped[:, None] + 1e-12).all())
    assert 0 < float(pruned.skipped[0].max()) <= 1e-2
    assert float(pruned.skipped[1].max()) == 0


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.save(answers(distributed=True), f"{folder}/{rank}.pt")
    certify()
    with pytest.raises(InputError, match="1 training images for 2 processes"):
        Ideal(ImageSet(torch.zeros(1, 1, 2, 2), "one"), distributed=True)(torch.zeros(1, 1, 2, 2), 0.5)
    with pytest.raises(InputError, match="holds all training images"):
        provenance(Ideal(load("digits"), distributed=True), torch.zeros(1, 1, 8, 8), 0.5)
    with pytest.raises(InputError, match="engine='dense'"):
        Ideal(load("digits"), engine="dense", distributed=True)
    dist.destroy_process_group()


def lose(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    machine = Ideal(load("digits"), distributed=True)
    machine(torch.zeros(1, 1, 8, 8), 0.5)
    if rank == 1:
        os._exit(0)
    with pytest.raises(ConnectionError, match="process 0 of 2 lost another one"):
        machine(torch.zeros(1, 1, 8, 8), 0.5)
    os._exit(0)  # the group can no longer be taken down in order


def test_two_processes_give_the_scores_of_one(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    alone, (first, second) = answers(), (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert alone.keys() == first.keys()
    for name, value in alone.items():
        assert_close(first[name], value, rtol=1e-10)
        assert torch.equal(first[name], second[name])


def test_a_lost_process_ends_the_others_with_a_clear_message(tmp_path):
    multiprocessing.spawn(lose, args=(str(tmp_path),), nprocs=WORLD)


def test_refuses_to_divide_without_a_group():
    with pytest.raises(InputError, match="init_process_group"):
        Ideal(load("digits"), distributed=True)
