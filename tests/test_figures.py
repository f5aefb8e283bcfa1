"""Figures: the theorems they show, the numbers they save, and what they refuse. Drawn from the committed results."""

import json
from importlib import import_module

import pytest
import torch

from figures import make
from figures.command import Effort
from figures.numbers import Numbers
from figures.results import COMMITTED, Results
from theory.errors import InputError

RESULTS = Results()


def computed(name: str) -> Numbers:
    with torch.no_grad():
        return import_module(f"figures.{name}").compute(RESULTS, Effort("smoke", torch.device("cpu")))


def test_black_and_white_mosaics_obey_the_majority():
    """arXiv 2412.20292, sec. 4: the fixed points of ELS on two plain images are the mosaics that agree with their patches."""
    numbers = computed("machines")
    assert numbers.values["majority"] == 1 and numbers.values["finished"] == 1
    assert -1 < float(numbers.arrays["plain.els"].mean()) < 1  # a mosaic, not a training image
    assert float(numbers.arrays["plain.ideal"].abs().min()) > 0.99 and len(numbers.arrays["plain.ideal"].sign().unique()) == 1
    assert (
        numbers.values["distance"]["ideal"] < 1e-6 and numbers.values["distance"]["equivariant"] < 1e-6 < numbers.values["distance"]["els"]
    )


def test_mosaics_put_together_give_the_sample_back():
    """The last step lands on the posterior mean: nearly the heaviest candidate at a small time."""
    values = computed("mosaic").values
    assert values["digits"]["copied"] < 0.02 and values["photos"]["copied"] < 0.05
    assert 1 < values["digits"]["used"] <= values["digits"]["pieces"] < values["digits"]["pixels"]


def test_the_exact_equation_predicts_the_loss_and_the_printed_one_does_not():
    """Central differences of the loss, in float64: rounding over the step, 1e-12 / 1e-4, bounds the error."""
    error = computed("equation").values["error"]
    assert error["exact"] < 1e-6 and error["printed"] > 0.05


def test_examples_of_the_rule_are_what_they_say():
    assert computed("toy").values["obeys"] == [True] * 3 + [False] * 3


def test_attention_is_a_distribution_and_parts_add_up():
    numbers = computed("attention")
    totals = numbers.arrays["attention"].flatten(1).sum(1)
    assert torch.allclose(totals, torch.ones_like(totals), atol=1e-5)
    guess, (y, x) = numbers.arrays["local"] + numbers.arrays["context"], numbers.values["pixel"]
    error = {n: (a - numbers.arrays["exact"]).square().sum(1)[2, y, x] for n, a in (("guess", guess), ("els", numbers.arrays["els"]))}
    assert float(error["guess"]) < float(error["els"])  # where attention was chosen to help, it does


def test_tables_and_samples_tell_the_same():
    """Agreement counted again from the samples that were kept, against the report on all of them (4 standard errors)."""
    numbers, report = computed("samples"), RESULTS.report("toy-grid")
    for network, told in numbers.values.items():
        own = report["rows"][network]["theory_name"]
        expected = report["comparisons"][f"{network}-0"]["pairs"][own]["label_agreement"]["value"]
        error = (expected * (1 - expected) / told["count"]) ** 0.5
        assert abs(told["same"]["value"] - expected) < 4 * error + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", make.FIGURES)
def test_every_figure_is_drawn_and_described(name, tmp_path, capsys):
    assert make.main(["--only", name, "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    first = (tmp_path / f"{name}.png").read_bytes()
    page = (tmp_path / "index.html").read_text()
    assert "data:image/png;base64," in page and 'src="http' not in page  # self-contained
    assert make.main(["--only", name, "--out", str(tmp_path), "--redraw"]) == 0
    assert (tmp_path / f"{name}.png").read_bytes() == first  # what is saved is all it is drawn from
    assert json.loads((tmp_path / "numbers" / f"{name}.json").read_text())["config"]["figure"] == name


def test_missing_and_damaged_results_are_refused_in_one_line(tmp_path, capsys):
    for path, content in ((tmp_path / "none", None), (tmp_path / "bad", "{")):
        if content:
            (path / "toy-grid").mkdir(parents=True)
            (path / "toy-grid" / "report.json").write_text(content)
        assert make.main(["--only", "loss", "--from", str(path), "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: results") and "empirical.reproduce toy" in told and told.count("\n") == 1
    (tmp_path / "toy-grid").mkdir()
    (tmp_path / "toy-grid" / "report.json").write_text("{}")
    assert make.main(["--only", "loss", "--from", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert make.main(["--only", "none", "--out", str(tmp_path / "out")]) == 2
    assert make.main(["--only", "toy", "--redraw", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_results_of_other_data_are_refused(tmp_path):
    report = RESULTS.report("toy-grid") | {"data": {"name": "toy:layout=strip", "fingerprint": "0"}}
    (tmp_path / "toy-grid").mkdir()
    (tmp_path / "toy-grid" / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match="other images"):
        Results(tmp_path).data("toy-grid")


def test_committed_results_are_whole():
    assert (COMMITTED / "toy-grid" / "theory" / "attention" / "full.safetensors").is_file()
    assert set(RESULTS.samples("toy-grid")) >= {"theory.full", "network.attention-0"}
