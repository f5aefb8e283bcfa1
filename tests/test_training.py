"""Training: what it converges to, that it goes on exactly where it stopped, and what it refuses."""

import json
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from empirical.checkpoint import NAME, Checkpoint
from empirical.metrics import Gap
from empirical.train import Config, DivergedError, Trainer, main, train
from tests.helpers import assert_close
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal
from theory.metrics import noisy_images, squared_error
from theory.sampling import initial_noise

STRIP = "toy:layout=strip"
TINY = Config(dataset=STRIP, model="cnn", hidden=8, steps=60, every=20, batch=16, samples=20)


def stripes() -> ImageSet:
    """Images that wrap around, whose parts are less telling than the whole."""
    rows = torch.tensor([[1.0, 1, 1, -1, -1, -1], [1.0, -1, 1, -1, 1, -1]])
    return ImageSet(torch.stack([rows[i].expand(6, 6) for i in (0, 1)] + [rows[0].expand(6, 6).T])[:, None], "stripes")


def test_looking_does_not_change_what_is_learned():
    """How often and on how many samples it is evaluated changes no weight."""
    often, seldom = (train(replace(TINY, steps=20, every=every, samples=samples), load(STRIP)) for every, samples in ((3, 50), (20, 10)))
    for a, b in zip(often.model.state_dict().values(), seldom.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("prediction", "share"), [("sample", 0.1), ("epsilon", 0.25)])
def test_a_cnn_reaches_the_els_loss(prediction, share):
    """The closed form is the optimum over all local functions: training ends near its loss, and not below.

    ``share`` of the variance of the image is allowed above it; 1000 steps leave up to .085 and .2.
    """
    data = stripes()
    config = Config(
        "stripes", "cnn", prediction=prediction, target="posterior", padding="circular", hidden=16, steps=1000, rate=1e-2, batch=64
    )
    trainer = Trainer(config, data)
    while trainer.done < config.steps:
        trainer.step()
    machine = EquivariantLocal(data, trainer.schedule, patch_size=5, border="circular")
    for t in (0.4, 0.6, 0.8):
        noisy = noisy_images(data, trainer.schedule, t, 4000, 7)
        exact = Ideal(data, trainer.schedule).denoise(noisy.x_t, t)
        theory, network = (squared_error(model.denoise(noisy.x_t, t), exact) for model in (machine, trainer.denoiser()))
        gap = Gap.of(network, theory)
        assert not gap.below and gap.value < share * float(exact.var(0).sum()), (t, gap)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score", "v"])
def test_exact_targets_leave_the_mean_gradient(prediction):
    """Clean images and posterior means as targets, on the same draws: gradients differ, but not on average."""
    drawn = []
    for target in ("clean", "posterior"):
        trainer = Trainer(
            Config("stripes", "cnn", prediction=prediction, target=target, hidden=4, batch=8, rate=1e-30, clip=1e9), stripes()
        )
        gradients = []
        for _ in range(150):
            trainer.step()
            gradients.append(trainer.model.trunk.first.weight.grad.double().flatten().clone())
        drawn.append(torch.stack(gradients))
    difference = drawn[0] - drawn[1]
    stderr = difference.std(0) / 150**0.5
    assert float(difference.std(0).min()) > 0
    assert (difference.mean(0).abs() < 5 * stderr).all()  # 72 of them: the largest of as many is rarely beyond 4


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path):
    for name, config in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=1))):
        train(config, out=tmp_path / name)
    a, b, c = ((tmp_path / n / NAME).read_bytes() for n in "abc")
    assert a == b and a != c


@pytest.mark.parametrize("model", ["cnn", "top1"])
def test_stopped_and_resumed_ends_with_the_same_bytes(tmp_path, model):
    config = replace(TINY, model=model)
    train(config, out=tmp_path / "whole")
    for stop in (7, 20, 33, 60):  # between, at, and after evaluations
        calls = iter(range(1000))
        train(config, out=tmp_path / "parts", resume=True, stopped=lambda calls=calls, stop=stop: next(calls) >= stop // 2)
    train(config, out=tmp_path / "parts", resume=True)
    whole, parts = load_file(tmp_path / "whole" / NAME), load_file(tmp_path / "parts" / NAME)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "parts" / "log.jsonl").read_text()


@pytest.mark.slow
def test_killed_three_times_and_resumed_ends_with_the_same_weights(tmp_path):
    options = ["--hidden", "8", "--steps", "400", "--every", "20", "--batch", "16", "--samples", "10", "--device", "cpu"]
    command = [sys.executable, "-m", "empirical.train", "--dataset", STRIP, "--model", "cnn", *options, "--resume", "--out"]
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    rng = random.Random(0)
    for _ in range(3):
        log = tmp_path / "parts" / NAME
        before = log.stat().st_mtime_ns if log.exists() else 0
        process = subprocess.Popen([*command, tmp_path / "parts"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while process.poll() is None and time.time() < deadline and (not log.exists() or log.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, tmp_path / "parts"], check=True, capture_output=True)
    whole, parts = load_file(tmp_path / "whole" / NAME), load_file(tmp_path / "parts" / NAME)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_averaged_weights_are_an_average(tmp_path):
    trainer = Trainer(replace(TINY, average=0.5), load(STRIP))
    seen = [trainer.model.trunk.first.bias.clone()]
    expected = seen[0].clone()
    for step in range(6):
        trainer.step()
        keep = min(0.5, (2 + step) / (11 + step))
        expected = keep * expected + (1 - keep) * trainer.model.trunk.first.bias.detach()
    assert_close(trainer.average["trunk.first.bias"], expected, atol=1e-6)


def test_divergence_is_told_and_the_last_checkpoint_stays(tmp_path):
    out = tmp_path / "run"
    train(replace(TINY, steps=60), out=out, stopped=lambda: (out / "log.jsonl").exists())
    before = (out / NAME).read_bytes()
    trainer = Trainer(TINY, load(STRIP))
    trainer.restore(Checkpoint.load(out))
    with torch.no_grad():
        trainer.model.trunk.first.weight.fill_(torch.nan)
    trainer.step()
    with pytest.raises(DivergedError):
        trainer.check()
    assert (out / NAME).read_bytes() == before


def test_command_line_tells_divergence_in_one_line(tmp_path, capsys):
    code = main(
        [
            *f"--dataset {STRIP} --model cnn --hidden 8 --steps 3000 --every 3000".split(),
            *f"--rate 1e30 --clip 1e30 --out {tmp_path / 'r'}".split(),
        ]
    )
    told = capsys.readouterr().err
    assert code == 1 and "diverged at step" in told and told.count("\n") == 1 and "Traceback" not in told
    assert Checkpoint.load(tmp_path / "r").step == 0


def test_command_line_trains_and_refuses_to_start_over(tmp_path, capsys):
    command = (
        f"--dataset {STRIP} --model identity --hidden 8 --steps 20 --every 10 --samples 10 --device cpu --out {tmp_path / 'r'}".split()
    )
    assert main(command) == 0
    assert {p.name for p in (tmp_path / "r").iterdir()} == {NAME, "log.jsonl", "samples.png"}
    records = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [10, 20] and all(0 <= r["consistency"] <= 1 for r in records)
    capsys.readouterr()
    assert main(command) == 2 and "checkpoint at step 20" in capsys.readouterr().err
    assert main([*command, "--resume", "--rate", "0.5"]) == 2 and "--rate 0.001" in capsys.readouterr().err


def test_a_start_gives_what_two_networks_share(tmp_path):
    """Averaged weights of the trunk, exactly; the head and the rest stay those of the seed."""
    first, second = replace(TINY, model="attention", steps=5), replace(TINY, model="identity", seed=1)
    saved = train(first, out=tmp_path / "a").checkpoint()
    alone, begun = Trainer(second, load(STRIP)), Trainer(second, load(STRIP), start=saved)
    weights = saved.weights("average")
    for name, x in begun.model.state_dict().items():
        assert torch.equal(x, weights[name] if name.startswith("trunk.") else alone.model.state_dict()[name])
        assert torch.equal(begun.average[name], x)
    assert not torch.equal(begun.model.trunk.second.weight, alone.model.trunk.second.weight)
    assert begun.identity["start"]["model"] == "attention" and alone.identity["start"] is None


def test_attention_starts_as_the_function_of_identity():
    """``full`` contains ``identity``: the same output for every image, level and border."""
    config = replace(TINY, model="identity", steps=3)
    saved = train(config).checkpoint()
    begun = Trainer(replace(config, model="attention", seed=1), load(STRIP), start=saved)
    x = initial_noise(begun.schedule, (5, *load(STRIP).images.shape[1:]), 3)
    for t in (0.1, 0.5, 0.9):
        assert_close(begun.denoiser().denoise(x, t), saved.denoiser().denoise(x, t), atol=1e-5)
    assert not torch.equal(
        saved.denoiser().denoise(x, 0.5), Trainer(replace(config, model="attention"), load(STRIP)).denoiser().denoise(x, 0.5)
    )


def test_a_run_with_a_start_goes_on_only_with_the_same_start(tmp_path, capsys):
    for seed in (0, 1):
        train(replace(TINY, model="attention", steps=2, every=2, seed=seed), out=tmp_path / f"a{seed}")
    options = f"--dataset {STRIP} --model identity --hidden 8 --steps 4 --every 2 --samples 10 --batch 16 --device cpu".split()
    whole = [*options, "--start", str(tmp_path / "a0"), "--out", str(tmp_path / "whole")]
    assert main(whole) == 0
    started = Trainer(replace(TINY, model="identity", steps=4, every=2, samples=10), load(STRIP), start=Checkpoint.load(tmp_path / "a0"))
    for _ in range(4):
        started.step()
    again = load_file(tmp_path / "whole" / NAME)
    assert all(torch.equal(x, again[f"model.{k}"]) for k, x in started.model.state_dict().items())
    capsys.readouterr()
    for other in (["--start", str(tmp_path / "a1")], []):
        assert main([*options, *other, "--resume", "--out", str(tmp_path / "whole")]) == 2
        told = capsys.readouterr().err
        assert "another --start" in told and told.count("\n") == 1
    for other, words in (({"model": "resnet", "layers": 2}, "kind"), ({"hidden": 16}, "shape"), ({"padding": "circular"}, "padding")):
        with pytest.raises(InputError, match=words):  # nothing to start with, or something that does not fit
            Trainer(replace(TINY, **{"model": "identity", **other}), load(STRIP), start=Checkpoint.load(tmp_path / "a0"))


class Evil:
    def __reduce__(self):
        return (eval, ("1 / 0",))  # an error of its own, should anything ever unpickle it


def damaged(path, kind: str) -> None:
    """A checkpoint spoilt in one way."""
    trainer = Trainer(TINY, load(STRIP))
    trainer.step()
    trainer.checkpoint().save(path)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "torch":
        torch.save({"model": Evil()}, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        save_file({"x": torch.zeros(1)}, path)
    elif kind == "architecture":
        saved = Checkpoint.load(path)
        saved.identity["network"]["options"]["hidden"] = 16
        saved.save(path)
    elif kind == "edited":  # as long as before, and still JSON
        content = path.read_bytes()
        assert content.count(b'\\"prediction\\": \\"sample\\"') == 1
        path.write_bytes(content.replace(b'\\"prediction\\": \\"sample\\"', b'\\"prediction\\": \\"foobar\\"'))
    elif kind == "flipped":
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(bytes(content))
    elif kind == "nan":
        saved = Checkpoint.load(path)
        saved.tensors["average.head.readout.bias"][0] = torch.nan
        saved.save(path)
    elif kind == "data":
        saved = Checkpoint.load(path)
        saved.identity["data"]["fingerprint"] = "0" * 64
        saved.save(path)


@pytest.mark.parametrize("kind", ["pickle", "torch", "truncated", "empty", "foreign", "edited", "flipped", "nan", "architecture", "data"])
def test_spoilt_checkpoints_are_refused_in_one_line(tmp_path, kind):
    from empirical.models import open_model

    damaged(tmp_path / NAME, kind)
    with pytest.raises(InputError) as error:
        open_model(str(tmp_path), load(STRIP))
    assert "\n" not in str(error.value)
    assert {"architecture": "network 'cnn'", "data": "trained on"}.get(kind, "checkpoint") in str(error.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--steps 0", "--steps 0"),
        ("--rate -1", "--rate -1"),
        ("--model gan", "gan"),
        ("--prediction noise", "noise"),
        ("--target blurred", "blurred"),
        ("--conditional", "labels"),
        ("--layers 3", "layers"),
        ("--hidden 1000000", "--hidden"),
        ("--batch 100000000000", "--batch"),
        ("--seed 4294967296", "--seed"),
        ("--rate 1e300", "--rate"),
        ("--minutes nan", "--minutes"),
        ("--minutes -1", "--minutes"),
        ("--dataset nothing", "nothing"),
        ("--precision bf16 --device cpu", "bf16"),
    ],
)
def test_command_line_refuses_in_one_line(tmp_path, capsys, option, words):
    code = main([*f"--dataset {STRIP} --model cnn --out {tmp_path / 'r'}".split(), *option.split()])
    told = capsys.readouterr().err
    assert code == 2 and words in told and told.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_foreign_directories_are_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(f"--dataset {STRIP} --model cnn --out {tmp_path}".split()) == 2
    assert "other files" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_conditional_training_tells_classes_apart(tmp_path):
    images = torch.cat([torch.full((4, 1, 4, 4), -0.8), torch.full((4, 1, 4, 4), 0.8)])
    data = ImageSet(images, "two", labels=torch.tensor([0] * 4 + [1] * 4))
    trainer = Trainer(Config("two", "cnn", conditional=True, hidden=16, steps=400, rate=5e-3, batch=32), data)
    for _ in range(400):
        trainer.step()
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    low, high = (trainer.denoiser().denoise(x, 0.99, label=k).mean() for k in (0, 1))
    assert float(low) < -0.5 and float(high) > 0.5


def test_networks_with_classes_learn_towards_those_of_their_class_and_want_one():
    """The target of a step is the posterior mean of the class: noise taken out, the same for both targets at low noise, not otherwise."""
    data = load("digits")
    trainer = Trainer(Config("digits", "cnn", conditional=True, target="posterior", hidden=4, steps=1, batch=8), data)
    x_t = initial_noise(trainer.schedule, (6, 1, 8, 8), 3)
    t, label = torch.full((6,), 0.75, dtype=torch.float64), torch.tensor([0, 1, 2, 7, 8, 9])
    expected = torch.cat([Ideal(data.select(int(k)), trainer.schedule).denoise(x_t[i : i + 1], 0.75) for i, k in enumerate(label)])
    assert_close(trainer.posterior(x_t, t, label), expected, atol=1e-5)
    assert trainer.drawn().shape[1:] == (1, 8, 8)  # a class for each sample
    with pytest.raises(InputError, match="no label"):
        trainer.denoiser().denoise(x_t, 0.5)


def test_a_finished_run_has_its_log_and_picture(tmp_path):
    """The checkpoint comes last: killed before it, the run evaluates again."""
    trainer = train(replace(TINY, steps=40), out=tmp_path / "r")
    for name in ("log.jsonl", "samples.png"):
        assert (tmp_path / "r" / name).stat().st_mtime_ns <= (tmp_path / "r" / NAME).stat().st_mtime_ns
    assert trainer.done == 40


def test_a_checkpoint_without_the_whole_optimiser_does_not_go_on(tmp_path):
    trainer = train(replace(TINY, steps=3, every=3))
    saved = trainer.checkpoint()
    for missing in ("optimiser.0.exp_avg", "optimiser"):
        part = replace(saved, tensors={k: x for k, x in saved.tensors.items() if not k.startswith(missing)})
        with pytest.raises(InputError, match="optimiser"):
            Trainer(replace(TINY, steps=3, every=3), load(STRIP)).restore(part)
