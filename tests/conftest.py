"""Shapes and types in signatures are checked at run time, here and nowhere else."""

import os

import jaxtyping
import pytest
from jaxtyping import install_import_hook

from tests.typecheck import import_unchecked

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker is a core, and so are the processes it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")

for module in (  # those that others import first
    "compiled",
    "exponential",
    "lanes",
    "clustered.kernel",
    "listed.thin",
    "masked.kernel",
    "masked.tables",
    "windows.boxes",
    "windows.kernel",
    "windows.cuda.plan",
    "pruned.grow",
    "pruned.leaves",
    "pruned.search",
):
    import_unchecked(f"theory.engines.{module}")
install_import_hook(["theory", "empirical"], "tests.typecheck.checked")

import torch  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory) -> None:
    """No index of a user's is read or left behind."""
    os.environ["SCORE_MACHINES_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def as_users_run_it(monkeypatch):
    """Without the type checker of the tests, which would be the first to refuse a wrong type."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request) -> str:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return request.param


def pytest_collection_modifyitems(config, items) -> None:
    """CUDA tests run where there is CUDA. Where they were asked for by ``-m cuda`` and there is none, they fail."""
    if torch.cuda.is_available() or "cuda" in config.option.markexpr:
        return
    keep = [item for item in items if item.get_closest_marker("cuda") is None]
    dropped = len(items) - len(keep)
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = keep
