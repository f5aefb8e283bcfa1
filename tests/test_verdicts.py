"""What the command line calls the numbers of solved families: never the optimum."""

import pytest

from theory.command.picture import title
from theory.command.tables import attention_tables, verdicts

NOBODY, TRIED = [], [{"name": "solve 2", "independent": True, "loss": 0.5, "below": 0.0, "stderr": 0.1}]


def report(**changes) -> dict:
    family = {
        "ratios": [0.5, 1.0, 2.0],
        "certified": True,
        "converged": [True, False, False],
        "challenges": [TRIED] * 3,
        "failures": [[], [], []],
        "printed": [None, None, None],
        "els_loss": [1.0, 1.0, 1.0],
        "loss_fresh": [0.5, 0.5, 0.5],
        "loss_stderr": [0.1, 0.1, 0.1],
        "best_known": [0.5, 0.4, 0.5],
    }
    return {"config": {"prediction": "sample"}, "attention": {"full": family | changes}}


FAILED = {"certified": False, "failures": [[], ["the loss is not finite"], []]}


@pytest.mark.parametrize(
    ("changes", "line", "label"),
    [
        ({}, "full: certified, upper bound: converged at 1 of 3 levels", "full (upper bound)"),
        ({"converged": [True] * 3}, "full: certified, converged: other starts agree at every level", "full (converged)"),
        (
            {"converged": [False] * 3, "challenges": [NOBODY] * 3},
            "full: certified, upper bound: no other start has tried (--quality full)",
            "full (upper bound)",
        ),
        (FAILED, "full: NOT certified: sigma/alpha 1.000: the loss is not finite", "full (not certified)"),
    ],
)
def test_names(changes, line, label):
    assert verdicts(report(**changes)) == [line]
    assert title("full", report(**changes)) == label


def test_machines_need_no_word():
    assert title("equivariant_local", report()) == "equivariant local"


def test_the_table_says_at_each_level_what_others_found():
    (table,) = attention_tables(report(challenges=[TRIED, TRIED, NOBODY]))
    assert list(table.columns[2].cells) == [
        "0.5000 ± 0.1000\n= converged",
        "0.5000 ± 0.1000\n< 0.4000 known",
        "0.5000 ± 0.1000\n? upper bound",
    ]
