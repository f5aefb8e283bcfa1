"""What happens on machines that are not ours: few characters, and files that systems leave beside pictures."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from theory.data import load

ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **ASCII}
    return subprocess.run([sys.executable, "-m", *arguments], env=environment, capture_output=True, check=False)


def test_a_pipe_of_ascii_gets_the_tables(tmp_path):
    small = ["--families", "--machines", "ideal", "--levels", "1", "--draws", "4", "--samples", "2", "--steps", "2"]
    small += ["--dataset", "toy:layout=strip"]
    done = run("theory.solve", *small, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "+-" in done.stdout.decode("ascii")  # the errors of the losses
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["theory.solve", "empirical.train"])
def test_help_in_ascii(module):
    done = run(module, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii")


def test_hidden_files_are_no_pictures(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), (0, 128, 255)).save(tmp_path / name)
    for name in ("._a.png", ".DS_Store", "Thumbs.db", ".trash/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7no picture")
    assert len(load(f"folder:{tmp_path}")) == 2


def test_a_folder_named_like_a_parameter_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "grey").mkdir()
    Image.new("RGB", (4, 4), (255, 255, 255)).save(tmp_path / "grey" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load("folder:grey").images, torch.ones(1, 3, 4, 4))
    assert load("folder:grey,grey=true").images.shape == (1, 1, 4, 4)
