"""`inspect view` shows our logs in a browser, if one is installed; run by `make test-inspect`."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from brokers.ports import free_port
from tests.inspect.results import QUESTION, asked
from tests.inspect.test_inspect import exported
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
# Under load a page needs several attempts: the browser's virtual clock runs ahead of the server.
PATIENCE_S = 120.0
BUDGET_MS = 60_000
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
CODE = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL)


@contextmanager
def viewed(folder: Path) -> Iterator[str]:
    """The address of a viewer for the folder's logs."""
    port = free_port()
    command = [sys.executable, "-m", "inspect_ai", "view", "start", "--port", str(port)]
    environ = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    with subprocess.Popen(
        [*command, "--log-dir", str(folder)], env=environ, stdout=subprocess.DEVNULL
    ) as viewer:
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_until(lambda: answers(address), PATIENCE_S, "the viewer answers")
            yield address
        finally:
            viewer.terminate()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except OSError:
        return False


def text_of(address: str, folder: Path) -> str:
    """The text of a page."""
    assert CHROMIUM is not None
    options = (f"--virtual-time-budget={BUDGET_MS}", f"--user-data-dir={folder / 'browser'}")
    done = subprocess.run(
        [CHROMIUM, *SWITCHES, *options, "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return " ".join(html.unescape(CODE.sub(" ", done.stdout)).split())


def whole(page: str, folder: Path) -> str:
    """The page's text once it shows both turns; empty before."""
    shown = text_of(page, folder)
    return shown if "turn 2/2" in shown else ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
def test_a_browser_shows_a_samples_conversation(tmp_path: Path) -> None:
    log = exported(tmp_path, *(asked(1, sample, float(sample)) for sample in range(2)))
    with viewed(tmp_path) as address:
        page = f"{address}#/logs/{log.name}/samples/sample/p1/2"
        shown = wait_until(lambda: whole(page, tmp_path), PATIENCE_S, "the page shows both turns")
    for words in ("p1 · Epoch 2 · crew · openai/tiny", QUESTION, "Tool: add", "=1+1", "reward 1"):
        assert words in shown, shown
