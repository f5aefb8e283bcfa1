"""Planted truths: a network that is a theory is found to be that theory; what a convolution sees is what its layers say."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

from empirical import explain
from empirical.explaining import study as study_module
from empirical.explaining import svg
from empirical.explaining.effort import FEWEST, Cost, Effort, fitted
from empirical.explaining.seeing import attention_layers, seen
from empirical.explaining.theories import PADDED, THEORIES, sizes_to_try
from empirical.explaining.verdict import lead, parting
from empirical.models import open_model
from empirical.outside.denoiser import OutsideDenoiser
from tests.helpers import assert_close, refused
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import Ideal
from theory.noise import CosineSchedule
from theory.sampling import DDIM, initial_noise

SMALL = ["--samples", "14", "--steps", "3", "--levels", "2", "--draws", "6", "--calibration", "3"]


@pytest.fixture
def pixels(tmp_path):
    images = (np.random.default_rng(0).random((16, 5, 5)) * 255).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(16) % 2)
    return f"npz:{tmp_path}/x.npz"


def explained(network, data, out, *more):
    """The report of a run that ends well."""
    assert explain.main([network, "--dataset", data, "--out", str(out), *SMALL, *more]) == 0
    return json.loads((out / "report.json").read_text())


# ------------------------------------------------------------------------------------------------ planted truths


@pytest.mark.parametrize("border", ["zeros", pytest.param("circular", marks=pytest.mark.slow)])
def test_a_network_that_is_a_theory_is_found_to_be_that_theory(border, pixels, tmp_path, capsys):
    report = explained(f"equivariant_local:patch_size=3,border={border}", pixels, tmp_path / "out")
    best, second = report["ranking"][:2]
    assert best["name"] == f"els-{border}"
    assert best["r2_pearson"]["value"] > 0.9999
    assert second["r2_pearson"]["high"] < 0.9
    assert report["lead"]["low"] > 0
    assert report["seeing"]["padding"] == border
    assert [level["best"] for level in report["calibration"][border]["levels"]] == [3, 3]
    assert min(level["cosine"]["value"] for level in best["levels"]) > 0.9999
    assert {row["name"] for row in report["ranking"]} == set(THEORIES)
    told = capsys.readouterr().out
    assert "this will take about" in told
    assert f"ELS, {PADDED[border]} predicts this network" in told


def test_the_ideal_score_is_the_only_theory_of_itself(pixels, tmp_path):
    report = explained("ideal", pixels, tmp_path / "out", "--theories", "es", "els-zeros", "--label", "1")
    assert report["ranking"][0]["name"] == "ideal"
    assert report["data"]["images"] == 8
    assert report["memorised"]["network"]["value"] > 0.5  # it replays its training images
    assert report["nearest"]["r2_pearson"]["value"] > 0.9
    assert "copies of training images" in " ".join(report["verdict"])


def test_samples_are_those_of_the_sampler(pixels, tmp_path):
    from safetensors.torch import load_file

    explained("ideal", pixels, tmp_path / "out", "--theories", "ideal")
    made, data = load_file(tmp_path / "out" / "samples.safetensors"), load(pixels)
    machine = Ideal(data, CosineSchedule())
    expected = DDIM(machine, 3)(initial_noise(machine.schedule, (14, 1, 5, 5), 0)).images
    assert_close(made["samples.network"], expected, atol=1e-5)
    assert torch.equal(made["samples.network"], made["samples.ideal"])


def test_what_denoises_worse_than_the_mean_image_is_doubted(pixels, tmp_path):
    (tmp_path / "net.py").write_text("def net(x_t, t): return x_t * 0 + 3\n")
    report = explained(f"module:{tmp_path}/net.py:net,prediction=sample", pixels, tmp_path / "out", "--theories", "ideal")
    assert "denoises worse than the mean image" in report["warnings"][0]
    assert "constant" in report["verdict"][0]  # and a network without any contrast is said to be one


def test_a_further_theory_is_one_of_the_table(pixels, tmp_path):
    spec = "equivariant_local:patch_size=5,border=zeros"
    report = explained(spec, pixels, tmp_path / "out", "--theories", "ideal", "--theory", spec)
    assert (report["ranking"][0]["name"], report["ranking"][0]["r2_pearson"]["value"]) == (spec, pytest.approx(1, abs=1e-6))


def test_a_network_from_elsewhere_is_held_against_the_equations_of_what_it_predicts(tmp_path):
    """``v`` too; a machine says nothing, and stands for the mean itself."""
    from empirical.explaining.attention import _prediction

    data = load("digits")
    (tmp_path / "net.py").write_text("def net(x, t):\n    return x\n")
    for prediction in ("sample", "epsilon", "score", "v"):
        assert _prediction(open_model(f"module:{tmp_path}/net.py:net,prediction={prediction}", data)) == prediction
    assert _prediction(open_model("ideal", data)) == "sample"


@pytest.mark.slow
def test_attention_is_solved_for_a_network_that_has_it(tmp_path, monkeypatch):
    from empirical import train
    from empirical.explaining import attention
    from theory.stationarity.options import Options

    config = train.Config("toy:layout=strip", "attention", hidden=8, steps=4, every=4, batch=8, samples=20)
    train.train(config, out=tmp_path / "net")
    few = {"images": 2000, "fresh": 200, "features": 4}
    monkeypatch.setattr(attention.Options, "of", classmethod(lambda cls, quality, **more: Options(**few, **more)))
    report = explained(str(tmp_path / "net"), "toy:layout=strip", tmp_path / "out", "--theories", "ideal")
    assert {row["name"] for row in report["ranking"]} == {"ideal", "attention, full"}
    assert report["attention"]["patch_size"] == [5, 5]  # what its trunk sees
    assert (tmp_path / "out" / "attention" / "full.json").is_file()


def test_a_class_in_the_specification_is_one_of_the_theories_too(pixels, tmp_path):
    (tmp_path / "net.py").write_text("def net(x_t, t, label): return x_t * label.reshape(-1, 1, 1, 1)\n")
    report = explained(f"module:{tmp_path}/net.py:net,prediction=sample,label=1", pixels, tmp_path / "out", "--theories", "ideal")
    assert report["data"]["images"] == 8
    assert report["identity"]["label"] == 1


# ------------------------------------------------------------------------------------------------ stop and resume


def stopping_after(monkeypatch, count):
    """Ask to stop once that many parts are there; returns how many were made."""
    made = []
    part = study_module.Study.part

    def counted(self, name, make):
        def marked():
            made.append(name)
            return make()

        if count is not None and len(made) >= count:
            raise study_module.StoppedError
        return part(self, name, marked)

    monkeypatch.setattr(study_module.Study, "part", counted)
    return made


@pytest.mark.parametrize("count", [4])
def test_a_stopped_run_goes_on_to_the_same_report(count, pixels, tmp_path, monkeypatch, capsys):
    arguments = ["equivariant_local:patch_size=3", "--dataset", pixels, *SMALL, "--theories", "els-zeros", "--out"]
    with monkeypatch.context() as m:
        everything = stopping_after(m, None)
        assert explain.main([*arguments, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as m:
        first = stopping_after(m, count)
        assert explain.main([*arguments, str(tmp_path / "stopped")]) == 130
        assert "the same command goes on" in capsys.readouterr().err
        assert not (tmp_path / "stopped" / "index.html").exists()
    with monkeypatch.context() as m:
        rest = stopping_after(m, None)
        assert explain.main([*arguments, str(tmp_path / "stopped")]) == 0
    assert "going on in" in capsys.readouterr().out
    assert sorted(first + rest) == sorted(everything)  # nothing was made twice
    ends = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "stopped")]
    for end in ends:
        del end["seconds"], end["command"]
    assert ends[0] == ends[1]
    files = [(tmp_path / name / "samples.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_another_run_replaces_the_parts_of_a_stopped_one(pixels, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        stopping_after(m, 3)
        assert explain.main(["ideal", "--dataset", pixels, *SMALL, "--out", str(out)]) == 130
    report = explained("ideal", pixels, out, "--theories", "ideal", "--seed", "1")
    assert report["identity"]["seed"] == 1
    assert not (out / "parts").exists()


# -------------------------------------------------------------------------------------------------------- budget


def test_a_budget_is_kept_and_more_of_it_is_used():
    cost = Cost({"network": 1e-3, "els": 5e-3}, 2e-2)
    last = 0
    for minutes in (0.15, 0.3, 0.5, 0.8, 1.2, 10.0):
        effort = fitted(Effort(), cost, minutes)
        assert cost.total(effort) <= 60 * minutes
        assert effort.evaluations() >= last
        last = effort.evaluations()
        assert effort.samples >= FEWEST
    assert fitted(Effort(), cost, 10.0) == Effort()
    by_hand = (effort.samples * effort.steps + effort.levels * effort.draws) * 6e-3 + effort.levels * effort.calibration * 2e-2
    assert cost.total(effort) == pytest.approx(by_hand)


def test_a_budget_that_nothing_fits_is_refused_with_what_would():
    with pytest.raises(InputError) as error:
        fitted(Effort(), Cost({"network": 1e-3, "els-zeros": 2.0}, 1.0), 1.0)
    refused(error, "--budget 1", "at least", "els-zeros takes longest")


def test_what_a_budget_cost_is_told(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "measured", lambda *_: Cost({"network": 0.1}, 0.0))
    monkeypatch.setattr(explain, "fitted", lambda effort, cost, minutes, spent: fitted(effort, cost, minutes))
    few = ["--samples", "60", "--steps", "3", "--levels", "2", "--draws", "10", "--calibration", "3"]
    assert explain.main(["ideal", "--dataset", pixels, "--theories", "ideal", "--budget", ".25", "--out", str(tmp_path / "out"), *few]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    effort = report["effort"]
    assert effort["samples"] == 33  # of 3 steps, and 2 levels with 8 images: 11.5 s, of 13.5 that are planned
    width = report["ranking"][0]["r2_pearson"]["high"] - report["ranking"][0]["r2_pearson"]["low"]
    assert f"{width * (effort['samples'] / 60) ** 0.5:.3f}" in report["precision"]


# --------------------------------------------------------------------------------------------- what a network sees


class Convolutions(nn.Module):
    """Two convolutions of 3 x 3 without bias; ``places`` adds what depends on the place."""

    def __init__(self, padding, places=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, padding_mode=padding) for _ in "ab"))
        self.places = places

    def forward(self, x, t):
        out = self.layers(x)
        return out + torch.linspace(0, 3, x.shape[-1]) * torch.linspace(0, 1, x.shape[-2])[:, None] * x if self.places else out


def random_images(size):
    return ImageSet(torch.rand(9, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1, "random", range="signed")


def looked_at(module, size=16, label=None):
    network = OutsideDenoiser(lambda x, t, label: module(x, t), CosineSchedule(), "sample", (1, size, size), module=module)
    return seen(network, random_images(size), [0.2, 0.7], label=label)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_two_convolutions_see_five_pixels_and_their_padding(padding):
    report, tensors = looked_at(Convolutions(padding))
    assert report["padding"] == padding
    assert [level["touched"] for level in report["levels"]] == [5, 5]
    assert all(level["field"] in (3, 5) for level in report["levels"])
    assert (tensors["fields"][0] > 0).sum() == 25
    for level in report["levels"]:
        assert max(level["interior"].values()) < 1e-5 or padding == "zeros"
        assert level["interior"]["1"] < 1e-5  # a field of 5 reaches 2 pixels in; the inner ninth begins 6 in
    assert float(tensors["errors"][0, 4:-4, 4:-4].max()) < 1e-5


def test_a_network_that_knows_places_is_said_to():
    report, _ = looked_at(Convolutions("circular", places=True))
    assert report["padding"] == "places"


def test_attention_is_found_by_its_layers():
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "mid": nn.ModuleDict({"look": nn.MultiheadAttention(2, 1)})})
    network = OutsideDenoiser(lambda x, t, label: x, CosineSchedule(), "sample", (1, 4, 4), module=module)
    assert attention_layers(network) == ["mid.look"]


def test_what_has_no_gradient_is_said_to(pixels, tmp_path):
    (tmp_path / "net.py").write_text("def net(x_t, t): return x_t.detach() / 2\n")
    report = explained(f"module:{tmp_path}/net.py:net,prediction=sample", pixels, tmp_path / "out", "--theories", "ideal")
    assert "no gradient" in report["seeing"]["gradients"]
    assert "receptive field was not measured" in " ".join(report["warnings"])


def test_gradients_that_are_not_finite_are_no_field():
    """Behind ``torch.where`` the branch that is not taken has a gradient of 0 times NaN."""

    class Branches(nn.Module):
        def forward(self, x, t):
            return torch.where(x > -9, x / 2, (x - 10).sqrt())

    report, tensors = looked_at(Branches())
    assert "not finite" in report["gradients"] and all(level["field"] is None for level in report["levels"])
    assert tensors["fields"].isfinite().all()


@pytest.mark.parametrize(("largest", "field", "expected"), [(15, 5, [3, 5, 7, 9]), (7, None, [3, 5, 7]), (1, 1, [1]), (63, 63, 8)])
def test_patch_sizes_to_try(largest, field, expected):
    sizes = sizes_to_try(largest, field)
    assert sizes == expected if isinstance(expected, list) else len(sizes) == expected
    assert all(size % 2 for size in sizes)
    assert (sizes[0], max(sizes)) == (min(3, largest), sizes[-1])


# ---------------------------------------------------------------------------------------------- numbers and page


def test_where_two_part():
    means = {"network": torch.randn(2, 5, 1, 6, 6), "other": None}
    means["other"] = means["network"].clone()
    means["other"][1, :, :, 0, :] += 2.0  # the upper border, at the second level
    told, maps = parting(means, "other")
    variance = (means["network"][1] - means["network"][1].mean((-2, -1), keepdim=True)).square().mean()
    assert_close(maps[1, 0], torch.full((6,), 4.0 / float(variance)), rtol=1e-5)
    assert float(maps[0].abs().max()) == 0 == float(maps[1, 1:].abs().max())
    assert told["border"] > 100


def test_the_lead_is_of_pairs():
    truth = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    worse = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    found = lead(truth, truth, worse)
    assert found["low"] > 0
    assert lead(truth, truth, truth)["value"] == 0


class Tags(HTMLParser):
    """Every tag that is opened is closed, and nothing comes from elsewhere."""

    VOID = ("meta", "img", "br", "line", "circle", "polyline", "polygon", "link")

    def __init__(self):
        super().__init__()
        self.open, self.outside, self.images = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.outside += [v for k, v in attrs if k in ("src", "href") and not v.startswith(("data:", "#"))]
        self.images += tag == "img"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_has_the_verdict_first(pixels, tmp_path):
    report = explained("equivariant_local:patch_size=3", pixels, tmp_path / "a & b", "--theories", "els-zeros", "es")
    text = (tmp_path / "a & b" / "index.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.outside) == ([], [])
    assert tags.images > 36
    words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL)
    assert words.index("predicts this network") < words.index("Level by level") < words.index("How this was made")
    assert "a &amp; b" in text  # the command, as text
    assert report["command"].startswith("python -m empirical.explain")
    assert "nan" not in words.lower().split()


def test_curves_stand_where_their_numbers_are():
    text = svg.curves([0.1, 1, 10], [svg.Curve("a < b", "#123456", [0.0, None, 1.0])], label="x")
    (points,) = re.findall(r'<polyline points="([^"]+)"', text)
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in points.split())
    assert (x0, x1) == (svg.LEFT, svg.WIDTH - svg.RIGHT)
    assert (y0, y1) == (svg.HEIGHT - svg.BOTTOM, svg.TOP)
    assert "a &lt; b" in text


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--theories", "elsz"], "'els-zeros'"),
        (["--budget", "0"], "--budget 0"),
        (["--samples", "1"], "samples 1"),
        (["--levels", "0"], "levels 0"),
        (["--label", "7"], "label 7"),
        (["--theory", "nothing"], "'nothing'"),
        (["--out", "{file}"], "a file"),
        (["--out", "{foreign}"], "other files"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_bad_input_is_told_in_one_line(more, word, pixels, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").touch()
    more = [m.format(file=tmp_path / "file", foreign=tmp_path / "foreign") for m in more]
    assert explain.main(["ideal", "--dataset", pixels, "--out", str(tmp_path / "out"), *more]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert word in told
    assert not (tmp_path / "out").exists()


def test_a_theory_of_other_noise_is_refused(pixels, tmp_path, capsys):
    (tmp_path / "net.py").write_text("def net(x, t): return x\n")
    other = f"module:{tmp_path}/net.py:net,schedule=vp"
    assert explain.main(["ideal", "--dataset", pixels, "--theory", other, "--out", str(tmp_path / "out")]) == 2
    assert "vp schedule" in capsys.readouterr().err
