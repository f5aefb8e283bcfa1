"""The explorer in a real browser: that it shows what Python computes, by mouse, keyboard, link and on a narrow screen."""

import json
import re
import socket
import threading

import pytest
import torch
from browser import chromium, screenshots
from explorersession import TIMES, small_session, toy_session
from PIL import Image
from test_explorer import HOSTILE

from figures.explorer import page as pages
from figures.explorer.serve import Server
from theory.candidates import candidates
from theory.sampling import DDIM

pytestmark = pytest.mark.slow
TITLES = ["IS (ideal)", "ELS (CNN)", "full attention, theory", "network attention-0"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def session(browser):  # nothing is computed where there is no browser
    return toy_session()


@pytest.fixture(scope="module")
def file(session, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "toy.html"
    with torch.no_grad():
        pages.write(path, session.first(3, 3, served=False))
    return path.as_uri()


@pytest.fixture
def opened(browser):
    """Opens an address; afterwards, nothing may have gone wrong in it, nor anything been asked for from outside."""
    made, wrong = [], []

    def open_at(address: str, allowed: str | None = None, **options):
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not _own(asked.url, address, allowed) else None)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        made.append(page)
        return page

    yield open_at
    for page in made:
        page.close()
    assert wrong == []


def _own(url: str, address: str, allowed: str | None) -> bool:
    return (
        url.split("#")[0] == address.split("#")[0]
        or url.startswith(("data:", "blob:"))
        or (allowed is not None and url.startswith(allowed))
    )


def state(page) -> dict:
    return page.evaluate("({...window.explorer.state})")


def until(page, condition: str) -> None:
    """Wait for a condition; Playwright's own way evaluates text, which the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"waited ten seconds for {condition}")


def moved_to(page, link: str) -> None:
    """Follow a link within the page, and wait until it is shown."""
    page.evaluate("link => { location.hash = link; }", link)
    page.wait_for_timeout(50)


def test_it_opens_from_disk_with_all_models(opened, file):
    page = opened(file)
    assert [name.inner_text() for name in page.query_selector_all(".card .name")] == TITLES
    assert page.query_selector("#failure").is_hidden() and page.query_selector("#explorer").is_visible()
    assert "python -m figures.explore --dataset toy" in page.inner_text("#numbers")
    assert page.title() == "Where does this pixel come from? toy:layout=grid"


@pytest.mark.parametrize(
    ("model", "sample", "level", "pixel"), [(0, 0, 1, (1, 1)), (1, 1, 1, (4, 3)), (1, 2, 2, (0, 0)), (2, 0, 1, (5, 0)), (3, 1, 2, (2, 2))]
)
def test_the_numbers_on_the_page_are_those_of_python(opened, file, session, model, sample, level, pixel):
    """To the precision of the page: 1.7e-4 of a weight."""
    shown, t = session.shown[model], TIMES[level]
    page = opened(f"{file}#sample={sample}&pixel={pixel[0]},{pixel[1]}&t={t}&model={shown.name}")
    run = DDIM(shown.denoiser, session.plan.steps)(session.noise(0, 3), trajectory=True)
    step = int((run.times - t).abs().argmin())
    assert float(run.times[step]) == pytest.approx(t) == state(page)["t"]
    found = candidates(shown.machine, run.trajectory[step][sample : sample + 1], t, session.plan.top)
    y, x = pixel
    told = [dict(zip(("weight", "image"), map(float, one), strict=True)) for one in page.eval_on_selector_all(
        "#patches li", "found => found.map(one => [one.dataset.weight, one.dataset.image])"
    )]  # fmt: skip
    weights = found.weight[0, y, x][found.weight[0, y, x] > 2.0**-32]
    assert [one["weight"] for one in told] == pytest.approx(weights.tolist(), rel=1.8e-4)
    assert [one["image"] for one in told] == found.image[0, y, x, : len(weights)].tolist()
    shares = page.eval_on_selector("#patches .shares", "one => ({...one.dataset})")
    assert float(shares["rest"]) == pytest.approx(float(found.rest[0, y, x]), abs=2e-4)
    assert float(shares["effective"]) == pytest.approx(float(found.effective[0, y, x]), rel=2e-4)
    assert int(page.get_attribute("#sources", "data-images")) == len(found.mosaic.unique())
    if shown.kind == "solved":
        split = shown.denoiser.split(run.trajectory[step][sample : sample + 1], t)
        attended = torch.zeros(6, 4)
        for v, u, share in json.loads(page.get_attribute("#attention", "data-shares")):
            attended[v, u] = share
        assert float((attended.flatten() - split.attention[0, y * 4 + x]).abs().max()) < 2e-4
        own = ", ".join(f"{v:.2f}".replace("-", "−") for v in split.local[0, :, y, x].tolist())
        assert own in page.inner_text("#attention .sum")
    else:
        assert (page.query_selector("#attention") is None) == (shown.kind == "machine")


def test_the_slider_replays_the_sampling(opened, file):
    page = opened(f"{file}#sample=0&t=1&model=ideal")
    pictures = []
    for level in range(3):
        page.eval_on_selector("#level", "(slider, v) => { slider.value = v; slider.dispatchEvent(new Event('input')); }", level)
        pictures.append(page.evaluate("document.querySelector('.card .main').toDataURL()"))
        assert state(page)["t"] == pytest.approx(TIMES[level])
    assert len(set(pictures)) == 3
    page.focus("#level")
    page.keyboard.press("ArrowLeft")  # a slider's own key: not a pixel's
    assert state(page)["t"] == pytest.approx(0.6)
    page.click("button[aria-label='replay the sampling']")
    assert state(page)["t"] == 1
    until(page, "Math.abs(window.explorer.state.t - 0.2) < 1e-9 && window.explorer.timer === null")


def test_a_click_chooses_model_and_pixel(opened, file):
    page = opened(file)
    for model, (y, x) in ((0, (0, 0)), (2, (5, 3)), (1, (2, 1))):
        box = page.query_selector_all(".card .main")[model].bounding_box()
        scale = min(box["width"] / 4, box["height"] / 6)
        left = box["x"] + (box["width"] - 4 * scale) / 2
        page.mouse.click(left + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)
        assert (state(page)["model"], state(page)["pixel"]) == (model, [y, x])
        assert page.inner_text("#pixel h2").startswith(f"Row {y}, column {x} of {TITLES[model]}")


def test_everything_goes_by_keyboard(opened, file):
    page = opened(f"{file}#sample=0&pixel=0,0&t=1&model=ideal")
    press = page.keyboard.press
    for key, what, expected in (
        ("ArrowDown", "pixel", [1, 0]), ("ArrowRight", "pixel", [1, 1]), ("ArrowUp", "pixel", [0, 1]), ("ArrowUp", "pixel", [5, 1]),
        ("ArrowLeft", "pixel", [5, 0]), ("ArrowLeft", "pixel", [5, 3]), ("]", "t", 0.6), ("]", "t", 0.2), ("[", "t", 0.6),
        ("3", "model", 2), ("n", "sample", 1), ("n", "sample", 2), ("n", "sample", 0), ("p", "sample", 2), ("v", "view", "mosaic"),
        ("v", "view", "difference"), ("v", "view", "picture"), ("9", "model", 2),
    ):  # fmt: skip
        press(key)
        assert state(page)[what] == (pytest.approx(expected) if what == "t" else expected), key
    seen = set()
    for _ in range(14):  # the whole page can be walked through
        press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.textContent"))
    assert {"sample", "level", "name", "main", "picture", "mosaic"} <= seen


def test_a_link_restores_the_view(opened, file):
    page = opened(file)
    page.keyboard.press("3")
    for key in ("ArrowDown", "ArrowRight", "[", "v", "n"):
        page.keyboard.press(key)
    until(page, "location.hash.includes('view=mosaic') && location.hash.includes('model=full')")
    before = state(page)
    again = opened(page.url)
    assert state(again) == before
    moved_to(again, "#sample=1&pixel=4,2&t=.5")
    assert {k: state(again)[k] for k in ("sample", "pixel")} == {"sample": 1, "pixel": [4, 2]}
    assert state(again)["t"] == pytest.approx(0.6)
    moved_to(again, "#sample=-7&pixel=99,x&t=soon&model=<b>&view=none")
    assert state(again)["sample"] == 0 and state(again)["pixel"][0] == 5 and state(again)["view"] == "picture"


def test_views_are_of_what_they_say(opened, file, session):
    """The mosaic of the ideal machine has one colour, and a model does not differ from itself."""
    colours = """([m, inset]) => {
        const canvas = document.querySelectorAll('.card .main')[m];
        const { width, height } = canvas, cell = width / 4, seen = new Set();
        const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
        for (let y = 0; y < 6; y++) for (let x = 0; x < 4; x++) {
            const at = 4 * (Math.floor((y + inset) * cell) * width + Math.floor((x + inset) * cell));
            seen.add(data.slice(at, at + 3).join());
        }
        return [...seen];
    }"""
    page = opened(f"{file}#sample=0&t=0&view=mosaic&model=equivariant_local")
    assert len(page.evaluate(colours, [0, 0.5])) == 1
    assert len(page.evaluate(colours, [1, 0.5])) == int(page.get_attribute("#sources", "data-images"))
    moved_to(page, "#sample=0&t=0&view=difference&versus=full&model=ideal&pixel=1,0")
    assert page.evaluate(colours, [2, 0.5]) == ["68,1,84"] and len(page.evaluate(colours, [3, 0.5])) > 1
    run = [DDIM(session.shown[m].denoiser, session.plan.steps)(session.noise(0, 1)).images for m in (0, 2)]  # the last guess is the sample
    apart = float((run[0] - run[1])[0, :, 1, 0].square().mean().sqrt())
    told = float(re.search(r"differs by ([\d.]+),", page.inner_text("#pixel"))[1])
    assert told == pytest.approx(apart, abs=1e-3)


def test_it_fits_a_phone(opened, file, tmp_path):
    page = opened(f"{file}#view=mosaic&model=full", viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for selector in ("#level", "#sample", ".card .main", "#patches", "#attention", "#sources", "#numbers table"):
        box = page.query_selector(selector).bounding_box()
        assert box["x"] >= 0 and box["width"] > 40, selector
    box = page.query_selector_all(".card .main")[0].bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 5)
    assert state(page)["model"] == 0 and state(page)["pixel"][0] == 0
    page.screenshot(path=screenshots(tmp_path) / "explorer-narrow.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_legible_in_light_and_dark(opened, file, scheme, tmp_path):
    """Text against its background at least 4.5 to 1 (WCAG 2.2, AA), of all kinds of text on the page."""
    page = opened(f"{file}#view=mosaic&model=full&t=.4", color_scheme=scheme)
    contrast = """() => {
        const light = (text) => {
            const linear = (v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const behind = (one) => {
            const own = getComputedStyle(one).backgroundColor;
            return own === 'rgba(0, 0, 0, 0)' ? (one.parentElement ? behind(one.parentElement) : 'rgb(255, 255, 255)') : own;
        };
        const kinds = 'p, h1, h2, h3, small, td, th, button, select, pre, .quiet, .good, .bad, .weight, kbd, output';
        return [...document.querySelectorAll(kinds)].filter((one) => one.offsetParent && one.textContent.trim()).map((one) => {
            const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort();
            return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), one.tagName + '.' + one.className];
        });
    }"""
    worst = min(page.evaluate(contrast))
    assert worst[0] >= 4.5, worst
    out = screenshots(tmp_path) / f"explorer-{scheme}.png"
    page.screenshot(path=out, full_page=True)
    with Image.open(out) as picture:
        assert (picture.convert("L").getpixel((3, 3)) > 128) == (scheme == "light")
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


def test_hostile_names_appear_as_text(opened, browser, tmp_path):
    session = small_session([HOSTILE, "els"], folder=HOSTILE)
    with torch.no_grad():
        content = session.first(1, 3, served=False)
        pack = content["packs"][0]
        pack["names"] = pack["labels"] = [HOSTILE] * len(pack["used"])
        pages.write(tmp_path / "x.html", content)
    page = opened((tmp_path / "x.html").as_uri())
    assert page.evaluate("window.bad") is None and page.query_selector("img") is None
    assert page.inner_text(".card .name") == HOSTILE
    for selector in ("#data", "#patches li small", "#sources", "#numbers"):
        assert HOSTILE in page.inner_text(selector), selector
    assert page.title().endswith(HOSTILE)


def test_nothing_can_leave_the_page(browser, file):
    """Not even what a hostile script would try: nobody reaches the server that listens."""
    page = browser.new_page()
    page.goto(file)
    page.wait_for_selector("html[data-ready]")
    tries = """async (address) => {
        const failed = [];
        await fetch(address).catch(() => failed.push('fetch'));
        const picture = new Image();
        await new Promise((done) => { picture.onerror = () => { failed.push('img'); done(); }; picture.src = address; });
        const script = document.createElement('script');
        script.textContent = 'window.ran = 1';
        document.head.append(script);
        return [...failed, window.ran];
    }"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert page.evaluate(tries, f"http://127.0.0.1:{listening.getsockname()[1]}/x.png") == ["fetch", "img", None]
        listening.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listening.accept()
    page.close()


def test_an_old_browser_is_told(browser, file):
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file)
    page.wait_for_selector("#failure:not([hidden])")
    assert "browser of 2023" in page.inner_text("#failure")
    page.close()


@pytest.fixture
def served():
    session = small_session(["ideal", "els"])
    with torch.no_grad():
        content = session.first(1, 3, served=True)
    with Server(session, "127.0.0.1", 0, content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield session, server.url
        server.shutdown()
        thread.join()


def test_a_served_page_computes_what_is_asked(opened, served, tmp_path):
    session, url = served
    page = opened(url, allowed=url)
    page.fill("#any-sample", "6")
    page.fill("#any-level", "0.432")
    page.click("#compute")
    until(page, "window.explorer.state.sample === 6")
    assert state(page)["t"] == 0.432
    weight = float(page.get_attribute("#patches li", "data-weight"))
    times = torch.tensor([1, 0.75, 0.5, 0.432, 0.25, 0], dtype=torch.float64)
    els, (y, x) = session.shown[1], state(page)["pixel"]
    run = DDIM(els.denoiser, times=times)(session.noise(6, 1), trajectory=True)
    found = candidates(els.machine, run.trajectory[3], 0.432, 1)
    assert weight == pytest.approx(float(found.weight[0, y, x, 0]), rel=1e-3)
    linked = opened(f"{url}#sample=9&t=.432&pixel=1,2", allowed=url)  # a link to what is not there yet
    until(linked, "window.explorer.state.sample === 9 && window.explorer.state.t === 0.432")
    Image.new("L", (50, 40), 255).save(tmp_path / "white.png")
    page.set_input_files("#own", tmp_path / "white.png")
    until(page, "window.explorer.state.own")
    page.eval_on_selector("#level", "slider => { slider.value = 0; slider.dispatchEvent(new Event('input')); }")
    assert state(page)["t"] == 0.432  # from the level that was looked at
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#own", tmp_path / "broken.png")
    until(page, "document.body.textContent.includes('broken.png can\\'t be read as a picture')")
    page.fill("#any-sample", "-3")
    page.click("#compute")
    until(page, "document.body.textContent.includes('sample -3: expected')")
