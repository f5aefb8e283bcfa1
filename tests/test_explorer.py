"""The explorer's file: what is on it equals what Python computes, and it is safe to open. Without a browser."""

import base64
import gzip
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from explorersession import network, small_session, toy_session
from helpers import assert_close, refused
from PIL import Image

from empirical.metrics import r2_pearson
from figures import explore
from figures.explorer import page
from figures.explorer.attention import split
from figures.explorer.models import default_models, open_models
from figures.explorer.names import Names
from figures.explorer.pack import packed
from theory.candidates import candidates
from theory.data import load
from theory.errors import InputError
from theory.sampling import DDIM

HOSTILE = "</script><script>window.bad = 1</script>\"'&<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def session():
    return toy_session()


@pytest.fixture(scope="module")
def pack(session):
    with torch.no_grad():
        return session.samples(1, 2)


def unpacked(pack: dict, name: str) -> np.ndarray:
    """What a reader of the format makes of an array; written from its description, as `data.js` is."""
    told, data = pack["index"][name], gzip.decompress(base64.b64decode(pack["data"]))
    kind = np.dtype(told["type"]).newbyteorder("<")
    values = np.frombuffer(data, kind, int(np.prod(told["shape"])), told["offset"]).reshape(told["shape"])
    scale = told["scale"]
    return {
        "log": lambda: np.where(values == 65535, 0, 2.0 ** (-scale * values.astype(np.float64))),
        "fixed": lambda: values * scale,
        "byte": lambda: values * scale - 1,
        "plain": lambda: values,
    }[told["code"]]()


def test_packed_numbers_come_back():
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(3, 5, generator=generator, dtype=torch.float64) ** 20  # down to 1e-20
    arrays = {
        "shares": ("log", shares),
        "x": ("fixed", torch.randn(7, generator=generator)),
        "pixels": ("byte", torch.arange(256) / 127.5 - 1),
        "few": ("plain", torch.tensor([0, 255])),
        "some": ("plain", torch.tensor([0, 65535])),
        "many": ("plain", torch.tensor([3, 65536])),
    }
    pack = packed(arrays)._asdict()
    told = torch.tensor(unpacked(pack, "shares"))
    large = shares > 2**-31.9
    assert ((told / shares - 1).abs()[large] < 1.7e-4).all() and (told[shares < 2**-32.1] == 0).all() and (~large).any()
    x = arrays["x"][1].double()
    assert_close(unpacked(pack, "x"), x, atol=float(x.abs().max()) / 32767 / 2 * 1.0001)
    assert_close(unpacked(pack, "pixels"), np.arange(256) / 127.5 - 1, atol=1e-7)  # pixels of 8 bits, which float32 gave
    for name, kind in (("few", "uint8"), ("some", "uint16"), ("many", "uint32")):
        assert pack["index"][name]["type"] == kind and (unpacked(pack, name) == arrays[name][1].numpy()).all()
    assert all(told["offset"] % 8 == 0 for told in pack["index"].values())
    assert packed(arrays) == packed(arrays)


def test_the_page_shows_what_the_theory_computes(session, pack):
    """Weights, shares left out, places and guesses, to the precision of the page: 1.7e-4 of a weight, and of guesses 1/32767."""
    used = torch.tensor(pack["used"])
    for m, model in enumerate(session.shown):
        run = DDIM(model.denoiser, session.plan.steps)(session.noise(1, 2), trajectory=True)
        for level, t in enumerate(pack["times"]):
            step = int((run.times - t).abs().argmin())
            x_t = run.trajectory[step]
            found = candidates(model.machine, x_t, t, session.plan.top)
            weight = torch.tensor(unpacked(pack, f"{m}.weight")[:, level])
            assert_close(weight, found.weight[:, : weight.shape[1], : weight.shape[2]], atol=1.7e-4)
            assert_close(1 - weight.sum(-1), found.rest[:, : weight.shape[1], : weight.shape[2]], atol=1.7e-4)
            effective = torch.tensor(1 / unpacked(pack, f"{m}.effective")[:, level])
            assert_close(effective / found.effective[:, : weight.shape[1], : weight.shape[2]], torch.ones_like(effective), atol=2e-4)
            image = used[torch.tensor(unpacked(pack, f"{m}.image")[:, level].astype(np.int64))]
            told = found.weight[:, : weight.shape[1], : weight.shape[2]] > 0
            assert (image == found.image[:, : weight.shape[1], : weight.shape[2]])[told].all()
            mosaic = used[torch.tensor(unpacked(pack, f"{m}.mosaic")[:, level].astype(np.int64))]
            assert (mosaic == found.mosaic[:, : weight.shape[1], : weight.shape[2]]).all()
            scale = pack["index"][f"{m}.mean"]["scale"]
            assert_close(unpacked(pack, f"{m}.mean")[:, level], model.denoiser.denoise(x_t, t), atol=scale)
            assert_close(unpacked(pack, f"{m}.x")[:, level], x_t, atol=pack["index"][f"{m}.x"]["scale"])
    assert pack["times"][0] == 1 and pack["times"][-1] == pytest.approx(1 / session.plan.steps)
    assert (unpacked(pack, "images") == session.data.images[used].numpy()).all()


def test_attention_on_the_page_is_that_of_the_solution(session, pack):
    solved = session.shown[2].denoiser
    run = DDIM(solved, session.plan.steps)(session.noise(1, 2), trajectory=True)
    level = 2
    parts = solved.split(run.trajectory[int((run.times - pack["times"][level]).abs().argmin())], pack["times"][level])
    between = torch.zeros(2, 24, 24, dtype=torch.float64)
    places = torch.tensor(unpacked(pack, "2.attended")[:, level].astype(np.int64))
    between.scatter_(-1, places, torch.tensor(unpacked(pack, "2.share")[:, level]))
    assert_close(between, parts.attention, atol=1.7e-4)
    assert_close(unpacked(pack, "2.local")[:, level], parts.local, atol=pack["index"]["2.local"]["scale"])


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "score", "v"])
@pytest.mark.parametrize("head", ["attention", "identity", "top1", "literal"])
def test_a_network_is_taken_apart(head, prediction):
    """Attention is a distribution and parts add up; without anything to get from others, the guess is the own part alone."""
    model, x_t = network(head, prediction), torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(3))
    parts = split(model, x_t, 0.4)
    assert_close(parts.attention.sum(-1), torch.ones(2, 24), atol=1e-5)
    assert_close(parts.local + parts.context, model.denoise(x_t, 0.4), atol=1e-4)  # score predictions are divided by small numbers
    assert float(parts.context.abs().max()) > 1e-3
    if head == "attention":
        torch.nn.init.zeros_(model.module.head.value.weight)
        torch.nn.init.zeros_(model.module.head.value.bias)
        silent = split(model, x_t, 0.4)
        assert_close(silent.context, torch.zeros_like(silent.context), atol=1e-4)
        assert_close(silent.local, model.denoise(x_t, 0.4), atol=1e-4)


def test_models_without_attention_have_none(session):
    assert split(session.shown[1].denoiser, session.noise(0, 1), 0.5) is None and split(network("cnn"), session.noise(0, 1), 0.5) is None


def content_of(session) -> dict:
    with torch.no_grad():
        return session.first(2, 3, served=False)


@pytest.fixture(scope="module")
def content(session):
    return content_of(session)


def test_the_file_is_self_contained_small_and_the_same_again(content, tmp_path):
    size = page.write(tmp_path / "toy.html", content)
    text = (tmp_path / "toy.html").read_text()
    assert size == (tmp_path / "toy.html").stat().st_size < page.LIMIT
    outside = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"(https?:)?//[\w.]+\.\w+", re.sub(r"^\s*//.*$", "", outside, flags=re.MULTILINE))
    assert not re.search(r"<(link|img|iframe|script)[^>]+(src|href)=\"(?!data:)", outside)
    assert not re.search(r"^(import|export)\b| as \w+ } from", page.script(), re.MULTILINE)  # names are the same in all modules
    small = small_session(["ideal", "els"])
    assert page.page(content_of(small)) == page.page(content_of(small))


@pytest.mark.slow
def test_numbers_are_those_of_the_first_samples(session):
    """However many of them were there already."""
    with torch.no_grad():
        found = session.follow(0, 2)
        some = session.numbers(3, found.finals)
        all_of_them = [DDIM(m.denoiser, session.plan.steps)(session.noise(0, 3)).images for m in session.shown]
    assert some["count"] == 3 and some["reference"] == 3
    r2 = [float(r2_pearson(all_of_them[3], x).median()) for x in all_of_them[:3]]
    assert [m["pair"]["r2_pearson"]["value"] for m in some["models"][:3]] == pytest.approx(
        r2, rel=1e-2
    )  # of float32 samples, nearly uncorrelated
    assert some["models"][0]["consistency"]["value"] == float(session.data.rule.consistent(all_of_them[0]).double().mean())


def test_the_policy_allows_these_scripts_and_no_address(content):
    text = page.page(content)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    script = re.search(r'<script type="module">(.*?)</script>', text, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for what, own in (("script-src", script), ("style-src", style)):
        assert f"{what} 'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "connect-src 'self'" in page.page(content, served=True)


def test_hostile_names_end_no_element():
    session = small_session([HOSTILE, "els"], folder=HOSTILE)
    text = page.page(content_of(session))
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text
    found = json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])
    assert found["models"][0]["title"] == HOSTILE and found["data"]["name"] == HOSTILE and HOSTILE in found["title"]


def test_names_of_files_and_classes(tmp_path):
    for place in ("a/1.png", "b 'c'/2.png"):
        (tmp_path / place).parent.mkdir()
        Image.new("RGB", (4, 3), (9, 9, 9)).save(tmp_path / place)
    names = Names(load(f"folder:{tmp_path}"))
    assert [names.image(n) for n in (0, 1)] == ["a/1.png", "b 'c'/2.png"] and [names.label(n) for n in (0, 1)] == ["a", "b 'c'"]
    Image.new("RGB", (4, 3)).save(tmp_path / "a" / "3.png")
    changed = Names(names.data)
    assert changed.image(0) is None and changed.label(1) == "1"
    assert Names(load("digits")).label(3) == "3" and Names(load("digits")).image(3) is None


def test_the_command_writes_a_page_and_says_how_to_repeat_it(tmp_path, capsys):
    out = tmp_path / "deep" / "strip.html"
    small = ["--samples", "1", "--steps", "12", "--levels", "2", "--top", "2", "--draws", "2"]
    command = ["--dataset", "toy:layout=strip", "--models", "ideal", "equivariant", *small, "--out", str(out)]
    assert explore.main(command) == 0
    assert f"written to {out}" in capsys.readouterr().err
    found = json.loads(re.search(r'id="content">(.*?)</script>', out.read_text(), re.DOTALL)[1])
    assert found["command"].startswith("python -m figures.explore --dataset toy:layout=strip --models ideal equivariant")
    assert found["numbers"]["models"][0]["consistency"]["value"] == 1 and found["packs"][0]["count"] == 1
    assert explore.main(command) == 0  # its own page is replaced


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "ideal"], "two or more models"),
        (["--models", "ideal", "nothing"], "model 'nothing'"),
        (["--models", "ideal", "ideal"], "different ones"),
        (["--samples", "0"], "--samples 0: expected 1 to 1000"),
        (["--draws", "1"], "--draws 1"),
        (["--top", "0"], "--top 0"),
        (["--dataset", "nothing"], "data set 'nothing'"),
        (["--serve", "--port", "70000"], "--port 70000"),
        (["--serve", "--host", "192.0.2.1"], "--host 192.0.2.1"),  # no address of this machine (RFC 5737)
    ],
)
def test_bad_options_are_refused_in_one_line(options, words, tmp_path, capsys):
    assert explore.main([*options, "--out", str(tmp_path / "x.html")]) == 2
    told = capsys.readouterr().err
    assert words in told and told.startswith("error: ") and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_foreign_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    for out, words in (
        (tmp_path / "mine.html", "holds something else"),
        (tmp_path, "a directory"),
        (tmp_path / "mine.html" / "x", "--out"),
    ):
        assert explore.main(["--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


def test_a_page_too_large_is_refused_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIMIT", 1000)
    with pytest.raises(InputError) as error:
        page.write(tmp_path / "x.html", content_of(small_session(["ideal", "els"])))
    refused(error, "MB", "--samples")
    assert list(tmp_path.iterdir()) == []


def test_models_by_default(session):
    assert default_models(load("digits")) == ["ideal", "local", "equivariant_local"]
    specs = default_models(session.data)
    shown = open_models(specs, session.data, torch.device("cpu"))
    assert [m.kind for m in shown] == ["machine", "machine", "solved", "network"]
    assert shown[3].machine is shown[1].machine and not shown[3].own and shown[1].own


def test_machines_without_weights_of_patches_are_shown_with_those_of_els():
    """A Gaussian weighs no patches, and a smoothed score those of many noisy images."""
    data = load("toy:layout=strip")
    shown = open_models(["equivariant_local", "gaussian", "smoothed"], data, torch.device("cpu"))
    assert [m.kind for m in shown] == ["machine"] * 3 and [m.own for m in shown] == [True, False, False]
    assert all(m.machine is shown[0].denoiser for m in shown)
    assert shown[1].title == "gaussian"
