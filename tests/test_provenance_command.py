"""``python -m theory.provenance``: the table of one pixel, against the theory it tells of."""

import re
import runpy
import sys

import pytest
import torch
from helpers import assert_close

from theory.candidates import candidates
from theory.command.origins import main, pixel_of
from theory.data import load
from theory.machines import EquivariantLocal
from theory.sampling import DDIM, initial_noise
from theory.specification import open_theory

SOLVED = "results/toy-grid/theory/attention/full"


def rows(text: str) -> list[list[str]]:
    """The rows of all tables, cell by cell."""
    return [[cell.strip() for cell in line.strip("│|").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_the_table_is_what_the_theory_says(capsys):
    options = ["--dataset", "toy", "--seed", "3", "--sample", "2", "--pixel", "4,3", "--steps", "6", "--t", ".5", "--top", "3"]
    assert main(["equivariant_local", *options]) == 0
    text = capsys.readouterr().out
    data = load("toy")
    machine = EquivariantLocal(data, patch_size=5)
    run = DDIM(machine, 6)(initial_noise(machine.schedule, (3, 3, 6, 4), 3), trajectory=True)
    found = candidates(machine, run.trajectory[3][2:], 0.5, top=3)
    table = rows(text)
    assert len(table) == 3
    for k, (weight, so_far, image, y, x, alike, _) in enumerate(table):
        # three digits of a percentage
        assert float(weight.rstrip("%")) == pytest.approx(100 * float(found.weight[0, 4, 3, k]), rel=6e-3)
        assert float(so_far.rstrip("%")) == pytest.approx(100 * float(found.weight[0, 4, 3, : k + 1].sum()), rel=6e-3)
        assert int(alike) == int(found.count[0, 4, 3, k])
        assert (int(image), int(y), int(x)) == (int(found.image[0, 4, 3, k]), *found.pixel[0, 4, 3, k].tolist())
    assert "t = 0.5" in text and f"image {int(found.mosaic[0, 4, 3])}" in text
    left = float(re.search(r"left out: ([\d.e-]+)%", text)[1])
    assert left == pytest.approx(100 * float(found.rest[0, 4, 3]), rel=6e-3)


def test_a_solved_score_tells_what_it_attends_to(capsys):
    data = load("toy")
    solved = open_theory(SOLVED, data)
    told = pixel_of(solved, data, (1, 3), sample=1, t=0.4, steps=5)
    noise = initial_noise(solved.schedule, (2, 3, 6, 4), 0)
    run = DDIM(solved, 5)(noise, trajectory=True)
    split = solved.split(run.trajectory[3][1:], told.t)
    assert told.t == pytest.approx(0.4)
    assert_close(told.attention.flatten(), split.attention[0, 7], atol=1e-5)  # one at a time and two together round differently
    assert_close(told.local + told.context, told.guess, atol=1e-5)
    assert_close(told.local, split.local[0, :, 1, 3], atol=1e-5)
    assert main([SOLVED, "--dataset", "toy", "--pixel", "1,3", "--sample", "1", "--t", ".4", "--steps", "5", "--top", "2"]) == 0
    text = capsys.readouterr().out
    weights, places = split.attention[0, 7].sort(descending=True)
    first = rows(text)[2]
    assert first[1:] == [str(int(places[0]) // 4), str(int(places[0]) % 4)]
    assert float(first[0].rstrip("%")) == pytest.approx(100 * float(weights[0]), rel=6e-3)
    assert "own patch" in text and "others" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["ideal", "--pixel", "9,0"], "a row from 0 to 5"),
        (["ideal", "--pixel", "-1,0"], "a row from 0 to 5"),
        (["ideal", "--pixel", "2"], "a row and a column, as in 4,2"),
        (["ideal", "--pixel", "1,1", "--t", "0"], "a time in (0, 1]"),
        (["ideal", "--pixel", "1,1", "--t", "nan"], "a time in (0, 1]"),
        (["ideal", "--pixel", "1,1", "--top", "0"], "--top 0"),
        (["ideal", "--pixel", "1,1", "--sample", "-1"], "--sample -1"),
        (["ideal", "--pixel", "1,1", "--steps", "0"], "at least 1"),
        (["ideal:patch_size=3", "--pixel", "1,1"], "option 'patch_size=3' of ideal"),
        (["nothing", "--pixel", "1,1"], "model 'nothing'"),
        (["gaussian", "--pixel", "1,1"], "a weighted mean of training patches"),
        (["smoothed", "--pixel", "1,1"], "a weighted mean of training patches"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words, capsys):
    model, *rest = options
    rest = [f"--pixel={rest[1]}", *rest[2:]]
    assert main([model, "--dataset", "toy", *rest]) == 2
    told = capsys.readouterr().err
    assert words in told and told.startswith("error: ") and told.count("\n") == 1


def test_it_is_a_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["theory.provenance", "ideal", "--dataset", "digits", "--pixel", "0,0", "--steps", "1"])
    monkeypatch.delitem(sys.modules, "theory.provenance", raising=False)  # as in a process of its own
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("theory.provenance", run_name="__main__")
    assert ended.value.code == 0 and torch.is_grad_enabled()
