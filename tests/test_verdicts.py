"""What the command line calls the numbers of solved families: never the optimum."""

import pytest

from theory.attention import verdicts
from theory.picture import title


def report(**changes) -> dict:
    family = {
        "certified": True,
        "feasible_only": False,
        "converged": [True, False, False],
        "failures": [[], [], []],
        "warnings": [[], ["more images would help: loss .1 on those solved on"], ["more images would help: loss .2 on those solved on"]],
        "printed": [None, None, None],
        "els_loss": [1.0, 1.0, 1.0],
    }
    levels = [{"sigma": 1.0, "alpha": 2.0}, {"sigma": 1.0, "alpha": 1.0}, {"sigma": 2.0, "alpha": 1.0}]
    return {"levels": levels, "attention": {"full": family | changes}}


FAILED = {"certified": False, "failures": [[], ["the loss is not finite"], []]}


@pytest.mark.parametrize(
    ("changes", "line", "label"),
    [
        (
            {},
            "full: certified upper bound, not converged at 2 of 3 levels (more images would help at some levels)",
            "full (upper bound)",
        ),
        (
            {"converged": [True] * 3, "warnings": [[]] * 3},
            "full: certified upper bound, converged as far as its own stages tell",
            "full (upper bound)",
        ),
        (
            {"feasible_only": True, "converged": [True] * 3, "warnings": [[]] * 3},
            "full: certified feasible point, converged as far as its own stages tell",
            "full (feasible point)",
        ),
        (FAILED, "full: NOT certified: sigma/alpha 1.000: the loss is not finite", "full (not certified)"),
    ],
)
def test_names(changes, line, label):
    assert verdicts(report(**changes)) == [line]
    assert title("full", report(**changes)) == label


def test_machines_need_no_word():
    assert title("equivariant_local", report()) == "equivariant local"
