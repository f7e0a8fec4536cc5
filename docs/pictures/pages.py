"""Photographs ``agentpipe web`` in Chromium, light and dark, as PNG files that name no machine.

Each file says in its own text which parts the page had: a test compares that with today's pages.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from docs.pictures.fleet import AGENTPIPE, environ

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
THEMES = ("light", "dark")
SIZE = (1180, 760)
PATIENCE_MS = 60_000
# The keyword of the text in each file.
PARTS = b"agentpipe-parts"
_HEADER = 8 + 25  # The signature and the chunk IHDR.

# What a page consists of: its headings, columns, labels and links that are the same in each run.
_PARTS_OF_PAGE = """
() => [...document.querySelectorAll(
    "nav a, section:not([data-live=errors]) > h2, thead th, dt, .flow li > :first-child, .keys")]
  .map(it => it.textContent.trim().replace(/[\\s\\d.,%]+/g, " ")).filter(Boolean)
"""
_RENAME = """
([pattern, name, folder]) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    node.data = node.data.replace(new RegExp(pattern, "g"), name).replaceAll(folder, "/srv/agents");
  }
}
"""


def chromium() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of the pages of this folder's broker and sink, with its token."""
    command = [*AGENTPIPE, "web", "--port", "0", "--json"]
    process = subprocess.Popen(  # noqa: S603
        command, cwd=folder, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def photographs(url: str, folder: Path, paths: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """For each name and path the page in both themes."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for theme in THEMES:
            with _viewer(browser, url, theme) as page:
                for name, path in paths.items():
                    yield f"web-{name}-{theme}.png", _photograph(page, url, path, folder)
        browser.close()


@contextmanager
def _viewer(browser: Browser, url: str, theme: str) -> Iterator[Page]:
    width, height = SIZE
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.wait_for_url(re.compile(r"^[^?]*$"))  # The token has left the address.
    yield page
    context.close()


def _photograph(page: Page, url: str, path: str, folder: Path) -> bytes:
    address = url.partition("?")[0].rstrip("/") + path
    while (answer := page.goto(address)) and "refresh" in answer.headers:  # It still reads.
        page.wait_for_load_state("load")
    page.evaluate("window.dispatchEvent(new Event('pagehide'))")  # No event brings names again.
    page.evaluate("document.querySelectorAll('.step').forEach(it => { it.open = true; })")
    parts = page.evaluate(_PARTS_OF_PAGE)
    page.evaluate(_RENAME, [r"\b[\w.-]+-\d+-[0-9a-f]{6}\b", "worker", str(folder)])
    return with_parts(page.screenshot(), parts)


def with_parts(png: bytes, parts: list[str]) -> bytes:
    """The picture with a text chunk."""
    body = b"tEXt" + PARTS + b"\0" + json.dumps(parts).encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_HEADER] + chunk + png[_HEADER:]


def parts_in(png: bytes) -> list[str]:
    """What the picture's text says."""
    start = png.index(b"tEXt" + PARTS + b"\0") - 4
    (length,) = struct.unpack_from(">I", png, start)
    _, _, text = png[start + 8 : start + 8 + length].partition(b"\0")
    return list(map(str, json.loads(text)))
