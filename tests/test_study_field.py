"""``empirical.reproduce field``: every machine against a network, and on again from what is finished."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from empirical import reproduce
from empirical.metrics import Median, r2_pearson
from empirical.study import field
from figures.results import Results
from tests.helpers import assert_close
from theory.data import load
from theory.machines import MACHINES, Gaussian
from theory.sampling import DDIM, initial_noise

DATA = "photos:count=6,size=6"
SMALL = ["--dataset", DATA, "--budget", ".001", "--steps", "2", "--models", "digits-resnet"]


def test_every_machine_is_in_the_table():
    assert {spec.partition(":")[0] for spec in field.MACHINES.values()} == set(MACHINES)


def test_a_study_in_small_and_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "study"
    monkeypatch.setattr(field, "MACHINES", {k: field.MACHINES[k] for k in ("IS", "Gaussian", "linear, ES", "PCA locality", "nearest")})
    assert reproduce.main(["field", *SMALL, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "linear, ES" in printed and "memory, MB" in printed
    report = json.loads((out / "report.json").read_text())
    row = report["rows"]["digits-resnet"]
    assert set(row["models"]) == {"network", *field.MACHINES} and set(row["pairs"]) == set(field.MACHINES)
    assert all(model["seconds"] > 0 for model in row["models"].values())
    samples = load_file(out / "samples.safetensors")
    data = load(DATA)
    gaussian = Gaussian(data)
    expected = DDIM(gaussian, 10)(initial_noise(gaussian.schedule, (100, 3, 6, 6), 0)).images
    assert_close(samples["digits.Gaussian"], expected, atol=1e-5)
    agreement = Median.of(r2_pearson(samples["digits-resnet.network"], expected))
    assert_close(row["pairs"]["Gaussian"]["r2_pearson"]["value"], agreement.value, atol=1e-4)

    def again(*_, **__):
        raise AssertionError("it was finished")

    monkeypatch.setattr(field, "sampled", again)
    assert reproduce.main(["field", *SMALL, "--out", str(out)]) == 0
    assert json.loads((out / "report.json").read_text())["rows"] == report["rows"]


@pytest.mark.parametrize("options", [["--seeds", "2"], ["--solved", "x"]])
def test_refuses_options_of_the_toy(options, tmp_path, capsys):
    assert reproduce.main(["field", *SMALL, *options, "--out", str(tmp_path / "x")]) == 2
    assert "with field: expected no" in capsys.readouterr().err


def test_the_table_of_the_docs_is_that_of_the_results():
    text = Path("docs/field.md").read_text()
    report = Results().report("field/digits")
    assert set(report["machines"]) == set(field.MACHINES)
    assert [line for line in field.field_lines(report, "digits") if line not in text] == []
