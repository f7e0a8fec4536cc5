"""The documents' pictures: drawn from a run, of what `top` shows today, and needing no network."""

from __future__ import annotations

import fcntl
import html
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentpipe.tui.panels import WIDE, _columns

ROOT = Path(__file__).parents[2]
PICTURES = ("top", "agents", "dead")
TIMEOUT_S = 150

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """Images of one run, drawn once for all test processes."""
    shared = tmp_path_factory.getbasetemp().parent / f"images-{testrun_uid}"
    shared.mkdir(exist_ok=True)
    folder = shared / "drawn"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            command = [sys.executable, "-m", "docs.pictures", "--seconds", "2", str(folder)]
            subprocess.run(command, cwd=ROOT, check=True, timeout=TIMEOUT_S)
    return folder


def words(picture: Path) -> str:
    """What somebody reads in it, with a line for each piece of one style."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", picture.read_text())
    return "\n".join(html.unescape(text).replace("\xa0", " ").strip() for text in texts)


def test_they_are_drawn_from_a_run(drawn: Path) -> None:
    assert sorted(path.stem for path in drawn.iterdir()) == sorted(PICTURES)
    assert "\n2,200\n" in words(drawn / "top.svg")  # All that was sent.
    assert "worker-2" in words(drawn / "top.svg")
    assert "ferries_5" in words(drawn / "agents.svg")
    assert "r replay" in words(drawn / "dead.svg")


@pytest.mark.parametrize("name", PICTURES)
def test_those_that_are_kept_show_what_is_drawn_today(drawn: Path, name: str) -> None:
    kept, new = ROOT / "docs" / "images" / f"{name}.svg", drawn / f"{name}.svg"
    for picture in (kept, new):
        titles = [] if name == "dead" else [column.title for column in _columns(WIDE)]
        assert [title for title in titles if title not in words(picture)] == []
    keys = words(new).splitlines()[-1]
    assert words(kept).splitlines()[-1] == keys, "run `make docs`"


@pytest.mark.parametrize("name", PICTURES)
def test_they_fetch_nothing_and_tell_of_no_machine(drawn: Path, name: str) -> None:
    for picture in (ROOT / "docs" / "images" / f"{name}.svg", drawn / f"{name}.svg"):
        text = picture.read_text()
        assert "@font-face" not in text
        assert re.findall(r"(?:url\(|href=)[\"']?(?!#)[^)\"']+", text) == []
        assert not re.search(rf"\b{re.escape(socket.gethostname())}-\d", text)
        assert "/tmp" not in text
