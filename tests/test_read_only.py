"""Where neither the package nor the home directory can be written to: containers, nodes of clusters, stores of packages."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from numba.core.caching import CacheImpl

from theory.engines.compiled import _own, _temporary, compiled

ROOT = Path(__file__).parent.parent
GATHER = """
import sys
import numpy as np
from theory.engines.pruned.grow import gather
out = np.zeros((1, 2))
gather(np.arange(4.0), np.array([1]), 1, 2, 4, out)
print(sys.modules[gather.__module__].__file__, *out[0], *gather.stats.cache_hits.values(), *gather.stats.cache_misses.values())
"""


def locked(path: Path) -> None:
    """Nothing in it can be written any more."""
    for entry in [path, *path.rglob("*")]:
        entry.chmod(entry.stat().st_mode & ~0o222)


def as_anyone(command: list[str]) -> list[str]:
    """The command, to which permissions apply even if the superuser gives it."""
    if os.getuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.fail("the superuser may write anywhere: run the tests as another user, or install setpriv (util-linux)")
    dropped = "-dac_override,-dac_read_search,-fowner"
    return ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped, *command]


@pytest.fixture
def read_only(tmp_path):
    """The environment of a package and a home that can't be written to; the temporary directory can."""
    shutil.copytree(ROOT / "theory", tmp_path / "package" / "theory", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    locked(tmp_path / "package")
    locked(tmp_path / "home")
    gone = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in gone}
    paths = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "temporary", "PYTHONPATH": tmp_path / "package"}
    yield env | {name: str(path) for name, path in paths.items()}
    for path in (tmp_path / "package", *(tmp_path / "package").rglob("*"), tmp_path / "home"):
        path.chmod(0o755)


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = as_anyone([sys.executable, *arguments])
    return subprocess.run(command, cwd=env["TMPDIR"], env=env, capture_output=True, text=True, check=False)


def test_functions_are_compiled_once_into_a_temporary_cache_with_one_line_of_notice(read_only):
    for hits, misses in ((0, 1), (1, 0)):
        done = run(read_only, "-c", GATHER)
        assert done.returncode == 0, done.stderr
        file, *numbers = done.stdout.split()
        assert file.startswith(read_only["PYTHONPATH"])
        assert [float(n) for n in numbers] == [1, 2] + [1] * hits + [1] * misses
        (line,) = done.stderr.splitlines()
        assert f"kept in {read_only['TMPDIR']}/score-machines-" in line and "NUMBA_CACHE_DIR" in line


def test_a_cache_that_somebody_else_could_have_filled_is_not_used(tmp_path, monkeypatch):
    """Files in it are run."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted, file, link = tmp_path / "planted", tmp_path / "file", tmp_path / "link"
    planted.mkdir()
    planted.chmod(0o777)
    file.touch()
    link.symlink_to(tmp_path)
    for path in (planted, file, link):
        assert _own(path) not in (planted, file, link)
    assert _own(tmp_path / "mine") == _own(tmp_path / "mine") == tmp_path / "mine"
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700


def test_without_any_place_functions_are_compiled_and_not_kept(monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    _temporary.cache_clear()
    assert compiled()(lambda x: x + 1)(1) == 2 and compiled()(lambda x: x + 2)(1) == 3
    (line,) = caplog.messages
    assert "not kept" in line
    _temporary.cache_clear()
