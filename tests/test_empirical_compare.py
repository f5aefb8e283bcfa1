"""Comparison, calibration and the commands on top."""

import json

import pytest
import torch
from safetensors.torch import load_file

from empirical import calibrate as calibration
from empirical import compare as comparison
from empirical import reproduce
from empirical.calibrate import calibrate
from empirical.checkpoint import Checkpoint
from empirical.compare import compare, flags, varying
from empirical.metrics import Median, label_agreement, r2_pearson
from empirical.models import open_model
from empirical.study import job, toy
from empirical.train import Config, train
from tests.helpers import assert_close, random_set
from theory.calibrated import patch_schedule, published, save_patch_schedule
from theory.data import ImageSet, load
from theory.denoiser import Denoiser, Posterior
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal, Local
from theory.metrics import denoising_loss, noisy_images
from theory.noise import CosineSchedule, VESchedule
from theory.patches import PatchSchedule

STRIP = "toy:layout=strip"
FEW = {"samples": 20, "steps": 25, "levels": 2, "draws": 50}


class Shifted(Denoiser):
    """Another model's mean, off by a constant."""

    def __init__(self, model: Denoiser, shift: float) -> None:
        self.model, self.shift, self.schedule = model, shift, model.schedule

    def __call__(self, x_t, t, label=None):
        return Posterior(self.model.denoise(x_t, t, label) + self.shift)


def test_a_model_agrees_with_itself_and_has_no_gap():
    data = load(STRIP)
    els = EquivariantLocal(data, patch_size=data.patch_size)
    report = compare({"a": els, "b": els}, data, **FEW)
    pair = report["pairs"]["b"]
    for name in ("pearson_r", "r2_pearson", "r2_determination", "label_agreement", "r2_pearson_cells"):
        assert pair[name]["value"] == pytest.approx(1)
    for level in pair["levels"]:
        assert level["gap"] == {"value": 0, "stderr": 0, "below": False}
        assert level["cosine"]["value"] == pytest.approx(1) and level["score_mse"]["value"] == 0


def test_the_null_is_always_there_and_losses_are_those_of_theory():
    data = load(STRIP)
    els = EquivariantLocal(data, patch_size=data.patch_size)
    report = compare({"els": els}, data, **FEW)
    assert list(report["models"]) == ["els", "ideal"] and list(report["pairs"]) == ["ideal"]
    for i, t in enumerate(report["times"]):
        noisy = noisy_images(data, CosineSchedule(), t, FEW["draws"], 0)
        expected = denoising_loss(els, noisy, Ideal(data).denoise(noisy.x_t, t))[1]
        assert report["models"]["els"]["excess"][i] == pytest.approx(expected.value)
        assert report["pairs"]["ideal"]["levels"][i]["gap"]["value"] == pytest.approx(expected.value)
    assert report["models"]["ideal"]["consistency"]["value"] == 1 and report["models"]["ideal"]["memorised"]["value"] == 1


def test_scores_are_compared_as_scores():
    """A mean off by c has a score off by alpha c / sigma^2."""
    data = random_set()
    els = EquivariantLocal(data, patch_size=3)
    report = compare({"a": els, "b": Shifted(els, 0.1)}, data, **FEW)
    for level in report["pairs"]["b"]["levels"]:
        alpha, sigma = (float(c) for c in CosineSchedule()(level["t"]))
        assert level["score_mse"]["value"] == pytest.approx((alpha * 0.1 / sigma**2) ** 2, rel=1e-4)


def test_a_network_below_its_theory_is_told():
    """The ideal score in the part of a network, ELS in that of its theory."""
    data = load(STRIP)
    report = compare({"net": Ideal(data), "els": EquivariantLocal(data, patch_size=data.patch_size)}, data, **FEW)
    assert flags(report) == []
    report["models"]["net"]["network"] = True
    (line,) = flags(report)
    assert "net lies below els" in line


def test_cells_are_what_varies():
    data = load("toy")
    assert int(varying(data).sum()) == 8
    assert_close(varying(load("toy:layout=strip")).double(), torch.ones(2, 4))


def test_models_with_other_noise_are_refused():
    data = random_set()
    with pytest.raises(InputError, match="ve schedule"):
        compare({"a": Ideal(data), "b": Ideal(data, VESchedule())}, data, **FEW)


@pytest.mark.parametrize("criterion", ["cosine", "mse"])
def test_calibration_finds_the_patch_a_model_uses(criterion):
    """ELS with a known schedule in the part of the network: its own sizes come back."""
    data = ImageSet(load("digits").images[:60], "few digits")
    truth = PatchSchedule.of([3, 7, 5])
    found, report = calibrate(EquivariantLocal(data, patch_size=truth), data, [3, 5, 7], levels=3, draws=8, criterion=criterion)
    assert found == truth
    for level, size in zip(report["levels"], (3, 7, 5), strict=True):
        assert level["sizes"][str(size)]["cosine"]["value"] == pytest.approx(1)
        assert level["sizes"][str(size)]["mse"]["value"] < 1e-9  # of float32 sums, in another order where sizes are swept together


def test_calibration_that_leaves_candidates_out_finds_the_same():
    data = load("photos:count=100,size=12")
    network = EquivariantLocal(data, patch_size=5)
    options = {"levels": 3, "draws": 2, "border": "zeros"}
    (exact, told), (found, about) = (calibrate(network, data, [3, 5], **options, rtol=rtol) for rtol in (0.0, 1e-4))
    assert found == exact
    assert (told["rtol"], about["rtol"]) == (0.0, 1e-4)
    for a, b in zip(told["levels"], about["levels"], strict=True):
        for size in ("3", "5"):
            assert b["sizes"][size]["cosine"]["value"] == pytest.approx(a["sizes"][size]["cosine"]["value"], abs=1e-3)


def test_published_schedules_are_readable_by_name_and_own_ones_from_a_file(tmp_path):
    assert len(published()) == 10 and patch_schedule("MNIST_ResNet_zeros")(0.0) == (3, 3)
    assert all(len(s.sizes) == 20 for s in published().values())
    assert patch_schedule("CIFAR10_UNet_zeros_conditional")(0.99) == (25, 25)
    own = PatchSchedule.of([3, (5, 1)])
    save_patch_schedule(tmp_path / "own.json", own, {})
    assert patch_schedule(str(tmp_path / "own.json")) == own
    (tmp_path / "bad.json").write_text("{}")
    for name in ("MNIST", str(tmp_path / "bad.json"), str(tmp_path / "none.json")):
        with pytest.raises(InputError):
            patch_schedule(name)


def test_specifications_open_what_they_name(tmp_path):
    data = load(STRIP)
    x = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    for spec, same in (
        ("ideal", Ideal(data)),
        ("equivariant_local", EquivariantLocal(data, patch_size=(3, 1))),
        ("local:patch_size=3,border=circular", Local(data, patch_size=3, border="circular")),
        ("equivariant_local:patch_size=1+3x1", EquivariantLocal(data, patch_size=[1, (3, 1)])),
        ("equivariant_local:schedule=MNIST_ResNet_zeros", EquivariantLocal(data, patch_size=patch_schedule("MNIST_ResNet_zeros"))),
    ):
        assert_close(open_model(spec, data).denoise(x, 0.4), same.denoise(x, 0.4))
    trainer = train(Config(STRIP, "cnn", hidden=4, steps=2, batch=4, every=2, samples=2), out=tmp_path / "net")
    for path in (tmp_path / "net", tmp_path / "net" / "checkpoint.safetensors"):
        assert_close(open_model(str(path), data).denoise(x, 0.4), trainer.denoiser().denoise(x, 0.4))


def test_a_path_that_is_missing_is_called_so(tmp_path):
    for path, missing in ((tmp_path / "none", True), (tmp_path, False)):
        with pytest.raises(InputError) as refusal:
            open_model(str(path), load("digits"))
        assert ("no file or directory" in str(refusal.value)) == missing


@pytest.mark.parametrize("spec", ["nothing", "ideal:patch_size=3", "local:size=3", "local:patch_size=four", "runs/none"])
def test_specifications_that_name_nothing_are_refused(spec):
    with pytest.raises(InputError):
        open_model(spec, load(STRIP))


def test_commands_write_what_they_print(tmp_path, capsys):
    train(Config(STRIP, "cnn", hidden=4, steps=2, batch=4, every=2, samples=2), out=tmp_path / "net")
    few = ["--samples", "10", "--steps", "3", "--levels", "2", "--draws", "20"]
    command = [str(tmp_path / "net"), "equivariant_local", "--dataset", STRIP, *few]
    assert comparison.main([*command, "--out", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["truth"] == "net"
    assert "equivariant_local" in capsys.readouterr().out
    options = ["--levels", "2", "--draws", "4", "--sizes", "1", "3"]
    assert calibration.main([str(tmp_path / "net"), "--dataset", STRIP, *options, "--out", str(tmp_path / "s.json")]) == 0
    assert len(patch_schedule(str(tmp_path / "s.json")).sizes) == 2
    capsys.readouterr()
    assert comparison.main([str(tmp_path / "net"), "--dataset", "toy"]) == 2
    told = capsys.readouterr().err
    assert "trained on" in told and told.count("\n") == 1


def test_outputs_never_replace_something_else(tmp_path, capsys):
    train(Config(STRIP, "cnn", hidden=4, steps=2, batch=4, every=2, samples=2), out=tmp_path / "net")
    network = tmp_path / "net" / "checkpoint.safetensors"
    (tmp_path / "mine.json").write_text("mine")
    kept = {path: path.read_bytes() for path in (network, tmp_path / "mine.json")}
    few = ["--samples", "2", "--steps", "1", "--levels", "1", "--draws", "2"]
    for path in (*kept, tmp_path, tmp_path / "mine.json" / "x.json"):
        assert comparison.main([str(tmp_path / "net"), "--dataset", STRIP, *few, "--out", str(path)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: --out") and told.count("\n") == 1
    assert calibration.main([str(tmp_path / "net"), "--dataset", STRIP, "--out", str(network)]) == 2
    assert all(path.read_bytes() == content for path, content in kept.items())
    (tmp_path / "r").mkdir()
    for name, study in (("report.json", "toy"), ("resnet-zeros.json", "digits --models resnet-zeros")):
        (tmp_path / "r" / name).write_text("mine")
        assert reproduce.main([*f"{study} --budget .001 --out {tmp_path / 'r'}".split()]) == 2
        assert [p.name for p in (tmp_path / "r").iterdir()] == [name] and (tmp_path / "r" / name).read_text() == "mine"
        (tmp_path / "r" / name).unlink()
    (tmp_path / "r" / "theory").mkdir()
    (tmp_path / "r" / "theory" / "mine").write_text("mine")
    assert reproduce.main([*f"toy --budget .001 --out {tmp_path / 'r'}".split()]) == 2  # before anything is trained
    assert not (tmp_path / "r" / "train").exists()


def test_comparison_of_one_class():
    """With a label every model is that of the class, and so are the noisy images."""
    data = random_set(8, channels=1, height=4, width=4)
    model = EquivariantLocal(data, patch_size=3)
    alone = EquivariantLocal(data.select(1), patch_size=3)
    few = {"samples": 10, "steps": 4, "levels": 2, "draws": 20}
    told = compare({"els": model, "ideal": Ideal(data)}, data, label=1, **few)
    expected = compare({"els": alone, "ideal": Ideal(data.select(1))}, data.select(1), **few)
    assert told["models"]["els"]["excess"] == pytest.approx(expected["models"]["els"]["excess"], rel=1e-5)
    assert told["pairs"]["ideal"]["r2_pearson"]["value"] == pytest.approx(expected["pairs"]["ideal"]["r2_pearson"]["value"], rel=1e-4)


def test_only_theories_can_lie_above_a_network():
    level = {"ratio": 1.0, "gap": {"value": -1.0, "stderr": 0.1, "below": True}}
    report = {"truth": "n", "models": {"n": {"network": True}, "m": {"network": True}, "els": {"network": False}}}
    report["pairs"] = {"m": {"levels": [level]}, "els": {"levels": [level]}}
    (line,) = flags(report)
    assert "below els" in line


@pytest.mark.slow
def test_reproduction_of_the_toy_runs_and_goes_on(tmp_path, capsys):
    command = f"toy --budget 0.002 --seeds 2 --models cnn top1 --dataset {STRIP} --device cpu --out {tmp_path / 'r'}".split()
    assert reproduce.main(command) == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert list(report["rows"]) == ["cnn", "identity", "top1"]  # with those they start from
    for name, row in report["rows"].items():
        assert set(row["agreement"]) == {"els", "top1_identity", "identity", "ideal"}
        assert set(row["twins"]) == set(toy.AGREEMENT) and all(0 <= x <= 1 for x in row["twins"].values())
        shares = [report["comparisons"][f"{name}-{seed}"]["models"]["network"]["consistency"]["value"] for seed in (0, 1)]
        assert row["network"]["mean"] == pytest.approx(sum(shares) / 2)
    begun = {n: Checkpoint.load(tmp_path / "r" / "train" / f"{n}-0").identity["start"] for n in report["rows"]}
    assert begun["cnn"] is None and begun["identity"]["model"] == "patch" and begun["top1"]["model"] == "identity"
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "r" / "train").rglob("*.safetensors")}
    assert reproduce.main(command) == 0  # nothing is trained twice
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "r" / "train").rglob("*.safetensors")}
    assert "poster" in capsys.readouterr().out
    samples = load_file(tmp_path / "r" / "samples.safetensors")
    for name in ("cnn-0", "top1-1"):  # what is kept is what was compared
        pair, kept = report["comparisons"][name]["pairs"]["els"], (samples[f"network.{name}"], samples["theory.els"])
        assert len(kept[0]) == report["scale"]["samples"] <= job.KEPT
        assert pair["label_agreement"]["value"] == pytest.approx(label_agreement(load(STRIP).rule, *kept).value)


@pytest.mark.slow
def test_reproduction_of_the_digits_runs(tmp_path, capsys):
    command = f"digits --models resnet-circular --budget 0.001 --steps 30 --device cpu --out {tmp_path / 'r'}"
    assert reproduce.main(command.split()) == 0
    report = (tmp_path / "r" / "report.json").read_text()
    (row,) = json.loads(report)["rows"].values()
    assert row["receptive_field"] == 7 and set(row["comparison"]["pairs"]) == {"els", "ls", "ideal"}
    assert "median r2_pearson" in capsys.readouterr().out
    samples = load_file(tmp_path / "r" / "samples.safetensors")
    assert set(samples) == {f"resnet-circular.{name}" for name in ("network", "els", "ls", "ideal")}
    median = Median.of(r2_pearson(samples["resnet-circular.network"], samples["resnet-circular.els"]))
    assert row["comparison"]["pairs"]["els"]["r2_pearson"]["value"] == pytest.approx(median.value)
    part = tmp_path / "r" / "compared" / "resnet-circular.json"
    before = part.stat().st_mtime_ns
    assert reproduce.main(command.split()) == 0 and part.stat().st_mtime_ns == before  # nothing is compared twice
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == json.loads(report)


@pytest.mark.parametrize(
    "options", ["--budget 0", "--steps 0", "--models gan", "--dataset nothing", "--target none", "--batch -9", "--dataset digits"]
)
def test_reproduction_refuses_in_one_line(tmp_path, capsys, options):
    assert reproduce.main([*f"toy --budget 0.001 --out {tmp_path / 'r'}".split(), *options.split()]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
