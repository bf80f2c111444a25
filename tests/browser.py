"""Pages in headless Chromium, where the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: WebAssembly is compiled once, quickly, and not again for speed: most of a page's work would be that.
ARGUMENTS = ("--no-sandbox", "--js-flags=--liftoff-only")


@contextmanager
def started() -> Iterator[Any]:
    """A browser. Skips the tests where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pages are tried with playwright, which is not installed"
    )
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"pages are tried in a browser, and there is none here: {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int = 1440, **settings: Any) -> Iterator[Any]:
    """A page from a file, its replay ready. Fails if an error is said on the console or goes wrong in the page."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **settings)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector("#replay-player[data-step]")
    yield page
    page.close()
    assert said == []


def step(page: Any) -> int:
    """The step that the replay shows."""
    return int(page.get_attribute("#replay-player", "data-step"))
