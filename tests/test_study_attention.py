"""``empirical.reproduce digits-attention`` in small, and how attention weights of network and theory are held against each other."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from empirical import reproduce
from empirical.compare import Comparison, sampled
from empirical.denoiser import NetworkDenoiser
from empirical.metrics import Median, r2_pearson
from empirical.networks import build
from empirical.study.attention import FAMILIES, SIDE
from empirical.study.handover import Handed, handover
from empirical.study.maps import alike, attention_of
from figures.digits_attention import caption, compute, draw
from figures.results import Results
from tests.helpers import assert_close, noise
from theory.data import load
from theory.denoiser import Denoiser, Posterior
from theory.machines import EquivariantLocal, Ideal
from theory.metrics import noisy_images
from theory.noise import CosineSchedule
from theory.stationarity import Options, SolvedScore, solve

DATA = "photos:count=5,size=3"
TINY = Options(images=256, fresh=100, features=4, embedding=4)


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solved")
    for name, solution in solve(load(DATA), families=tuple(FAMILIES), times=(0.5,), patch_size=SIDE, border="zeros", options=TINY).items():
        solution.save(folder / name)
    return folder


@pytest.mark.slow
def test_a_study_in_small_and_its_figure(solved, tmp_path, capsys):
    command = f"digits-attention --dataset {DATA} --budget .001 --steps 2 --seeds 2 --solved {solved} --device cpu".split()
    out = tmp_path / "digits-attention"
    assert reproduce.main([*command, "--out", str(out)]) == 0
    assert "Correlation of attention weights" in capsys.readouterr().out
    report, samples, data = json.loads((out / "report.json").read_text()), load_file(out / "samples.safetensors"), load(DATA)
    for model, row in report["rows"].items():
        medians = [Median.of(r2_pearson(samples[f"network.{model}-{s}"], samples["theory.identity"])).value for s in (0, 1)]
        assert_close(row["agreement"]["identity"]["r2_pearson"], sum(medians) / 2, atol=1e-12)
        twin = Median.of(r2_pearson(samples[f"network.{model}-0"], samples[f"network.{model}-1"])).value
        assert_close(row["twins"]["r2_pearson"], twin, atol=1e-12)
    t, schedule = report["comparisons"]["local-0"]["times"][2], CosineSchedule()
    x_t = noisy_images(data, schedule, t, report["comparisons"]["local-0"]["config"]["draws"], 0).x_t
    els = EquivariantLocal(data, schedule, patch_size=5, border="zeros").denoise(x_t, t)
    excess = (els.double() - Ideal(data, schedule).denoise(x_t, t).double()).square().flatten(1).sum(1).mean()
    assert_close(report["losses"]["els"]["excess"][2], excess, atol=1e-5)
    place = report["example"]
    theory = SolvedScore.load(solved / "full", data).split(samples["example.noisy"][None], place["t"])
    row = place["pixel"][0] * 3 + place["pixel"][1]
    assert_close(samples["example.attention.full"].flatten(), theory.attention[0, row], atol=1e-5)
    assert_close(samples["example.mean.full"], (theory.local + theory.context)[0], atol=1e-5)
    assert_close(samples["example.attention.network"].sum(), 1.0, atol=1e-5)
    levels = report["handover"]["local"]
    low, high = (np.array(report["ratios"])[part] for part in (slice(None, -1), slice(1, None)))
    assert [x["ratio"] for x in levels] == pytest.approx(np.sqrt(low * high))
    numbers = compute(Results(tmp_path), None)
    assert numbers.values["networks"]["attention"] == [x["excess"] for x in report["rows"]["attention"]["losses"]]
    assert len(draw(numbers).axes) >= 5 and "photos" in caption(numbers)


def test_attention_of_a_network_is_its_softmax():
    module = build("attention", 2, trunk="resnet", layers=2, hidden=8, embedding=4, seed=2)
    x_t = noise((2, 2, 3, 4), dtype=torch.float32)
    found = attention_of(NetworkDenoiser(module, CosineSchedule(), "sample", (2, 3, 4)), x_t, 0.4)
    with torch.no_grad():
        z = module.trunk(x_t, torch.full((2,), 0.4), None)[1]
        logits = [[float(module.head.query(a) @ module.head.key(b)) / 2 for b in z] for a in z]
    weights = np.exp(logits)
    assert_close(found[1], weights / weights.sum(1, keepdims=True), atol=1e-5)
    mixed = module.head.local(z) + found[1] @ module.head.value(z)
    assert_close(mixed.detach(), module(x_t, torch.full((2,), 0.4)).detach()[1].flatten(1).T, atol=1e-5)


class Constant(Denoiser):
    """Says one number, whatever it is shown."""

    def __init__(self, value: float) -> None:
        self.value, self.schedule = value, CosineSchedule()

    def __call__(self, x_t, t, label=None):
        return Posterior(torch.full_like(x_t, self.value) * (1 if label is None else label[:, None, None, None]))


def test_one_serves_above_a_noise_level_and_the_other_below():
    """Image by image, by ``sigma / alpha``: at t = .5 the cosine schedule has 1."""
    handed = Handed(Constant(1.0), Constant(2.0), 1.0)
    x_t, t = torch.zeros(4, 1, 2, 2), torch.tensor([0.6, 0.4, 0.2, 0.9])
    assert handed.denoise(x_t, t)[:, 0, 0, 0].tolist() == [1.0, 2.0, 2.0, 1.0]
    assert handed.denoise(x_t, t, torch.tensor([1, 2, 3, 4]))[:, 0, 0, 0].tolist() == [1.0, 4.0, 6.0, 4.0]
    assert handed.denoise(x_t, 0.7)[:, 0, 0, 0].tolist() == [1.0] * 4


def test_samples_part_where_the_two_differ():
    """A network that is the theory above a level and another below it: with the theory below that level nothing is left between them."""
    data = load(DATA)
    theory, other = Ideal(data, CosineSchedule()), EquivariantLocal(data, CosineSchedule(), patch_size=1)
    network = Handed(theory, other, 1.0)
    comparison = Comparison(data, CosineSchedule(), samples=20, steps=8, levels=4, draws=2)
    alone = sampled(theory, data, 20, 8, 0)
    found = handover(comparison, network, theory, alone, [0.1, 0.4, 4.0, 20.0])
    whole = Median.of(r2_pearson(sampled(network, data, 20, 8, 0), alone)).value
    assert [x["ratio"] for x in found] == pytest.approx([0.2, 1.6**0.5, 80**0.5])
    assert whole < 0.99
    assert found[1]["network_above"]["value"] == found[2]["network_above"]["value"] == pytest.approx(1)
    assert found[0]["network_above"]["value"] < 0.999
    assert found[1]["network_below"]["value"] == found[2]["network_below"]["value"] == pytest.approx(whole, abs=1e-9)


def test_weights_are_compared_between_different_pixels_and_with_those_of_other_images():
    a, b = (torch.softmax(noise((4, 5, 5), seed), -1) for seed in (0, 1))
    between = ~np.eye(5, dtype=bool)

    def mean(shift: int) -> float:
        return np.mean([np.corrcoef(x.numpy()[between], y.numpy()[between])[0, 1] for x, y in zip(a, b.roll(shift, 0), strict=True)])

    found = alike(a, b)
    assert_close(found["correlation"], mean(0), atol=1e-12)
    assert_close(found["null"], mean(1), atol=1e-12)
    assert alike(a, a)["correlation"] == pytest.approx(1)


def test_data_with_a_rule_are_refused(tmp_path, capsys):
    assert reproduce.main(["digits-attention", "--dataset", "toy", "--budget", ".001", "--out", str(tmp_path / "x")]) == 2
    assert "images without a rule" in capsys.readouterr().err
