"""What happens on machines that are not ours: few characters, and files that systems leave beside pictures."""

import errno
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.table import Table

from theory import plain
from theory.data import load, wait
from theory.errors import InputError, InputWarning

ROOT = Path(__file__).parent.parent
SMALL = ["--machines", "ideal", "local", "--levels", "1", "--draws", "4", "--samples", "2", "--steps", "2"]

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


def test_plain_prints_take_any_text():
    """Help, and what is printed without a console."""
    text, other = ascii("σ ± 1"), ascii("→ 漢")  # the command itself has to be of ASCII there
    code = f"from theory.commandline import Parser; p = Parser(description={text}); print({other}); p.parse_args(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ASCII}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"-> ?\n") and b"sigma +- 1" in done.stdout


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


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 2,400 pictures, and so many other files that it must be a mistake."""
    root = tmp_path_factory.mktemp("many")
    picture = io.BytesIO()
    Image.new("L", (1, 1)).save(picture, "PPM")
    for number in range(2400):
        (root / f"{number}.pgm").write_bytes(picture.getvalue())
    for number in range(7600):
        (root / f"{number}{('.txt', '', '.py', '.c', '.h', '.o')[number % 6]}").touch()
    return root


@pytest.fixture(autouse=True)
def unread(tmp_path, monkeypatch):
    """No pictures are kept from the test before."""
    monkeypatch.setenv("SCORE_MACHINES_CACHE", str(tmp_path / "cache"))


def test_a_folder_outside_all_reason_says_what_it_holds_before_it_is_read(many, tmp_path, capsys):
    (many / "0.pgm").rename(tmp_path / "0.pgm")
    (many / "0.pgm").write_bytes(b"no picture")
    try:
        with pytest.raises(InputError, match=r"0\.pgm, which can't be read"):
            load(f"folder:{many},grey=true")
    finally:
        (tmp_path / "0.pgm").replace(many / "0.pgm")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"folder {many}: 10,000 files, 2,400 of them pictures (2,400 .pgm); others: ")
    assert "1,267 .txt" in line and "1,267 without an ending" in line and line.endswith("...")


def test_very_many_files_show_progress_on_a_terminal(many):
    code, shown = terminal(sys.executable, "-c", f"from theory.data import load; print(len(load('folder:{many},grey=true')))")
    assert code == 0 and shown.endswith("2400\r\n")
    assert "files found in" in shown and "pictures read in" in shown and re.search(r"1,\d{3} of 2,400", shown)


def test_in_a_log_progress_is_a_line_now_and_then(many, capsys, monkeypatch):
    monkeypatch.setattr(wait, "PAUSE", 0.0)
    assert len(load(f"folder:{many},grey=true")) == 2400
    lines = capsys.readouterr().err.splitlines()
    assert f"pictures read in {many}: 1,000 of 2,400" in lines and not any(": 999 of" in line for line in lines)


def test_a_small_folder_is_read_in_silence(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    load(f"folder:{tmp_path}")
    assert capsys.readouterr() == ("", "")


def test_a_subfolder_that_can_not_be_read_is_left_out_with_a_warning(tmp_path, monkeypatch):
    """Simulated, because the superuser may read anything."""
    for name in ("a/a.png", "b/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(InputWarning, match=r"/b can't be read \(Permission denied\), and what is in there is left out"):
        assert len(load(f"folder:{tmp_path}")) == 1


def test_columns_of_ascii_stay_straight():
    table = Table("loss", "±", title="± and ²")
    table.add_row("1 ± 2", "→ x")
    table.add_row("10.00", "y" * 40)  # too wide: cut off with an ellipsis
    plain.make_printable()
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=plain.NAME, write_through=True)
    plain.PlainConsole(file=file, width=24).print(table)
    lines = file.buffer.getvalue().decode("ascii").splitlines()[1:]
    assert len({len(line) for line in lines}) == 1 and any("1 +- 2" in line for line in lines)


def terminal(*command: str) -> tuple[int, str]:
    """Exit code and output of a command on a terminal of ASCII."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **ASCII, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # Linux's way to say that nobody writes any more
        while part := os.read(ours, 2**16):
            shown += part
    os.close(ours)
    return process.wait(), shown.decode("ascii")


def test_a_terminal_of_ascii_gets_progress_bars_and_tables(tmp_path):
    command = [sys.executable, "-m", "theory.solve", "--dataset", "digits", *SMALL, "--out", str(tmp_path / "run")]
    code, shown = terminal(*command)
    assert code == 0 and "Traceback" not in shown
    assert "ideal: loss" in shown and "----" in shown and "+-" in shown and "written to" in shown


@pytest.mark.slow
def test_all_commands_print_in_ascii(tmp_path):
    network = ["--dataset", "digits", "--model", "resnet", "--layers", "2", "--hidden", "4", "--steps", "2", "--batch", "4"]
    commands = (
        ["empirical.train", *network, "--out", "net"],
        [
            "empirical.compare",
            "net",
            "equivariant_local",
            "--dataset",
            "digits",
            "--samples",
            "4",
            "--steps",
            "2",
            "--levels",
            "1",
            "--draws",
            "9",
        ],
        ["empirical.calibrate", "net", "--dataset", "digits", "--levels", "1", "--draws", "2", "--sizes", "3", "--out", "schedule.json"],
        ["empirical.reproduce", "digits", "--budget", ".001", "--steps", "2", "--models", "resnet-zeros", "--out", "study"],
        ["figures.make", "--only", "toy", "equation", "--out", "pictures"],
        ["figures.toy", "--out", "pictures"],
    )
    environment = {**os.environ, **ASCII, "PYTHONPATH": str(ROOT)}
    for command in commands:
        done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        assert b"Traceback" not in done.stderr and done.stdout.decode("ascii").strip(), command
