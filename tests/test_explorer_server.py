"""The explorer's server: what it answers, and above all what it does not. Talked to in bytes, on 127.0.0.1."""

import json
import socket
import threading

import pytest
import torch
from explorersession import small_session
from test_explorer import unpacked

from figures.explorer.serve import Server, check, serve
from theory.candidates import candidates
from theory.errors import InputError
from theory.noise import Noise
from theory.plain import PlainConsole
from theory.sampling import DDIM

JSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def session():
    return small_session(["ideal", "els"])


@pytest.fixture(scope="module")
def server(session):
    with torch.no_grad():
        content = session.first(1, 3, served=True)
    with Server(session, "127.0.0.1", 0, content) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def talk(server, first: str, *headers: str, body: bytes = b"", host: str | None = "") -> tuple[int, str, bytes]:
    """Send a request as it is given; the status, the head and the body of the answer."""
    port = server.server_address[1]
    lines = [f"{first} HTTP/1.1", *([] if host is None else [f"Host: {host or f'127.0.0.1:{port}'}"]), *headers]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        wire.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := wire.recv(2**16):
            answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), rest


def lines(body: bytes) -> list[dict]:
    return [json.loads(line) for line in body.splitlines()]


def test_the_page_is_served_and_may_ask_this_server_alone(server):
    status, head, body = talk(server, "GET /")
    assert status == 200 and "text/html" in head and "nosniff" in head and "frame-ancestors 'none'" in head
    assert b"connect-src 'self'" in body and body == server.page
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")
    assert talk(server, "GET /", host=f"localhost:{server.server_address[1]}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.evil.example", None, "0.0.0.0:{port}"]
)
def test_other_hosts_are_refused(server, host):
    """DNS rebinding: a name of another site that points here comes with that site's name."""
    given = host if host is None else host.format(port=server.server_address[1])
    for first in ("GET /", "POST /samples?sample=0"):
        status, _, body = talk(server, first, "X-Explorer: 1", host=given)
        assert status == 403 and b"doctype" not in body and b"answers to" in body


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/explorer.css", "/%2e%2e/pyproject.toml", "/main.js",
        "/samples/../", "/.", "/?/../x/..", "http://127.0.0.1/etc/passwd",
    ],
)  # fmt: skip
def test_no_path_names_a_file(server, path):
    status, _, body = talk(server, f"GET {path}")
    assert b"root:" not in body and b"[project]" not in body
    assert status == 404 or (status == 200 and body == server.page and path.startswith("/?"))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_not_known(server, method):
    assert talk(server, f"{method} /")[0] == 501


def test_other_sites_are_refused(server):
    port = server.server_address[1]
    for headers in (["Origin: https://evil.example", "X-Explorer: 1"], ["Origin: null", "X-Explorer: 1"], []):
        assert talk(server, "POST /samples?sample=0", *headers)[0] == 403
    assert talk(server, "POST /samples?sample=0", f"Origin: http://127.0.0.1:{port}", "X-Explorer: 1")[0] == 200


def test_any_sample_at_any_level_is_what_the_theory_says(server, session):
    status, head, body = talk(server, "POST /samples?sample=7&t=0.4321", "X-Explorer: 1")
    told = lines(body)
    assert status == 200 and JSON in head
    progress = [line["progress"] for line in told[:-1]]
    assert progress == sorted(progress) and progress[0] == 0 and progress[-1] == 1 and len(progress) > 4
    pack = told[-1]["pack"]
    assert pack["first"] == 7 and pack["count"] == 1 and 0.4321 in pack["times"]
    times = torch.tensor([1, 0.75, 0.5, 0.4321, 0.25, 0], dtype=torch.float64)
    els, level = session.shown[1], pack["times"].index(0.4321)
    run = DDIM(els.denoiser, times=times)(session.noise(0, 8), trajectory=True)
    found = candidates(els.machine, run.trajectory[3][7:], 0.4321, 3)
    assert float((torch.tensor(unpacked(pack, "1.weight")[:, level]) - found.weight).abs().max()) < 2e-4


def test_an_image_of_ones_own_is_the_start(server, session):
    image = torch.randint(0, 256, (1, 4, 5), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    headers = ["X-Explorer: 1", "Content-Length: 20"]
    _, _, body = talk(server, "POST /image?t=0.5&seed=3", *headers, body=image.numpy().tobytes())
    pack = lines(body)[-1]["pack"]
    assert pack["first"] is None and pack["times"][0] == 0.5
    clean = image.float()[None] / 127.5 - 1
    ideal = session.shown[0].denoiser
    x_t = ideal.schedule.perturb(clean, 0.5, Noise(3)(clean))
    error = (torch.tensor(unpacked(pack, "0.x")[:, 0]) - x_t).abs().max()
    assert float(error) < pack["index"]["0.x"]["scale"]


@pytest.mark.parametrize(
    ("first", "headers", "body", "words"),
    [
        ("POST /image?t=.5&seed=0", ["Content-Length: 19"], b"0" * 19, "20 bytes"),
        ("POST /image?t=.5&seed=0", ["Content-Length: 99999999999"], b"", "20 bytes"),
        ("POST /image?t=.5&seed=0", ["Content-Length: 20"], b"0" * 19, "20 bytes"),
        ("POST /image?t=.5&seed=0", ["Content-Length: -1"], b"", "20 bytes"),
        ("POST /image?t=.5&seed=0", ["Transfer-Encoding: chunked"], b"0\r\n\r\n", "20 bytes"),
        ("POST /image?t=nan&seed=0", ["Content-Length: 20"], b"0" * 20, "t="),
        ("POST /image?seed=0", ["Content-Length: 20"], b"0" * 20, "t="),
        ("POST /samples", [], b"", "sample="),
        ("POST /samples?sample=x", [], b"", "sample="),
        ("POST /samples?sample=0", ["Content-Length: 3"], b"abc", "0 bytes"),
    ],
)
def test_bad_requests_are_refused(server, first, headers, body, words):
    status, _, told = talk(server, first, "X-Explorer: 1", *headers, body=body)
    assert status == 400 and words in told.decode()


@pytest.mark.parametrize("query", ["sample=-1", "sample=9999999", "sample=0&t=2", "sample=0&t=0"])
def test_what_can_not_be_computed_is_said(server, query):
    status, _, body = talk(server, f"POST /samples?{query}", "X-Explorer: 1")
    assert status == 200 and "expected" in lines(body)[-1]["error"]


def test_two_at_once_both_get_their_answer(server):
    found = {}

    def ask(sample: int) -> None:
        found[sample] = lines(talk(server, f"POST /samples?sample={sample}", "X-Explorer: 1")[2])[-1]["pack"]["first"]

    threads = [threading.Thread(target=ask, args=(n,)) for n in (3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {3: 3, 4: 4, 5: 5}


def test_who_goes_away_leaves_the_server_working(server):
    with socket.create_connection(server.server_address[:2]) as wire:
        wire.sendall(f"POST /samples?sample=1 HTTP/1.1\r\nHost: 127.0.0.1:{server.server_address[1]}\r\nX-Explorer: 1\r\n\r\n".encode())
    assert talk(server, "GET /")[0] == 200


def test_a_taken_port_is_refused(server):
    with pytest.raises(InputError, match="an address of this machine that is free"):
        check(*server.server_address[:2])


def test_it_serves_until_interrupted(session, monkeypatch, capsys):
    def interrupted(server) -> None:
        assert server.server_address[0] == "127.0.0.1"
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    with torch.no_grad():
        assert serve(session, "127.0.0.1", 0, 2, PlainConsole(stderr=True, width=160)) == 0
    told = capsys.readouterr().err
    assert told.startswith("open http://127.0.0.1:") and "warning" not in told


def test_elsewhere_only_when_told(session, server):
    """On another address it answers to that address alone."""
    content = {"title": "x"}
    with Server(session, "127.0.0.2", 0, content) as other:
        assert other.names == {f"127.0.0.2:{other.server_address[1]}"}
