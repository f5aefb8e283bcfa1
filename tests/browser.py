"""A real browser for tests: Chromium through Playwright, the system's or Playwright's own.

Where there is none, tests are skipped and say why; with the environment variable ``BROWSER_TESTS`` set they fail instead, so that nobody
who asks for them goes without. Screenshots go to ``$SCREENSHOTS``, or nowhere that stays.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator:
    """The browser of Playwright."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _without("no package playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as made:
        try:
            # Without its sandbox, which root does not have; what it opens is our own.
            browser = made.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            _without(f"no Chromium: apt install chromium, or playwright install chromium ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


def _without(why: str) -> None:
    (pytest.fail if os.environ.get("BROWSER_TESTS") else pytest.skip)(why)


def screenshots(tmp_path: Path) -> Path:
    """Where screenshots go."""
    out = Path(os.environ.get("SCREENSHOTS", tmp_path))
    out.mkdir(parents=True, exist_ok=True)
    return out
