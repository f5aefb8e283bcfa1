"""Scores computed independently (tests/data/README.md), and float32 against float64 over all noise levels."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import assert_close
from theory.data import ImageSet
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.noise import CosineSchedule

FILES = ("digits", "synthetic")
KINDS = {
    "ideal": lambda data, k: Ideal(data),
    "equivariant": lambda data, k: Equivariant(data),
    "local": lambda data, k: Local(data, patch_size=k),
    "equivariant_local_interior": lambda data, k: EquivariantLocal(data, patch_size=k, border="circular", patches="interior"),
    "equivariant_local_circular": lambda data, k: EquivariantLocal(data, patch_size=k, border="circular"),
    "equivariant_local_zeros": lambda data, k: EquivariantLocal(data, patch_size=k, border="zeros"),
}


@cache
def golden(name: str) -> tuple[ImageSet, dict[str, np.ndarray]]:
    with np.load(Path(__file__).parent / "data" / f"{name}.npz") as archive:
        arrays = dict(archive)
    return ImageSet(torch.from_numpy(arrays["images"]), name), arrays


@cache
def machine(name: str, kind: str, size: int):
    return KINDS[kind](golden(name)[0], size)


def cases():
    for name in FILES:
        arrays = golden(name)[1]
        for kind in KINDS:
            for size in sorted(set(arrays["patch_size"][arrays["kind"] == kind].tolist())):
                yield pytest.param(name, kind, size, id=f"{name}-{kind}-{size}")


@pytest.mark.parametrize(("name", "kind", "size"), list(cases()))
def test_golden_scores(name, kind, size, dtype):
    _, arrays = golden(name)
    rows = np.flatnonzero((arrays["kind"] == kind) & (arrays["patch_size"] == size))
    assert len(rows) >= 4
    x, t = torch.from_numpy(arrays["x"][rows]).to(dtype), torch.from_numpy(arrays["t"][rows])
    score = machine(name, kind, size).score(x, t)
    # float64: independent summation orders. float32: rounding of means divided by sigma^2, measured 3e-6.
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    for row, mine in zip(rows, score, strict=True):
        assert_close(mine, arrays["score"][row], rtol=tolerance)


def test_every_golden_row_is_covered():
    for name in FILES:
        assert set(golden(name)[1]["kind"].tolist()) == set(KINDS)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_within_1e_4_of_float64_at_every_noise_level(name, kind):
    data, _ = golden(name)
    model = machine(name, kind, 0 if kind in ("ideal", "equivariant") else 7)
    sigmas = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95, 0.999], dtype=torch.float64)
    schedule = CosineSchedule()
    times = schedule.time(sigmas / torch.sqrt(1 - sigmas**2))
    epsilon = torch.randn(len(sigmas), *data.images.shape[1:], generator=torch.Generator().manual_seed(0))
    x = schedule.perturb(data.images[: len(sigmas)], times, epsilon)
    single, double = model.score(x, times), model.score(x.double(), times)
    for a, b in zip(single, double, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-4
