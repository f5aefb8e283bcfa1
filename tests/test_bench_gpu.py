"""The benchmark of a card, tried without one: what it measures is right, and what goes wrong in it is told and costs nothing else."""

import json
import signal
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import command, jobs, scores, sizes, worker
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.case import ENGINES, PEERS, Case
from benchmarks.gpu.command import Ended
from benchmarks.gpu.exact import exact_means
from benchmarks.gpu.measure import BOUND, measure
from benchmarks.gpu.outcomes import outcomes
from benchmarks.gpu.rows import row
from empirical.networks import NETWORKS
from tests import reference
from tests.helpers import assert_close, noise, random_images
from theory.machines import MACHINES

CPU = torch.device("cpu")
SMOKE = ["--device", "cpu", "--smoke"]
CASE = Case("ideal", None, None, 4, 1, 0.98)


def run(*arguments) -> int:
    return gpu.main([str(a) for a in arguments])


def one_line(capsys) -> str:
    found = capsys.readouterr()
    assert not found.out and found.err.count("\n") == 1
    return found.err


def test_without_cuda_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "OUT", tmp_path / "gpu.json")
    assert run() == 2
    assert "no CUDA device" in one_line(capsys) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cpu"], "--out"),
        (SMOKE, "--out"),
        ([*SMOKE, "--out", "x.json", "--minutes", "0"], "--minutes 0"),
        ([*SMOKE, "--out", "."], "a directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, words, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "OUT", tmp_path / "gpu.json")
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert words in one_line(capsys) and not list(tmp_path.iterdir())


def counted(case: Case) -> int:
    """Pairs, one pixel after another."""
    if case.machine != "equivariant_local":
        return case.batch * case.images * (1 if case.machine == "ideal" else case.side**2)
    size = (case.patch, case.patch)
    alike: dict = {}
    for y in range(case.side):
        for x in range(case.side):
            key = reference.inside(y, x, case.side, case.side, size) if case.border == "zeros" else None
            alike[key] = alike.get(key, 0) + 1
    return case.batch * case.images * sum(alike[key] for key in alike for _ in range(alike[key]))


def test_counts_pairs():
    full = sizes.full().cases
    for case in {replace(c, engine="auto") for c in full if c.patch in (None, 3, 17)}:
        assert case.pairs == counted(case)
    assert replace(CASE, batch=3).pairs == 12


def test_all_machines_engines_peers_and_networks_are_there():
    full = sizes.full()
    assert {c.machine for c in full.cases} == {"ideal", "equivariant", "local", "equivariant_local"}  # what engines are for
    assert {c.engine for c in full.cases} == {*ENGINES, *PEERS}
    assert len(set(full.cases)) == len(full.cases)
    assert full.networks == list(NETWORKS)


@pytest.mark.parametrize("engine", [*ENGINES, *PEERS])
def test_smoke_cases_are_measured_and_right(engine):
    rows = [measure(case, CPU) for case in sizes.smoke().cases if case.engine == engine]
    assert {r["status"] for r in rows} <= {"ok", "refused"}
    assert "ok" in {r["status"] for r in rows} or engine == "triton"
    for r in (r for r in rows if r["status"] == "ok"):
        assert r["pairs_per_second"] * r["seconds"] == pytest.approx(counted(Case(**{k: r[k] for k in asdict(CASE)})))
        assert r["best"] <= r["seconds"] and r["repeats"] >= 2 and r["first"] > 0
        assert r["error"] <= (1e-4 if engine in PEERS else BOUND)


@pytest.mark.parametrize(("border", "patch"), [("zeros", 3), ("circular", 3), ("circular", 7), ("zeros", 7), (None, None)])
@pytest.mark.parametrize("local", [False, True])
def test_exact_means_are_those_of_loops(border, patch, local):
    """Against tests/reference.py: every pixel of two noisy images."""
    images, x = random_images(3, 2, 4, 6).double(), noise((2, 2, 4, 6))
    at = torch.cartesian_prod(torch.arange(4), torch.arange(6))
    name = {(True, True): "local", (True, False): "equivariant_local", (False, True): "ideal", (False, False): "equivariant"}[
        (patch is not None, local)
    ]
    found = exact_means(name, border, patch, images, x, at, 0.6, 0.8)
    rest = ((patch, patch), border) if patch else ()
    expected = [getattr(reference, name)(i, images.numpy(), [1 / 3] * 3, 0.6, 0.8, *rest)[0] for i in x.numpy()]
    assert_close(found.transpose(1, 2).reshape(x.shape), np.stack(expected), atol=1e-12)


def test_wrong_result_fails(monkeypatch):
    """A machine whose mean is off by more than it promises, or not a number."""
    right = MACHINES["ideal"].__call__
    for wrong, words in ((1e-3, "above 2e-05"), (float("nan"), "not finite")):
        monkeypatch.setattr(MACHINES["ideal"], "__call__", lambda *a, wrong=wrong: right(*a)._replace(mean=right(*a).mean + wrong))
        found = measure(CASE, CPU)
        assert found["status"] == "failed" and words in found["message"]
        json.dumps(found, allow_nan=False)


def test_worker_tells_failures_and_goes_on(monkeypatch, tmp_path):
    """An engine that raises is a row; where it breaks the device, the process ends with that row."""
    cases = [CASE, replace(CASE, machine="none"), CASE]
    job = {"device": "cpu", "cases": [asdict(c) for c in cases], "out": tmp_path / "rows", "until": time.time() + 60, "patience": 60}
    assert worker.main(job) == 0
    rows = [json.loads(x) for x in (tmp_path / "rows").read_text().splitlines()]
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"] and rows[1]["message"] == "KeyError: 'none'"
    monkeypatch.setattr(worker, "_usable", lambda _: False)
    assert worker.main(job | {"out": tmp_path / "again"}) == worker.TOLD
    assert len((tmp_path / "again").read_text().splitlines()) == 2
    assert worker.main(job | {"out": tmp_path / "late", "until": time.time() - 1}) == 0
    assert (tmp_path / "late").read_text() == ""


@pytest.mark.parametrize(
    ("code", "output", "status", "words"),
    [(-11, "", "failed", "SIGSEGV"), (1, "Timeout (0:00:09)!\n", "stopped", "not finished"), (None, "", "stopped", "not finished")],
)
def test_crashes_and_hangs_cost_their_own_case(code, output, status, words, monkeypatch, tmp_path):
    """The second engine ends the process each time: twice it is tried, the others are all measured."""
    cases = [replace(CASE, engine=e, batch=b) for b in (1, 2, 3) for e in ("auto", "bad", "stream")]

    def python(arguments, seconds):
        job = json.loads((tmp_path / "job.json").read_text())
        for c in job["cases"]:
            if c["engine"] == "bad":
                return Ended(code, output, 5.0)
            with open(job["out"], "a") as out:
                print(json.dumps(row("scores", "x", "ok", **c)), file=out)
        return Ended(0, "", 5.0)

    monkeypatch.setattr(command, "python", python)
    rows = scores.scores(cases, "cpu", tmp_path, 60.0)
    assert [(r["engine"], r["batch"]) for r in rows] == [(c.engine, c.batch) for c in cases]
    bad = [r for r in rows if r["engine"] == "bad"]
    assert {r["status"] for r in rows if r not in bad} == {"ok"}
    assert [r["status"] for r in bad] == [status, status, "not run"]
    assert words in bad[0]["message"] and "2 times" in bad[2]["message"]


def test_scores_without_time_are_listed(tmp_path):
    rows = scores.scores([CASE, replace(CASE, engine="stream")], "cpu", tmp_path, 0.0)
    assert [(r["engine"], r["status"], r["message"]) for r in rows] == [(e, "not run", "no time left") for e in ("auto", "stream")]


def test_parts_fail_alone_and_what_was_measured_is_kept(monkeypatch, tmp_path, capsys):
    out = tmp_path / "gpu.json"

    def fails(*_):
        assert [r["part"] for r in json.loads(out.read_text())["rows"]] == ["scores"]  # written before the next part
        raise RuntimeError("CUDA error:\nan illegal memory access")

    parts = {"scores": lambda *_: [row("scores", "a", "ok", seconds=1.0)], "train": fails, "solve": lambda *_: [row("solve", "b", "ok")]}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert run(*SMOKE, "--out", out, "--parts", "scores", "train", "solve") == 1
    report = json.loads(out.read_text())
    assert [r["status"] for r in report["rows"]] == ["ok", "failed", "ok"] and report["complete"]
    assert report["rows"][1]["message"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "illegal memory access" in capsys.readouterr().out
    assert run(*SMOKE, "--out", out, "--parts", "scores") == 0  # the others were not asked for
    assert [r["status"] for r in json.loads(out.read_text())["rows"]] == ["ok", "not run", "not run"]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "PARTS", parts | {"train": interrupted})
    assert run(*SMOKE, "--out", out, "--parts", "scores", "train", "solve") == 130
    report = json.loads(out.read_text())
    assert len(report["rows"]) == 1 and not report["complete"]


def test_budget_passes_on_what_was_not_needed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget = Budget(1.0, {"a": 1, "b": 2, "c": 1})
    assert budget.take("a") == 15
    now[0] = 6.0
    assert budget.take("b") == pytest.approx(36)
    now[0] = 70.0
    assert budget.take("c") == 0


def test_command_ends_with_all_it_started(tmp_path):
    """Stopped after a second, though a grandchild holds the output; the grandchild ends too."""
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(2.5); pathlib.Path({str(mark)!r}).touch()"
    ended = command.python(
        ["-c", f"import subprocess, sys; print('on', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"], 1.0
    )
    assert ended.code is None and ended.seconds < 2 and "last: on" in ended.how
    time.sleep(2)
    assert not mark.exists()
    assert "SIGSEGV" in command.python(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"], 30).how
    assert "last: bye" in command.python(["-c", "raise SystemExit('bye')"], 30).how


REPORT = """tests/test_a.py::test_one[cuda] PASSED                       [ 25%]
tests/test_a.py::test_two[a b-cuda] FAILED                    [ 50%]
tests/test_a.py::test_three SKIPPED (no reason)               [ 75%]
tests/test_b.py::test_four """


def test_outcomes_of_tests_that_were_cut_short():
    found = outcomes(REPORT)
    assert (found.passed, found.skipped, found.failed) == (1, 1, ["tests/test_a.py::test_two[a b-cuda]"])
    assert found.under_way == "tests/test_b.py::test_four"
    assert outcomes(REPORT + "PASSED [100%]\n\nFAILED tests/test_a.py::test_two[a b-cuda] - x\n").under_way is None


@pytest.mark.parametrize(
    ("code", "output", "status", "words"),
    [
        (1, REPORT + "PASSED [100%]\n", "failed", "1 failed: tests/test_a.py::test_two[a b-cuda]"),
        (-signal.SIGSEGV, REPORT, "failed", "SIGSEGV"),
        (None, REPORT, "stopped", "share of the time"),
        (5, "no tests ran\n", "failed", "exit code 5; last: no tests ran"),
    ],
)
def test_tests_that_fail_crash_hang_or_are_none(code, output, status, words, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "python", lambda *_: Ended(code, output, 9.0))
    [found] = jobs.tests(sizes.full(), "cuda", tmp_path, 60.0)
    assert found["status"] == status and words in found["message"]
    if output.startswith(REPORT):
        assert found["failing"] == ["tests/test_a.py::test_two[a b-cuda]"] and found["passed"] in (1, 2)
        assert found.get("under_way") == (None if code == 1 else "tests/test_b.py::test_four")


def test_commands_are_judged_by_what_they_leave(monkeypatch, tmp_path):
    """An exit code 1 of the main job is a short run that isn't certified, if there is a report, and a crash if there is none."""
    size = sizes.smoke()

    def python(arguments, seconds):
        if "theory.solve" in arguments:
            (tmp_path / "solve").mkdir(exist_ok=True)
            (tmp_path / "solve" / "report.json").touch()
        return Ended(1, "RuntimeError: index is on cpu\n", 9.0)

    monkeypatch.setattr(command, "python", python)
    [solved] = jobs.solve(size, "cpu", tmp_path, 60.0)
    assert solved["status"] == "ok" and solved["certified"] is False
    [trained] = jobs.train(size, "cpu", tmp_path, 60.0)
    assert trained["status"] == "failed" and "index is on cpu" in trained["message"]
    [compared] = jobs.compare(size, "cpu", tmp_path, 60.0)
    assert compared["status"] == "not run" and compared["message"] == "no network was trained"
    monkeypatch.setattr(command, "python", lambda *_: Ended(1, "RuntimeError: index is on cpu\n", 9.0))
    (tmp_path / "solve" / "report.json").unlink()
    assert jobs.solve(size, "cpu", tmp_path, 60.0)[0]["status"] == "failed"
    assert [r["status"] for part in (jobs.train, jobs.solve, jobs.tests) for r in part(size, "cpu", tmp_path, 0.0)] == ["not run"] * 3


@pytest.mark.slow
def test_everything_at_smoke_size(tmp_path):
    """All parts, in processes of their own, on the CPU."""
    out = tmp_path / "gpu.json"
    assert run(*SMOKE, "--minutes", "20", "--out", out) == 0
    report = json.loads(out.read_text())
    assert report["complete"] and report["smoke"] and report["versions"]["torch"] == torch.__version__
    measured = [r for r in report["rows"] if r["part"] == "scores"]
    assert [Case(**{k: r.get(k) for k in asdict(CASE)}) for r in measured] == sizes.smoke().cases
    assert {r["status"] for r in measured} <= {"ok", "refused"}
    rest = {r["part"]: r for r in report["rows"] if r["part"] != "scores"}
    assert set(rest) == {"train", "compare", "solve", "tests"} and {r["status"] for r in rest.values()} == {"ok"}
    assert rest["train"]["ms_per_step"] > 0 and rest["tests"]["passed"] > 0 and "certified" in rest["solve"]
