"""The command line: what it writes, how it resumes, and every bad input in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.helpers import assert_close
from theory import solve
from theory.command import measure
from theory.command.options import Config
from theory.data import load
from theory.errors import InputError
from theory.machines import MACHINES, EquivariantLocal, Nearest
from theory.noise import CosineSchedule
from theory.sampling import DDIM, initial_noise

SMALL = ["--levels", "2", "--draws", "20", "--samples", "12", "--steps", "5", "--families"]  # none: they have tests of their own
NAMES = ["ideal", "equivariant", "local", "equivariant_local", "gaussian"]
ALL = ["--machines", *NAMES, *SMALL]


def run(*arguments) -> int:
    return solve.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("solve") / "toy"
    assert run("--dataset", "toy", *ALL, "--out", out) == 0
    return out


def test_writes_the_report_the_samples_and_the_picture_and_nothing_else(toy):
    assert sorted(p.name for p in toy.iterdir()) == ["report.json", "samples.safetensors", "summary.png"]
    assert np.asarray(Image.open(toy / "summary.png")).std() > 10  # something is drawn


def test_report_says_everything_that_determines_the_numbers(toy):
    report = json.loads((toy / "report.json").read_text())
    data = load("toy")
    assert report["format"] == "theory.solve/1"
    assert report["config"]["dataset"] == "toy" and report["config"]["seed"] == 0
    assert report["versions"]["torch"] == torch.__version__
    assert report["data"]["fingerprint"] == data.fingerprint
    assert set(report["machines"]) == set(report["samples"]) == set(NAMES)
    for level in report["levels"]:
        alpha, sigma = CosineSchedule()(level["t"])
        assert_close([level["alpha"], level["sigma"]], [alpha, sigma], rtol=1e-12)
    for machine in report["machines"].values():
        assert all(len(machine[k]) == 2 for k in ("loss", "loss_stderr", "excess", "excess_stderr"))
    assert report["machines"]["ideal"]["excess"] == [0, 0]
    assert report["samples"]["ideal"]["consistency"] == 1 and report["baseline"] == 5056 / 65536


def test_all_machines(tmp_path):
    assert run("--dataset", "photos:count=6,size=6", "--machines", "all", *SMALL, "--out", tmp_path / "all") == 0
    report = json.loads((tmp_path / "all" / "report.json").read_text())
    assert set(report["machines"]) == set(report["samples"]) == set(MACHINES)
    assert Config.machines == ("ideal", "local", "equivariant_local")  # what runs when none is named


def test_samples_are_those_of_the_python_interface(toy):
    tensors = load_file(toy / "samples.safetensors")
    data = load("toy")
    x = initial_noise(CosineSchedule(), (12, 3, 6, 4), seed=0)
    assert torch.equal(tensors["initial_noise"], x)
    expected = DDIM(EquivariantLocal(data, patch_size=5), 5)(x).images
    assert_close(tensors["samples.equivariant_local"], expected, atol=1e-5)


def test_same_seed_same_bytes(toy, tmp_path):
    assert run("--dataset", "toy", *ALL, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "samples.safetensors").read_bytes() == (toy / "samples.safetensors").read_bytes()
    reports = [json.loads((p / "report.json").read_text()) for p in (toy, tmp_path / "again")]
    for report in reports:
        for machine in report["machines"].values():
            machine.pop("seconds")
    assert reports[0] == reports[1]


def test_interrupted_run_resumes_to_the_same_result(toy, tmp_path, monkeypatch, capsys):
    """Stopped after two machines; resuming computes only the others and ends with the same samples."""
    out, measured = tmp_path / "run", []
    losses = measure._losses

    def stop_at_the_third(machine, *rest):
        measured.append(machine.name)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return losses(machine, *rest)

    monkeypatch.setattr(measure, "_losses", stop_at_the_third)
    assert run("--dataset", "toy", *ALL, "--out", out) == 130
    assert "--resume" in capsys.readouterr().err
    assert not (out / "report.json").exists()
    assert run("--dataset", "toy", *ALL, "--out", out, "--resume") == 0
    assert measured == [*NAMES[:3], *NAMES[2:]]
    ours, theirs = (load_file(p / "samples.safetensors") for p in (out, toy))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert sorted(p.name for p in out.iterdir()) == ["report.json", "samples.safetensors", "summary.png"]


def test_resume_refuses_another_configuration(toy, capsys):
    before = (toy / "report.json").read_bytes()
    assert run("--dataset", "toy", *ALL, "--steps", "6", "--out", toy, "--resume") == 2
    assert "another steps" in one_line(capsys)
    assert (toy / "report.json").read_bytes() == before


def test_digits_patch_schedule_and_label(tmp_path):
    arguments = [
        "--dataset",
        "digits",
        "--label",
        3,
        "--patch-size",
        "3,5x3",
        "--border",
        "circular",
        "--machines",
        "ideal",
        "equivariant_local",
        "equivariant_local:group=flip",
        "nearest:count=9",
        "patch_set:sets=flexible,share=0.5",
        "patch_set:sets=flexible,share=0.7",
    ]
    assert run(*arguments, *SMALL, "--out", tmp_path / "digits") == 0
    report = json.loads((tmp_path / "digits" / "report.json").read_text())
    assert report["data"]["images"] == int((load("digits").labels == 3).sum())
    names = arguments[arguments.index("--machines") + 1 :]
    assert list(report["machines"]) == names and report["baseline"] is None
    samples, data = load_file(tmp_path / "digits" / "samples.safetensors"), load("digits").select(3)
    assert len({x.numpy().tobytes() for x in samples.values()}) == len(names) + 1  # and the noise
    nearest = Nearest(data, count=9)
    steps = int(SMALL[SMALL.index("--steps") + 1])
    assert_close(samples["samples.nearest:count=9"], DDIM(nearest, steps)(samples["initial_noise"]).images, atol=1e-5)


def one_line(capsys) -> str:
    """The one line on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


BAD = [
    (["--dataset", "cifar"], "data set 'cifar'"),
    (["--dataset", "toy:layout=ring"], "toy layout 'ring'"),
    (["--dataset", "npz:missing.npz"], "missing.npz"),
    (["--dataset", "folder:missing"], "folder missing"),
    (["--dataset", "toy", "--patch-size", "4"], "patch size 4"),
    (["--dataset", "toy", "--patch-size", "0"], "patch size 0"),
    (["--dataset", "toy", "--patch-size", "-3"], "patch size -3"),
    (["--dataset", "toy", "--patch-size", "3x3x3"], "patch size (3, 3, 3)"),
    (["--dataset", "toy", "--patch-size", "big"], "--patch-size 'big'"),
    (["--dataset", "toy", "--border", "mirror"], "border 'mirror'"),
    (["--dataset", "toy", "--machines", "ideal", "attention"], "machine 'attention'"),
    (["--dataset", "toy", "--machines", "nearest:count=9999"], "of machine 'nearest:count=9999'"),
    (["--dataset", "toy", "--machines", "nearest:rank=9"], "option 'rank=9' of nearest"),
    (["--dataset", "toy", "--machines", "local:patch_size=4"], "of machine 'local:patch_size=4'"),
    (["--dataset", "toy", "--machines", "equivariant_local:group=rotations"], "of machine 'equivariant_local:group=rotations'"),
    (["--dataset", "digits", "--machines", "gaussian:rank=4,rank=5"], "option 'rank=5' of gaussian, after another"),
    (["--dataset", "digits", "--machines", "ideal:guidance=1"], "no guidance"),
    (["--dataset", "toy", "--schedule", "linear"], "schedule 'linear'"),
    (["--dataset", "toy", "--sampler", "euler"], "sampler 'euler'"),
    (["--dataset", "toy", "--levels", "0"], "--levels 0"),
    (["--dataset", "toy", "--steps", "0"], "--steps 0"),
    (["--dataset", "toy", "--draws", "1"], "--draws 1"),
    (["--dataset", "toy", "--samples", "0"], "--samples 0"),
    (["--dataset", "toy", "--seed", "-1"], "--seed -1"),
    (["--dataset", "toy", "--seed", "one"], "--seed"),
    (["--dataset", "toy", "--dtype", "float16"], "--dtype 'float16'"),
    (["--dataset", "toy", "--device", "tpu"], "--device 'tpu'"),
    (["--dataset", "toy", "--memory", "1"], "memory=1048576"),
    (["--dataset", "toy", "--label", "1"], "has none"),
    (["--dataset", "digits", "--label", "10"], "label 10"),
    (["--dataset", "toy", "--frobnicate"], "--frobnicate"),
    ([], "--dataset"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(a) or "nothing" for a, _ in BAD])
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(arguments, words, tmp_path, capsys):
    out = tmp_path / "out"
    try:
        code = run(*arguments, "--out", out)
    except SystemExit as error:  # argparse's way out
        code = error.code
    assert code == 2
    assert words in one_line(capsys)
    assert not out.exists()


def test_cuda_asked_for_and_absent(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--dataset", "toy", "--device", "cuda", "--out", tmp_path / "out") == 2
    assert "--device cuda" in one_line(capsys) and not (tmp_path / "out").exists()


def test_foreign_directory_is_never_touched(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("ten years of work")
    (tmp_path / "report.json").write_text('{"format": "something else"}')
    assert run("--dataset", "toy", *SMALL, "--out", tmp_path) == 2
    assert "holds other files" in one_line(capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "thesis.tex"]


def test_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run("--dataset", "toy", *SMALL, "--out", tmp_path / "file") == 2
    assert "is a file" in one_line(capsys)


def test_unwritable_output(tmp_path, capsys, monkeypatch):
    """Simulated, because the superuser may write anywhere."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run("--dataset", "toy", *SMALL, "--out", tmp_path / "out") == 2
    assert "Permission denied" in one_line(capsys)


def test_output_below_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run("--dataset", "toy", *SMALL, "--out", tmp_path / "file" / "out") == 2
    one_line(capsys)


def test_failure_while_writing_leaves_no_partial_report(tmp_path, monkeypatch):
    """A full disk at the worst moment: parts stay for --resume, no report appears."""
    import os

    replace = os.replace

    def full(source, target):
        if Path(target).name == "samples.safetensors":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "out"
    assert run("--dataset", "toy", "--machines", "ideal", *SMALL, "--out", out) == 2
    assert not (out / "report.json").exists() and (out / "parts" / "ideal.json").exists()


def test_default_directory_tells_data_sets_apart():
    specs = ["toy", "toy:layout=strip", "npz:a/b.npz", "npz:a/c.npz"]
    assert [solve.default_out(s).as_posix() for s in specs] == ["runs/toy", "runs/toy_layout=strip", "runs/npz_a_b.npz", "runs/npz_a_c.npz"]


def test_data_error_in_python_is_an_exception_with_its_parts():
    with pytest.raises(InputError) as error:
        load("cifar")
    assert error.value.given == "data set 'cifar'" and "'toy'" in error.value.expected


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as done:
        run("--help")
    text = capsys.readouterr().out
    assert done.value.code == 0
    actions = [a for a in solve.parser()._actions if a.dest != "help"]
    assert len(actions) > 15 and all(a.help for a in actions) and all(a.option_strings[0] in text for a in actions)


def test_module_runs_as_a_command():
    """In a process of its own, without the type checks of the tests."""
    done = subprocess.run([sys.executable, "-m", "theory.solve", "--dataset", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: data set 'nothing'") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path):
    """Started by torchrun: the same numbers, one report, one table."""
    options = ["--dataset", "digits", *ALL, "--label", "3"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "theory.solve", *options, "--out", "two"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to two") == 1
    assert run(*options, "--out", tmp_path / "one") == 0
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["identity"] == two["identity"]
    for name, machine in one["machines"].items():
        assert_close(two["machines"][name]["loss"], machine["loss"], rtol=1e-6)
    a, b = (load_file(tmp_path / name / "samples.safetensors") for name in ("one", "two"))
    for name in a:
        assert_close(a[name], b[name], atol=1e-3)  # float32, carried along a trajectory


def test_refuses_a_tolerance_that_is_no_share(tmp_path, capsys):
    assert run("--dataset", "digits", *SMALL, "--rtol", "2", "--out", tmp_path / "out") == 2
    assert "rtol=2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
