"""Solved scores against whoever may lie below: made up by hand, so that who is lower is known."""

import json
import math
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from empirical import challenge as command
from empirical.challenging.places import OFF, places
from empirical.challenging.report import challenge
from empirical.challenging.tables import table, verdicts
from empirical.challenging.update import challenged
from empirical.checkpoint import Checkpoint
from empirical.denoiser import NetworkDenoiser
from empirical.members import FAMILY, standing
from empirical.networks import build
from empirical.study import toy
from empirical.training.config import Config
from tests.helpers import assert_close, refused
from theory.data import load
from theory.denoiser import Denoiser, Posterior
from theory.errors import InputError
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.noise import CosineSchedule, VESchedule
from theory.patches import PatchSchedule
from theory.plain import PlainConsole
from theory.results import versions
from theory.stationarity import FAMILIES, Options, Plan, Setting, SolvedScore
from theory.stationarity.certificate import certify
from theory.stationarity.learned import Model
from theory.stationarity.level import Level
from theory.stationarity.members import silenced

NAME = "toy:layout=strip"
STRIP = load(NAME)
TIMES = (0.4, 0.6)
TINY = Options(images=1, fresh=150, features=4, embedding=8)
EACH = {"loss", "stderr", "below", "below_stderr", "lower"}


def certified(family: str, worse: float = 1, options: Options = TINY, size: tuple[int, int] = (3, 1), border: str = "zeros") -> SolvedScore:
    """ELS as a member of a family, its local part too large by a factor, and certified as the solver does it."""
    setting = Setting(family, list(TIMES), size, border, "cosine", options)
    source = Plan(STRIP, CosineSchedule(), (family,), TIMES, size, border, options).source()
    model = Model(FAMILIES[family], setting.head, source.basis.classes, 3, options.embedding)
    start = model.start(source.basis.size, options.features, np.random.default_rng(options.seed), torch.zeros(()), 1.0)
    point = silenced(model, start)
    point.coefficients[..., model.columns()[model.family.ties.h]] *= worse
    judged = [certify(Level.of(source, t, options.fresh, (options.seed, 0, i)), model, point, 100, {}, {}) for i, t in enumerate(TIMES)]
    return SolvedScore(STRIP, setting, [point, point], [c.asdict() for c in judged])


def network(name: str, prediction: str = "sample", padding: str = "zeros", **options) -> NetworkDenoiser:
    return NetworkDenoiser(build(name, 3, hidden=8, padding=padding, **options), CosineSchedule(), prediction, (3, 2, 4))


class Shifted(Denoiser):
    """Another mean, off by a constant; not of any family."""

    def __init__(self, model: Denoiser, shift: float) -> None:
        self.model, self.shift, self.schedule = model, shift, model.schedule

    def __call__(self, x_t, t, label=None):
        return Posterior(self.model.denoise(x_t, t) + self.shift)


@pytest.fixture(scope="module")
def good() -> SolvedScore:
    return certified("full")


@pytest.fixture(scope="module")
def bad() -> SolvedScore:
    """Beyond doubt above `good`, another member of its family."""
    return certified("full", 1.3, replace(TINY, seed=1, features=6))


@pytest.fixture
def saved(tmp_path, good, bad) -> Path:
    good.save(tmp_path / "good")
    bad.save(tmp_path / "bad")
    return tmp_path


def run(saved: Path, solution: str, *rest: str) -> int:
    return command.main([str(saved / solution), "--dataset", NAME, "--device", "cpu", *rest])


def test_losses_at_the_levels_are_those_of_the_certificate(bad):
    """1e-5: means in float32, there outputs in float32."""
    report = challenge(bad, {"ideal": Ideal(STRIP)})
    solved = [x for x in report["levels"] if x["knot"] is not None]
    assert [x["knot"] for x in solved] == [0, 1] and len(report["levels"]) == 5
    for level, c in zip(solved, bad.certificates, strict=True):
        assert level["loss"] == pytest.approx(c["loss_fresh"], rel=1e-5) and level["stderr"] == pytest.approx(c["loss_stderr"], rel=1e-5)
        assert level["els_loss"] == pytest.approx(c["els_loss"], rel=1e-5) and level["negligible"] == c["negligible"]


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_differences_are_those_of_the_same_images(prediction):
    """Written out: images drawn again, both losses on each, in the units of what is predicted. 1e-4: float32 divided by sigma."""
    solution = certified("full", 1.3, replace(TINY, prediction=prediction))
    other = EquivariantLocal(STRIP, patch_size=1)
    report = challenge(solution, {"other": other}, ratios=[1.0], fresh=120)
    (level,) = report["levels"]
    source = Plan(STRIP, CosineSchedule(), ("full",), TIMES, (3, 1), "zeros", solution.setting.options).source()
    x_t = source.noisy(torch.full((120,), level["t"], dtype=torch.float64), (0, OFF, 1_000_000))
    alpha, sigma = (float(c) for c in CosineSchedule()(level["t"]))
    assert sigma / alpha == pytest.approx(1)
    size = 1 if prediction == "sample" else (alpha / sigma) ** 2
    ideal = Ideal(STRIP).denoise(x_t, level["t"]).double()
    mine, theirs = (size * (m.denoise(x_t, level["t"]).double() - ideal).square().sum((1, 2, 3)) for m in (solution, other))
    told = level["challengers"]["other"]
    assert set(told) == EACH and level["knot"] is None
    for value, expected in (
        (level["loss"], mine.mean()),
        (level["stderr"], mine.std() / 120**0.5),
        (told["loss"], theirs.mean()),
        (told["stderr"], theirs.std() / 120**0.5),
        (told["below"], (mine - theirs).mean()),
        (told["below_stderr"], (mine - theirs).std() / 120**0.5),
    ):
        assert_close(value, expected, rtol=1e-4)


def test_a_ratio_has_the_same_images_whatever_else_is_asked(good):
    """The solution of one ratio alone, and of all."""
    (alone,) = challenge(good, {"ideal": Ideal(STRIP)}, ratios=[10.0])["levels"]
    assert challenge(good, {"ideal": Ideal(STRIP)})["levels"][-1] == alone


def test_levels_and_what_lies_between_and_beyond(good):
    first, second = (float(s / a) for a, s in (CosineSchedule()(t) for t in TIMES))
    found = places(good)
    assert [p.ratio for p in found] == pytest.approx([0.1, first, math.sqrt(first * second), second, 10])
    assert [p.knot for p in found] == [None, 0, None, 1, None]
    assert [p.seed for p in found if p.knot is not None] == [(0, 0, 0), (0, 0, 1)]
    assert len({p.seed for p in found}) == 5
    assert [p.knot for p in places(good, [first * (1 + 1e-9), first, second])] == [0, 1]  # each once
    for ratios in ([-1.0], [math.nan], [1e9], [0.0]):
        with pytest.raises(InputError) as error:
            places(good, ratios)
        refused(error, "ratio")


def test_one_below_refutes_and_one_above_does_not(good, bad):
    lower, higher = challenge(bad, {"good": good}), challenge(good, {"bad": bad})
    assert lower["refuted"] and not higher["refuted"]
    assert lower["challengers"]["good"] == {"outside": "", "independent": True, "note": ""}
    for x in lower["levels"]:
        m = x["challengers"]["good"]
        assert m["lower"] is (m["below"] > 3 * m["below_stderr"] + x["negligible"]) and x["lowest"] == ("good" if m["lower"] else None)
    solved = [x for x in lower["levels"] if x["knot"] is not None]
    assert all(x["lowest"] == "good" and "good lies below by" in x["verdict"] for x in solved)
    assert all(x["lowest"] is None and x["verdict"] == "nobody below" for x in higher["levels"])


def test_els_refutes_a_family_that_contains_it_alone(bad):
    els = EquivariantLocal(STRIP, patch_size=(3, 1))
    assert challenge(bad, {"els": els}, ratios=[1.0])["refuted"]
    assert not challenge(certified("literal", 1.3), {"els": els}, ratios=[1.0])["refuted"]


def test_whoever_is_not_of_the_family_refutes_nothing(bad):
    report = challenge(bad, {"ideal": Ideal(STRIP), "local": Local(STRIP, patch_size=(3, 1))})
    assert all(x["challengers"]["ideal"]["lower"] for x in report["levels"] if x["knot"] is not None)
    assert not report["refuted"] and all(x["verdict"] == "nobody of the family tried" for x in report["levels"])
    assert challenged(bad, report, {"ideal": "ideal", "local": "local"}) == bad.certificates
    first, *_, last = verdicts(report)
    assert last.startswith("no challenger is of the family") and "ideal: not of the family (machine ideal)" in first


def test_members_among_machines_and_solutions(good):
    size = {"patch_size": (3, 1)}
    cases = {
        "": EquivariantLocal(STRIP, **size),
        "3x3 pixels": EquivariantLocal(STRIP, patch_size=3),
        "several patch sizes": EquivariantLocal(STRIP, patch_size=PatchSchedule.of([(3, 1), (1, 1)])),
        "border circular": EquivariantLocal(STRIP, border="circular", **size),
        "machine local": Local(STRIP, **size),
        "machine equivariant": Equivariant(STRIP),
        "a Shifted": Shifted(Ideal(STRIP), 0),
    }
    for words, other in cases.items():
        outside = standing(good, other).outside
        assert outside.startswith(words) and bool(outside) is bool(words), (words, outside)
    interior = EquivariantLocal(STRIP, patch_size=1, border="circular", patches="interior")
    assert "interior" in standing(good, interior).outside
    identity = like(good, "identity")
    assert standing(good, identity) == ("", False, "") and "does not contain" in standing(identity, good).outside


def like(made: SolvedScore, family: str = "full", size: tuple[int, int] = (3, 1), border: str = "zeros", **options) -> SolvedScore:
    """The same numbers under another setting: what counts for who is of its family."""
    out = copy(made)
    out.family, options = FAMILIES[family], replace(made.setting.options, **options)
    out.setting = replace(made.setting, family=family, patch_size=size, border=border, options=options)
    return out


def test_another_start_is_independent_and_the_same_is_not(good):
    assert standing(good, like(good, seed=1)).independent and standing(good, like(good, features=5)).independent
    assert not standing(good, like(good, images=2)).independent
    wide = standing(good, like(good, seed=1, embedding=9))
    assert not wide.outside and wide.independent and "9 numbers in a query or key, the solution has 8" in wide.note
    assert standing(good, like(good, prediction="score")).outside.startswith("prediction score")


def test_strength_and_temperature_count_where_the_family_can_not_take_them_up(good):
    assert not standing(good, like(good, strength=2.0, beta=3.0)).outside
    assert "strength" in standing(like(good, strength=0.0), good).outside
    one = like(good, "identity")
    assert (
        "strength" in standing(one, like(good, "identity", strength=2.0)).outside
        and not standing(one, like(good, "identity", beta=3.0)).outside
    )
    assert "beta" in standing(like(good, "literal"), like(good, "literal", beta=3.0)).outside


def test_members_among_networks(good):
    """A pixel of theirs sees 5x5."""
    full, circular = (like(good, size=(5, 5), border=b) for b in ("zeros", "circular"))
    for name, words in (
        ("attention", ""),
        ("identity", ""),
        ("cnn", ""),
        ("patch", ""),
        ("literal", "family literal"),
        ("top1", "family top1"),
    ):
        told = standing(full, network(name, embedding=8))
        assert told.outside.startswith(words) and bool(told.outside) is bool(words) and not told.independent and not told.note
        assert standing(circular, network(name, embedding=8)).outside.startswith(words or "border zeros")
    assert not standing(circular, network("attention", padding="circular")).outside
    assert "64 numbers" in standing(full, network("attention")).note
    assert not standing(full, network("resnet", layers=2)).outside and "7x7 pixels" in standing(full, network("resnet", layers=3)).outside
    assert standing(full, network("unet")).outside == "network UNet"
    assert standing(full, network("attention", prediction="epsilon")).outside.startswith("prediction epsilon")
    assert "5x5 pixels seen, the solution sees 3x1" in standing(good, network("attention")).outside


def test_networks_belong_to_the_families_they_are_reproduced_with():
    assert {name: FAMILY[name] for name in toy.TOY} == {name: m.theory for name, m in toy.TOY.items()}


def test_a_trained_network_below_refutes_and_is_written(tmp_path, capsys):
    """A network of a run directory; the solution is far too large, so that any network is lower."""
    certified("full", 3.0, size=(5, 5)).save(tmp_path / "far")
    config = Config(NAME, "attention", hidden=8, embedding=8)
    module = build("attention", 3, hidden=8, embedding=8)
    identity = {"config": asdict(config), "network": config.network(STRIP), "start": None}
    identity["data"] = {"name": STRIP.name, "fingerprint": STRIP.fingerprint, "shape": [3, 2, 4]}
    (tmp_path / "net").mkdir()
    weights = {f"average.{k}": x for k, x in module.state_dict().items()}
    Checkpoint(identity, 0, [], versions(), weights).save(tmp_path / "net" / "checkpoint.safetensors")
    code = run(tmp_path, "far", "--challengers", str(tmp_path / "net"), "ideal", "--ratios", "1", "--out", str(tmp_path / "out.json"))
    report, shown = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert code == 1 and report["refuted"] and not report["updated"] and report["format"] == command.FORMAT
    assert report["data"]["fingerprint"] == STRIP.fingerprint and report["versions"] == versions() and report["config"]["seed"] == 0
    assert report["levels"][0]["seed"] == [0, OFF, 1_000_000] and report["challengers"]["net"]["model"] == str(tmp_path / "net")
    assert "net lies below by" in shown and "ideal (not of the family)" in shown and "refuted at 1 of 1 ratios" in shown


def test_update_rewrites_the_certificates(saved, good, capsys):
    before = (saved / "bad.safetensors").read_bytes()
    ratios = (str(place.ratio) for place in places(good) if place.knot is not None)
    names = ["--challengers", str(saved / "good"), "equivariant_local", "ideal", "--ratios", *ratios]
    assert run(saved, "bad", *names) == 1
    assert SolvedScore.load(saved / "bad", STRIP).certificates == json.loads((saved / "bad.json").read_text())["certificates"]
    assert all(not c["challenges"] for c in SolvedScore.load(saved / "bad", STRIP).certificates)
    for _ in range(2):  # the second time replaces the first
        assert run(saved, "bad", *names, "--update") == 1
    assert "converged at 0 of 2 levels" in capsys.readouterr().out
    again = SolvedScore.load(saved / "bad", STRIP)
    for c in again.certificates:
        assert [(x["name"], x["independent"]) for x in c["challenges"]] == [(str(saved / "good"), True), ("equivariant_local", False)]
        assert not c["converged"] and c["best_known"] < c["loss_fresh"] and c["challenges"][0]["below"] > 0
    assert (saved / "bad.safetensors").read_bytes() == before and not again.converged


def test_a_solution_that_is_not_as_certified_is_told_and_not_updated(saved, capsys):
    """A certificate of other numbers: coordinates that came out differently here would look like this."""
    content = json.loads((saved / "bad.json").read_text())
    content["certificates"][1]["loss_fresh"] *= 1.01
    (saved / "bad.json").write_text(json.dumps(content))
    files = {f: f.read_bytes() for f in saved.iterdir()}
    names = ["--challengers", "equivariant_local", "--ratios", str(places(SolvedScore.load(saved / "bad", STRIP))[3].ratio)]
    assert run(saved, "bad", *names) == 1 and "in its certificate" in capsys.readouterr().out
    assert run(saved, "bad", *names, "--update") == 2 and "in its certificate" in capsys.readouterr().err
    assert {f: f.read_bytes() for f in saved.iterdir()} == files


def test_status_after_an_update_says_who_lies_below(good, bad):
    holds = [{**c, "failures": []} for c in bad.certificates]  # as if ELS, which it contains, had not been looked at
    solution = SolvedScore(STRIP, bad.setting, bad.points, holds)
    after = challenged(solution, challenge(solution, {"net": good}), {"net": "net"})
    assert all(c["status"].startswith("upper bound") and "net lies" in c["status"] and "below" in c["status"] for c in after)


def test_an_independent_solve_that_agrees_converges(good):
    other = like(good, seed=1)
    after = challenged(good, challenge(good, {"other": other}), {"other": "other"})
    assert all(c["converged"] for c in after) and not any(c["converged"] for c in good.certificates)


def test_bad_input_is_one_line_and_nothing_is_written(saved, capsys):
    files = {f: f.read_bytes() for f in saved.iterdir()}
    good, out = str(saved / "good"), str(saved / "out.json")
    cases = [
        ("none", ["--challengers", "ideal"]),
        ("bad", ["--challengers", "nobody"]),
        ("bad", ["--challengers", good, good]),
        ("bad", ["--challengers", str(saved / "bad")]),
        ("bad", ["--challengers", good, "--ratios", "-1"]),
        ("bad", ["--challengers", good, "--ratios", "1e9"]),
        ("bad", ["--challengers", good, "--fresh", "5"]),
        ("bad", ["--challengers", good, "--fresh", "200", "--update"]),
        ("bad", ["--challengers", good, "--ratios", "1", "--update"]),
        ("bad", ["--challengers", good, "--device", "tpu"]),
    ]
    for solution, rest in cases:
        assert run(saved, solution, *rest, "--out", out) == 2
        told = capsys.readouterr()
        assert told.err.startswith("error: ") and told.err.count("\n") == 1 and not told.out, rest
    assert run(saved, "bad", "--challengers", good, "--out", str(saved / "good.json")) == 2  # holds something else
    assert {f: f.read_bytes() for f in saved.iterdir()} == files


def test_another_schedule_or_a_loss_that_is_no_number_is_refused(good):
    with pytest.raises(InputError) as error:
        challenge(good, {"ve": Ideal(STRIP, VESchedule())})
    refused(error, "ve schedule")
    with pytest.raises(InputError) as error:
        challenge(good, {"nan": Shifted(Ideal(STRIP), math.nan)}, ratios=[1.0])
    refused(error, "nan", "not finite", "1.000")


def test_tables_are_straight_in_ascii(good, bad, tmp_path):
    report = challenge(bad, {"good [x]": good, "ideal": Ideal(STRIP)}, ratios=[0.5, 1.0])
    with (tmp_path / "shown").open("w", encoding="ascii") as file:  # would raise on anything else
        PlainConsole(width=150, file=file).print(table(report))
    text = (tmp_path / "shown").read_text()
    assert text.isascii() and "good [x] lies below by" in text and "+-" in text
    assert len({len(line) for line in text.splitlines() if line[:1] in "+|"}) == 1
