"""The page as one file: HTML, style, scripts and data, allowed by its own policy to load nothing else.

The content security policy names the scripts by their hashes and no address at all, so that a browser itself refuses whatever else a
page could be made to load, run or send.
"""

import base64
import hashlib
import html
import json
import os
import re
from importlib.resources import files
from pathlib import Path

from theory.errors import InputError

MARK = "<!-- score-machines explorer -->"
LIMIT = 8 * 10**6  # bytes
SCRIPTS = ("data", "state", "draw", "panel", "numbers", "server", "main")  # each after those it imports from
IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=const|function|class|async)", re.MULTILINE)


def script() -> str:
    """All modules as one: what one imports from another stands above it already."""
    return "\n".join(EXPORT.sub("", IMPORT.sub("", _own(f"{name}.js"))) for name in SCRIPTS)


def page(content: dict, served: bool = False) -> str:
    """The page with its data.

    Args:
        content: What it shows, as JSON values.
        served: Whether it may ask the server it came from for more.
    """
    code, style = script(), _own("explorer.css")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(code)}'",
            f"style-src '{_hash(style)}'",
            "img-src data: blob:",
            "connect-src 'self'" if served else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {
        "mark": MARK,
        "policy": policy,
        "title": html.escape(content["title"]),
        "style": style,
        "data": json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),  # no text ends the element
        "script": code,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _own("page.html"))


def write(path: Path, content: dict) -> int:
    """Write the page atomically; returns its size in bytes.

    Raises:
        InputError: If it is larger than `LIMIT`; nothing is written then.
    """
    text = page(content).encode()
    if len(text) > LIMIT:
        raise InputError(
            f"a page of {len(text) / 1e6:.1f} MB",
            f"at most {LIMIT / 1e6:.0f} MB",
            "ask for fewer --samples, --levels or --top, or use --serve",
        )
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(text)
    os.replace(partial, path)
    return len(text)


def require_own(path: Path) -> None:
    """Refuse, before any work, a place where no page can be written, or where something else lies.

    Raises:
        InputError: If so.
    """
    try:
        if path.is_dir():
            raise InputError(f"--out {path}, a directory", "a file", "add a name, such as explorer.html")
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                if MARK not in file.read(200):
                    raise InputError(
                        f"--out {path}, which holds something else", "a new file, or a page of the explorer", "choose another --out"
                    )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise InputError(f"--out {path} ({error.strerror})", "a file that can be written", "choose another --out") from error


def _own(name: str) -> str:
    return (files("figures") / "explorer" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
