"""One run at a time in a directory: the second is told who writes, and touches nothing; the lock dies with its run."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from empirical import reproduce, train
from figures import make
from tests.helpers import refused
from theory import lock, solve
from theory.errors import InputError, InputWarning
from theory.holder import gone, oneself
from theory.lock import NAME, writing

ROOT = Path(__file__).parent.parent
SOLVE = ["--dataset", "digits", "--machines", "ideal", "local", "--levels", "2", "--draws", "20", "--samples", "4", "--steps", "3"]
TRAIN = ["--dataset", "toy", "--model", "cnn", "--samples", "10", "--every", "1000000"]
FIRST = {  # runs that don't end within a test, and the first file each writes
    "theory.solve": ([*SOLVE, "--draws", "1000000"], "progress.json"),
    "empirical.train": ([*TRAIN, "--steps", "1000000"], "checkpoint.safetensors"),
}
AGAIN = {
    "theory.solve": (solve.main, SOLVE),
    "theory.solve --resume": (solve.main, [*SOLVE, "--resume"]),
    "empirical.train": (train.main, [*TRAIN, "--steps", "2"]),
    "empirical.train --resume": (train.main, [*TRAIN, "--steps", "1000000", "--resume", "--minutes", ".001"]),
    "empirical.reproduce": (reproduce.main, ["toy", "--budget", ".001"]),
    "figures.make": (make.main, ["--only", "equation"]),
}


def holding(directory: Path) -> subprocess.Popen:
    """A process that holds the lock on a directory."""
    program = f"""
import sys, time
from pathlib import Path
from theory.lock import writing
with writing(Path({str(directory)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def killed(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def inside(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("command", FIRST)
def test_a_second_run_says_who_writes_and_touches_nothing_until_the_first_is_killed(command, tmp_path, capsys):
    options, file = FIRST[command]
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-m", command, *options, "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        while not (out / file).exists():
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.05)
        before = inside(out)
        for name in (command, f"{command} --resume"):
            main, arguments = AGAIN[name]
            assert main([*arguments, "--out", str(out)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: ") and f"process {first.pid} of" in line and str(out) in line
            assert inside(out) == before and first.poll() is None
    finally:
        killed(first)
    main, arguments = AGAIN[f"{command} --resume"]
    if command == "theory.solve":
        arguments = SOLVE  # what was interrupted had other options
    assert main([*arguments, "--out", str(out)]) in (0, 130)
    assert NAME not in {p.name for p in out.iterdir()}


def test_every_command_that_writes_a_directory_finds_it_taken(tmp_path, capsys):
    holder = holding(tmp_path / "out")
    try:
        before = inside(tmp_path)
        for name, (main, arguments) in AGAIN.items():
            assert main([*arguments, "--out", str(tmp_path / "out")]) == 2, name
            (line,) = capsys.readouterr().err.splitlines()
            assert f"to which process {holder.pid} of" in line, name
            assert inside(tmp_path) == before, name
    finally:
        killed(holder)
    with writing(tmp_path / "out"):  # what is left of the killed one's lock is taken over
        assert json.loads((tmp_path / "out" / NAME).read_text())["pid"] == os.getpid()
    assert not any((tmp_path / "out").iterdir())


def test_what_is_written_stays_and_the_lock_goes(tmp_path):
    with writing(tmp_path / "a" / "b"), pytest.raises(InputError) as error, writing(tmp_path / "a" / "b"):
        pass
    refused(error, f"process {os.getpid()} of", "a directory to which no other run writes", "wait for it, or choose another --out")

    def fails():
        with writing(tmp_path / "a" / "b"):
            (tmp_path / "a" / "b" / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_lock_that_was_removed_while_it_was_opened_is_not_taken_for_one(tmp_path, monkeypatch):
    """The holder ends between the opening and the locking of the file by the next run: that locks a file that is gone."""
    opened, removed = lock._opened, []

    def late(path):
        found = opened(path)
        if not removed:
            path.unlink()
            removed.append(path)
        return found

    monkeypatch.setattr(lock, "_opened", late)
    with writing(tmp_path), pytest.raises(InputError), writing(tmp_path):
        pass
    assert removed


@pytest.fixture
def without_locks(monkeypatch):
    """As on network file systems that have none."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)


def left(directory: Path, **changed) -> Path:
    """A lock that another run wrote."""
    directory.mkdir(exist_ok=True)
    (directory / NAME).write_text(json.dumps(oneself() | changed))
    return directory


@contextmanager
def taken(directory: Path):
    """A lock held, and the error of one who wants it too."""
    with writing(directory):
        with pytest.raises(InputError) as error, writing(directory):
            pass
        yield error


@pytest.mark.usefixtures("without_locks")
def test_without_locks_the_file_is_the_lock_and_a_notice_says_so(tmp_path):
    with pytest.warns(InputWarning, match="without locks: if this run is killed"), taken(tmp_path) as error:
        refused(error, f"process {os.getpid()} of", f"remove {tmp_path / NAME} if it has ended")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("without_locks")
@pytest.mark.filterwarnings("ignore::theory.errors.InputWarning")
def test_without_locks_that_of_a_killed_run_counts_until_it_is_known_to_have_ended(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for number, changed in enumerate(({"pid": ended.pid}, {"pid": 1, "born": "0"})):  # a number may be used again
        with writing(left(tmp_path / str(number), **changed)):
            pass
    for number, changed in enumerate(({"machine": "another", "host": "node7"}, {})):
        with pytest.raises(InputError) as error, writing(left(tmp_path / f"kept{number}", **changed)):
            pass
        refused(error, f"on {changed.get('host', '')}")
        assert (tmp_path / f"kept{number}" / NAME).exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / NAME).touch()  # killed before it could say who it was
    with pytest.raises(InputError) as error, writing(tmp_path / "empty"):
        pass
    refused(error, "to which another process is writing")


def test_a_process_that_lives_is_not_gone():
    assert not gone(oneself()) and not gone({})
