"""A solved score as a denoiser: interpolation, the split, files; and the command line around it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import assert_close, noise, refused
from theory import solve as command
from theory.command import solving
from theory.data import load
from theory.errors import InputError
from theory.machines import EquivariantLocal
from theory.metrics import noisy_images
from theory.noise import CosineSchedule
from theory.results import ResultDirectory, write_tensors
from theory.stationarity import Options, SolvedScore, solve
from theory.stationarity.descent import POLISHING
from theory.stationarity.equations import Head, Roles, forward
from theory.stationarity.learned import Net, Point
from theory.stationarity.run import Kept

SCHEDULE = CosineSchedule()
STRIP = load("toy:layout=strip")
TIMES = (0.3, 0.5, 0.7)
QUICK = Options(images=400, fresh=400, features=8, embedding=8)


@pytest.fixture(scope="module", params=["sample", "epsilon"])
def solved(request) -> SolvedScore:
    """Solved, and then moved at random, so that no level is ELS alone."""
    options = Options(**(vars(QUICK) | {"prediction": request.param}))
    found = solve(STRIP, SCHEDULE, ("full",), times=TIMES, options=options)["full"]
    generator = torch.Generator().manual_seed(0)
    moved = [Point(p.net, p.coefficients + 0.2 * torch.randn(p.coefficients.shape, generator=generator)) for p in found.points]
    return SolvedScore(STRIP, found.setting, moved, found.certificates)


def by_hand(solved: SolvedScore, point: Point, x_t: torch.Tensor, t: float) -> torch.Tensor:
    """The network of a point, written out: features, coefficients, one head, Tweedie."""
    alpha, sigma = SCHEDULE(t)
    u, els, _ = solved.basis(x_t, alpha.expand(len(x_t)), sigma.expand(len(x_t)))
    (first, offset, second, shift), coefficients = point.to(u)
    classes = solved.basis.classes
    z = torch.tanh(torch.nn.functional.silu(u @ first + offset[classes]) @ second + shift[classes])
    basis = torch.cat([torch.ones_like(els[..., :1]), els, z], -1)
    values = torch.einsum("bpi,pij->bpj", basis, coefficients[classes])
    h, q, k, v = values.split([3, 8, 8, 3], -1)
    out = solved.basis.image(forward(Roles(h, q, k, v), Head()).out)
    return out if solved.setting.options.prediction == "sample" else (x_t - sigma * out) / alpha


def mixed(solved: SolvedScore, a: int, b: int, share: float, t: float) -> Point:
    """Every number of two points mixed, from features to outputs in units of an output."""
    unit = [
        1.0 if solved.setting.options.prediction == "sample" else float(SCHEDULE(s)[0] / SCHEDULE(s)[1]) for s in (TIMES[a], t, TIMES[b])
    ]
    scale = torch.ones(3, *solved.points[a].coefficients.shape, dtype=torch.float64)
    scale[:, :, :, [0, 1, 2, -3, -2, -1]] = torch.tensor(unit, dtype=torch.float64)[:, None, None, None]
    scale[:, :, 1:4] = 1  # what multiplies ELS is a number in every unit
    one, two = (solved.points[i].to(scale) for i in (a, b))
    net = Net(*(torch.lerp(x, y, share) for x, y in zip(one.net, two.net, strict=True)))
    return Point(net, torch.lerp(one.coefficients / scale[0], two.coefficients / scale[2], share) * scale[1])


def test_at_a_level_it_is_the_solution_of_that_level(solved):
    x_t = noise((4, 3, 2, 4), seed=1)
    for level, t in enumerate(TIMES):
        assert_close(solved.denoise(x_t, t), by_hand(solved, solved.points[level], x_t, t), atol=1e-9)


def test_between_levels_every_number_is_mixed_linearly_in_the_logarithm_of_noise_to_signal(solved):
    x_t = noise((4, 3, 2, 4), seed=2)
    for a, b, t in ((0, 1, 0.42), (1, 2, 0.65)):
        low, now, high = (float(torch.log(SCHEDULE(s)[1] / SCHEDULE(s)[0])) for s in (TIMES[a], t, TIMES[b]))
        point = mixed(solved, a, b, (now - low) / (high - low), t)
        assert_close(solved.denoise(x_t, t), by_hand(solved, point, x_t, t), atol=1e-9)


def test_points_between_levels_are_those_that_are_used_there(solved):
    for t, (a, b) in ((0.4, (0, 1)), (0.6, (1, 2)), (TIMES[1], (1, 2))):
        low, here, high = (float(SCHEDULE(s)[1] / SCHEDULE(s)[0]) for s in (TIMES[a], t, TIMES[b]))
        share = torch.tensor(here / low).log() / torch.tensor(high / low).log()
        (point,), expected = solved.points_at([t]), mixed(solved, a, b, share.double(), t)
        for mine, theirs in zip((*point.net, point.coefficients), (*expected.net, expected.coefficients), strict=True):
            assert_close(mine, theirs, atol=1e-6)


def test_below_the_levels_the_nearest_one_is_used(solved):
    x_t = noise((2, 3, 2, 4), seed=3)
    assert_close(solved.denoise(x_t, 0.1), by_hand(solved, mixed(solved, 0, 0, 0.0, 0.1), x_t, 0.1), atol=1e-9)


def test_above_the_levels_what_a_solution_adds_to_els_fades(solved):
    """In proportion to alpha / sigma, so that no prediction type is divided by a vanishing alpha.

    1e-7 at t = 1: written out, an error of rounding is divided by alpha there.
    """
    x_t = noise((2, 3, 2, 4), seed=3)
    els = EquivariantLocal(STRIP, SCHEDULE, patch_size=(3, 1))
    for t, atol in ((0.97, 1e-9), (1.0, 1e-7)):
        last, now = (float(SCHEDULE(s)[1] / SCHEDULE(s)[0]) for s in (TIMES[-1], t))
        added = by_hand(solved, mixed(solved, 2, 2, 0.0, t), x_t, t) - els.denoise(x_t, t)
        assert added.abs().max() > 0.1
        assert_close(solved.denoise(x_t, t), els.denoise(x_t, t) + last / now * added, atol=atol)


def test_one_time_for_each_image_whatever_the_batch(solved):
    x_t, t = noise((5, 3, 2, 4), seed=4), torch.tensor([0.7, 0.35, 0.5, 0.9, 0.36], dtype=torch.float64)
    together = solved.denoise(x_t, t)
    alone = torch.cat([solved.denoise(x_t[i : i + 1], t[i]) for i in range(5)])
    assert_close(together, alone, atol=1e-9)
    small = SolvedScore(STRIP, solved.setting, solved.points, solved.certificates, solved.basis.clusters, memory=2**24)
    assert_close(small.denoise(x_t, t), together, atol=1e-9)


def test_float32_agrees_with_float64(solved):
    """1e-4: posteriors in float32 are good to 1e-6, which coefficients of order 1 to 10 magnify."""
    x_t = noise((6, 3, 2, 4), seed=5)
    for t in (0.3, 0.55):
        assert_close(solved.denoise(x_t.float(), t), solved.denoise(x_t, t), atol=1e-4)


def test_local_part_and_context_add_up_and_attention_is_a_probability(solved):
    x_t, t = noise((3, 3, 2, 4), seed=6), 0.6
    split = solved.split(x_t, t)
    assert_close(split.local + split.context, solved.denoise(x_t, t), atol=1e-12)
    assert_close(split.attention.sum(-1), torch.ones(3, 8), atol=1e-12)
    assert (split.attention >= 0).all()


def test_attention_rows_are_pixels_in_reading_order(solved):
    """Changing one pixel's column leaves the local parts of the others alone."""
    x_t, t = noise((1, 3, 2, 4), seed=7), 0.5
    other = x_t.clone()
    other[..., 1] += 1
    moved = (solved.split(other, t).local - solved.split(x_t, t).local).abs().sum((0, 1))
    assert (moved[:, 1] > 1e-6).all() and moved[:, [0, 2, 3]].max() < 1e-9


def test_score_and_epsilon_follow_from_the_mean(solved):
    x_t, t = noise((2, 3, 2, 4), seed=8), 0.5
    alpha, sigma = SCHEDULE(t)
    assert_close(solved.score(x_t, t), (alpha * solved.denoise(x_t, t) - x_t) / sigma**2, atol=1e-10)


def test_saved_and_loaded_it_is_the_same(solved, tmp_path):
    solved.save(tmp_path / "deep" / "full")
    again = SolvedScore.load(tmp_path / "deep" / "full", load("toy:layout=strip"))
    x_t = noise((2, 3, 2, 4), seed=9)
    assert torch.equal(again.denoise(x_t, 0.4), solved.denoise(x_t, 0.4))
    assert all(torch.equal(a, b) for a, b in zip(again.basis.clusters, solved.basis.clusters, strict=True))
    assert again.setting == solved.setting and again.certified == solved.certified
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["full.json", "full.safetensors"]


def damage(path, kind: str) -> None:
    if kind == "missing":
        path.with_name("full.safetensors").unlink()
    elif kind == "truncated":
        content = path.with_name("full.safetensors").read_bytes()
        path.with_name("full.safetensors").write_bytes(content[: len(content) // 2])
    elif kind == "a tensor short":
        tensors = load_file(path.with_name("full.safetensors"))
        save_file({k: v for k, v in tensors.items() if k != "0.second"}, path.with_name("full.safetensors"))
    elif kind == "a class short":
        tensors = load_file(path.with_name("full.safetensors"))
        save_file({k: v for k, v in tensors.items() if k != "clusters.1"}, path.with_name("full.safetensors"))
    elif kind in ("a level short", "a certificate short", "no data"):
        content = json.loads(path.with_name("full.json").read_text())
        if kind == "a level short":
            del content["setting"]["times"][0]
        elif kind == "a certificate short":
            del content["certificates"][0]
        else:
            del content["data"]
        path.with_name("full.json").write_text(json.dumps(content))
    elif kind == "foreign":
        path.with_name("full.json").write_text('{"format": "something else"}')
    else:
        path.with_name("full.json").write_text("not json")


@pytest.mark.parametrize(
    "kind",
    ["missing", "truncated", "a tensor short", "a class short", "a level short", "a certificate short", "no data", "foreign", "not json"],
)
def test_damaged_files_are_refused(solved, tmp_path, kind):
    solved.save(tmp_path / "full")
    damage(tmp_path / "full", kind)
    with pytest.raises(InputError) as error:
        SolvedScore.load(tmp_path / "full", STRIP)
    refused(error, "full", "whole")


def test_other_data_are_refused(solved, tmp_path):
    solved.save(tmp_path / "full")
    with pytest.raises(InputError) as error:
        SolvedScore.load(tmp_path / "full", load("toy"))
    refused(error, "another fingerprint")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.denoise(noise((1, 3, 2, 4)), 0.5, label=1), "label 1"),
        (lambda s: s.denoise(noise((1, 3, 4, 4)), 0.5), "(1, 3, 4, 4)"),
        (lambda s: s.denoise(noise((1, 3, 2, 4)).half(), 0.5), "float16"),
        (lambda s: s.denoise(noise((2, 3, 2, 4)), torch.tensor([0.5, 0.5, 0.5])), "time t"),
        (lambda s: s.denoise(noise((1, 3, 2, 4)), 0.0), "sigma_t = 0"),
        (lambda s: solve(STRIP, times=(0.5, 0.5)), "(0.5, 0.5)"),
        (lambda s: solve(STRIP, times=(0.0,)), "(0.0,)"),
    ],
)
def test_bad_input_is_refused(solved, call, words):
    with pytest.raises(InputError) as error:
        call(solved)
    refused(error, words)


# The command line --------------------------------------------------------------------------------

SMALL = ["--dataset", "toy:layout=strip", "--machines", "ideal", "--levels", "2", "--draws", "20", "--samples", "20", "--steps", "4"]
SOLVE = ["--families", "identity", "full", "--images", "5000", "--fresh", "400", "--features", "8", "--embedding", "4", "--challenge"]


def run(*arguments) -> int:
    return command.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("attention") / "run"
    assert run(*SMALL, *SOLVE, "--out", out) in (0, 1)
    return out


def test_report_holds_every_certificate(finished):
    report = json.loads((finished / "report.json").read_text())
    assert list(report["attention"]) == ["identity", "full"]
    for name, family in report["attention"].items():
        keys = ("loss_fresh", "loss_stderr", "els_loss", "residual", "residual_floor", "converged", "best_known", "status", "challenges")
        assert all(len(family[key]) == 2 for key in keys)
        assert [level[0]["name"] for level in family["challenges"]] == ["solve 2", "solve 2"]
        assert len(family["history"]) == 2 and all(h[-1]["loss"] > 0 for h in family["history"]) and family["solve_seconds"] > 0
        assert (finished / "attention" / f"{name}.safetensors").exists()
        assert report["samples"][name]["consistency_low"] <= report["samples"][name]["consistency"]
    loaded = SolvedScore.load(finished / "attention" / "full", STRIP)
    assert [c["loss_fresh"] for c in loaded.certificates] == report["attention"]["full"]["loss_fresh"]


def test_a_run_that_solves_nothing_leaves_no_solution_of_an_earlier_one(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    assert run(*SMALL, "--families", "--out", tmp_path / "run") == 0
    assert not (tmp_path / "run" / "attention").exists()


def test_interrupted_it_resumes_to_the_same_solution(finished, tmp_path, monkeypatch, capsys):
    """Stopped in the middle of the second descent of the first family, and again while the last is written."""
    saved, told = solving.Parts.save, []

    def stop(self, name, kept, last):
        monkeypatch.setattr(solving, "KEEP", 0)
        saved(self, name, kept, last)
        told.append(name)
        if len(told) in (2, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(solving.Parts, "save", stop)
    for resume in ([], ["--resume"]):
        assert run(*SMALL, *SOLVE, "--out", tmp_path / "run", *resume) == 130
        assert "--resume" in capsys.readouterr().err
    stages = list(dict.fromkeys(name.rsplit("-", 1)[0] for name in told))
    all_of = [f"identity-{number}-{stage}" for number in (1, 2) for stage in ("start", "spread", "level")]
    assert stages == all_of[: len(stages)]  # one after the other, none again
    monkeypatch.setattr(solving.Parts, "save", saved)
    assert run(*SMALL, *SOLVE, "--out", tmp_path / "run", "--resume") in (0, 1)
    for name in ("identity", "full"):
        ours, theirs = (p / "attention" / f"{name}.safetensors" for p in (tmp_path / "run", finished))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_descent_cut_off_between_its_two_files_starts_again(tmp_path):
    """The tensors of a later step beside the numbers of an earlier one, or of the first save, would be a state that never was."""
    results = ResultDirectory(tmp_path / "run", {}, False)
    parts = solving.Parts(results)
    for step in (76, 152):
        parts.save("full-1", lambda at=step: Kept({"theta": torch.full((3,), float(at))}, at, [], 1.0), True)
    assert parts.load("full-1").step == 152 and parts.load("full-1").tensors["theta"][0] == 152
    later = {"theta": torch.full((3,), 228.0), "step": torch.tensor(228)}
    write_tensors(tmp_path / "run" / "parts" / "attention-full-1.safetensors", later)
    assert parts.load("full-1") is None
    assert parts.load("full-2") is None


def test_starved_solve_exits_with_1_and_keeps_its_history(tmp_path, capsys):
    starved = ["--families", "full", "--images", "256", "--fresh", "200", "--features", "8"]
    assert run(*SMALL, *starved, "--out", tmp_path / "run") == 1
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("error: certificate failed: full")
    assert "NOT certified" in captured.out and "Traceback" not in captured.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not report["attention"]["full"]["certified"] and len(report["attention"]["full"]["history"][0]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--families", "quadratic"], "family 'quadratic'"),
        (["--prediction", "velocity"], "prediction 'velocity'"),
        (["--features", "1"], "features 1"),
        (["--images", "0"], "images 0"),
        (["--fresh", "5"], "fresh 5"),
        (["--embedding", "0"], "embedding 0"),
        (["--beta", "-1"], "beta -1.0"),
        (["--strength", "nan"], "strength nan"),
        (["--quality", "best"], "quality 'best'"),
        (["--patch-size", "3,5"], "2 patch sizes"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(arguments, words, tmp_path, capsys):
    assert run("--dataset", "toy", *arguments, "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_digits_are_solved_too(tmp_path):
    """Real data without a rule: no family unless asked for, and a certificate all the same."""
    small = ["--dataset", "digits", "--machines", "ideal", "--levels", "1", "--draws", "10", "--samples", "4", "--steps", "2"]
    assert run(*small, "--out", tmp_path / "none") == 0
    assert json.loads((tmp_path / "none" / "report.json").read_text())["attention"] == {}
    asked = ["--families", "identity_free", "--patch-size", "3", "--images", "5000", "--fresh", "100", "--features", "8"]
    assert run(*small, *asked, "--out", tmp_path / "one") in (0, 1)
    family = json.loads((tmp_path / "one" / "report.json").read_text())["attention"]["identity_free"]
    assert family["status"][0].startswith(("upper bound", "not certified")) and family["els_loss"][0] > 0
    shutil.rmtree(tmp_path / "one")


def test_saved_solutions_are_taken_instead_of_solving_or_measured_beside(finished, tmp_path, capsys, monkeypatch):
    """The same numbers as in the run that solved them; nothing is solved again."""
    saved = finished / "attention"
    with monkeypatch.context() as forbidden:
        forbidden.setattr(command, "solve_attention", None)
        assert run(*SMALL, "--families", "full", "--embedding", "4", "--solved", saved, "--out", tmp_path / "taken") in (0, 1)
    before, after = (json.loads((p / "report.json").read_text()) for p in (finished, tmp_path / "taken"))
    assert after["attention"]["full"] == before["attention"]["full"] | {"seconds": after["attention"]["full"]["seconds"]}
    assert after["samples"]["full"] == before["samples"]["full"]
    quick = ["--families", "full", "--images", "256", "--fresh", "200", "--features", "4"]
    assert run(*SMALL, *quick, "--reference", saved / "full", "--out", tmp_path / "beside") == 1
    report = json.loads((tmp_path / "beside" / "report.json").read_text())
    assert list(report["attention"]) == ["full", "full, reference"]
    assert report["samples"]["full, reference"] == before["samples"]["full"]
    assert [p.name for p in sorted((tmp_path / "beside" / "attention").iterdir())] == ["full.json", "full.safetensors"]
    assert "full, reference" in capsys.readouterr().out


def test_a_solve_goes_on_from_a_saved_solution_at_more_knots(finished, tmp_path):
    """Never to a higher loss; steps, images and seconds add up; what was recorded on the way stays."""
    more = ["--families", "full", "--images", "4000", "--fresh", "400", "--features", "8", "--embedding", "4", "--refinement", "1"]
    assert run(*SMALL, *more, "--start", finished / "attention", "--out", tmp_path / "on") in (0, 1)
    before, after = (SolvedScore.load(p / "attention" / "full", STRIP) for p in (finished, tmp_path / "on"))
    ratios = [float(s / a) for a, s in map(SCHEDULE, after.setting.times)]
    assert after.setting.times[::2] == before.setting.times and ratios[1] == pytest.approx((ratios[0] * ratios[2]) ** 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before.basis.clusters, after.basis.clusters, strict=True))
    old, new = (s.descent["history"] for s in (before, after))
    assert len(new) == 3 and all(a == b[: len(a)] for a, b in zip(old, new[::2], strict=True))
    own = sum(h[-1]["images"] for h in new if h) - sum(h[-1]["images"] for h in old if h)
    assert own > 0 and after.descent["images"] == before.descent["images"] + own
    assert after.descent["steps"] == before.descent["steps"] + own // POLISHING.batch * POLISHING.passes
    assert after.descent["solve_seconds"] > before.descent["solve_seconds"]
    for t in after.setting.times:
        x_t = noisy_images(STRIP, SCHEDULE, t, 2000, 7).x_t
        exact = STRIP.rule.posterior_mean(x_t, *SCHEDULE(t))
        old, new = ((s.denoise(x_t, t) - exact).square().flatten(1).sum(1) for s in (before, after))
        assert float((new - old).mean()) < 3 * float((new - old).std()) / 2000**0.5 + 1e-6


def test_a_solve_goes_on_within_a_range_and_stays_as_it_is_elsewhere(finished, tmp_path):
    """Knots between the levels are added in the range alone, and stay when it goes on once more."""
    more = ["--families", "full", "--images", "2000", "--fresh", "400", "--features", "8", "--embedding", "4"]
    before = SolvedScore.load(finished / "attention" / "full", STRIP)
    low, high = (float(s / a) for a, s in map(SCHEDULE, before.setting.times))
    within = ["--within", "0", str(0.99 * (low * high) ** 0.5), "--refinement", "2"]  # the first of three knots between
    assert run(*SMALL, *more, "--start", finished / "attention", *within, "--out", tmp_path / "on") in (0, 1)
    after = SolvedScore.load(tmp_path / "on" / "attention" / "full", STRIP)
    assert [float(s / a) for a, s in map(SCHEDULE, after.setting.times)] == pytest.approx([low, low**0.75 * high**0.25, high])
    assert torch.equal(after.points[2].coefficients, before.points[1].coefficients)
    old, new = ([h[-1]["images"] if h else 0 for h in s.descent["history"]] for s in (before, after))
    assert new[0] > old[0] and new[1] > 0 and new[2] == old[1]
    again = ["--start", tmp_path / "on" / "attention", "--within", str(high * 0.99), "99", "--out", tmp_path / "again"]
    assert run(*SMALL, *more, *again) in (0, 1)
    assert SolvedScore.load(tmp_path / "again" / "attention" / "full", STRIP).setting.times == after.setting.times


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--families", "full", "--solved", "nowhere"], "solution nowhere/full"),
        (["--families", "full", "--reference", "nowhere/full"], "solution nowhere/full"),
        (["--families", "full", "--start", "nowhere"], "a solution of 'full' in it"),
        (["--families", "full", "--embedding", "4", "--start", "SAVED"], "with features 8"),
        (["--families", "full", "--start", "SAVED", "--solved", "SAVED"], "--start and --solved"),
        (["--families", "--start", "SAVED"], "--start without a family"),
        (["--families", "full", "--within", "1", "2"], "--within without --start"),
        ([*SOLVE, "--start", "SAVED", "--within", "2", "1"], "sigma/alpha from 2 to 1: expected an ascending one"),
        ([*SOLVE, "--start", "SAVED", "--within", "nan", "1"], "sigma/alpha from nan to 1: expected an ascending one"),
        ([*SOLVE, "--start", "SAVED", "--within", "50", "60"], "sigma/alpha from 50 to 60: expected one of "),
        (["--families", "full", "--beta", "2", "--reference", "SAVED/full"], "with beta 1.0"),
        (["--families", "--reference", "SAVED/full"], "without a family"),
        (["--families", "--solved", "SAVED"], "--solved without a family"),
    ],
)
def test_solutions_of_another_problem_are_refused(finished, tmp_path, capsys, arguments, words):
    arguments = [a.replace("SAVED", str(finished / "attention")) for a in arguments]
    assert run(*SMALL, *arguments, "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], lines
    assert not (tmp_path / "out").exists()
