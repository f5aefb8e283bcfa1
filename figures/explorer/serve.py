"""The explorer on this machine: the page, and what it asks for. Listens on 127.0.0.1 unless told otherwise.

Three addresses are known, none of which names a file: the page ``/``, ``/samples`` and ``/image``. Whoever asks has to know the server
by its own name (the Host header), so that no other site can reach it by a name that it lets point here (DNS rebinding), and has to come
from its own page (Origin, and a header that other sites can't send without asking first).

Answers come line by line, as JSON: ``{"progress": .3}`` while it computes, then ``{"pack": ...}`` or ``{"error": ...}``.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import torch
from rich.console import Console
from rich.progress import Progress

from figures.explorer.page import page
from figures.explorer.session import Session
from theory.errors import InputError

HOST = "127.0.0.1"
HEADER = "X-Explorer"
SECONDS = 10  # that a request may take to arrive


def check(host: str, port: int) -> None:
    """Refuse an address that nobody can listen on, before any work.

    Raises:
        InputError: If so.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}", "0 to 65535", "choose another one")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port} ({error.strerror})", "an address of this machine that is free", "choose another --port"
        ) from error


class Server(ThreadingHTTPServer):
    """The server of a session; one computation at a time.

    Args:
        session: What is shown.
        host, port: Where it listens; port 0 for a free one.
        content: The page's content, as JSON values.
    """

    daemon_threads = True

    def __init__(self, session: Session, host: str, port: int, content: dict) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.session, self.host = session, host
        self.page = page(content, served=True).encode()
        self.working = threading.Lock()

    @property
    def names(self) -> set[str]:
        """What a Host header may say."""
        port = self.server_address[1]
        hosts = {self.host, HOST, "localhost", "[::1]"} if self.host in (HOST, "::1", "localhost") else {self.host}
        return {f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}" for host in hosts}

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"


class RefusedError(Exception):
    """What is answered instead: a status and a sentence."""

    def __init__(self, status: int, why: str) -> None:
        self.status, self.why = status, why
        super().__init__(why)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version, timeout = "score-machines", "", SECONDS

    def do_GET(self) -> None:
        self._answer({"/": self._page})

    def do_POST(self) -> None:
        self._answer({"/samples": self._samples, "/image": self._image})

    def _answer(self, known: dict[str, Callable[[dict[str, str]], None]]) -> None:
        try:
            if self.headers.get("Host", "").lower() not in self.server.names:
                raise RefusedError(403, f"this server answers to {', '.join(sorted(self.server.names))} only")
            if self.headers.get("Origin", self._origin) != self._origin:
                raise RefusedError(403, "asked from another site")
            asked = urlsplit(self.path)
            if asked.path not in known:
                raise RefusedError(404, "no such address")
            known[asked.path]({key: values[-1] for key, values in parse_qs(asked.query).items()})
        except RefusedError as refusal:
            self._send(refusal.status, "text/plain; charset=utf-8", f"{refusal.why}\n".encode())
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass  # whoever asked has gone

    @property
    def _origin(self) -> str:
        return f"http://{self.headers.get('Host', '').lower()}"

    def _page(self, asked: dict[str, str]) -> None:
        self._send(200, "text/html; charset=utf-8", self.server.page)

    def _samples(self, asked: dict[str, str]) -> None:
        self._body(0)
        sample, t = _number(asked, "sample", int), _number(asked, "t", float) if "t" in asked else None
        self._compute(lambda tick: self.server.session.samples(sample, 1, t=t, tick=tick))

    def _image(self, asked: dict[str, str]) -> None:
        shape = self.server.session.shape
        body = self._body(torch.Size(shape).numel())
        image = torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(shape).float() / 127.5 - 1
        t, seed = _number(asked, "t", float), _number(asked, "seed", int)
        self._compute(lambda tick: self.server.session.from_image(image, t, seed, tick=tick))

    def _body(self, size: int) -> bytes:
        """What was sent, which must be exactly as long, and by our own page."""
        if HEADER not in self.headers:
            raise RefusedError(403, f"asked without {HEADER}, which the page sends")
        if self.headers.get("Content-Length", "0") != str(size) or "Transfer-Encoding" in self.headers:
            raise RefusedError(400, f"expected {size} bytes")
        body = self.rfile.read(size)
        if len(body) != size:
            raise RefusedError(400, f"expected {size} bytes")
        return body

    def _compute(self, work: Callable[[Callable], dict]) -> None:
        """Answer line by line."""
        self._head(200, "application/x-ndjson")
        done, total = 0, self.server.session.pieces()

        def tick() -> None:
            nonlocal done
            done += 1
            self._line({"progress": min(1.0, done / total)})

        with self.server.working, torch.no_grad():
            self._line({"progress": 0.0})
            try:
                self._line({"pack": work(tick)})
            except InputError as error:
                self._line({"error": str(error)})
            except (MemoryError, RuntimeError) as error:
                self._line({"error": f"it could not be computed ({type(error).__name__}): see the terminal of the server"})
                raise

    def _line(self, content: dict) -> None:
        self.wfile.write(json.dumps(content, allow_nan=False).encode() + b"\n")
        self.wfile.flush()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self._head(status, kind, len(body))
        self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in (
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
            ("Referrer-Policy", "no-referrer"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Nothing: requests are no news."""


def _number(asked: dict[str, str], name: str, kind: type) -> int | float:
    try:
        value = kind(asked[name])
        if value != value or abs(value) > 10**9:
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise RefusedError(400, f"expected {name}=, a number") from None


def serve(session: Session, host: str, port: int, draws: int, console: Console) -> int:
    """Serve until interrupted; the page begins with the first sample.

    Args:
        session: What is shown.
        host, port: Where to listen.
        draws: Samples that numbers are measured on.
        console: Where to say so.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("the first sample", total=session.pieces() + len(session.shown))
        tick = lambda: progress.advance(task)  # noqa: E731
        content = session.first(1, draws, served=True, tick=tick)
    with Server(session, host, port, content) as server:
        if host not in (HOST, "::1", "localhost"):
            console.print(f"warning: {host} can be reached from other machines", highlight=False, markup=False)
        console.print(f"open {server.url} (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True)
        with suppress(KeyboardInterrupt):  # the way to end it
            server.serve_forever()
    return 0
