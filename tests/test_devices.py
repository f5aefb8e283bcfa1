"""Everything follows the device of its input: shown on a second device made of the CPU (`tests.otherdevice`)."""

import json
from importlib import import_module

import pytest
import torch

import empirical.calibrate
import empirical.compare
import empirical.reproduce
import theory.command.task
import theory.solve
from empirical.train import Config, Trainer
from figures.command import Effort, computed
from figures.results import COMMITTED, Results
from tests import otherdevice
from tests.helpers import assert_close
from theory.data import load
from theory.denoiser import Denoiser
from theory.machines import MACHINES
from theory.metrics import noisy_images
from theory.provenance import provenance
from theory.sampling import SAMPLERS, initial_noise
from theory.stationarity import Options, SolvedScore, solve

pytestmark = pytest.mark.skipif(not otherdevice.AVAILABLE, reason="this torch has no backend for Python (2.13 has)")
STRIP = "toy:layout=strip"
OPTIONS = Options(images=256, fresh=100, features=8, embedding=8)
ROUNDING = 1e-5  # the same float32 operations, some in another order


@pytest.fixture(scope="module")
def device() -> torch.device:
    return torch.device(otherdevice.install())


@pytest.fixture(autouse=True)
def constants():
    with otherdevice.Constants():
        yield


@pytest.fixture(scope="module")
def strip():
    return load(STRIP)


@pytest.fixture(scope="module")
def solved(strip):
    return solve(strip, families=("identity", "full"), times=(0.3, 0.6), options=OPTIONS)


def here(x):
    assert x.device.type == otherdevice.NAME
    return x.cpu()


def test_the_device_refuses_what_cuda_refuses(device):
    x = torch.ones(2, 3, device=device)
    assert_close(here(x + 1 + torch.tensor(2.0)), torch.full((2, 3), 4.0))
    assert_close(here(x[torch.tensor([0, 0])]), torch.ones(2, 3))
    for mixed in (lambda: x + torch.ones(3), lambda: x @ torch.ones(3), lambda: x.index_select(0, torch.tensor([0]))):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="host memory"):
        x.numpy()


@pytest.mark.parametrize("border", ["zeros", "circular"])
@pytest.mark.parametrize("name", MACHINES)
def test_machines(name, border, device, strip):
    options = {key: value for key, value in (("patch_size", 3), ("border", border)) if key in MACHINES[name].settings}
    machine = MACHINES[name](strip, **options)
    x_t = noisy_images(strip, machine.schedule, 0.5, 3, 0).x_t.float()
    expected, found = machine(x_t, 0.5), machine(x_t.to(device), 0.5)
    assert_close(here(found.mean), expected.mean, rtol=ROUNDING, atol=ROUNDING)
    if expected.log_evidence is not None:
        assert_close(here(found.log_evidence), expected.log_evidence, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize("family", ["identity", "full"])
def test_a_solved_score(family, device, solved, strip):
    score = solved[family]
    x_t = noisy_images(strip, score.schedule, 0.5, 5, 0).x_t.float()
    for t in (torch.tensor(0.5), torch.tensor([0.1, 0.3, 0.4, 0.6, 0.9])):  # between levels, on them and beyond
        assert_close(here(score.denoise(x_t.to(device), t.to(device))), score.denoise(x_t, t), rtol=ROUNDING, atol=ROUNDING)
    for found, expected in zip(score.split(x_t.to(device), 0.5), score.split(x_t, 0.5), strict=True):
        assert_close(here(found), expected, rtol=ROUNDING, atol=ROUNDING)


def test_solving_and_files(device, solved, strip, tmp_path):
    there = solve(strip, families=("identity", "full"), times=(0.3, 0.6), options=OPTIONS, device=device)
    there["full"].save(tmp_path / "full")
    again = SolvedScore.load(tmp_path / "full", strip)
    for mine, theirs in zip(again.points, solved["full"].points, strict=True):
        assert mine.coefficients.device.type == "cpu"
        assert_close(mine.coefficients, theirs.coefficients, rtol=1e-3, atol=1e-3)  # Adam divides rounding errors by small moments
    x_t = noisy_images(strip, again.schedule, 0.3, 4, 0).x_t.float()
    assert_close(here(again.denoise(x_t.to(device), 0.3)), again.denoise(x_t, 0.3), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name, device, solved):
    score = solved["full"]
    noise = initial_noise(score.schedule, (3, 3, 2, 4), 0)
    found, expected = (SAMPLERS[name](score, 4)(x).images for x in (noise.to(device), noise))
    assert_close(here(found), expected, rtol=1e-4, atol=1e-4)


def test_provenance(device, strip):
    machine = MACHINES["equivariant_local"](strip, patch_size=3, border="zeros")
    x_t = noisy_images(strip, machine.schedule, 0.4, 2, 0).x_t.float()
    found, expected = provenance(machine, x_t.to(device), 0.4), provenance(machine, x_t, 0.4)
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(here(mine).double(), theirs.double(), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(
    "options", [{"families": ["full"], "machines": ["equivariant_local"]}, {"families": [], "machines": ["all"], "border": "circular"}]
)
def test_the_main_job(options, device, tmp_path, monkeypatch):
    small = {"levels": 2, "draws": 8, "samples": 4, "steps": 3, "images": 256, "fresh": 100, "features": 8}
    reports = []
    for name, where in (("cpu", torch.device("cpu")), ("other", device)):
        monkeypatch.setattr(theory.command.task, "find_device", lambda _, where=where: where)
        theory.solve.run(dataset=STRIP, out=tmp_path / name, **small, **options)
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
    for machine, expected in reports[0]["machines"].items():
        found = torch.tensor(reports[1]["machines"][machine]["loss"])
        assert_close(found, torch.tensor(expected["loss"]), rtol=1e-4, atol=1e-5)
    for family, expected in reports[0]["attention"].items():  # as exact as its coefficients are (`test_solving_and_files`)
        for name in ("excess", "loss_fresh", "els_loss"):
            assert_close(reports[1]["attention"][family][name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", ["cnn", "top1", "attention", "unet"])
def test_training_steps(model, device, strip):
    """Draws of the second device come from the generator of the CPU: the same steps."""
    config = Config(dataset=STRIP, model=model, hidden=8, steps=4, batch=8, target="posterior")
    there, mine = Trainer(config, strip, device), Trainer(config, strip)
    for trainer in (there, mine):
        for _ in range(2):
            trainer.step()
    expected = mine.checkpoint().tensors
    coordinates = ("exp_avg", "exp_avg_sq", "left_basis", "right_basis")  # known up to signs, and to rounding where no gradients are
    for name, x in there.checkpoint().tensors.items():
        if not name.startswith("optimiser.") or name.split(".")[-1] not in coordinates:
            assert_close(x, expected[name], rtol=1e-3, atol=3e-5)  # rounding errors are divided by small moments
    here(there.denoiser().denoise(noisy_images(strip, there.schedule, 0.5, 2, 0, device).x_t.float(), 0.5))


@pytest.fixture(scope="module")
def saved(solved, strip, tmp_path_factory):
    """A network and a solution, written on the CPU."""
    out = tmp_path_factory.mktemp("saved")
    trainer = Trainer(Config(dataset=STRIP, model="cnn", hidden=8, steps=4, batch=8), strip)
    trainer.checkpoint().save(out / "network.safetensors")
    solved["full"].save(out / "full")
    return out


def measured(module, device, monkeypatch, tmp_path, *arguments: str) -> list[dict]:
    """What a command writes on the CPU and on the other device; models work there, and nowhere else."""
    reports, denoise = [], Denoiser.denoise
    for where in (torch.device("cpu"), device):
        seen = set()
        monkeypatch.setattr(module, "find_device", lambda _, where=where: where)
        monkeypatch.setattr(Denoiser, "denoise", lambda self, x_t, *rest, seen=seen: seen.add(x_t.device.type) or denoise(self, x_t, *rest))
        out = tmp_path / f"{where.type}.json"
        assert module.main([*arguments, "--dataset", STRIP, "--levels", "2", "--draws", "8", "--out", str(out)]) == 0
        assert seen == {where.type}
        reports.append(json.loads(out.read_text()))
    return reports


def test_comparison(device, saved, tmp_path, monkeypatch):
    models = [str(saved / "network.safetensors"), str(saved / "full"), "equivariant_local"]
    mine, there = measured(empirical.compare, device, monkeypatch, tmp_path, *models, "--samples", "4", "--steps", "3")
    for name, model in mine["models"].items():
        assert_close(there["models"][name]["excess"], model["excess"], rtol=1e-4, atol=1e-5)
    for name, pair in mine["pairs"].items():
        assert_close(there["pairs"][name]["r2_pearson"]["value"], pair["r2_pearson"]["value"], atol=1e-4)


def test_calibration(device, saved, tmp_path, monkeypatch):
    mine, there = measured(empirical.calibrate, device, monkeypatch, tmp_path, str(saved / "network.safetensors"), "--sizes", "1", "3")
    assert mine["sizes"] == there["sizes"]
    for expected, found in zip(mine["source"]["levels"], there["source"]["levels"], strict=True):
        for size, values in expected["sizes"].items():
            for name in ("cosine", "mse"):
                assert_close(found["sizes"][size][name]["value"], values[name]["value"], rtol=1e-4)


@pytest.mark.slow
def test_a_study(device, tmp_path, monkeypatch):
    """Networks are trained and theories solved there, what they leave is read and compared on the CPU."""
    for module in (empirical.reproduce, theory.command.task):
        monkeypatch.setattr(module, "find_device", lambda _: device)
    out = tmp_path / "study"
    assert (
        empirical.reproduce.main(["toy", "--models", "cnn", "--dataset", STRIP, "--budget", ".0005", "--seeds", "1", "--out", str(out)])
        == 0
    )
    assert (out / "report.json").is_file()


class Little(Effort):
    """An eighth of what is computed for a look."""

    def __call__(self, smoke: int, paper: int) -> int:
        return max(4, smoke // 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention", "equation", "machines", "mosaic"])
def test_figures_that_compute(name, device):
    module, results = import_module(f"figures.{name}"), Results(COMMITTED)
    mine, there = (computed(module, results, Little("smoke", where)) for where in (torch.device("cpu"), device))
    for key, x in mine.arrays.items():
        assert there.arrays[key].device.type == "cpu"
        assert_close(there.arrays[key], x, rtol=1e-4, atol=1e-5)
